"""The checks of lesson 04: one threshold, the shapes after a cut, the technique for a budget."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from solutions import load_solutions
from torch import nn
from torch.nn.utils import prune

from course_utils.checks import channels, pruning, technique
from course_utils.checks.channels import SHAPE_MISTAKES, check_shapes
from course_utils.checks.pruning import THRESHOLD_MISTAKES, check_threshold
from course_utils.checks.technique import TECHNIQUE_MISTAKES, check_technique

SOLVED = load_solutions("04_pruning")
global_threshold, shapes_after, choose_technique = (
    SOLVED.global_threshold, SOLVED.shapes_after, SOLVED.choose_technique,
)  # fmt: skip


def failing(*_):
    raise ZeroDivisionError("divided by no weights")


# One threshold: right answers


def flatten(weights):
    return torch.cat([weight.flatten() for weight in weights.values()])


def unflatten(mask, weights):
    masks, start = {}, 0
    for name, weight in weights.items():
        masks[name] = mask[start : start + weight.numel()].view_as(weight)
        start += weight.numel()
    return masks


def masks_by_pytorch(weights, sparsity):
    layers = {name: nn.Module() for name in weights}
    for name, layer in layers.items():
        layer.weight = nn.Parameter(weights[name].clone())
    prune.global_unstructured(
        [(layer, "weight") for layer in layers.values()],
        pruning_method=prune.L1Unstructured,
        amount=float(sparsity),
    )
    return {name: layer.weight_mask.bool() for name, layer in layers.items()}


def masks_in_plain_python(weights, sparsity):
    """Sort pairs of magnitude and place; switch places off one by one."""
    numbers = [abs(number) for weight in weights.values() for number in weight.flatten().tolist()]
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    dropped = set(order[: round(sparsity * len(numbers))])
    kept = torch.tensor([place not in dropped for place in range(len(numbers))])
    return unflatten(kept, weights)


def masks_in_numpy(weights, sparsity):
    sizes = np.abs(np.concatenate([weight.numpy().ravel() for weight in weights.values()]))
    ranks = sizes.argsort(kind="stable").argsort()
    kept, start = {}, 0
    for name, weight in weights.items():
        piece = ranks[start : start + weight.numel()] >= round(sparsity * len(sizes))
        kept[name], start = piece.reshape(weight.shape), start + weight.numel()
    return kept


def masks_of_the_largest(weights, sparsity):
    """Keep what ``topk`` finds, by squares, and the last of equal magnitudes."""
    squares = flatten(weights).square().flip(0)
    kept = torch.zeros(len(squares), dtype=torch.bool)
    kept[squares.topk(len(squares) - round(sparsity * len(squares))).indices] = True
    return unflatten(kept.flip(0), weights)


def masks_with_ties_counted_out(weights, sparsity):
    """Compare with a threshold, and keep of the equal ones as many as are missing."""
    sizes = flatten(weights).abs()
    count = round(sparsity * len(sizes))
    if count == 0:
        return {name: torch.ones_like(weight).bool() for name, weight in weights.items()}
    threshold = sizes.kthvalue(count).values
    kept = sizes > threshold
    equal = (sizes == threshold).nonzero().flatten()
    kept[equal[count - int((sizes < threshold).sum()) :]] = True
    return unflatten(kept, weights)


def each_mask(change):
    """Return the solution with each of its masks changed."""
    return lambda *case: {name: change(mask) for name, mask in global_threshold(*case).items()}


RIGHT_MASKS = [
    global_threshold, masks_by_pytorch, masks_in_plain_python, masks_in_numpy,
    masks_of_the_largest, masks_with_ties_counted_out,
    each_mask(torch.Tensor.float), each_mask(torch.Tensor.int), each_mask(torch.Tensor.tolist),
    lambda *case: dict(reversed(global_threshold(*case).items())),
]  # fmt: skip

# Few magnitudes, so that many are the same
LAYERS = st.lists(st.lists(st.integers(-4, 4), min_size=1, max_size=8), min_size=1, max_size=4)


@given(LAYERS, st.integers(0, 100))
def test_so_many_of_the_smallest_are_dropped_and_any_of_equal_ones_may_be(rows, percent):
    weights = {f"layer {n}": torch.tensor(row) / 4 for n, row in enumerate(rows)}
    task = pruning._Task(weights, percent / 100)
    numbers = sorted(abs(number) / 4 for row in rows for number in row)
    count = round(percent / 100 * len(numbers))
    for attempt in RIGHT_MASKS[:6]:
        masks = attempt(weights, percent / 100)
        assert task.is_solved_by(masks)
        kept = [
            float(number)
            for name, weight in weights.items()
            for number in weight[torch.as_tensor(masks[name])].abs()
        ]
        assert sorted(kept) == numbers[count:]


@given(LAYERS, st.integers(0, 100), st.integers(0, 10**6))
def test_masks_are_right_if_and_only_if_the_smallest_go(rows, percent, seed):
    weights = {f"layer {n}": torch.tensor(row) / 4 for n, row in enumerate(rows)}
    values = flatten(weights)
    kept = torch.rand(len(values), generator=torch.Generator().manual_seed(seed)) > percent / 100
    count = round(percent / 100 * len(values))
    dropped_sum, least_sum = values[~kept].abs().sum(), values.abs().sort().values[:count].sum()
    assert pruning._Task(weights, percent / 100).is_solved_by(unflatten(kept, weights)) == (
        int((~kept).sum()) == count and float(dropped_sum) == float(least_sum)
    )


# One threshold: wrong answers


def masks_by(compare, *, values=torch.abs):
    """Return masks of which each weight is kept that a comparison with its rank or size keeps."""

    def attempt(weights, sparsity):
        scores = values(flatten(weights))
        return unflatten(compare(scores, sparsity), weights)

    return attempt


def above_kth(count, *, with_equal=False, values=torch.abs):
    """Return masks of what is above the count-th smallest (as 0, 1 …) of all scores."""

    def compare(scores, sparsity):
        threshold = scores.sort().values[count(sparsity * len(scores))]
        return scores >= threshold if with_equal else scores > threshold

    return masks_by(compare, values=values)


def last_dropped(exact):
    return round(exact) - 1


def first_kept(exact):
    return round(exact)


def first_kept_or_last(scores, sparsity):
    """Compare with the smallest that stays; at sparsity 1 that is taken for the largest."""
    ordered = scores.sort().values
    return scores >= ordered[min(round(sparsity * len(scores)), len(scores) - 1)]


def of_the_sorted(first, *, count=round, descending=False):
    """Return a comparison that drops exactly so many, or the rest, from one end of the order."""

    def compare(scores, sparsity):
        kept = torch.ones(len(scores), dtype=torch.bool)
        number = count(first(sparsity) * len(scores))
        kept[scores.argsort(descending=descending)[:number]] = False
        return kept

    return compare


def sparsity_itself(sparsity):
    return sparsity


def layer_by_layer(attempt):
    return lambda weights, sparsity: {
        name: attempt({name: weight}, sparsity)[name] for name, weight in weights.items()
    }


def by_kthvalue(weights, sparsity):
    sizes = flatten(weights).abs()
    threshold = sizes.kthvalue(round(sparsity * len(sizes))).values
    return unflatten(sizes > threshold, weights)


def by_quantile(weights, sparsity):
    sizes = flatten(weights).abs()
    return unflatten(sizes > sizes.quantile(sparsity), weights)


def with_signed_threshold(weights, sparsity):
    values = flatten(weights)
    threshold = values.sort().values[last_dropped(sparsity * len(values))]
    return {name: weight.abs() > threshold for name, weight in weights.items()}


def with_signed_comparison(weights, sparsity):
    threshold = flatten(weights).abs().sort().values[last_dropped(sparsity * len(flatten(weights)))]
    return {name: weight > threshold for name, weight in weights.items()}


def mean_of_thresholds(weights, sparsity):
    found = [
        weight.abs().flatten().sort().values[last_dropped(sparsity * weight.numel())]
        for weight in weights.values()
    ]
    threshold = torch.stack(found).mean()
    return {name: weight.abs() > threshold for name, weight in weights.items()}


def share_of(measure):
    return masks_by(lambda sizes, sparsity: sizes > sparsity * measure(sizes))


def pruned_weights(weights, sparsity):
    return {
        name: mask * weights[name] for name, mask in global_threshold(weights, sparsity).items()
    }


def masks_of_what_is_not_zero(weights, sparsity):
    return {name: weight != 0 for name, weight in pruned_weights(weights, sparsity).items()}


def pieces_in_another_order(weights, sparsity):
    """Put the layers together in one order, and cut the mask up in another."""
    mask = flatten(global_threshold(weights, sparsity))
    backwards = unflatten(mask, dict(reversed(weights.items())))
    return {name: backwards[name] for name in weights}


def transposed_pieces(weights, sparsity):
    masks = global_threshold(weights, sparsity)
    return {
        name: mask.flatten(1).T.flatten().view_as(mask) if mask.dim() > 1 else mask
        for name, mask in masks.items()
    }


def making_all_positive(weights, sparsity):
    for weight in weights.values():
        weight.abs_()
    return global_threshold(weights, sparsity)


def pruning_in_place(weights, sparsity):
    masks = global_threshold(weights, sparsity)
    for name, mask in masks.items():
        weights[name] *= mask
    return masks


def putting_masks_into_the_dict(weights, sparsity):
    masks = global_threshold(weights, sparsity)
    weights.update(masks)
    return masks


def one_layer_left_out(weights, sparsity):
    return dict(list(global_threshold(weights, sparsity).items())[1:])


WRONG_MASKS = [
    (by_kthvalue, "ties all dropped"),
    (masks_of_what_is_not_zero, "ties all dropped"),
    (above_kth(last_dropped), "ties all dropped"),
    (above_kth(first_kept, with_equal=True), "ties all kept"),
    (masks_by(first_kept_or_last), "ties all kept"),
    (lambda weights, sparsity: global_threshold(weights, sparsity) if sparsity < 1 else failing(),
     "fails at 1"),
    (lambda weights, sparsity: global_threshold(weights, sparsity if sparsity < 1 else 0),
     "fails at 1"),
    (lambda weights, sparsity: global_threshold(weights, sparsity or 1), "fails at 0"),
    (lambda weights, sparsity: global_threshold(weights, sparsity) if sparsity else None,
     "fails at 0"),
    (lambda weights, sparsity: global_threshold(weights, sparsity) if sparsity else failing(),
     "fails at 0"),
    (lambda *case: list(global_threshold(*case).values()), "no dict"),
    (lambda *case: flatten(global_threshold(*case)), "no dict"),
    (lambda *case: global_threshold(*case).items(), "no dict"),
    (one_layer_left_out, "other layers"),
    (lambda *case: {}, "other layers"),
    (lambda *case: dict(enumerate(global_threshold(*case).values())), "other layers"),
    (each_mask(torch.Tensor.flatten), "wrong shape"),
    (each_mask(torch.Tensor.sum), "wrong shape"),
    (each_mask(lambda mask: None), "wrong shape"),
    (each_mask(torch.Tensor.nonzero), "wrong shape"),
    (pruned_weights, "no masks"),
    (lambda weights, sparsity: dict(weights), "no masks"),
    (each_mask(lambda mask: mask * 2 - 1), "no masks"),
    (each_mask(lambda mask: mask * math.nan), "no masks"),
    (each_mask(torch.logical_not), "mask inverted"),
    (lambda *case: {name: ~mask for name, mask in by_kthvalue(*case).items()}, "mask inverted"),
    (lambda weights, sparsity: global_threshold(weights, 1 - sparsity), "kept for dropped"),
    (masks_by(of_the_sorted(lambda sparsity: 1 - sparsity, count=int)), "kept for dropped"),
    (masks_by(of_the_sorted(sparsity_itself, descending=True)), "largest dropped"),
    (masks_by(of_the_sorted(sparsity_itself, count=int, descending=True)), "largest dropped"),
    (layer_by_layer(global_threshold), "layer by layer"),
    (layer_by_layer(by_kthvalue), "layer by layer"),
    (layer_by_layer(by_quantile), "layer by layer"),
    (layer_by_layer(masks_by(of_the_sorted(sparsity_itself), values=torch.clone)),
     "layer by layer"),
    (masks_by(of_the_sorted(sparsity_itself), values=torch.clone), "signs"),
    (above_kth(last_dropped, values=torch.clone), "signs"),
    (with_signed_threshold, "signs"),
    (with_signed_comparison, "signs"),
    (share_of(torch.max), "share of the extent"),
    (share_of(torch.mean), "share of the extent"),
    (share_of(torch.std), "share of the extent"),
    (layer_by_layer(share_of(torch.max)), "share of the extent"),
    (layer_by_layer(share_of(torch.mean)), "share of the extent"),
    (layer_by_layer(share_of(torch.std)), "share of the extent"),
    (masks_by(of_the_sorted(sparsity_itself, count=int)), "another rounding"),
    (masks_by(of_the_sorted(sparsity_itself, count=math.ceil)), "another rounding"),
    (by_quantile, "another rounding"),
    (above_kth(last_dropped, with_equal=True), "off by one"),
    (above_kth(lambda exact: min(round(exact), int(exact + 1))), "off by one"),
    (mean_of_thresholds, "wrong number"),
    (lambda weights, sparsity: global_threshold(weights, sparsity * 0.9), "wrong number"),
    (pieces_in_another_order, "other weights"),
    (transposed_pieces, "other weights"),
    (masks_by(lambda sizes, sparsity: torch.arange(len(sizes)) >= round(sparsity * len(sizes))),
     "other weights"),
    (masks_by(lambda sizes, sparsity: torch.arange(len(sizes)) % 2 == 0), "other weights"),
    (making_all_positive, "argument changed"),
    (pruning_in_place, "argument changed"),
    (putting_masks_into_the_dict, "argument changed"),
    (lambda *case: None, "returns nothing"),
    (failing, "raises"),
    (lambda weights: weights, "raises"),
    (42, "raises"),
]  # fmt: skip


def test_the_cases_of_the_threshold_hold_what_the_task_speaks_of():
    exact = [pruning._Task(*case).exact for case in pruning.CASES]
    assert [round(number % 1, 6) for number in exact[:3]] == [0, 0.8, 0.3]
    assert [case[1] for case in pruning.CASES[-2:]] == [0, 1]
    by_layer = [
        {name: int((~mask).sum()) for name, mask in global_threshold(*case).items()}
        for case in pruning.CASES
    ]
    for name, weight in pruning.CASES[0][0].items():
        assert abs(by_layer[0][name] - 0.75 * weight.numel()) > 1  # not the layer's own share
    assert by_layer[1]["gate"] == pruning.CASES[1][0]["gate"].numel()
    for number, are_tied in enumerate([False, False, False, True, True]):
        task = pruning._Task(*pruning.CASES[number])
        assert len(task.sizes.unique()) < len(task.sizes) if are_tied else True
        assert ((task.sizes <= task.threshold).sum() > task.count) == are_tied
    for weights, _ in pruning.CASES[:3]:
        sizes = flatten(weights).abs()
        assert len(sizes.unique()) == len(sizes)
        assert (flatten(weights) < 0).any()


# Shapes after the cut: right answers


def shapes_of_cut_tensors(block, kept):
    """Cut tensors of these shapes and read their shapes."""
    if "shortcut" not in block and kept["input"] != kept["output"]:
        raise ValueError("An identity needs as many channels at both ends.")
    layers = {name: torch.empty(shape, device="meta") for name, shape in block.items()}
    layers["conv1"] = layers["conv1"][: kept["inner"], : kept["input"]]
    layers["conv2"] = layers["conv2"][: kept["output"], : kept["inner"]]
    layers["next"] = layers["next"][:, : kept["output"]]
    if "shortcut" in layers:
        layers["shortcut"] = layers["shortcut"][: kept["output"], : kept["input"]]
    return {name: tensor.shape for name, tensor in layers.items()}


def shapes_by_changing_lists(block, kept):
    shapes = {name: list(shape) for name, shape in block.items()}
    shapes["conv1"][:2] = kept["inner"], kept["input"]
    shapes["conv2"][:2] = kept["output"], kept["inner"]
    shapes["next"][1] = kept["output"]
    try:
        shapes["shortcut"][:2] = kept["output"], kept["input"]
    except KeyError:
        if kept["output"] != kept["input"]:
            raise ValueError from None
    return shapes


RIGHT_SHAPES = [
    shapes_after, shapes_of_cut_tensors, shapes_by_changing_lists,
    lambda *case: {k: np.array(shape) for k, shape in shapes_after(*case).items()},
    lambda *case: {k: torch.tensor(shape) for k, shape in shapes_after(*case).items()},
    lambda *case: dict(reversed(shapes_after(*case).items())),
]  # fmt: skip


def run_block(shapes, images):
    """Put images through convolutions of these shapes, around which a shortcut leads."""
    layers = {
        name: nn.Conv2d(into, out, kernel, padding=kernel[0] // 2)
        for name, (out, into, *kernel) in shapes.items()
    }
    shortcut = layers.get("shortcut", nn.Identity())
    return layers["next"](layers["conv2"](layers["conv1"](images)) + shortcut(images))


@given(st.booleans(), st.lists(st.integers(1, 4), min_size=3, max_size=3), st.integers(1, 3))
def test_a_block_of_these_shapes_runs_and_else_is_refused(has_shortcut, kept, more):
    kept = dict(zip(("input", "inner", "output"), kept, strict=True))
    inputs, inner = 4 + more, 5
    outputs = 6 if has_shortcut else inputs
    block = {
        "conv1": (inner, inputs, 3, 3), "conv2": (outputs, inner, 3, 3),
        "shortcut": (outputs, inputs, 1, 1), "next": (7, outputs, 3, 3),
    }  # fmt: skip
    if not has_shortcut:
        del block["shortcut"]
    theirs = channels._shapes_after(block, kept)
    if theirs is channels.REFUSED:
        assert not has_shortcut
        assert kept["input"] != kept["output"]
        with pytest.raises(ValueError, match="as many"):
            shapes_after(block, kept)
    else:
        assert shapes_after(block, kept) == theirs
        images = torch.zeros(2, kept["input"], 4, 4)
        assert run_block(theirs, images).shape == (2, 7, 4, 4)


# Shapes after the cut: wrong answers


def with_layer(name, shape):
    """Return the solution with another shape of one layer, if the block has it."""
    return lambda block, kept: (
        shapes_after(block, kept) | ({name: shape(kept, *block[name])} if name in block else {})
    )


def each_shape(change):
    return lambda block, kept: {
        name: change(shape, block[name]) for name, shape in shapes_after(block, kept).items()
    }


def with_kept(change):
    """Return the solution for other numbers of kept channels; nothing is refused."""

    def attempt(block, kept):
        shapes_after(block, kept)
        return channels._cut(block, change(block, kept))

    return attempt


def removed_for_kept(block, kept):
    totals = {
        "input": block["conv1"][1], "inner": block["conv1"][0], "output": block["conv2"][0],
    }  # fmt: skip
    return {where: total - kept[where] for where, total in totals.items()}


def shares_for_counts(block, kept):
    return {where: count / 100 for where, count in kept.items()}


def with_shares_of_conv1(block, kept):
    """Scale all layers as conv1."""
    out = kept["inner"] / block["conv1"][0]
    into = kept["input"] / block["conv1"][1]
    return {
        name: (int(shape[0] * out), int(shape[1] * into), *shape[2:])
        for name, shape in block.items()
    }


def always_with_shortcut(block, kept):
    rest = {name: shape for name, shape in block.items() if name != "shortcut"}
    return channels._cut(rest, kept) | {
        "shortcut": (kept["output"], kept["input"], *block["shortcut"][2:])
    }


def making_a_shortcut_up(block, kept):
    return channels._cut(block, kept) | {"shortcut": (kept["output"], kept["input"], 1, 1)}


def with_four_axes(block, kept):
    for out, into, rows, columns in block.values():
        assert min(out, into, rows, columns) > 0
    return shapes_after(block, kept)


def with_indices(block, kept):
    return {
        name: (shape[0], shape[1], block[name][2], block[name][3])
        for name, shape in shapes_after(block, kept).items()
    }


def refusing_whenever_they_differ(block, kept):
    if kept["input"] != kept["output"]:
        raise ValueError("Input and output disagree.")
    return shapes_after(block, kept)


def refusing_by_the_old_counts(block, kept):
    if block["conv1"][1] == block["conv2"][0] and kept["input"] != kept["output"]:
        raise ValueError("Input and output disagree.")
    return shapes_after(block, kept)


def taking_the_smaller(block, kept):
    if "shortcut" not in block:
        kept = kept | dict.fromkeys(("input", "output"), min(kept["input"], kept["output"]))
    return channels._cut(block, kept)


def asserting(block, kept):
    assert "shortcut" in block or kept["input"] == kept["output"]
    return shapes_after(block, kept)


def none_if_they_disagree(block, kept):
    return None if channels._disagree(block, kept) else shapes_after(block, kept)


def changing_the_block(block, kept):
    block.update(shapes_after(block, kept))
    return block


WRONG_SHAPES = [
    (lambda block, kept: channels._cut(block, kept), "not refused"),
    (taking_the_smaller, "not refused"),
    (none_if_they_disagree, "not refused"),
    (asserting, "another exception"),
    (always_with_shortcut, "shortcut expected"),
    (with_four_axes, "four axes expected"),
    (with_indices, "four axes expected"),
    (refusing_whenever_they_differ, "refused without need"),
    (refusing_by_the_old_counts, "refused without need"),
    (lambda *case: list(shapes_after(*case).values()), "no dict"),
    (lambda *case: shapes_after(*case)["conv1"], "no dict"),
    (making_a_shortcut_up, "shortcut made up"),
    (lambda *case: {"conv1": shapes_after(*case)["conv1"]}, "other layers"),
    (lambda *case: shapes_after(*case) | {"norm1": (40,)}, "other layers"),
    (lambda *case: {}, "other layers"),
    (each_shape(lambda shape, old: shape[:2]), "number of axes"),
    (each_shape(lambda shape, old: math.prod(shape)), "number of axes"),
    (each_shape(lambda shape, old: None), "number of axes"),
    (each_shape(lambda shape, old: (*shape, 1)), "number of axes"),
    (each_shape(lambda shape, old: (shape[1], shape[0], *shape[2:])), "out and in exchanged"),
    (with_layer("conv2", lambda kept, out, into, *kernel: (kept["inner"], kept["output"], *kernel)),
     "out and in exchanged"),
    (with_layer("shortcut",
                lambda kept, out, into, *kernel: (kept["input"], kept["output"], *kernel)),
     "out and in exchanged"),
    (with_kept(shares_for_counts), "counts as factors"),
    (with_kept(lambda block, kept: {where: 2 * count for where, count in kept.items()}),
     "counts as factors"),
    (each_shape(lambda shape, old: tuple(n / m for n, m in zip(shape, old, strict=True))),
     "counts as factors"),
    (each_shape(lambda shape, old: (None,) * len(shape)), "counts as factors"),
    (lambda block, kept: dict(block), "nothing cut"),
    (each_shape(lambda shape, old: (*shape[:2], *(1 for _ in shape[2:]))), "kernel changed"),
    (each_shape(lambda shape, old: (*shape[:2], *(n * shape[0] // old[0] for n in shape[2:]))),
     "kernel changed"),
    (with_kept(removed_for_kept), "removed for kept"),
    (each_shape(lambda shape, old: (shape[0], *old[1:])), "only outputs cut"),
    (each_shape(lambda shape, old: (old[0], *shape[1:])), "conv1"),
    (with_layer("shortcut", lambda kept, *old: old), "shortcut forgotten"),
    (with_layer("next", lambda kept, *old: old), "next layer forgotten"),
    (with_layer("next", lambda kept, out, into, *kernel: (kept["output"], kept["output"], *kernel)),
     "next layer's outputs cut"),
    (with_layer("next", lambda kept, out, into, *kernel: (out // 2, kept["output"], *kernel)),
     "next layer's outputs cut"),
    (with_layer("conv1", lambda kept, out, into, *kernel: (kept["inner"], into, *kernel)),
     "inputs of conv1"),
    (with_layer("conv2", lambda kept, out, into, *kernel: (kept["output"], into, *kernel)),
     "inputs of conv2"),
    (with_layer("conv1", lambda kept, out, into, *kernel: (kept["output"], kept["input"], *kernel)),
     "conv1"),
    (with_layer("conv1", lambda kept, *old: old), "conv1"),
    (with_shares_of_conv1, "next layer's outputs cut"),
    (with_layer("conv2", lambda kept, out, into, *kernel: (kept["inner"], kept["inner"], *kernel)),
     "conv2"),
    (with_layer("conv2", lambda kept, out, *rest: (out, kept["inner"], *rest[1:])), "conv2"),
    (with_layer("shortcut",
                lambda kept, out, into, *kernel: (kept["inner"], kept["input"], *kernel)),
     "shortcut"),
    (with_layer("shortcut", lambda kept, out, into, *kernel: (kept["output"], into, *kernel)),
     "shortcut"),
    (with_layer("next", lambda kept, out, into, *kernel: (out, kept["inner"], *kernel)), "next"),
    (changing_the_block, "argument changed"),
    (lambda *case: None, "returns nothing"),
    (lambda block, kept: block["conv3"], "raises"),
    (lambda block, kept: {name: (out, into) for name, (out, into) in block.items()}, "raises"),
    (lambda block, kept: dict(zip(block, kept, strict=True)), "raises"),
    (failing, "raises"),
    (lambda block: block, "raises"),
    (42, "raises"),
]  # fmt: skip


def test_the_cases_of_the_shapes_hold_what_the_task_speaks_of():
    assert ["shortcut" in block for block, _ in channels.CASES] == [True, False, True, False, True]
    refused = [channels._disagree(*case) for case in channels.CASES]
    assert refused == [False, False, False, True, False]
    assert len(channels.CASES[2][0]["next"]) == 2
    for block, kept in channels.CASES:
        (inner, inputs), (outputs, read) = block["conv1"][:2], block["conv2"][:2]
        assert (read, block["next"][1]) == (inner, outputs)
        assert block.get("shortcut", (outputs, inputs))[:2] == (outputs, inputs)
        assert "shortcut" in block or inputs == outputs
        assert 0 < kept["input"] <= inputs
        assert 0 < kept["inner"] <= inner
        assert 0 < kept["output"] <= outputs


# The technique for a budget: right answers


def technique_by_sorting(options, budget):
    best_first = sorted(options, key=lambda option: -option["accuracy"])
    for option in best_first:
        latencies_ms = [option["latency_ms"].get(name, math.inf) for name in budget["runtimes"]]
        is_small = option["size_bytes"] <= budget["size_bytes"]
        if is_small and min(latencies_ms) <= budget["latency_ms"]:
            return option["name"]


def technique_by_a_loop(options, budget):
    """Take the last of equally accurate ones."""
    best = None
    for option in options:
        for runtime in set(budget["runtimes"]) & set(option["latency_ms"]):
            if option["latency_ms"][runtime] > budget["latency_ms"]:
                continue
            if option["size_bytes"] > budget["size_bytes"]:
                continue
            if best is None or option["accuracy"] >= best["accuracy"]:
                best = option
    return None if best is None else best["name"]


RIGHT_TECHNIQUES = [
    choose_technique, technique_by_sorting, technique_by_a_loop,
    lambda *case: name if (name := choose_technique(*case)) is None else np.str_(name),
]  # fmt: skip

RUNTIMES = ["a", "b", "c"]
OPTIONS = st.lists(
    st.builds(
        technique._option,
        st.uuids().map(str),
        st.integers(90, 92),
        st.integers(1, 4),
        st.dictionaries(st.sampled_from(RUNTIMES), st.integers(1, 4), min_size=1),
    ),
    max_size=5,
)
MACHINES = st.lists(st.sampled_from(RUNTIMES), min_size=1, unique=True)


@given(OPTIONS, st.integers(1, 4), st.integers(1, 4), MACHINES)
def test_what_fits_and_is_no_less_accurate_is_right_and_else_wrong(options, ms, size, runtimes):
    budget = technique._budget(ms, size, *runtimes)
    fitting = {
        option["name"]: option["accuracy"]
        for option in options
        for name in runtimes
        if option["latency_ms"].get(name, 5) <= ms and option["size_bytes"] <= size
    }
    task = technique._Task(options, budget)
    for option in options:
        is_best = fitting.get(option["name"]) == max(fitting.values(), default=math.nan)
        assert task.is_solved_by(option["name"]) == is_best
    assert task.is_solved_by(technique.NONE_FITS) == (not fitting)
    for attempt in RIGHT_TECHNIQUES[:3]:
        found = attempt(options, budget)
        assert task.is_solved_by(technique.NONE_FITS if found is None else found)


# The technique for a budget: wrong answers


def find_latency_ms(option, runtimes):
    return min((ms for name, ms in option["latency_ms"].items() if name in runtimes), default=9)


def is_small(option, budget):
    return option["size_bytes"] <= budget["size_bytes"]


def is_fast(option, budget):
    return find_latency_ms(option, budget["runtimes"]) <= budget["latency_ms"]


def fits(option, budget):
    return is_small(option, budget) and is_fast(option, budget)


def best_by(rule, *, key=lambda option, budget: option["accuracy"], pick=max):
    """Return a search for the best by another rule, or by another measure."""

    def attempt(options, budget):
        kept = [option for option in options if rule(option, budget)]
        return pick(kept, key=lambda option: key(option, budget))["name"] if kept else None

    return attempt


def on(find_runtimes):
    """Return the rule that looks at other runtimes."""
    return lambda option, budget: (
        is_small(option, budget)
        and find_latency_ms(option, find_runtimes(option, budget)) <= budget["latency_ms"]
    )


def fast_everywhere(option, budget):
    return is_small(option, budget) and all(
        option["latency_ms"].get(name, 9) <= budget["latency_ms"] for name in budget["runtimes"]
    )


def below(option, budget):
    return fits(option, budget) and (
        option["size_bytes"] < budget["size_bytes"]
        and find_latency_ms(option, budget["runtimes"]) < budget["latency_ms"]
    )


def below_the_size(option, budget):
    return fits(option, budget) and option["size_bytes"] < budget["size_bytes"]


def latency_ms_of(option, budget):
    return find_latency_ms(option, budget["runtimes"])


def without_default(options, budget):
    fitting = [option for option in options if fits(option, budget)]
    return max(fitting, key=lambda option: option["accuracy"])["name"]


def looking_up_each(options, budget):
    fitting = [
        option
        for option in options
        if is_small(option, budget)
        and min(option["latency_ms"][name] for name in budget["runtimes"]) <= budget["latency_ms"]
    ]
    return max(fitting, key=lambda option: option["accuracy"])["name"]


def whatever_is_nearest(options, budget):
    """If nothing fits, take the fastest all the same."""
    found = choose_technique(options, budget)
    return found or best_by(is_small, key=latency_ms_of, pick=min)(options, budget)


def first_that_fits(options, budget):
    return next((option["name"] for option in options if fits(option, budget)), None)


def last_that_fits(options, budget):
    return first_that_fits(options[::-1], budget)


def sorting_in_place(options, budget):
    options.sort(key=lambda option: -option["accuracy"])
    return first_that_fits(options, budget)


def leaving_only_what_fits(options, budget):
    options[:] = [option for option in options if fits(option, budget)]
    return choose_technique(options, budget)


WRONG_TECHNIQUES = [
    (without_default, "fails when none fits"),
    (looking_up_each, "not measured there"),
    (whatever_is_nearest, "something although none fits"),
    (lambda *case: choose_technique(*case) or "", "something although none fits"),
    (lambda *case: choose_technique(*case) or "none fits", "something although none fits"),
    (lambda *case: str(choose_technique(*case)), "something although none fits"),
    (lambda options, budget: next(
        (option for option in options if option["name"] == choose_technique(options, budget)), None
    ), "whole option"),
    (lambda *case: (choose_technique(*case), 93.2), "no name"),
    (lambda *case: np.array([choose_technique(*case)]), "no name"),
    (lambda *case: [choose_technique(*case)], "no name"),
    (lambda options, budget: [option["name"] for option in options if fits(option, budget)],
     "no name"),
    (lambda options, budget: [option["name"] for option in options].index(
        choose_technique(options, budget)), "no name"),
    (lambda *case: "pruning", "no name"),
    (best_by(lambda option, budget: True), "budget ignored"),
    (best_by(is_small), "latency ignored"),
    (best_by(is_fast), "size ignored"),
    (best_by(on(lambda option, budget: option["latency_ms"])), "another machine's runtime"),
    (best_by(on(lambda option, budget: list(option["latency_ms"])[:1])),
     "another machine's runtime"),
    (best_by(fast_everywhere), "all runtimes"),
    (best_by(on(lambda option, budget: budget["runtimes"][:1])), "one runtime"),
    (best_by(on(lambda option, budget: budget["runtimes"][-1:])), "one runtime"),
    (best_by(below), "strictly below"),
    (best_by(below_the_size), "strictly below"),
    (best_by(fits, pick=min), "least accurate"),
    (best_by(fits, key=lambda option, budget: option["size_bytes"], pick=min), "smallest"),
    (best_by(fits, key=lambda option, budget: option["accuracy"] / option["size_bytes"]),
     "smallest"),
    (best_by(fits, key=latency_ms_of, pick=min), "fastest"),
    (best_by(fits, key=lambda option, budget: option["accuracy"] / latency_ms_of(option, budget)),
     "fastest"),
    (first_that_fits, "first or last"),
    (last_that_fits, "first or last"),
    (best_by(lambda option, budget: latency_ms_of(option, budget) < 2.6 or fits(option, budget),
             key=lambda option, budget: option["size_bytes"]), "size ignored"),
    (best_by(lambda option, budget: True, key=lambda option, budget: option["size_bytes"]),
     "budget ignored"),
    (best_by(lambda option, budget: True, pick=min), "does not fit"),
    (lambda options, budget: options[-2]["name"], "does not fit"),
    (best_by(fits, key=lambda option, budget: -abs(option["accuracy"] - 90.6)),
     "not the most accurate"),
    (sorting_in_place, "argument changed"),
    (leaving_only_what_fits, "argument changed"),
    (lambda *case: None, "returns nothing"),
    (lambda options, budget: print("1/2 of the channels"), "returns nothing"),
    (lambda options, budget: options[0]["speed"], "raises"),
    (failing, "raises"),
    (lambda options: options[0]["name"], "raises"),
    (42, "raises"),
]  # fmt: skip


def test_the_cases_of_the_technique_hold_what_the_task_speaks_of():
    right = [choose_technique(*case) for case in technique.CASES]
    assert right.count(None) == 1
    assert right[-1] is None
    for options, budget in technique.CASES:
        names = [option["name"] for option in options]
        assert len(set(names)) == len(names)
        assert budget["runtimes"]
        for option in options:  # sparsity alone changes nothing for a dense runtime
            if option["name"].startswith(("dense", "unstructured", "2:4")):
                assert option["latency_ms"].get(technique.DENSE, 2.6) == 2.6
    best = technique._Task(*technique.CASES[5]).name_best(technique._fits)
    assert len(best) == 2


@pytest.mark.parametrize(
    ("number", "attempts"),
    [
        (0, [best_by(lambda option, budget: True), best_by(is_small), best_by(is_fast),
             best_by(on(lambda option, budget: option["latency_ms"])), choose_technique]),
        (1, [best_by(fits, pick=min), best_by(fits, key=latency_ms_of, pick=min), first_that_fits,
             best_by(fits, key=lambda option, budget: option["size_bytes"], pick=min),
             last_that_fits, choose_technique]),
        (2, [best_by(on(lambda option, budget: budget["runtimes"][:1])), best_by(fast_everywhere),
             choose_technique]),
    ],
)  # fmt: skip
def test_no_two_rules_choose_the_same_where_they_are_told_apart(number, attempts):
    chosen = [attempt(*technique.CASES[number]) for attempt in attempts]
    assert None not in chosen
    assert len(set(chosen)) == len(chosen)


# All three


CHECKS = {
    check_threshold: (
        "One threshold for all layers", RIGHT_MASKS, WRONG_MASKS, THRESHOLD_MISTAKES,
    ),
    check_shapes: ("Shapes after the cut", RIGHT_SHAPES, WRONG_SHAPES, SHAPE_MISTAKES),
    check_technique: (
        "The technique for a budget", RIGHT_TECHNIQUES, WRONG_TECHNIQUES, TECHNIQUE_MISTAKES,
    ),
}  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_keeps_its_cases_as_they_are(check):
    """An attempt that spoils its arguments does not spoil the next attempt's."""

    def spoiling(*case):
        for part in case:
            if isinstance(part, dict):
                for value in part.values():
                    if isinstance(value, torch.Tensor):
                        value.zero_()
            if isinstance(part, dict | list):
                part.clear()

    cases = copy.deepcopy([pruning.CASES, channels.CASES, technique.CASES])
    check(spoiling)
    assert cases == [pruning.CASES, channels.CASES, technique.CASES]
    assert check(CHECKS[check][1][0]).is_solved


@pytest.mark.parametrize(
    ("check", "cases"), [(check_shapes, channels.CASES), (check_technique, technique.CASES)]
)
def test_a_case_is_shown_so_that_it_can_be_typed_again(check, cases):
    shown = check(failing).message.removeprefix("Called with ").split(", it raised")[0]
    assert len(shown) < 800
    assert eval(f"[{shown}]") == list(cases[0])
