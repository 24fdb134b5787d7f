"""A width for each layer: the bytes that weights take, and what fits into a budget."""

import itertools
import math

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils import runtimes
from course_utils.quantize import (
    Sensitivity,
    choose_widths,
    choose_widths_exactly,
    count_weight_bytes,
    measure_divergence,
    measure_sensitivity,
    pack_bits,
    quantize_weights,
    quantized_weights,
    widest_uniform,
)
from course_utils.quantize.weights import find_layers
from course_utils.runtimes.export import unpack

CHOICES = [choose_widths, choose_widths_exactly]
WIDTHS = range(2, 9)


def plant(counts, *rows, widths=(2, 4, 8)) -> Sensitivity:
    """Return the sensitivity of layers a, b, c, … with so many weights and such divergences."""
    names = "abcdefgh"[: len(counts)]
    divergences = {
        n: dict(zip(widths, row, strict=True)) for n, row in zip(names, rows, strict=True)
    }
    return Sensitivity(divergences, dict(zip(names, counts, strict=True)))


def size_of(sensitivity: Sensitivity, widths) -> int:
    return sum(
        math.ceil(count * widths[layer] / 8) for layer, count in sensitivity.weight_counts.items()
    )


def all_settings(sensitivity: Sensitivity):
    for widths in itertools.product(sensitivity.widths, repeat=len(sensitivity.divergences)):
        yield dict(zip(sensitivity.divergences, widths, strict=True))


@st.composite
def sensitivities(draw) -> Sensitivity:
    """Draw two to four layers; a narrower width mostly diverges more, but not always."""
    layers = draw(st.integers(2, 4))
    counts = draw(st.lists(st.integers(1, 500), min_size=layers, max_size=layers))
    divergence = st.floats(0, 10, allow_subnormal=False)
    rows = [draw(st.lists(divergence, min_size=4, max_size=4)) for _ in range(layers)]
    rows = [sorted(row, reverse=True) if n else row for n, row in enumerate(rows)]
    return plant(counts, *rows, widths=(2, 3, 5, 8))


@pytest.fixture(scope="module")
def measured(tiny_mlp, images) -> Sensitivity:
    return measure_sensitivity(tiny_mlp, images, [2, 3, 4, 6])


# Bytes


@pytest.mark.parametrize("bits", [2, 3, 5, 7, 8, 11, 16])
def test_the_bytes_are_those_of_packed_integers(tiny_convnet, bits):
    packed = [
        pack_bits(weight.integers.numpy(), bits)
        for weight in quantized_weights(quantize_weights(tiny_convnet, bits)).values()
    ]
    assert count_weight_bytes(tiny_convnet, bits) == sum(map(len, packed))


def test_each_layer_counts_with_its_own_width(tiny_mlp):
    widths = {"layers.0": 3, "layers.1": 8, "layers.2": 32}
    expected = 144 * 64 * 3 // 8 + 64 * 32 + 32 * 10 * 4
    assert count_weight_bytes(tiny_mlp, widths) == expected


@pytest.mark.parametrize("bits", [0, 1, 17, 31, 64])
def test_a_width_that_weights_cannot_have_is_refused(tiny_mlp, bits):
    with pytest.raises(ValueError, match=f"take 2 to 16 bits, or 32; not {bits} for 'layers.1'"):
        count_weight_bytes(tiny_mlp, {"layers.0": 2, "layers.1": bits, "layers.2": 2})


def test_a_layer_that_is_unknown_or_lacks_is_named(tiny_mlp):
    widths = dict.fromkeys(find_layers(tiny_mlp), 4)
    with pytest.raises(ValueError, match=r"no layer 'layer.1' to round. Did you mean 'layers.1'"):
        count_weight_bytes(tiny_mlp, widths | {"layer.1": 4})
    del widths["layers.2"]
    with pytest.raises(ValueError, match=r"there is none for \['layers.2'\]"):
        count_weight_bytes(tiny_mlp, widths)


# What really runs and ships


def mix(model) -> dict[str, int]:
    return dict(zip(find_layers(model), itertools.cycle([8, 3, 5, 2]), strict=False))


@pytest.mark.parametrize("name", ["tiny_mlp", "tiny_convnet"])
def test_mixed_widths_run_in_int8_and_are_packed_each_at_its_own(request, images, name):
    model = request.getfixturevalue(name)
    widths = mix(model)
    rounded = quantize_weights(model, widths)
    runner = runtimes.build(rounded, images, reduce_range=False)
    assert runner.kernel == "int8 (U8S8)"
    assert not {"Conv", "Gemm", "MatMul", "FusedConv"} & set(runner.operators)
    shipped = {one.name: one for one in onnx.load_from_string(runner.artefact).graph.initializer}
    loaded = {one.name: one for one in unpack(runner.artefact).graph.initializer}
    for weight, grid in quantized_weights(rounded).items():
        bits = widths[weight.removesuffix(".weight")]
        assert grid.bits == bits
        integers = onnx.numpy_helper.to_array(loaded[f"{weight}_quantized"])
        assert np.array_equal(integers, grid.integers.numpy())
        packed = shipped[f"{weight}_quantized"].raw_data
        assert len(packed) == math.ceil(grid.integers.numel() * bits / 8)


def test_a_file_is_as_much_smaller_as_the_weights_are(tiny_convnet, images):
    widths = {**mix(tiny_convnet), "block3.conv2": 7}
    sizes = [
        runtimes.build(quantize_weights(tiny_convnet, bits), images).size_bytes
        - count_weight_bytes(tiny_convnet, bits)
        for bits in (4, widths)
    ]
    assert abs(sizes[0] - sizes[1]) < 12 * 10 + 30  # the notes beside each weight


# The widest width of all


def test_the_widest_width_that_fits_is_found():
    sensitivity = plant([80, 7], [9, 1, 0], [9, 1, 0])
    assert size_of(sensitivity, dict.fromkeys("ab", 4)) == 44
    for budget, bits in ((22, 2), (43, 2), (44, 4), (44.5, 4), (86, 4), (87, 8), (math.inf, 8)):
        assert widest_uniform(sensitivity, budget) == bits


# A width for each


@pytest.mark.parametrize("choose", CHOICES)
@given(sensitivities(), st.floats(0, 1))
def test_what_is_chosen_fits_into_the_budget(choose, sensitivity, share):
    least, most = (size_of(sensitivity, dict.fromkeys(sensitivity.divergences, w)) for w in (2, 8))
    budget = least + share * (most - least)
    chosen = choose(sensitivity, budget)
    assert list(chosen) == list(sensitivity.divergences)
    assert set(chosen.values()) <= {2, 3, 5, 8}
    assert size_of(sensitivity, chosen) <= budget


@given(sensitivities(), st.floats(0, 1))
def test_nothing_that_fits_has_a_smaller_sum_than_the_exact_choice(sensitivity, share):
    least, most = (size_of(sensitivity, dict.fromkeys(sensitivity.divergences, w)) for w in (2, 8))
    budget = least + share * (most - least)
    fitting = [w for w in all_settings(sensitivity) if size_of(sensitivity, w) <= budget]
    best = min(map(sensitivity.predict, fitting))
    assert sensitivity.predict(choose_widths_exactly(sensitivity, budget)) == pytest.approx(best)


@given(sensitivities())
def test_a_larger_budget_never_has_a_larger_sum(sensitivity):
    least, most = (size_of(sensitivity, dict.fromkeys(sensitivity.divergences, w)) for w in (2, 8))
    chosen = [choose_widths_exactly(sensitivity, b) for b in np.linspace(least, most, 9)]
    sums = [sensitivity.predict(widths) for widths in chosen]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(sums))


def test_step_by_step_the_layer_that_costs_least_is_narrowed():
    sensitivity = plant([800, 800, 80], [9, 3, 0], [9, 1, 0], [9, 0.05, 0])
    steps = [choose_widths(sensitivity, budget) for budget in (1680, 1679, 1279, 879, 839)]
    assert [tuple(widths.values()) for widths in steps] == [
        (8, 8, 8),  # all fits
        (8, 8, 4),  # 0.05 for 40 bytes is less than 1 for 400
        (8, 4, 4),
        (4, 4, 4),
        (2, 4, 4),
    ]


def test_the_greedy_search_wastes_a_budget_that_the_exact_one_uses():
    """All of one large layer has to be narrowed for a byte too much; two small ones would do."""
    sensitivity = plant([8000, 80, 80], [9, 1, 0], [9, 0.2, 0], [9, 0.2, 0])
    budget = 8080
    assert choose_widths(sensitivity, budget) == {"a": 4, "b": 8, "c": 8}
    assert choose_widths_exactly(sensitivity, budget) == {"a": 8, "b": 4, "c": 4}


def test_a_width_that_diverges_less_than_a_wider_one_is_taken_for_nothing():
    odd = plant([800, 800], [0.1, 0.5, 0.4], [9, 1, 0])
    assert choose_widths_exactly(odd, 1600) == {"a": 2, "b": 8}
    assert choose_widths(odd, 1600) == {"a": 8, "b": 8}  # sees one step at a time, and needs none


@pytest.mark.parametrize("choose", CHOICES)
def test_a_generous_budget_takes_the_widest(choose):
    sensitivity = plant([80, 8], [9, 1, 0], [9, 1, 0])
    for budget in (88, 10_000, math.inf):
        assert choose(sensitivity, budget) == {"a": 8, "b": 8}


@pytest.mark.parametrize("choose", [*CHOICES, widest_uniform])
@pytest.mark.parametrize("budget", [21, 21.9, 0, -5, math.nan])
def test_a_budget_that_is_too_small_is_told_the_least(choose, budget):
    sensitivity = plant([80, 7], [9, 1, 0], [9, 1, 0])
    with pytest.raises(ValueError, match="with 2 bits each they take 22, the least possible"):
        choose(sensitivity, budget)


@pytest.mark.parametrize("choose", CHOICES)
def test_the_least_budget_takes_the_narrowest(choose):
    assert choose(plant([80, 7], [9, 1, 0], [9, 1, 0]), 22) == {"a": 2, "b": 2}


@pytest.mark.parametrize("choose", CHOICES)
def test_one_width_leaves_no_choice(choose):
    assert choose(plant([80, 7], [3], [4], widths=(4,)), 44) == {"a": 4, "b": 4}


def test_the_exact_choice_among_many_layers_is_quick():
    """There are 7**40 settings of 40 layers; only those on the front are kept."""
    random = np.random.default_rng(0)
    counts = [64] * 40
    rows = -np.sort(-random.uniform(0, 1, (40, 7)))
    names = [f"layer {n}" for n in range(40)]
    divergences = {
        n: dict(zip(WIDTHS, map(float, row), strict=True))
        for n, row in zip(names, rows, strict=True)
    }
    sensitivity = Sensitivity(divergences, dict(zip(names, counts, strict=True)))
    chosen = choose_widths_exactly(sensitivity, 40 * 64 / 2)
    assert size_of(sensitivity, chosen) <= 40 * 64 / 2
    assert sensitivity.predict(chosen) <= sensitivity.predict(choose_widths(sensitivity, 1280))


# Whether the sum can be trusted


@pytest.fixture(scope="module")
def all_measured(tiny_mlp, images, measured) -> list[tuple[dict[str, int], float]]:
    """Return every setting and how far the answers really move: 64 networks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = [
        (widths, measure_divergence(tiny_mlp, quantize_weights(tiny_mlp, widths), images))
        for widths in all_settings(measured)
    ]
    torch.set_num_threads(threads)
    return found


def test_the_sum_orders_settings_nearly_as_they_are(measured, all_measured):
    sums = [measured.predict(widths) for widths, _ in all_measured]
    order, really = (
        np.argsort(np.argsort(x)) for x in (sums, [found for _, found in all_measured])
    )
    assert np.corrcoef(order, really)[0, 1] > 0.95
    ratios = np.array([found for _, found in all_measured]) / sums
    assert 0.8 < np.median(ratios) < 1.25


@pytest.mark.parametrize(("choose", "most"), [(choose_widths, 10), (choose_widths_exactly, 2)])
def test_the_choice_is_nearly_the_best_of_all(measured, all_measured, choose, most):
    sizes = [size_of(measured, widths) for widths, _ in all_measured]
    for budget in np.linspace(min(sizes), max(sizes), 25):
        best = min(
            found for (_, found), size in zip(all_measured, sizes, strict=True) if size <= budget
        )
        chosen = choose(measured, budget)
        (really,) = (found for widths, found in all_measured if widths == chosen)
        assert best <= really <= most * best
