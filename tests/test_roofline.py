"""The roofline: what it says about an intensity, and how it is measured."""

import contextlib
import itertools
import math

import numpy as np
import pytest

from course_utils import roofline
from course_utils.measure import Measurement, Provenance, measured_now
from course_utils.roofline import PRODUCTS, Roofline, build_product, level_bytes, measure_roofline
from course_utils.runtimes.export import open_session

HERE = Provenance("measured", "a planted machine")
SMALL = [((6, 5), (5, 7)), ((1, 3, 8, 9), (4, 3, 3, 3))]


def rate(value: float, unit: str) -> Measurement:
    return Measurement(value, unit, 0.9 * value, 1.1 * value, 10, HERE)


@pytest.fixture
def roofs() -> Roofline:
    peaks = {"fp32": rate(100, "GFLOP/s"), "int8": rate(400, "GOP/s")}
    return Roofline(peaks, {"memory": rate(10, "GB/s"), "small cache": rate(50, "GB/s")})


@pytest.fixture
def each_takes_a_second(monkeypatch):
    """Let every call take one second, so that rates are amounts of work; return the calls."""
    called = {}

    def time_in_turns(calls):
        called.update(calls)
        return {name: np.ones(5) for name in calls}

    monkeypatch.setattr(roofline, "_time_in_turns", time_in_turns)
    return called


# What it says


@pytest.mark.parametrize(
    ("flop_per_byte", "kind", "level", "expected"),
    [
        (0, "fp32", "memory", 0),
        (0.5, "fp32", "memory", 5),
        (0.5, "fp32", "small cache", 25),
        (10, "fp32", "memory", 100),
        (1000, "fp32", "memory", 100),
        (10, "int8", "memory", 100),
        (1000, "int8", "memory", 400),
        (math.inf, "int8", "small cache", 400),
    ],
)
def test_the_lower_of_the_two_roofs_is_attainable(roofs, flop_per_byte, kind, level, expected):
    assert roofs.attainable(flop_per_byte, kind, level) == pytest.approx(expected)


def test_the_roofs_meet_at_the_ridge(roofs):
    assert (roofs.ridge(), roofs.ridge("int8"), roofs.ridge("fp32", "small cache")) == (10, 40, 2)
    for kind in ("fp32", "int8"):
        for level in ("memory", "small cache"):
            ridge = roofs.ridge(kind, level)
            assert roofs.attainable(ridge, kind, level) == pytest.approx(roofs.peaks[kind].value)
            assert roofs.bound(0.99 * ridge, kind, level) == "memory"
            assert roofs.bound(1.01 * ridge, kind, level) == "compute"


def test_int8_needs_more_operations_a_byte_to_be_bound_by_the_multipliers(roofs):
    assert roofs.bound(20) == "compute"
    assert roofs.bound(20, "int8") == "memory"


@pytest.mark.parametrize("flop_per_byte", [-1, math.nan])
def test_an_intensity_is_a_number_of_0_or_more(roofs, flop_per_byte):
    with pytest.raises(ValueError, match="operations a byte cannot be; give 0 or more"):
        roofs.attainable(flop_per_byte)


@pytest.mark.parametrize("wrong", [{"kind": "int4"}, {"level": "disk"}])
def test_a_roof_that_was_not_measured_is_named(roofs, wrong):
    for ask in (roofs.attainable, roofs.bound):
        with pytest.raises(ValueError, match=r"no roof for .* it has fp32, int8, with bytes from"):
            ask(1.0, **wrong)
    with pytest.raises(ValueError, match="no roof for"):
        roofs.ridge(**wrong)


# What is run


@pytest.mark.parametrize(("given", "weights"), SMALL)
def test_a_product_computes_what_its_shapes_say(given, weights):
    graph, feed = build_product("fp32", given, weights)
    (found,) = open_session(graph).run(None, feed)
    assert feed["x"].shape == given
    assert found.shape == ((6, 7) if len(given) == 2 else (1, 4, 8, 9))
    quantized, bytes_ = build_product("int8", given, weights)
    (output,) = open_session(quantized).run(None, bytes_)
    assert (output.shape, output.dtype, bytes_["x"].dtype) == (found.shape, np.uint8, np.uint8)


def test_an_int8_product_is_the_product_of_its_bytes():
    graph, feed = build_product("int8", (6, 5), (5, 7))
    (found,) = open_session(graph).run(None, feed)
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    weights = np.frombuffer(constants["w"].raw_data, np.int8).reshape(5, 7).astype(int)
    real = 0.01 * 0.01 * ((feed["x"].astype(int) - 128) @ weights)
    assert np.abs(found.astype(int) - 128 - real).max() <= 0.5 + 1e-6
    assert np.abs(weights).max() <= 64


def test_a_product_s_work_is_two_operations_a_multiply_add(each_takes_a_second):
    rates = roofline._time_products("fp32", 1)
    products = [2 * 256**3, 2 * 512**3, 2 * 64 * 1024**2]
    convolutions = [(28, 64), (14, 128), (28, 128)]
    counted = products + [2 * size**2 * 9 * channels**2 for size, channels in convolutions]
    assert [found[0] for found in rates.values()] == pytest.approx([n / 1e9 for n in counted])
    assert list(each_takes_a_second) == list(PRODUCTS)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_bytes_of_both_arrays_are_counted_once_a_walk(each_takes_a_second, threads):
    rates = roofline._time_arrays(2**22, threads)
    assert list(rates) == ["reading 4 MiB", "copying 4 MiB"]
    walks = roofline.LARGEST_CALL_BYTES // 2**22
    assert [found[0] for found in rates.values()] == [walks * 2**22 / 1e9] * 2


def test_arrays_that_are_larger_than_a_call_are_walked_through_once(each_takes_a_second):
    rates = roofline._time_arrays(2 * roofline.LARGEST_CALL_BYTES, 1)
    assert rates["copying 32 MiB"][0] == 2 * roofline.LARGEST_CALL_BYTES / 1e9


def test_the_levels_differ_in_the_bytes_that_are_walked_through(monkeypatch):
    monkeypatch.setattr(roofline.torch.cpu, "get_capabilities", lambda: {"l2_cache_size": 2**19})
    assert level_bytes() == {"memory": 2**28, "large cache": 2**21, "small cache": 2**18}
    assert level_bytes(2)["small cache"] == 2 * level_bytes()["small cache"]
    monkeypatch.setattr(roofline.torch.cpu, "get_capabilities", dict)
    sizes = level_bytes()
    assert sizes["small cache"] < sizes["large cache"] < sizes["memory"]


def test_calls_take_turns(monkeypatch):
    monkeypatch.setattr(roofline, "SECONDS", 0.0)
    monkeypatch.setattr("course_utils.measure.turns.calls_in_a_turn", lambda _: 9)
    monkeypatch.setattr("course_utils.measure.turns.starts_warm", lambda *_: False)
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    times = roofline._time_in_turns(calls)
    assert order[:4] == list("aabb")  # once to warm up, once to see how long a call takes
    assert order.count("a") == order.count("b")
    in_a_row = max(len(list(calls)) for _, calls in itertools.groupby(order[4:]))
    assert in_a_row < len(order) / 4
    assert all(len(found) >= roofline.LEAST_ROUNDS for found in times.values())


def test_the_best_is_the_one_with_the_highest_median():
    rates = {"slow": np.array([1.0, 2.0, 99.0]), "fast": np.array([4.0, 5.0, 6.0])}
    best = roofline._choose_best(rates, "GB/s", HERE)
    assert (best.value, best.low, best.high, best.count) == (5.0, 4.5, 5.5, 3)
    assert best.note == "by fast (2 GB/s by slow)"
    assert best.provenance == HERE


@pytest.mark.parametrize("threads", [1, 2])
def test_a_roofline_is_measured_while_the_machine_is_held(monkeypatch, threads):
    held = []

    @contextlib.contextmanager
    def lock():
        held.append(True)
        yield
        held.append(False)

    monkeypatch.setattr(roofline, "timing_lock", lock)
    monkeypatch.setattr(roofline, "SECONDS", 0.0)
    monkeypatch.setattr(roofline, "MEMORY_BYTES", 2**22)
    small = {"a small product": SMALL[0], "a small convolution": SMALL[1]}
    monkeypatch.setattr(roofline, "PRODUCTS", small)
    measured = measure_roofline(threads)
    assert held == [True, False]
    assert measured.threads == threads
    units = {kind: peak.unit for kind, peak in measured.peaks.items()}
    assert units == {"fp32": "GFLOP/s", "int8": "GOP/s"}
    assert list(measured.bandwidths) == ["memory", "large cache", "small cache"]
    for found in (*measured.peaks.values(), *measured.bandwidths.values()):
        assert 0 < found.low <= found.value <= found.high
        assert found.count >= roofline.LEAST_ROUNDS
        assert found.provenance.source == measured_now().source
        assert "cores busy" in found.provenance.note
    assert "small" in measured.peaks["fp32"].note
    assert "reading 4 MiB" in measured.bandwidths["memory"].note


@pytest.mark.parametrize("threads", [0, -1])
def test_a_roofline_needs_a_thread(threads):
    with pytest.raises(ValueError, match="threads can compute nothing"):
        measure_roofline(threads)


@pytest.mark.parametrize(
    ("size_bytes", "level"),
    [(1, "small cache"), (2**20, "small cache"), (2**20 + 1, "large cache"),
     (2**25, "large cache"), (2**25 + 1, "memory")],
)  # fmt: skip
def test_bytes_lie_in_the_smallest_cache_that_holds_them(monkeypatch, size_bytes, level):
    monkeypatch.setattr(roofline, "cache_bytes", lambda: (2**20, 2**25))
    assert roofline.find_level(size_bytes) == level


def test_without_a_word_on_the_last_cache_bytes_lie_in_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(roofline, "CACHES", tmp_path)
    l2_bytes, last_bytes = roofline.cache_bytes()
    assert last_bytes == 0
    assert roofline.find_level(l2_bytes + 1) == "memory"


def test_the_last_cache_is_read_where_linux_tells_it(monkeypatch, tmp_path):
    (tmp_path / "index3").mkdir()
    (tmp_path / "index3" / "size").write_text("32768K\n")
    monkeypatch.setattr(roofline, "CACHES", tmp_path)
    assert roofline.cache_bytes()[1] == 2**25
