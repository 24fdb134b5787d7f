"""The checks of lesson 06: timing a device, arithmetic intensity, the cheapest device."""

import copy
import itertools
import math
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from solutions import load_solutions
from torch import nn

from course_utils import layer_costs
from course_utils.checks import cheapest, intensity
from course_utils.checks.cheapest import CHOICE_CASES, CHOICE_MISTAKES, check_cheapest
from course_utils.checks.device_timing import (
    TIMING_CASES,
    TIMING_MISTAKES,
    QueuedDevice,
    check_device_timing,
)
from course_utils.checks.intensity import INTENSITY_CASES, INTENSITY_MISTAKES, check_intensity

SOLVED = load_solutions("06_gpu_acceleration")
time_on_device, arithmetic_intensity, choose_device = (
    SOLVED.time_on_device, SOLVED.arithmetic_intensity, SOLVED.choose_device,
)  # fmt: skip


def failing(*_):
    raise ZeroDivisionError("divided by no devices")


# The device that the timing is checked on


def new_device(**changes):
    sizes = {"launch_ms": 1, "work_ms": 10, "compile_ms": 0, "pending_ms": 0, "places": 100}
    return QueuedDevice(**sizes | changes)


def use(device, order):
    """Launch (L) and synchronise (S) in this order; return the milliseconds that passed."""
    start = device.clock()
    for event in order:
        {"L": device.launch, "S": device.synchronize}[event]()
    return (device.clock() - start) * 1000


@pytest.mark.parametrize(
    ("changes", "order", "expected_ms"),
    [
        ({}, "", 0),
        ({}, "L", 1),  # a launch returns at once
        ({}, "LS", 11),
        ({}, "LLL", 3),
        ({}, "LLLS", 31),  # the device is never idle after the first launch
        ({}, "LSLSLS", 33),  # and here it is
        ({}, "LSSS", 11),
        ({"work_ms": 0.25}, "LLLS", 3.25),  # the computer is slower
        ({"compile_ms": 500}, "LL", 502),
        ({"compile_ms": 500}, "LLS", 521),
        ({"pending_ms": 40}, "S", 40),
        ({"pending_ms": 40}, "LS", 50),
        ({"pending_ms": 40}, "LLLL", 4),
        ({"places": 1}, "LLL", 21),  # a place is free when the call before is done
        ({"places": 2}, "LLL", 11),
        ({"places": 2, "pending_ms": 40}, "LL", 40),
    ],
)
def test_a_simulated_device_takes_the_time_that_it_is_told(changes, order, expected_ms):
    assert use(new_device(**changes), order) == pytest.approx(expected_ms, rel=1e-6, abs=1e-6)


def test_a_loop_that_does_not_end_is_told_so():
    def waiting_for_ever(launch, synchronize, clock, calls):
        while clock() < math.inf:
            launch()

    outcome = check_device_timing(waiting_for_ever)
    assert outcome.state == "raises"
    assert "Does your loop end?" in outcome.message


def test_the_case_of_a_failure_can_be_typed_again():
    shown = (
        check_device_timing(failing).message.removeprefix("Called with ").split(", it raised")[0]
    )
    device, calls = eval(shown)
    assert (device, calls) == TIMING_CASES[0]
    assert time_on_device(device.launch, device.synchronize, device.clock, calls) == (
        pytest.approx(1.501)
    )


# Timing: right answers


def timer(
    before="LS",
    each="L",
    after="S",
    late="",
    *,
    first="",
    count=lambda calls: calls,
    result=lambda seconds, calls: seconds * 1000 / calls,
):
    """Return a function that does this before and after the start, for each call, and at the end.

    Args:
        before: What happens before the start: L for a launch, S for a synchronisation.
        each: For each call.
        after: Between the calls and the stop.
        late: After the stop.
        first: Right after the start.
        count: How often ``each`` is done; takes ``calls``.
        result: Takes the seconds and ``calls``.
    """

    def attempt(launch, synchronize, clock, calls):
        def do(order):
            for event in order:
                {"L": launch, "S": synchronize}[event]()

        do(before)
        start = clock()
        do(first)
        for _ in range(count(calls)):
            do(each)
        do(after)
        stop = clock()
        do(late)
        return result(stop - start, calls)

    return attempt


def warming_up_as_often(launch, synchronize, clock, calls):
    for _ in range(calls):
        launch()
    return timer("S")(launch, synchronize, clock, calls)


def best_of_three(*device):
    return min(timer()(*device) for _ in range(3))


def with_readings_in_between(launch, synchronize, clock, calls):
    launch()
    synchronize()
    readings = [clock()]
    for _ in range(calls):
        launch()
        readings.append(clock())
    synchronize()
    return (clock() - readings[0]) * 1000 / calls


def telling_what_compiling_takes(launch, synchronize, clock, calls):
    start = clock()
    launch()
    synchronize()
    assert clock() > start
    return timer("")(launch, synchronize, clock, calls)


def in_milliseconds(launch, synchronize, clock, calls):
    return timer(result=lambda ms, n: ms / n)(launch, synchronize, lambda: clock() * 1000, calls)


RIGHT_TIMERS = [
    time_on_device, timer(), timer("SLS"), timer("LSLSLS"), timer("LLLLS"), timer("LSS"),
    timer(after="SS"), timer(late="S"), timer(first="S"), warming_up_as_often, best_of_three,
    with_readings_in_between, telling_what_compiling_takes, in_milliseconds,
    lambda *device: np.float64(time_on_device(*device)),
    lambda *device: torch.tensor(time_on_device(*device)),
    lambda *device: Fraction(time_on_device(*device)),
]  # fmt: skip


# Timing: wrong answers


def one_by_one(wait):
    """Return a timer of each call for itself, with a synchronisation or without."""

    def attempt(launch, synchronize, clock, calls):
        launch()
        synchronize()
        seconds = 0.0
        for _ in range(calls):
            start = clock()
            launch()
            if wait:
                synchronize()
            seconds += clock() - start
        return seconds * 1000 / calls

    return attempt


def by_the_wall_clock(launch, synchronize, clock, calls):
    return timer()(launch, synchronize, time.perf_counter, calls)


def never_calling(launch, synchronize, clock, calls):
    return timer()(lambda: launch, synchronize, clock, calls)


def starting_at_zero(launch, synchronize, clock, calls):
    for _ in range(calls):
        launch()
    synchronize()
    return clock() * 1000 / calls


def reading_too_early(launch, synchronize, clock, calls):
    launch()
    synchronize()
    start, stop = clock(), clock()
    for _ in range(calls):
        launch()
    synchronize()
    return (stop - start) * 1000 / calls


def waiting_for_every_fifth(launch, synchronize, clock, calls):
    launch()
    synchronize()
    start = clock()
    for number in range(calls):
        launch()
        if number % 5 == 4:
            synchronize()
    synchronize()
    return (clock() - start) * 1000 / calls


def returning(result):
    return timer(result=result)


WRONG_TIMERS = [
    (timer("", after=""), "does not wait for the end"),  # the one that the lesson shows
    (timer(after=""), "waits only before the start"),
    (timer("L", after=""), "does not wait for the end"),
    (timer("", each="SL", after=""), "does not wait for the end"),
    (one_by_one(wait=False), "waits only before the start"),
    (timer("SLS", after=""), "waits only before the start"),
    (timer("S", after=""), "waits only before the start"),
    (timer(after="", late="S"), "waits too late"),
    (timer("", after="", late="S"), "waits too late"),
    (timer(""), "earlier work counted"),
    (timer("", first="S"), "earlier work counted"),
    (timer("S"), "no warm-up"),
    (timer("S", first="S"), "no warm-up"),
    (timer("L"), "warm-up not waited for"),
    (timer("SL"), "warm-up not waited for"),
    (timer("LSL"), "warm-up not waited for"),
    (timer("L", first="S"), "warm-up not waited for"),
    (timer("", first="LS"), "warm-up timed"),
    (timer("S", first="LS"), "warm-up timed"),
    (timer("S", first="L"), "warm-up timed"),
    (timer("", first="LS", after=""), "warm-up timed"),
    (timer("S", first="LS", result=lambda s, n: s * 1000 / (n + 1)), "warm-up timed"),
    (timer(each="LS"), "waits in between"),
    (timer(each="LS", after=""), "waits in between"),
    (timer(each="SL"), "waits in between"),
    (one_by_one(wait=True), "waits in between"),
    (waiting_for_every_fifth, "waits in between"),
    (timer(count=lambda n: n - 1), "warm-up among the calls"),
    (timer(count=lambda n: n + 1), "another number of calls"),
    (timer(count=lambda n: 1), "another number of calls"),
    (timer(each="LL"), "another number of calls"),
    (timer(count=lambda n: 10, result=lambda s, n: s * 100), "another number of calls"),
    (never_calling, "never launches"),
    (lambda *device: 1.501, "never launches"),
    (by_the_wall_clock, "another clock"),
    (starting_at_zero, "one reading"),
    (reading_too_early, "nothing timed"),
    (returning(lambda s, n: [s * 1000 / n]), "no number"),
    (returning(lambda s, n: f"{s * 1000 / n} ms"), "no number"),
    (returning(lambda s, n: (s * 1000 / n, s)), "no number"),
    (returning(lambda s, n: math.nan), "no number"),
    (returning(lambda s, n: s * 1000), "not divided"),
    (returning(lambda s, n: s), "not divided"),
    (returning(lambda s, n: s / n), "seconds"),
    (returning(lambda s, n: s * 1e6 / n), "another unit"),
    (returning(lambda s, n: s / n / 1e6), "another unit"),
    (returning(lambda s, n: s * 1000 / (n + 1)), "divided by the warm-up too"),
    (returning(lambda s, n: n / s), "calls per second"),
    (returning(lambda s, n: n / (s * 1000)), "calls per second"),
    (returning(lambda s, n: -s * 1000 / n), "wrong way round"),
    (returning(lambda s, n: s * 1000 / n + 1), "wrong result"),
    (returning(lambda s, n: math.inf), "wrong result"),
    (returning(lambda s, n: 10**400), "wrong result"),
    (lambda *device: None, "returns nothing"),
    (returning(lambda s, n: None), "returns nothing"),
    (failing, "raises"),
    (lambda launch, synchronize, clock: 1.0, "raises"),
    (lambda launch, synchronize, clock, calls: clock - clock, "raises"),
    (42, "raises"),
]  # fmt: skip


def test_the_cases_of_the_timing_hold_what_the_task_speaks_of():
    devices = [device for device, _ in TIMING_CASES]
    assert any(device.launch_ms > device.work_ms for device in devices)
    assert any(device.work_ms > device.launch_ms for device in devices)
    assert any(device.pending_ms for device in devices)
    assert any(device.compile_ms for device in devices)
    assert any(device.places < calls for device, calls in TIMING_CASES)


@pytest.mark.parametrize(
    "flawed",
    [
        timer("", after=""), timer(after=""), timer(after="", late="S"), timer(""), timer("S"),
        timer("L"), timer("SL"), timer("S", first="LS"), timer(each="LS"), one_by_one(wait=True),
        waiting_for_every_fifth,
    ],
)  # fmt: skip
def test_in_the_first_case_each_flaw_of_order_makes_a_difference(flawed):
    device, calls = copy.deepcopy(TIMING_CASES[0])
    given = flawed(device.launch, device.synchronize, device.clock, calls)
    assert abs(given / 1.501 - 1) > 0.001


# Arithmetic intensity: right answers


def by_loops(batch, channels_in, channels_out, kernel, height, width, bytes_per_value):
    """Add up image by image."""
    weights = channels_in * channels_out * kernel * kernel
    operations, moved = 0, bytes_per_value * weights
    for _ in range(batch):
        operations += 2 * height * width * weights
        moved += bytes_per_value * height * width * channels_in
        moved += bytes_per_value * height * width * channels_out
    return operations / moved


def by_shapes(batch, channels_in, channels_out, kernel, height, width, bytes_per_value):
    shapes = [
        (batch, channels_in, height, width),
        (channels_out, channels_in, kernel, kernel),
        (batch, channels_out, height, width),
    ]
    moved = sum(math.prod(shape) for shape in shapes) * bytes_per_value
    return 2 * math.prod(shapes[2]) * math.prod(shapes[1][1:]) / moved


def by_formula(n, i, o, k, h, w, size):
    """Divide both by what they have in common."""
    return 2 * i * o * k**2 / (i + o + i * o * k**2 / (n * h * w)) / size


RIGHT_INTENSITIES = [
    arithmetic_intensity, by_loops, by_shapes, by_formula,
    lambda *case: np.float32(arithmetic_intensity(*case)),
    lambda *case: np.array([arithmetic_intensity(*case)]),
    lambda *case: torch.tensor(arithmetic_intensity(*case)),
    lambda *case: Fraction(arithmetic_intensity(*case)),
    lambda *case: arithmetic_intensity(*map(np.float64, case)),
]  # fmt: skip


@pytest.mark.parametrize(
    "case", [*INTENSITY_CASES[:1], (2, 3, 4, 1, 5, 6, 1), (3, 2, 8, 5, 1, 7, 4)]
)
def test_the_intensity_is_that_of_the_courses_counts(case):
    batch, channels_in, channels_out, kernel, height, width, size = case
    layer = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
    images = np.zeros((batch, channels_in, height, width), dtype=np.float32)
    costs = layer_costs.count_costs(layer, images, bytes_per_weight=size, bytes_per_activation=size)
    assert arithmetic_intensity(*case) == pytest.approx(costs.flop_per_byte)
    assert intensity._count(*case).intensity == pytest.approx(costs.flop_per_byte)
    assert intensity._count(*case).macs == costs.macs
    assert intensity._count(*case).bytes_moved == costs.bytes_moved


@given(st.tuples(*[st.integers(1, 64)] * 6, st.sampled_from([1, 2, 4])))
def test_the_intensity_of_the_check_is_that_of_the_solution(case):
    assert intensity._count(*case).intensity == pytest.approx(arithmetic_intensity(*case))


# Arithmetic intensity: wrong answers


def counted(macs=None, weights=None, inputs=None, outputs=None, divide=None):
    """Return an intensity of which some counts are others.

    Args:
        macs: Takes the arguments without the bytes of a value, and so do the next three.
        weights: How many there are.
        inputs: How many values are read.
        outputs: How many values are written.
        divide: Takes the operations, the bytes, and the bytes of a value.
    """

    def attempt(*case):
        *sizes, size = case
        n, i, o, k, h, w = sizes
        counts = {
            "macs": n * h * w * i * o * k**2,
            "weights": i * o * k**2,
            "inputs": n * i * h * w,
            "outputs": n * o * h * w,
        }
        others = {"macs": macs, "weights": weights, "inputs": inputs, "outputs": outputs}
        counts |= {name: other(*sizes) for name, other in others.items() if other}
        moved = size * (counts["weights"] + counts["inputs"] + counts["outputs"])
        return (divide or (lambda flop, moved, size: flop / moved))(2 * counts["macs"], moved, size)

    return attempt


def divided(divide):
    return counted(divide=divide)


def none(*_):
    return 0


def with_arguments(change):
    """Return an intensity that is right about other arguments."""
    return lambda *case: arithmetic_intensity(*change(*case))


WRONG_INTENSITIES = [
    (lambda *case: [arithmetic_intensity(*case)], "no number"),
    (lambda *case: str(arithmetic_intensity(*case)), "no number"),
    (lambda *case: (2.0, 3.0), "no number"),
    (lambda *case: math.nan, "no number"),
    (divided(lambda flop, moved, size: flop // moved), "rounded"),
    (divided(lambda flop, moved, size: round(flop / moved)), "rounded"),
    (divided(lambda flop, moved, size: math.ceil(flop / moved)), "rounded"),
    (divided(lambda flop, moved, size: flop / 2 / moved), "multiply-adds not doubled"),
    (divided(lambda flop, moved, size: moved / flop), "bytes per operation"),
    (divided(lambda flop, moved, size: moved / (flop / 2)), "bytes per operation"),
    (divided(lambda flop, moved, size: flop / moved * size), "values for bytes"),
    (divided(lambda flop, moved, size: flop / moved * size**2), "values for bytes"),
    (divided(lambda flop, moved, size: flop / (8 * moved)), "bits for bytes"),
    (divided(lambda flop, moved, size: flop / (moved / 8)), "bits for bytes"),
    (divided(lambda flop, moved, size: flop), "operations alone"),
    (divided(lambda flop, moved, size: flop // 2), "operations alone"),
    (divided(lambda flop, moved, size: moved), "bytes alone"),
    (divided(lambda flop, moved, size: moved // size), "bytes alone"),
    (counted(weights=none), "weights left out"),
    (counted(inputs=none), "input left out"),
    (counted(outputs=none), "output left out"),
    (counted(inputs=none, outputs=none), "activations left out"),
    (counted(weights=lambda n, i, o, k, h, w: n * i * o * k**2), "weights for each image"),
    (with_arguments(lambda n, *others: (1, *others)), "weights for each image"),
    (counted(macs=lambda n, i, o, k, h, w: h * w * i * o * k**2), "batch left out in places"),
    (counted(inputs=lambda n, i, o, k, h, w: i * h * w), "batch left out in places"),
    (counted(outputs=lambda n, i, o, k, h, w: o * h * w), "batch left out in places"),
    (counted(inputs=lambda n, i, o, k, h, w: i * h * w,
             outputs=lambda n, i, o, k, h, w: o * h * w), "batch left out in places"),
    (with_arguments(lambda n, i, o, k, *others: (n, i, o, k**0.5, *others)), "kernel not squared"),
    (counted(macs=lambda n, i, o, k, h, w: n * h * w * i * o * k), "kernel not squared"),
    (counted(weights=lambda n, i, o, k, h, w: i * o * k), "kernel not squared"),
    (with_arguments(lambda n, i, o, k, *others: (n, i, o, 1, *others)), "kernel left out"),
    (counted(macs=lambda n, i, o, k, h, w: n * h * w * i * o), "kernel left out"),
    (counted(weights=lambda n, i, o, k, h, w: i * o), "kernel left out"),
    (with_arguments(lambda n, i, o, k, h, w, size: (n, i, o, k, h, 1, size)),
     "one side of the image"),
    (with_arguments(lambda n, i, o, k, h, w, size: (n, i, o, k, 1, w, size)),
     "one side of the image"),
    (counted(inputs=lambda n, i, o, k, h, w: n * i * h, outputs=lambda n, i, o, k, h, w: n * o * h),
     "one side of the image"),
    (counted(macs=lambda n, i, o, k, h, w: n * h * i * o * k**2), "one side of the image"),
    (with_arguments(lambda n, i, o, k, h, w, size: (n, i, o, k, h, h, size)), "image as a square"),
    (with_arguments(lambda n, i, o, k, h, w, size: (n, i, o, k, w, w, size)), "image as a square"),
    (counted(inputs=lambda n, i, o, k, h, w: n * i * h * h), "image as a square"),
    (with_arguments(lambda n, i, o, k, h, w, size: (n, i, o, k, 1, 1, size)), "image left out"),
    (counted(macs=lambda n, i, o, k, h, w: n * i * o * k**2), "image left out"),
    (counted(inputs=lambda n, i, o, k, h, w: n * i, outputs=lambda n, i, o, k, h, w: n * o),
     "image left out"),
    (counted(inputs=lambda n, i, o, k, h, w: n * o * h * w), "channels mistaken"),
    (counted(outputs=lambda n, i, o, k, h, w: n * i * h * w), "channels mistaken"),
    (counted(macs=lambda n, i, o, k, h, w: n * h * w * o * o * k**2), "channels mistaken"),
    (counted(weights=lambda n, i, o, k, h, w: i * i * k**2), "channels mistaken"),
    (counted(macs=lambda n, i, o, k, h, w: n * h * w * o * k**2), "channels left out"),
    (counted(macs=lambda n, i, o, k, h, w: n * h * w * i * k**2), "channels left out"),
    (counted(inputs=lambda n, i, o, k, h, w: n * h * w), "channels left out"),
    (counted(weights=lambda n, i, o, k, h, w: o * k**2), "channels left out"),
    (counted(macs=lambda n, i, o, k, h, w: n * (h - k + 1) * (w - k + 1) * i * o * k**2,
             outputs=lambda n, i, o, k, h, w: n * o * (h - k + 1) * (w - k + 1)), "no padding"),
    (counted(inputs=lambda n, i, o, k, h, w: n * i * (h + k - 1) * (w + k - 1)), "padding read"),
    (counted(weights=lambda n, i, o, k, h, w: i * o * k**2 + o), "bias counted"),
    (divided(lambda flop, moved, size: -flop / moved), "wrong result"),
    (divided(lambda flop, moved, size: flop / (moved + 4096)), "wrong result"),
    (lambda *case: math.inf, "wrong result"),
    (lambda *case: 10**400, "wrong result"),
    (lambda *case: None, "returns nothing"),
    (failing, "raises"),
    (lambda batch, channels: 1.0, "raises"),
    (42, "raises"),
]  # fmt: skip


def test_no_two_mistakes_give_the_same_in_the_first_case():
    case = INTENSITY_CASES[0]
    numbers = {}
    for wrong, state in WRONG_INTENSITIES:
        if state in {mistake.name for mistake in INTENSITY_MISTAKES} - {"no number", "rounded"}:
            numbers.setdefault(state, []).append(wrong(*case))
    right = arithmetic_intensity(*case)
    assert abs(right - round(right)) > 0.01
    numbers["right"] = [right]
    for one, other in itertools.combinations(numbers, 2):
        for a, b in itertools.product(numbers[one], numbers[other]):
            assert abs(a / b - 1) > 5e-4, (one, other)


# The cheapest device: right answers


def count_needed(batch, latency_ms, load):
    """Return how many devices are needed: no whole number."""
    return load * latency_ms / (1000 * batch)


def waiting_ms(batch, load):
    return (batch - 1) * 1000 / load


def in_time(batch, latency_ms, load, deadline_ms):
    return waiting_ms(batch, load) + latency_ms <= deadline_ms


def hire(batch, latency_ms, load):
    return max(1, math.ceil(count_needed(batch, latency_ms, load)))


def choice_by(
    fits=in_time,
    count=hire,
    score=lambda device, batch, ms, count, load: count * device["price_per_hour"],
    batches=lambda items, fits: [item for item in items if fits(*item)],
):
    """Return a search for the cheapest choice by another rule."""

    def attempt(devices, requests_per_s, deadline_ms):
        best, lowest = None, math.inf
        for device in devices:
            items = list(device["latency_ms"].items())
            kept = batches(items, lambda b, ms: fits(b, ms, requests_per_s, deadline_ms))
            for batch, ms in kept:
                number = count(batch, ms, requests_per_s)
                found = score(device, batch, ms, number, requests_per_s)
                if found < lowest:
                    best, lowest = (device["name"], batch, number), found
        return best

    return attempt


def in_seconds(devices, requests_per_s, deadline_ms):
    """Work in seconds; count up until the devices are enough."""
    best = []
    for device in devices:
        for batch, ms in device["latency_ms"].items():
            if (batch - 1) / requests_per_s + ms / 1000 <= deadline_ms / 1000:
                count = 1
                while count * (batch / (ms / 1000)) < requests_per_s:
                    count += 1
                best.append((count * device["price_per_hour"], device["name"], batch, count))
    return min(best)[1:] if best else None


def in_fractions(devices, requests_per_s, deadline_ms):
    interval = Fraction(1000) / Fraction(requests_per_s)
    offers = [
        (max(1, math.ceil(Fraction(ms) / (batch * interval))), device, batch)
        for device in devices
        for batch, ms in device["latency_ms"].items()
        if (batch - 1) * interval + Fraction(ms) <= Fraction(deadline_ms)
    ]
    if not offers:
        return None
    count, device, batch = min(offers, key=lambda offer: offer[0] * offer[1]["price_per_hour"])
    return device["name"], batch, count


def with_numpy(devices, requests_per_s, deadline_ms):
    found = {}
    for device in devices:
        batch = np.array(list(device["latency_ms"]))
        ms = np.array(list(device["latency_ms"].values()))
        count = np.maximum(1, np.ceil(requests_per_s / (batch * 1000 / ms)))
        late = (batch - 1) / requests_per_s * 1000 + ms > deadline_ms
        bill = np.where(late, np.inf, count * device["price_per_hour"])
        at = bill.argmin()
        found[bill[at]] = (device["name"], batch[at], count[at])
    return None if min(found) == math.inf else found[min(found)]


def backwards(devices, *others):
    return choice_by()(list(reversed(devices)), *others)


RIGHT_CHOICES = [choose_device, choice_by(), in_seconds, in_fractions, with_numpy, backwards]


@given(
    st.lists(
        st.dictionaries(st.sampled_from([1, 2, 4, 8, 32]), st.integers(1, 400), min_size=1),
        max_size=4,
    ),
    st.integers(1, 2000),
    st.integers(1, 100),
)
def test_the_choices_of_the_check_hold_that_of_the_solution(latencies, load, deadline_ms):
    devices = [
        {"name": str(number), "price_per_hour": 0.25 * (number + 1),
         "latency_ms": {batch: ms / 4 for batch, ms in each.items()}}
        for number, each in enumerate(latencies)
    ]  # fmt: skip
    found = choose_device(devices, load, deadline_ms)
    best = cheapest._choose(devices, load, deadline_ms)
    exact = in_fractions(devices, load, deadline_ms)
    edge = any(  # where floats may come out on the other side of the exact number
        abs(x - round(x)) < 1e-9
        for each in latencies
        for batch, ms in each.items()
        for x in (load * ms / (4000 * batch), (batch - 1) * 1000 / load + ms / 4 - deadline_ms)
    )
    if not edge:
        assert exact == found
        assert (found in best) if best else (found is None)
    for name, batch, count in best:
        ms = devices[int(name)]["latency_ms"][batch]
        assert count >= 1
        assert count * batch * 1000 / ms >= load * (1 - 1e-9)
        assert (count - 1) * batch * 1000 / ms < load or count == 1


# The cheapest device: wrong answers


def slower(milliseconds):
    """Return the rule that an answer takes what this function of batch, call and load says."""
    return lambda batch, ms, load, deadline_ms: milliseconds(batch, ms, load) <= deadline_ms


def scored(score):
    return choice_by(score=score)


def counted_by(count):
    return choice_by(count=count)


def changed_choice(change):
    return lambda *case: (found := choose_device(*case)) and change(*found)


def whatever_is_cheapest(devices, load, deadline_ms):
    return choose_device(devices, load, deadline_ms) or choose_device(devices, load, math.inf)


def without_default(devices, load, deadline_ms):
    found = {
        (device["name"], batch, hire(batch, ms, load)): hire(batch, ms, load)
        * device["price_per_hour"]
        for device in devices
        for batch, ms in device["latency_ms"].items()
        if in_time(batch, ms, load, deadline_ms)
    }
    return min(found, key=found.get)


def cheapest_an_hour(devices, load, deadline_ms):
    """Take the device of the lowest price; then its best batch."""
    prices = [
        device["price_per_hour"]
        for device in devices
        if any(in_time(*item, load, deadline_ms) for item in device["latency_ms"].items())
    ]
    return choose_device(
        [device for device in devices if device["price_per_hour"] == min(prices, default=0)],
        load, deadline_ms,
    )  # fmt: skip


def until_one_is_late(items, fits):
    return itertools.takewhile(lambda item: fits(*item), items)


def sorting_the_devices(devices, *others):
    devices.sort(key=lambda device: device["price_per_hour"])
    return choose_device(devices, *others)


def dropping_late_batches(devices, load, deadline_ms):
    for device in devices:
        for batch, ms in list(device["latency_ms"].items()):
            if not in_time(batch, ms, load, deadline_ms):
                del device["latency_ms"][batch]
    return choose_device(devices, load, deadline_ms)


def writing_down_the_count(devices, *others):
    found = choose_device(devices, *others)
    for device in devices:
        device["count"] = found and found[2]
    return found


def the_first_in_time(devices, load, deadline_ms):
    for device in devices:
        for batch, ms in device["latency_ms"].items():
            if in_time(batch, ms, load, deadline_ms):
                return device["name"], batch, hire(batch, ms, load)
    return None


def the_dearest(*case):
    return scored(lambda device, b, ms, count, load: -count * device["price_per_hour"])(*case)


WRONG_CHOICES = [
    (without_default, "fails when none fits"),
    (whatever_is_cheapest, "something although none fits"),
    (lambda *case: choose_device(*case) or (None, None, None), "something although none fits"),
    (lambda *case: choose_device(*case) or "none", "something although none fits"),
    (choice_by(lambda b, ms, *case: in_time(b, ms, *case) and count_needed(b, ms, case[0]) <= 1),
     "none although one fits"),
    (changed_choice(lambda name, batch, count: name), "name alone"),
    (changed_choice(lambda name, batch, count: (name, batch)), "no triple"),
    (changed_choice(lambda name, batch, count: [name, batch, count]), "no triple"),
    (changed_choice(lambda name, batch, count: (batch, name, count)), "no triple"),
    (changed_choice(lambda name, batch, count: (name, str(batch), count)), "no triple"),
    (changed_choice(lambda name, batch, count: (name, batch, count > 1)), "no triple"),
    (changed_choice(lambda name, batch, count: (name, batch, None)), "no triple"),
    (changed_choice(lambda name, batch, count: (name, batch, count, 0.5)), "no triple"),
    (changed_choice(lambda name, batch, count: (["A"], batch, count)), "no triple"),
    (changed_choice(lambda name, batch, count: (name, [batch], count)), "no triple"),
    (lambda devices, *others: devices[0], "no triple"),
    (counted_by(count_needed), "part of a device"),
    (counted_by(lambda *offer: max(1, count_needed(*offer))), "part of a device"),
    (choice_by(lambda b, ms, load, limit: ms <= limit), "waiting ignored"),
    (choice_by(slower(lambda b, ms, load: ms + (b - 1) / load)), "waiting ignored"),
    (choice_by(slower(lambda b, ms, load: ms + b / load)), "waiting ignored"),
    (choice_by(slower(lambda b, ms, load: waiting_ms(b, load))), "call ignored"),
    (choice_by(lambda *_: True), "deadline ignored"),
    (choice_by(slower(lambda b, ms, load: ms / b)), "time per request"),
    (choice_by(slower(lambda b, ms, load: waiting_ms(b, load) + ms / b)), "time per request"),
    (choice_by(slower(lambda b, ms, load: waiting_ms(b, load) / 2 + ms)), "mean waiting"),
    (choice_by(slower(lambda b, ms, load: b * 1000 / load + ms)), "one interval too many"),
    (choice_by(lambda b, ms, load, limit: waiting_ms(b, load) + ms < limit), "strictly below"),
    (counted_by(lambda *offer: int(count_needed(*offer))), "rounded down"),
    (counted_by(lambda *offer: max(1, math.floor(count_needed(*offer)))), "rounded down"),
    (counted_by(lambda *offer: max(1, round(count_needed(*offer)))), "rounded to the nearest"),
    (counted_by(lambda *offer: 1), "always one"),
    (changed_choice(lambda name, batch, count: (name, batch, 1)), "too few devices"),
    (counted_by(lambda b, ms, load: max(1, math.ceil(load * ms / 1000))),
     "a device for each request"),
    (counted_by(lambda b, ms, load: math.ceil(load * ms / b)), "milliseconds for seconds"),
    (counted_by(lambda *offer: math.floor(count_needed(*offer)) + 1), "one too many"),
    (cheapest_an_hour, "price of one"),
    (scored(lambda device, *_: device["price_per_hour"]), "price of one"),
    (scored(lambda device, b, ms, count, load: count_needed(b, ms, load)
            * device["price_per_hour"]), "bill not rounded"),
    (scored(lambda device, b, ms, count, load: ms / b * device["price_per_hour"]),
     "bill not rounded"),
    (scored(lambda device, b, ms, count, load: count), "fewest devices"),
    (scored(lambda device, b, ms, count, load: ms), "fastest"),
    (scored(lambda device, b, ms, count, load: ms + waiting_ms(b, load)), "fastest"),
    (scored(lambda device, b, ms, count, load: ms / b), "fewest devices"),
    (scored(lambda device, b, ms, count, load: -b), "largest batch"),
    (choice_by(batches=lambda items, fits: sorted(i for i in items if fits(*i))[-1:]),
     "largest batch"),
    (scored(lambda device, b, ms, count, load: b), "smallest batch"),
    (choice_by(batches=lambda items, fits: [i for i in items if fits(*i)][:1]),
     "order of the dict"),
    (choice_by(batches=lambda items, fits: [i for i in items if fits(*i)][-1:]),
     "order of the dict"),
    (choice_by(batches=until_one_is_late), "order of the dict"),
    (choice_by(lambda *_: True, score=lambda device, b, ms, *_: ms / b), "too late"),
    (changed_choice(lambda name, batch, count: (name, batch, count + 3)), "too many devices"),
    (changed_choice(lambda name, batch, count: (name, batch, -count)), "too few devices"),
    (lambda *case: ("C", 8, 3) if case[2] == 100 else choose_device(*case), "not the cheapest"),
    (the_first_in_time, "bill not rounded"),
    (the_dearest, "smallest batch"),
    (sorting_the_devices, "argument changed"),
    (dropping_late_batches, "argument changed"),
    (writing_down_the_count, "argument changed"),
    (lambda *case: None, "returns nothing"),
    (lambda devices, *others: devices[0]["speed"], "raises"),
    (failing, "raises"),
    (lambda devices: ("A", 1, 1), "raises"),
    (42, "raises"),
]  # fmt: skip


def test_the_cases_of_the_devices_hold_what_the_task_speaks_of():
    right = [choose_device(*case) for case in CHOICE_CASES]
    assert right.index(None) == len(right) - 1
    assert any(found[2] > 1 for found in right if found)
    assert {len(cheapest._choose(*case)) for case in CHOICE_CASES} == {0, 1, 2}
    ends, counts = [], []
    for (devices, load, deadline_ms), found in zip(CHOICE_CASES[:-1], right[:-1], strict=True):
        ms = next(d["latency_ms"][found[1]] for d in devices if d["name"] == found[0])
        ends.append(waiting_ms(found[1], load) + ms - deadline_ms)
        counts.append(count_needed(found[1], ms, load))
    assert 0 in ends
    assert 2 in counts


def test_only_meant_numbers_of_devices_are_near_a_whole_one():
    for devices, load, deadline_ms in CHOICE_CASES:
        for batch, ms in itertools.chain(*(device["latency_ms"].items() for device in devices)):
            needed = count_needed(batch, ms, load)
            spare = deadline_ms - waiting_ms(batch, load) - ms
            assert needed == 2 or abs(needed - round(needed)) > 0.01
            assert spare == 0 or abs(spare) > 0.1


def test_none_is_an_answer_once_another_has_been_given():
    answers = iter([("A", 1, 1), None])
    assert check_cheapest(lambda *_: next(answers)).state == "none although one fits"


# All three


CHECKS = {
    check_device_timing: ("Timing a device", RIGHT_TIMERS, WRONG_TIMERS, TIMING_MISTAKES),
    check_intensity: (
        "Arithmetic intensity", RIGHT_INTENSITIES, WRONG_INTENSITIES, INTENSITY_MISTAKES,
    ),
    check_cheapest: ("The cheapest device", RIGHT_CHOICES, WRONG_CHOICES, CHOICE_MISTAKES),
}  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_keeps_its_cases_as_they_are(check):
    """An attempt that spoils its arguments does not spoil the next attempt's."""

    def spoiling(*case):
        for part in case:
            if isinstance(part, list):
                part.clear()
            elif callable(part):
                part()

    kept = [TIMING_CASES, INTENSITY_CASES, CHOICE_CASES]
    before = copy.deepcopy(kept)
    check(spoiling)
    assert kept == before
    assert all(device.events == [] for device, _ in TIMING_CASES)
    assert check(CHECKS[check][1][0]).is_solved


@pytest.mark.parametrize(
    ("check", "case"), [(check_intensity, INTENSITY_CASES[0]), (check_cheapest, CHOICE_CASES[0])]
)
def test_a_case_is_shown_so_that_it_can_be_typed_again(check, case):
    shown = check(failing).message.removeprefix("Called with ").split(", it raised")[0]
    assert case == tuple(eval(f"[{shown}]"))


def test_no_message_of_a_choice_is_longer_than_a_screen():
    def failing_in_the_second_case(devices, *others):
        return failing() if len(devices) > 1 else choose_device(devices, *others)

    assert len(check_cheapest(failing_in_the_second_case).message) < 800
