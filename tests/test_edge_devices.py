"""Cards of devices, and what fits into which: by hand, by limit, for a panel."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
from torch import nn

from course_utils import distill, edge_devices, edge_fit, lab, models, quantize, yardsticks
from course_utils.edge_devices import DEVICES, GIB, KIB, MIB, EdgeDevice
from course_utils.edge_fit import Needs, check_fit
from course_utils.layer_costs import count_costs
from course_utils.yardsticks import DS_CNN, RESNET8, RESNET8_BYTES, YARDSTICKS

BOARD = EdgeDevice(
    "board", "a board", 1000, 100, 50, {"fp32": 1e6, "int8": 4e6}, reached_macs_per_s=1e6
)
NPU = dataclasses.replace(
    BOARD, name="NPU", macs_per_s={"int8": 4e6}, operators=frozenset({"convolution", "relu"})
)


def needs(flash=100, ram=10, macs=1000, arithmetic="int8", operators=(), **more):
    return Needs(flash, ram, macs, arithmetic, frozenset(operators), **more)


# The cards


@pytest.mark.parametrize("device", DEVICES, ids=lambda one: one.name)
def test_each_card_is_complete_and_consistent(device):
    assert all((device.board, device.rate_note, device.source, device.date))
    assert device.rate_note.startswith(("computed", "published"))
    assert device.flash_bytes > 0 < device.ram_bytes
    assert set(device.macs_per_s) <= {"fp32", "int8"}
    assert "int8" in device.macs_per_s
    assert device.macs_per_s.get("fp32", 0) <= device.macs_per_s["int8"]
    for reached in (device.reached_macs_per_s, device.reached_depthwise_macs_per_s):
        assert not reached > device.macs_per_s["int8"]
    assert device.operators <= {"convolution", "linear", "relu", "add", "mean", "pooling"}


def test_names_are_unique_and_found():
    assert max(Counter(device.name for device in DEVICES).values()) == 1
    for device in DEVICES:
        assert edge_devices.get_device(device.name) is device
    with pytest.raises(ValueError, match="Cortex-M4"):
        edge_devices.get_device("toaster")


@pytest.mark.parametrize(
    ("name", "flash", "ram", "arithmetics"),
    [
        ("Cortex-M4", 1 * MIB, 256 * KIB, {"fp32", "int8"}),
        ("Cortex-M7", 1 * MIB, 320 * KIB, {"fp32", "int8"}),
        ("Cortex-M0+", 2 * MIB, 264 * KIB, {"int8"}),
        ("AVR", 32 * KIB, 2 * KIB, {"int8"}),
        ("Edge TPU", 8e9, GIB, {"int8"}),
        ("browser", 10 * 10e6 / 8 - 3.66e6, 4 * GIB, {"fp32", "int8"}),
    ],
)
def test_published_sizes(name, flash, ram, arithmetics):
    device = edge_devices.get_device(name)
    assert (device.flash_bytes, device.ram_bytes) == (flash, ram)
    assert set(device.macs_per_s) == arithmetics


def test_the_yardsticks_network_is_counted_by_its_shapes():
    model = models.ResNet8(width=16)
    model.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)  # of MLPerf Tiny: colour, 32 × 32
    images = np.zeros((1, 3, 32, 32), np.float32)
    counted = count_costs(quantize.fold_batch_norms(model), images)
    assert counted.macs == RESNET8.macs
    assert 0.7 < counted.parameters / RESNET8_BYTES < 1  # its published file holds the graph too


def test_the_second_yardsticks_network_is_counted_by_its_shapes():
    blocks = [
        layer
        for _ in range(4)
        for layer in (nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.Conv2d(64, 64, 1))
    ]
    first = nn.Conv2d(1, 64, (10, 4), stride=2, padding=(5, 1))
    model = nn.Sequential(
        first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12)
    )  # of MLPerf Tiny: 49 moments of 10 frequencies
    counted = count_costs(model, np.zeros((1, 1, 49, 10), np.float32))
    assert counted.macs == DS_CNN.macs


def test_a_yardstick_tells_the_multiply_adds_of_a_cycle():
    reference = YARDSTICKS["M4, reference"]
    cycles = 120e6 * 0.70426
    assert reference.macs_per_cycle == pytest.approx(12_501_632 / cycles)
    assert reference.provenance.kind == "cited"
    assert "tiny_results_v0.5" in str(reference.provenance)
    rates = {name: one.macs_per_cycle for name, one in YARDSTICKS.items()}
    for name in ("M0+", "M4, reference", "M4", "M7, 216 MHz", "M7, 280 MHz"):
        of_both = YARDSTICKS[name], YARDSTICKS[f"{name}, DS-CNN"]
        assert [one.network for one in of_both] == [RESNET8, DS_CNN]
        assert len({(one.board, one.clock_mhz, one.software, one.source) for one in of_both}) == 1
        assert rates[f"{name}, DS-CNN"] < rates[name]
    assert rates["M0+"] < rates["M4, reference"] < rates["M4"] < rates["M7, 216 MHz"] < 2
    assert 2 < rates["Ethos-U55"] < 128


def test_what_a_card_says_is_reached_comes_from_its_yardstick():
    reached = edge_devices.get_device("Cortex-M7").reached_macs_per_s
    assert reached == pytest.approx(12_501_632 / 0.06477)  # timed on this very board
    assert edge_devices.get_device("Cortex-M4").reached_macs_per_s == pytest.approx(
        12_501_632 / 0.2269 * 64 / 120
    )


def test_the_tables_show_every_card_and_yardstick():
    devices, boards = edge_devices.tabulate_devices(), yardsticks.tabulate_yardsticks()
    assert len(devices.rows) == len(DEVICES) == len(devices.notes) - 1
    assert len(boards.rows) == len(YARDSTICKS)
    shown = repr(devices)
    assert "256 KiB" in shown
    assert "nan" not in shown + repr(boards)
    assert "704" in repr(boards)


@pytest.mark.parametrize(
    ("size", "told"),
    [(2048, "2.0 KiB"), (256 * KIB, "256 KiB"), (1.5 * MIB, "1.5 MiB"), (4 * GIB, "4 GiB")],
)
def test_sizes_are_told_in_their_unit(size, told):
    assert edge_devices.tell_size(size) == told


# What fits


@pytest.mark.parametrize(
    ("needed", "binds", "fits"),
    [
        (needs(), "flash", True),  # 10 % of both, the first is named; latency 0.25 %
        (needs(ram=50), "RAM", True),
        (needs(macs=240_000), "latency", True),
        (needs(flash=1000), "flash", True),  # exactly all of it
        (needs(flash=1001), "flash", False),
        (needs(ram=101), "RAM", False),
        (needs(macs=400_000), "latency", True),
        (needs(macs=400_001), "latency", False),
        (needs(flash=2000, ram=300), "RAM", False),  # the larger share, though both are too much
        (needs(flash=900, macs=500_000), "latency", False),
    ],
)
def test_the_largest_share_binds(needed, binds, fits):
    found = check_fit(BOARD, needed, 100)
    assert (found.binds, found.fits) == (binds, fits)
    assert bool(found.problems) is not fits
    assert binds in repr(found)


def test_shares_and_times_are_computed_from_the_card():
    found = check_fit(BOARD, needs(flash=250, ram=30, macs=8000), 10)
    assert found.shares == {"flash": 0.25, "RAM": 0.3, "latency": pytest.approx(0.2)}
    assert found.bound_ms == pytest.approx(2)
    assert found.likely_ms == pytest.approx(8)
    in_fp32 = check_fit(BOARD, needs(macs=8000, arithmetic="fp32"), 10)
    assert in_fp32.bound_ms == pytest.approx(8)
    assert math.isnan(in_fp32.likely_ms)  # what was reached was reached in int8


def test_a_depthwise_network_is_measured_by_its_own_yardstick():
    board = dataclasses.replace(BOARD, reached_depthwise_macs_per_s=5e5)
    full, depthwise = (
        check_fit(board, needs(macs=8000, is_depthwise=one)) for one in (False, True)
    )
    assert depthwise.likely_ms == pytest.approx(2 * full.likely_ms)
    assert depthwise.bound_ms == full.bound_ms
    assert math.isnan(check_fit(BOARD, needs(is_depthwise=True)).likely_ms)
    notes = [edge_fit.measure_fit(one)["likely"].note for one in (full, depthwise)]
    assert ["depthwise" in note for note in notes] == [False, True]


def test_a_bare_chip_holds_constants_and_others_a_file():
    chip = dataclasses.replace(BOARD, is_bare=True)
    needed = needs(flash=1500, compiled_bytes=600)
    assert check_fit(chip, needed).shares["flash"] == 0.6
    assert check_fit(chip, needed).fits
    assert check_fit(BOARD, needed).shares["flash"] == 1.5
    assert "1.5 KiB of flash" in " ".join(check_fit(BOARD, needed).problems)
    assert check_fit(chip, needs(flash=500)).shares["flash"] == 0.5  # nothing else is known
    for device in (chip, BOARD):
        assert (
            "C file" in edge_fit.measure_fit(check_fit(device, needed))["flash"].provenance.source
        )


def test_what_is_in_time_only_at_the_best_is_doubtful():
    found = check_fit(BOARD, needs(macs=200_000), 100)  # 50 ms at best, 200 as reached
    assert found.fits
    assert found.is_doubtful
    assert "perhaps" in found.verdict
    assert not check_fit(BOARD, needs(macs=100_000), 100).is_doubtful


def test_too_slow_still_runs():
    found = check_fit(BOARD, needs(macs=1e6), 100)
    assert found.can_run
    assert not found.fits
    assert found.verdict == "runs, too slow"
    assert found.problems == ["It takes 250 ms at the least; 100 ms are asked for."]


def test_arithmetic_and_layers_that_are_not_there_come_first():
    in_fp32 = check_fit(NPU, needs(flash=9999, arithmetic="fp32"))
    assert in_fp32.binds == "arithmetic"
    assert not in_fp32.can_run
    assert "no unit for fp32, only for int8" in in_fp32.problems[0]
    with_norms = check_fit(NPU, needs(operators=["convolution", "batch norm"]))
    assert with_norms.binds == "operators"
    assert not with_norms.can_run
    assert with_norms.problems == ["NPU computes no batch norm."]
    assert check_fit(BOARD, needs(operators=["batch norm"])).fits  # it has a compiler
    assert check_fit(NPU, needs(operators=["relu"])).fits


@pytest.mark.parametrize("deadline", [0, -1, math.nan])
def test_a_deadline_leaves_time(deadline):
    with pytest.raises(ValueError, match="more than 0"):
        check_fit(BOARD, needs(), deadline)


# What a network needs


@pytest.mark.parametrize(
    ("bits", "arithmetic", "per_weight", "per_activation"),
    [(32, "fp32", 4, 4), (8, "int8", 1, 1), (4, "int8", 0.5, 1), (16, "fp32", 2, 4)],
)
def test_needs_are_counted_from_the_layers(tiny_mlp, images, bits, arithmetic, per_weight,
                                           per_activation):  # fmt: skip
    found = edge_fit.count_needs(tiny_mlp, images, bits=bits)
    weights, biases = 144 * 64 + 64 * 32 + 32 * 10, 64 + 32 + 10
    assert found.macs == weights
    assert found.flash_bytes == weights * per_weight + biases * 4
    assert found.ram_bytes == (144 + 64) * per_activation
    assert found.arithmetic == arithmetic
    assert found.operators == {"linear", "relu"}


def test_the_size_of_the_file_counts_if_it_is_known(tiny_mlp, images):
    assert edge_fit.count_needs(tiny_mlp, images, flash_bytes=12_345).flash_bytes == 12_345
    one, many = (edge_fit.count_needs(tiny_mlp, batch) for batch in (images[:1], images))
    assert one == many


def test_constants_and_depthwise_layers_are_found(tiny_mlp, tiny_convnet, images):
    assert edge_fit.count_needs(tiny_mlp, images, compiled_bytes=77).compiled_bytes == 77
    alone = edge_fit.count_needs(tiny_mlp, images, flash_bytes=12_345)
    assert alone.compiled_bytes == edge_fit.count_needs(tiny_mlp, images).flash_bytes
    assert not edge_fit.count_needs(tiny_convnet, images).is_depthwise
    student = distill.load_students("students_fashion")["full_ds-cnn_w40_taught_seed0"].model
    pixels = np.zeros((1, 1, 28, 28), np.float32)
    assert edge_fit.count_needs(quantize.fold_batch_norms(student), pixels).is_depthwise


@pytest.mark.parametrize("wrong", [{"bits": 0}, {"flash_bytes": 0}, {"compiled_bytes": 0}])
def test_impossible_needs_are_refused(tiny_mlp, images, wrong):
    with pytest.raises(ValueError, match="above 0"):
        edge_fit.count_needs(tiny_mlp, images, **wrong)


def test_batch_norms_that_are_not_folded_bind_on_an_npu(tiny_resnet, tiny_convnet, images):
    npu = edge_devices.get_device("Edge TPU")
    assert check_fit(npu, edge_fit.count_needs(tiny_resnet, images)).binds == "operators"
    assert check_fit(npu, edge_fit.count_needs(tiny_convnet, images)).fits


# Tables and panels

NETWORKS = {
    "small": {"int8": needs(), "fp32": needs(400, 40, arithmetic="fp32")},
    "large": {"int8": needs(900, 120, 1e6), "fp32": needs(3600, 480, 1e6, "fp32")},
}


def test_a_panel_has_a_point_for_each_setting():
    found = edge_fit.compute_fits(NETWORKS, [BOARD, NPU], deadline_ms=50)
    assert found.knobs == {
        "device": ["board", "NPU"], "model": ["small", "large"], "precision": ["int8", "fp32"],
    }  # fmt: skip
    assert len(found.points) == 8
    point = found.point(device="board", model="small", precision="int8")
    assert point.flash.value == pytest.approx(10)
    assert point.ram.value == pytest.approx(10)
    assert point.bound.value == pytest.approx(0.25)
    assert point.likely.value == pytest.approx(1)
    assert {one.provenance.kind for one in point.metrics.values()} == {"computed"}


@pytest.mark.parametrize(
    ("device", "model", "precision", "why"),
    [
        ("board", "large", "int8", "RAM"),
        ("board", "large", "fp32", "flash"),
        ("NPU", "small", "fp32", "no unit for fp32"),
    ],
)
def test_a_panel_says_why_something_cannot_run(device, model, precision, why):
    found = edge_fit.compute_fits(NETWORKS, [BOARD, NPU])
    point = found.point(device=device, model=model, precision=precision)
    assert math.isnan(point.bound.value)
    assert math.isnan(point.likely.value)
    assert point.flash.value > 0
    assert why in point.bound.note
    panel = lab.Panel(found, "Fits", charts=["bound", "flash", "ram"])
    panel.choose(device=device, model=model, precision=precision)
    shown = {card.title: card for card in panel.cards}
    assert shown["bound"].value == "–"
    assert why in shown["bound"].note


@pytest.mark.parametrize(
    ("networks", "devices", "message"),
    [
        ({}, [BOARD], "at least one"),
        ({"a": {}}, [BOARD], "at least one"),
        (NETWORKS, [], "at least one"),
        ({"a": {"int8": needs()}, "b": {"fp32": needs()}}, [BOARD], "same precisions"),
    ],
)
def test_panels_of_nothing_are_refused(networks, devices, message):
    with pytest.raises(ValueError, match=message):
        edge_fit.compute_fits(networks, devices)
