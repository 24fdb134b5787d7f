"""Lower bounds: by hand for a layer, for a network at any batch, and for devices of data sheets."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from fake_device import FakeDevice
from hypothesis import given
from hypothesis import strategies as st

from course_utils import accelerators, bounds, lab, models, sweep
from course_utils.accelerators import CATALOGUE, Accelerator, describe_here, get_accelerator
from course_utils.bounds import (
    LayerBound,
    bound_layers,
    check_bounds,
    scale_batch,
    scale_width,
    tabulate_bounds,
)
from course_utils.devices import Device
from course_utils.lab.readouts import count_digits, format_value
from course_utils.layer_costs import LayerCost, ModelCosts, count_costs
from course_utils.layer_times import LayerTime, LayerTimes
from course_utils.measure import Measurement, Provenance
from course_utils.roofline import Roofline
from course_utils.sweep.bounds import BATCH, DEVICE, FORMAT, NETWORK

HERE = Provenance("measured", "a planted machine", "2026-01-31")
CPU = Device("cpu", "a processor", "cpu")
NETWORKS = {
    "ResNet8": models.ResNet8(4),
    "MLP": models.MLP([784, 30, 20, 10]),
    "DSCNN": models.DSCNN(8),
}
ONE = {
    name: count_costs(network, np.zeros((1, 1, 28, 28), np.float32))
    for name, network in NETWORKS.items()
}
SIZED = ("weight_bytes", "input_bytes", "output_bytes", "live_bytes")


def cost(name: str, macs: int, weights: int, given: int, made: int) -> LayerCost:
    return LayerCost(name, "linear", macs, weights, weights, given, made, given + made)


HEAVY = cost("heavy", 5_000_000, 1000, 500, 500)  # 10 MFLOP, 2000 bytes
LIGHT = cost("light", 1000, 4_000_000, 500_000, 500_000)  # 2000 FLOP, 5 MB
FREE = cost("free", 0, 0, 100, 100)
NETWORK_OF_THREE = ModelCosts([HEAVY, FREE, LIGHT], 4_001_000)


# A layer


def test_a_layer_takes_as_long_as_its_operations_or_its_bytes():
    heavy, light = bound_layers([HEAVY, FREE, LIGHT], peak_gflop_s=100, bandwidth_gb_s=10)
    assert (heavy.name, heavy.flop, heavy.bytes_moved) == ("heavy", 10_000_000, 2000)
    assert heavy.compute_ms == pytest.approx(0.1)  # 10⁷ / 10¹¹ s
    assert heavy.memory_ms == pytest.approx(0.0002)  # 2000 / 10¹⁰ s
    assert (heavy.latency_ms, heavy.bound_by) == (heavy.compute_ms, "compute")
    assert heavy.flop_per_byte == 5000
    assert heavy.gflop_per_s == pytest.approx(100)
    assert light.compute_ms == pytest.approx(0.00002)
    assert light.memory_ms == pytest.approx(0.5)
    assert (light.latency_ms, light.bound_by) == (light.memory_ms, "memory")
    assert light.gflop_per_s == pytest.approx(10 * light.flop_per_byte)  # below the slope


def test_at_the_ridge_both_take_as_long_and_it_counts_as_computing():
    assert LayerBound("", 100, 10, 2.0, 2.0).bound_by == "compute"


@given(st.integers(1, 10**12), st.integers(1, 10**12), st.floats(0.1, 1e6), st.floats(0.1, 1e6))
def test_the_bound_is_the_roofline_turned_into_a_time(macs, moved, peak, bandwidth):
    (found,) = bound_layers([cost("", macs, moved, 0, 0)], peak, bandwidth)
    measurement = Measurement(peak, "GFLOP/s", peak, peak, 1, HERE)
    roof = Roofline(
        {"fp32": measurement}, {"memory": replace(measurement, value=bandwidth)}
    ).attainable(found.flop_per_byte)
    assert found.gflop_per_s == pytest.approx(roof)
    assert found.latency_ms == max(found.compute_ms, found.memory_ms)


@pytest.mark.parametrize(
    ("peak", "bandwidth"), [(0, 1), (1, 0), (-1, 1), (1, -1), (math.nan, 1), (1, math.nan)]
)
def test_a_device_without_peak_or_bandwidth_bounds_nothing(peak, bandwidth):
    with pytest.raises(ValueError, match="bound nothing; give numbers above 0"):
        bound_layers([HEAVY], peak, bandwidth)


# A network


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [4, 2, 1])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_batch_costs_what_is_counted_for_it(name, size, batch):
    sizes = {"bytes_per_weight": size, "bytes_per_activation": size}
    one, many = (
        count_costs(NETWORKS[name], np.zeros((count, 1, 28, 28), np.float32), **sizes)
        for count in (1, batch)
    )
    scaled = scale_batch(one, batch)
    assert list(scaled.layers) == list(many.layers)
    assert scaled.weight_bytes == many.weight_bytes == one.weight_bytes
    assert scaled.peak_activation_bytes == batch * one.peak_activation_bytes


@given(st.sampled_from(list(ONE)), st.integers(1, 10**6))
def test_weights_are_read_once_for_all_images(name, batch):
    scaled = scale_batch(ONE[name], batch)
    for one, many in zip(ONE[name].layers, scaled.layers, strict=True):
        assert many.macs == batch * one.macs
        assert many.weight_bytes == one.weight_bytes
        assert many.bytes_moved - many.weight_bytes == batch * (one.bytes_moved - one.weight_bytes)
    assert scaled.flop_per_byte >= ONE[name].flop_per_byte
    assert scaled.parameters == ONE[name].parameters


@pytest.mark.parametrize("batch", [0, -3])
def test_no_batch_at_all_is_refused(batch):
    with pytest.raises(ValueError, match=f"A batch of {batch} cannot be; give 1 or more"):
        scale_batch(NETWORK_OF_THREE, batch)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [4, 2, 1, 0.5])
def test_narrower_numbers_move_fewer_bytes_and_compute_as_much(name, size):
    narrow = scale_width(ONE[name], size)
    for one, found in zip(ONE[name].layers, narrow.layers, strict=True):
        for which in SIZED:
            assert getattr(found, which) == math.ceil(size * getattr(one, which) / 4)
        assert (found.macs, found.parameters) == (one.macs, one.parameters)
    assert narrow.weight_bytes == math.ceil(size * ONE[name].weight_bytes / 4)


@pytest.mark.parametrize("size", [2, 1])
def test_no_network_moves_less_than_one_all_of_whose_numbers_are_narrow(size):
    """What is counted keeps biases and batch norms in 32 bits."""
    image = np.zeros((1, 1, 28, 28), np.float32)
    for name, network in NETWORKS.items():
        counted = count_costs(network, image, bytes_per_weight=size, bytes_per_activation=size)
        narrow = scale_width(ONE[name], size)
        pairs = zip(narrow.layers, counted.layers, strict=True)
        assert all(one.bytes_moved <= other.bytes_moved for one, other in pairs)
        assert narrow.bytes_moved < counted.bytes_moved


@pytest.mark.parametrize("size", [0, -1, math.nan])
def test_values_without_bytes_are_refused(size):
    with pytest.raises(ValueError, match="cannot be; give more than 0"):
        scale_width(NETWORK_OF_THREE, size)


# Bounds beside measured times


def rate(value: float, high: float) -> Measurement:
    return Measurement(value, "", 0.9 * value, high, 10, HERE)


@pytest.fixture
def timed(monkeypatch) -> LayerTimes:
    """Return times of three layers, of a network whose bytes lie in the large cache."""
    monkeypatch.setattr(bounds, "find_level", {12_345: "large cache"}.__getitem__)
    layers = [
        LayerTime("heavy", "fp32", "Conv", 10_000_000, 2000, replace(rate(0.2, 0.3), fastest=0.15)),
        LayerTime("light", "fp32", "Gemm", 2000, 5_000_000, replace(rate(1.0, 1.1), fastest=0.8)),
        LayerTime("bytes", "int8", "Conv", 10_000_000, 2000, rate(0.1, 0.1)),
    ]
    return LayerTimes(layers, {}, [], 0.0, 12_345)


ROOFS = [
    Roofline(
        {"fp32": rate(80, high=fp32), "int8": rate(300, high=int8)},
        {"memory": rate(1, high=1), "large cache": rate(9, high=cache)},
    )
    for fp32, int8, cache in ((90, 400, 10), (100, 350, 9.5))
]


def test_a_bound_is_that_of_the_highest_roofs(timed):
    heavy, light, bytes_ = check_bounds(timed, *ROOFS)
    assert (heavy.name, heavy.bound_by) == ("heavy", "compute")
    assert heavy.bound_ms == pytest.approx(0.1)  # at 100, of the second
    assert (heavy.fastest_ms, heavy.median_ms) == (0.15, 0.2)
    assert heavy.share == pytest.approx(0.5)
    assert (light.bound_by, light.bound_ms) == ("memory (large cache)", pytest.approx(0.5))
    assert bytes_.bound_ms == pytest.approx(0.025)  # at 400, of the first
    assert bytes_.fastest_ms == 0.1  # the median, where the shortest is not known
    alone = check_bounds(timed, ROOFS[0])
    assert all(
        one.bound_ms >= other.bound_ms
        for one, other in zip(alone, [heavy, light, bytes_], strict=True)
    )


def test_no_roofline_bounds_nothing(timed):
    with pytest.raises(ValueError, match="at least one roofline"):
        check_bounds(timed)


def test_the_table_has_the_sums(timed):
    table = tabulate_bounds(check_bounds(timed, *ROOFS), "measured somewhere")
    assert table.rows[0] == ["heavy", "compute", "0.1000", "0.1500", "0.2000", "0.50"]
    assert table.rows[-1] == ["all", "", "0.6250", "1.0500", "1.3000", "0.48"]
    assert all(len(row) == len(table.head) for row in table.rows)
    assert table.notes[-1] == "measured somewhere"


# Devices of data sheets

SMALL = Accelerator(
    "small", "GPU", {"fp32": 0.1, "int8": 0.4}, bandwidth_gb_s=10, memory_gib=0.004, watts=50,
    price_per_hour=3.6, price_note="$3.6 an hour", date="2025",
)  # fmt: skip
LARGE = Accelerator("large", "TPU", {"16 bits": 1.0}, 100, memory_gib=1, on_chip_mib=3)
FORMATS = {"fp32": 4, "16 bits": 2, "int8": 1}
BATCHES = [1, 100]
PLANTED = {"three": NETWORK_OF_THREE, "heavy": ModelCosts([HEAVY], 1000)}


@pytest.fixture
def computed() -> sweep.Sweep:
    return sweep.compute_bounds(PLANTED, [SMALL, LARGE], batches=BATCHES, formats=FORMATS)


def at(batch, device, network, kind) -> dict:
    return {BATCH: batch, DEVICE: device, NETWORK: network, FORMAT: kind}


def test_each_combination_has_a_point_and_the_first_is_where_a_panel_starts(computed):
    names = list(product(BATCHES, ["small", "large"], PLANTED, FORMATS))
    assert [tuple(point.setting.values()) for point in computed.points] == names
    assert computed.against == at(1, "small", "three", "fp32")
    chosen = at(100, "large", "heavy", "16 bits")
    other = sweep.compute_bounds(
        PLANTED, [SMALL, LARGE], batches=BATCHES, formats=FORMATS, against=chosen
    )
    assert other.against == chosen


def test_a_point_is_what_one_computes_by_hand(computed):
    point = computed.point(**at(1, "small", "heavy", "fp32"))
    assert point.latency.value == pytest.approx(0.1)  # 10⁷ operations at 10¹¹ a second
    assert point.throughput.value == pytest.approx(10_000)
    assert point.energy.value == pytest.approx(5)  # 50 W for 0.1 ms, in mJ
    assert point.cost.value == pytest.approx(0.1)  # 10⁶ × 0.1 ms at 0.1 cents a second
    assert [found.unit for found in point.metrics.values()] == ["ms", "items/s", "mJ", "$/million"]
    assert point.latency.note == "0 % of it in layers that wait for memory"
    assert (point.energy.note, point.cost.note) == ("50 W all the time", "$3.6 an hour")
    assert point.remark == ""
    many = computed.point(**at(100, "small", "heavy", "int8"))
    assert many.latency.value == pytest.approx(100 * 10_000_000 / 0.4e12 * 1000)
    assert many.throughput.value == pytest.approx(100_000 / many.latency.value)
    assert many.energy.value == pytest.approx(50 * many.latency.value / 100)
    assert many.cost.value == pytest.approx(1e6 * 3.6 / 3600 * many.latency.value / 1e5)


def test_the_layers_of_a_point_add_up_each_with_the_longer_of_its_times(computed):
    point = computed.point(**at(1, "large", "three", "16 bits"))
    heavy_ms, light_ms = 10_000_000 / 1e12 * 1000, 2_500_000 / 100e9 * 1000
    assert point.latency.value == pytest.approx(heavy_ms + light_ms)
    assert f"{100 * light_ms / (heavy_ms + light_ms):.0f} % of it" in point.latency.note
    layers = computed.experiment.layers_at(point.setting)
    assert [layer.name for layer in layers] == ["heavy", "light"]
    assert sum(layer.latency_ms for layer in layers) == point.latency.value


def test_what_fits_on_the_chip_may_be_quicker_and_the_spread_says_how_much(computed):
    point = computed.point(**at(1, "large", "three", "16 bits"))  # 2.4 MiB beside 3 on the chip
    compute_ms = (10_000_000 + 2000) / 1e12 * 1000
    assert point.latency.low == pytest.approx(compute_ms)
    assert (
        f"fits on the chip: if all stays there, at least {compute_ms:.2g} ms" in point.latency.note
    )
    many = computed.point(**at(100, "large", "three", "16 bits"))
    assert many.latency.low == many.latency.value
    assert "chip" not in many.latency.note


@pytest.mark.parametrize(
    ("setting", "remark"),
    [
        (at(1, "small", "heavy", "16 bits"), "small has no published peak for 16 bits"),
        (at(1, "large", "heavy", "fp32"), "large has no published peak for fp32"),
        (at(1, "small", "three", "fp32"), "needs 0.00466 GiB, and small has 0.004"),
        (at(100, "small", "three", "int8"), "needs 0.0242 GiB, and small has 0.004"),
    ],
)
def test_what_cannot_be_has_no_numbers_and_says_why(computed, setting, remark):
    point = computed.point(**setting)
    assert point.remark == remark
    for found in point.metrics.values():
        assert math.isnan(found.value)
        assert math.isnan(found.low)
        assert found.note == remark
    assert computed.experiment.layers_at(setting) == []


def test_all_other_points_have_a_latency(computed):
    assert sum(point.remark == "" for point in computed.points) == 5 + 4
    for point in computed.points:
        assert math.isnan(point.latency.value) == bool(point.remark)


def test_what_is_not_published_is_not_made_up(computed):
    point = computed.point(**at(1, "large", "heavy", "16 bits"))
    assert point.latency.value > 0
    for metric in (point.energy, point.cost):
        assert math.isnan(metric.value)
    assert (point.energy.note, point.cost.note) == ("power not published", "no price found")


def test_every_number_says_that_it_is_computed_and_how(computed):
    for point in computed.points:
        assert {found.provenance.kind for found in point.metrics.values()} == {"computed"}
        assert "max(operations / peak, bytes / bandwidth)" in point.latency.provenance.source
        assert "estimate" in point.energy.provenance.source


@given(
    st.sampled_from(list(ONE)), st.sampled_from(CATALOGUE), st.sampled_from([4, 2, 1]),
    st.integers(1, 1000), st.integers(2, 10),
)  # fmt: skip
def test_a_larger_batch_takes_longer_and_gives_more(name, device, size, batch, times):
    kind = next(iter(device.peaks))
    sizes = [batch, times * batch]
    small, large = sweep.compute_bounds(
        {name: ONE[name]}, [device], batches=sizes, formats={kind: size}
    ).points
    assert small.latency.value <= large.latency.value
    assert large.throughput.value >= small.throughput.value * (1 - 1e-9)
    assert large.latency.low <= large.latency.value


def test_computed_points_are_not_measured_again(computed):
    with pytest.raises(ValueError, match="computed"):
        computed.measure_again(**computed.against)
    with pytest.raises(ValueError, match="nothing is there to run"):
        computed.experiment.prepare(computed.against)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batches": []}, "at least one value for each knob"),
        ({"formats": {}}, "at least one value for each knob"),
        ({"networks": {}}, "at least one value for each knob"),
        ({"devices": []}, "at least one value for each knob"),
        ({"batches": [1, 1]}, "stands there twice"),
        ({"devices": [SMALL, SMALL]}, "stands there twice"),
        ({"batches": [0, 1]}, "A batch of 0 cannot be"),
        ({"formats": {"fp32": 0}}, "Values of 0 bytes cannot be"),
        ({"against": at(3, "small", "three", "fp32")}, "is none of the settings"),
        ({"against": {BATCH: 1}}, "is none of the settings"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, message):
    options = {
        "networks": PLANTED, "devices": [SMALL], "batches": [1], "formats": {"fp32": 4},
    } | wrong  # fmt: skip
    networks, devices = options.pop("networks"), options.pop("devices")
    with pytest.raises(ValueError, match=message):
        sweep.compute_bounds(networks, devices, **options)


def test_a_panel_shows_them_and_no_word_of_it_is_a_number_that_is_none(computed):
    start = at(1, "large", "heavy", "16 bits")
    panel = lab.Panel(replace(computed, against=start), "bounds", charts=["latency", "throughput"])
    for point in computed.points:
        panel.choose(**point.setting)
        words = " ".join(f"{card.title} {card.value} {card.note}" for card in panel.cards)
        assert "nan" not in words.lower()
        assert "runs" not in words  # of which there were none
        assert (format_value(point.latency) in words) == (not point.remark)
        assert point.remark in words
    assert "nan" not in panel.alt().lower()
    assert "computed" in panel.alt()


# The catalogue


def find_faults(device: Accelerator) -> list[str]:
    """Return what is wrong with an entry."""
    needed = {"bandwidth": device.bandwidth_gb_s, "memory": device.memory_gib, **device.peaks}
    told = {"on chip": device.on_chip_mib, "watts": device.watts, "price": device.price_per_hour}
    faults = [name for name, value in needed.items() if not 0 < value < math.inf]
    faults += [name for name, value in told.items() if not 0 <= value < math.inf]
    faults += [name for name in ("name", "source", "date") if not getattr(device, name)]
    faults += ["peaks"] * (not device.peaks)
    faults += ["kind"] * (device.kind not in ("CPU", "GPU", "TPU", "NPU"))
    faults += ["price note"] * (bool(device.price_per_hour) != bool(device.price_note))
    for wide, narrow in (("fp32", "16 bits"), ("16 bits", "int8"), ("16 bits", "fp8")):
        both = wide in device.peaks and narrow in device.peaks
        faults += [f"{narrow} below {wide}"] * (both and device.peaks[narrow] < device.peaks[wide])
    return faults


GOOD = replace(SMALL, source="a data sheet")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"source": ""}, "source"),
        ({"date": ""}, "date"),
        ({"memory_gib": 0}, "memory"),
        ({"bandwidth_gb_s": -1}, "bandwidth"),
        ({"watts": math.nan}, "watts"),
        ({"kind": "toaster"}, "kind"),
        ({"peaks": {}}, "peaks"),
        ({"peaks": {"fp32": 0}}, "fp32"),
        ({"peaks": {"fp32": 2, "16 bits": 1}}, "16 bits below fp32"),
        ({"peaks": {"16 bits": 2, "int8": 1}}, "int8 below 16 bits"),
        ({"price_note": ""}, "price note"),
    ],
)
def test_a_fault_of_an_entry_would_be_found(change, fault):
    assert find_faults(replace(GOOD, **change)) == [fault] * (fault is not None)


@pytest.mark.parametrize("device", CATALOGUE, ids=lambda device: device.name)
def test_an_entry_is_sourced_and_its_numbers_can_be(device):
    assert find_faults(device) == []
    assert get_accelerator(device.name) is device


def test_names_are_given_once_and_others_are_refused():
    names = [device.name for device in CATALOGUE]
    assert len(set(names)) == len(names)
    with pytest.raises(ValueError, match="There is no 'abacus'; there are"):
        get_accelerator("abacus")


def test_the_table_of_devices_has_their_numbers_and_ridges():
    table = accelerators.tabulate([GOOD, LARGE])
    small, large = table.rows
    assert small == ["small", "GPU", "0.1", "–", "0.4", "–", "10", "0.004", "–", "50", "3.6", "40"]
    assert large[2:6] == ["–", "1", "–", "–"]
    assert large[-1] == "10"
    assert len(small) == len(large) == len(table.head)
    assert "small: a data sheet; $3.6 an hour; 2025" in table.notes


def test_this_machine_is_described_in_the_same_terms():
    first, second = (
        Roofline({kind: rate(value, 99) for kind, value in peaks.items()}, {"memory": rate(12, 12)})
        for peaks in ({"fp32": 100, "bf16": 200, "tf32": 1}, {"fp32": 90, "fp16": 250, "int8": 400})
    )
    here = describe_here(
        "this one",
        CPU,
        first,
        replace(second, bandwidths={}),
        price_per_hour=0.1,
        price_note="a guess",
    )
    assert here.peaks == {"fp32": 0.1, "16 bits": 0.25, "int8": 0.4}  # the highest of each format
    assert (here.name, here.bandwidth_gb_s, here.price_per_hour) == ("this one", 12, 0.1)
    assert (here.kind, here.date) == ("CPU", "2026-01-31")
    assert find_faults(here) == []


def test_an_accelerator_of_this_machine_has_its_own_memory():
    class Gpu(FakeDevice):
        def memory_bytes(self):
            return 12 * 2**30

    roofs = Roofline({"fp32": rate(100, 100)}, {"memory": rate(12, 12)})
    here = describe_here("this one", Gpu(), roofs)
    assert (here.kind, here.memory_gib, here.on_chip_mib) == ("GPU", 12, 0)
    assert find_faults(here) == []


def test_a_device_without_a_roofline_is_not_described():
    with pytest.raises(ValueError, match="at least one roofline of the device"):
        describe_here("this one", CPU)


# Small numbers


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.000 ms"),
        (0.05, "0.050 ms"),
        (0.0123, "0.012 ms"),
        (0.01, "0.010 ms"),
        (0.00999, "0.0100 ms"),
        (0.00456, "0.0046 ms"),
        (0.001, "0.0010 ms"),
        (0.000456, "0.00046 ms"),
        (0.0000009, "0.0000009 ms"),
        (1e-12, "0.0000000 ms"),
        (1.5, "1.50 ms"),
        (99.0, "99.0 ms"),
        (12345.6, "12,346 ms"),
    ],
)
def test_a_small_number_keeps_two_digits(value, shown):
    assert format_value(Measurement(value, "ms", value, value, 1, HERE)) == shown


@given(st.floats(1e-6, 0.01, exclude_max=True))
def test_a_small_number_is_shown_to_within_a_twentieth(value):
    assert float(f"{value:.{count_digits(value)}f}") == pytest.approx(value, rel=0.05)
