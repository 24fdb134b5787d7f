"""The checks of lesson 03: the straight-through gradient, a folded batch norm, chosen widths."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from solutions import load_solutions
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from course_utils.checks import aware_training, folding, widths
from course_utils.checks.aware_training import GRADIENT_MISTAKES, check_gradient
from course_utils.checks.folding import FOLDING_MISTAKES, check_folding
from course_utils.checks.widths import CASES, WIDTH_MISTAKES, check_widths
from course_utils.quantize.rounding import fake_quantize

SOLVED = load_solutions("03_quantization_aware_training")
straight_through_gradient, fold_batch_norm, choose_widths = (
    SOLVED.straight_through_gradient, SOLVED.fold_batch_norm, SOLVED.choose_widths,
)  # fmt: skip


def failing(*_):
    raise ZeroDivisionError("no step at all")


# The straight-through gradient: right answers


def gradient_of_the_course(x, step, low, high, gradient):
    x = x.clone().requires_grad_()
    fake_quantize(x, torch.tensor(step), low, high).backward(gradient)
    return x.grad


def gradient_by_detaching(x, step, low, high, gradient):
    """Add what rounding changes as a constant, so that autograd does not see it."""
    x = x.clone().requires_grad_()
    inside = (x / step).clamp(low, high)
    y = step * (inside + (inside.round() - inside).detach())
    y.backward(gradient)
    return x.grad


def gradient_in_numpy(x, step, low, high, gradient):
    steps = x.numpy() / step
    return np.where((steps < low) | (steps > high), 0, gradient.numpy())


def gradient_in_place(x, step, low, high, gradient):
    gradient[(x / step < low) | (x / step > high)] = 0
    return gradient


def gradient_by_multiples(x, step, low, high, gradient):
    return torch.where((x >= low * step) & (x <= high * step), gradient, 0.0)


def gradient_by_clamping(x, step, low, high, gradient):
    steps = x / step
    return gradient * (steps == steps.clamp(low, high))


RIGHT_GRADIENTS = [
    straight_through_gradient, gradient_of_the_course, gradient_by_detaching, gradient_in_numpy,
    gradient_in_place, gradient_by_multiples, gradient_by_clamping,
    lambda *case: straight_through_gradient(*case).double(),
    lambda *case: straight_through_gradient(*case).tolist(),
    lambda *case: straight_through_gradient(*case).requires_grad_(),
]  # fmt: skip


@given(
    st.lists(st.integers(-80, 80), min_size=1, max_size=30),
    st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    st.integers(-8, 0),
    st.integers(1, 15),
)
def test_solution_and_check_have_the_gradient_of_the_course(eighths, step, low, high):
    x = torch.tensor(eighths) / 8
    case = x, step, low, high, torch.linspace(-2, 3, len(x))
    theirs = gradient_of_the_course(*case)
    assert torch.equal(straight_through_gradient(*case), theirs)
    assert torch.equal(aware_training._gradient(*case), theirs)


# The straight-through gradient: wrong answers


def through_autograd_alone(x, step, low, high, gradient):
    x = x.clone().requires_grad_()
    ((x / step).round().clamp(low, high) * step).backward(gradient)
    return x.grad


def by_pytorch(x, step, low, high, gradient):
    x = x.clone().requires_grad_()
    torch.fake_quantize_per_tensor_affine(x, step, 0, low, high).backward(gradient)
    return x.grad


def rounded_values(x, step, low, high, gradient):
    return step * torch.clamp(torch.round(x / step), low, high)


def where(mask):
    """Return a gradient that passes where a mask of x / step holds."""
    return lambda x, step, low, high, gradient: gradient * mask(x / step, low, high)


def straight_through_only(x, step, low, high, gradient):
    return gradient


def inverted(x, step, low, high, gradient):
    return gradient - straight_through_gradient(x, step, low, high, gradient)


def where_rounded_is_inside(x, step, low, high, gradient):
    y = rounded_values(x, step, low, high, gradient)
    return gradient * ((y >= low * step) & (y <= high * step))


WRONG_GRADIENTS = [
    (lambda *case: case[-1][straight_through_gradient(*case) != 0], "wrong shape"),
    (lambda *case: straight_through_gradient(*case).sum(), "wrong shape"),
    (lambda *case: straight_through_gradient(*case)[None], "wrong shape"),
    (lambda *case: (straight_through_gradient(*case), None), "wrong shape"),
    (through_autograd_alone, "true derivative"),
    (lambda x, *_: [0] * len(x), "true derivative"),
    (rounded_values, "rounded values"),
    (lambda *case: rounded_values(*case) / case[1], "rounded values"),
    (lambda *case: straight_through_gradient(*case[:-1], 1.0), "gradient forgotten"),
    (lambda *case: straight_through_gradient(*case[:-1], 1.0) > 0, "gradient forgotten"),
    (lambda *case: straight_through_gradient(*case[:-1], case[0]), "gradient forgotten"),
    (straight_through_only, "no cut-off"),
    (where_rounded_is_inside, "no cut-off"),
    (where(lambda steps, low, high: 1), "no cut-off"),
    (lambda x, step, low, high, g: g.clamp(low, high), "gradient cut off"),
    (lambda x, step, low, high, g: g.clamp(low * step, high * step), "gradient cut off"),
    (lambda x, step, low, high, g: g * ((g >= low) & (g <= high)), "gradient cut off"),
    (inverted, "inverted"),
    (lambda x, step, low, high, g: g * ((x >= low) & (x <= high)), "x instead of steps"),
    (where(lambda steps, low, high: steps <= high), "one side"),
    (where(lambda steps, low, high: steps >= low), "one side"),
    (where(lambda steps, low, high: steps > low), "one side"),
    (where(lambda steps, low, high: steps.abs() <= high), "symmetric limits"),
    (where(lambda steps, low, high: steps.abs() < high), "symmetric limits"),
    (where(lambda steps, low, high: steps.abs() <= max(-low, high)), "symmetric limits"),
    (lambda *case: case[1] * straight_through_gradient(*case), "step in the gradient"),
    (lambda *case: straight_through_gradient(*case) / case[1], "step in the gradient"),
    (lambda x, step, low, high, g: g * step, "step in the gradient"),
    (lambda x, step, low, high, g: g / step, "step in the gradient"),
    (by_pytorch, "rounded first"),
    (where(lambda s, low, high: (s.round() >= low) & (s.round() <= high)), "rounded first"),
    (where(lambda steps, low, high: (steps > low) & (steps < high)), "open limits"),
    (where(lambda steps, low, high: (steps >= low) & (steps < high)), "open limits"),
    (where(lambda steps, low, high: (steps > low) & (steps <= high)), "open limits"),
    (lambda *case: -straight_through_gradient(*case), "wrong result"),
    (where(lambda s, low, high: (s.trunc() >= low) & (s.trunc() <= high)), "wrong result"),
    (lambda *case: None, "returns nothing"),
    (lambda x, *_: x.grad, "returns nothing"),
    (failing, "raises"),
    (lambda x: x, "raises"),
    (42, "raises"),
]


# Folding: right answers


def folded_by_pytorch(weight, bias, mean, variance, gamma, beta, eps):
    return fuse_conv_bn_weights(weight, bias, mean, variance, eps, gamma, beta)


def folded_in_numpy(*case):
    weight, bias, mean, variance, gamma, beta, eps = (np.asarray(part) for part in case)
    factor = gamma * (variance + eps) ** -0.5
    return weight * factor.reshape(-1, 1, 1, 1), bias * factor + (beta - mean * factor)


def folded_by_probing(weight, bias, mean, variance, gamma, beta, eps):
    """Put images of zeros, and with a single one, through both layers."""
    _, channels, rows, columns = weight.shape

    def both(images):
        outputs = F.conv2d(images, weight, bias)
        return F.batch_norm(outputs, mean, variance, gamma, beta, eps=eps)[:, :, 0, 0]

    of_zeros = both(torch.zeros(1, channels, rows, columns))[0]
    ones = torch.eye(channels * rows * columns).reshape(-1, channels, rows, columns)
    return (both(ones) - of_zeros).T.reshape(weight.shape), of_zeros


def folded_channel_by_channel(weight, bias, mean, variance, gamma, beta, eps):
    biases = []
    for channel in range(len(weight)):
        factor = gamma[channel] / math.sqrt(variance[channel] + eps)
        weight[channel] *= factor
        biases.append(float((bias[channel] - mean[channel]) * factor + beta[channel]))
    return weight, biases


RIGHT_FOLDS = [
    fold_batch_norm, folded_by_pytorch, folded_in_numpy, folded_by_probing,
    folded_channel_by_channel,
    lambda *case: list(fold_batch_norm(*case)),
    lambda *case: tuple(part.double() for part in fold_batch_norm(*case)),
    lambda *case: tuple(part.tolist() for part in fold_batch_norm(*case)),
    lambda *case: tuple(map(torch.nn.Parameter, fold_batch_norm(*case))),
]  # fmt: skip


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1000))
def test_solution_and_check_fold_to_what_both_layers_do(outputs, inputs, side, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    weight, images = draw(outputs, inputs, side, side), draw(2, inputs, 5, 5)
    bias, mean, gamma, beta = (draw(outputs) for _ in range(4))
    variance, eps = draw(outputs).square(), 1e-2
    theirs = F.batch_norm(
        F.conv2d(images, weight, bias), mean, variance, gamma, beta, eps=eps
    )  # fmt: skip
    case = weight, bias, mean, variance, gamma, beta, eps
    for fold in (fold_batch_norm, folding._fold):
        torch.testing.assert_close(F.conv2d(images, *fold(*case)), theirs, rtol=1e-3, atol=1e-4)


# Folding: wrong answers


def folded_with(factor, bias=None):
    """Return a fold with another factor, and perhaps another bias."""

    def fold(weight, old_bias, mean, variance, gamma, beta, eps):
        scale = factor(variance, gamma, eps)
        new_bias = (old_bias - mean) * scale + beta
        if bias is not None:
            new_bias = bias(old_bias, mean, scale, beta)
        return weight * scale[:, None, None, None], new_bias

    return fold


def with_bias(bias):
    return folded_with(lambda variance, gamma, eps: gamma / (variance + eps).sqrt(), bias)


def with_weight(weigh):
    """Return a fold whose weight is made in another way, and whose bias is right."""
    return lambda weight, *rest: (
        weigh(weight, rest[3] / (rest[2] + rest[-1]).sqrt()),
        fold_batch_norm(weight, *rest)[1],
    )


def only_the_weight(*case):
    return fold_batch_norm(*case)[0]


def bias_with_four_axes(weight, bias, mean, variance, gamma, beta, eps):
    factor = (gamma / (variance + eps).sqrt()).reshape(-1, 1, 1, 1)
    return weight * factor, (bias - mean) * factor + beta


def gamma_and_beta_exchanged(weight, bias, mean, variance, gamma, beta, eps):
    return fold_batch_norm(weight, bias, mean, variance, beta, gamma, eps)


def bias_without_gamma(weight, bias, mean, variance, gamma, beta, eps):
    folded, _ = fold_batch_norm(weight, bias, mean, variance, gamma, beta, eps)
    return folded, (bias - mean) / (variance + eps).sqrt() + beta


def square_root_of_the_square(variance, gamma, eps):
    return (gamma.square() / (variance + eps)).sqrt()


WRONG_FOLDS = [
    (only_the_weight, "no pair"),
    (lambda *case: (*fold_batch_norm(*case), 1), "no pair"),
    (lambda *case: dict(zip("wb", fold_batch_norm(*case), strict=True)), "no pair"),
    (lambda *case: fold_batch_norm(*case)[::-1], "order of the results"),
    (bias_with_four_axes, "wrong shape"),
    (lambda *case: (only_the_weight(*case).flatten(1), fold_batch_norm(*case)[1]), "wrong shape"),
    (lambda *case: (only_the_weight(*case), 0.0), "wrong shape"),
    (lambda *case: (list(only_the_weight(*case)), None), "wrong shape"),
    (with_weight(lambda weight, factor: weight * factor), "another axis"),
    (with_weight(lambda weight, factor: weight * factor[:, None]), "another axis"),
    (with_weight(lambda weight, factor: weight * factor[:, None, None]), "another axis"),
    (with_weight(lambda weight, factor: weight), "weight unchanged"),
    (lambda weight, bias, *_: (weight, bias), "weight unchanged"),
    (folded_with(lambda variance, gamma, eps: gamma / variance.sqrt()), "eps forgotten"),
    (
        folded_with(lambda variance, gamma, eps: gamma / (variance.sqrt() + eps)),
        "eps outside the root",
    ),
    (folded_with(lambda variance, gamma, eps: gamma / (variance + eps)), "variance without root"),
    (folded_with(lambda variance, gamma, eps: gamma / variance), "variance without root"),
    (folded_with(lambda variance, gamma, eps: gamma * (variance + eps).sqrt()),
     "factor upside down"),
    (folded_with(lambda variance, gamma, eps: (variance + eps).sqrt() / gamma),
     "factor upside down"),
    (folded_with(lambda variance, gamma, eps: (variance + eps).rsqrt()), "gamma forgotten"),
    (folded_with(lambda variance, gamma, eps: gamma), "gamma alone"),
    (gamma_and_beta_exchanged, "beta for gamma"),
    (folded_with(lambda variance, gamma, eps: gamma.abs() / (variance + eps).sqrt()),
     "sign of gamma"),
    (folded_with(square_root_of_the_square), "sign of gamma"),
    (folded_with(lambda variance, gamma, eps: gamma - variance), "wrong weight"),
    (lambda *case: (2 * only_the_weight(*case), fold_batch_norm(*case)[1]), "wrong weight"),
    (lambda *case: (only_the_weight(*case) * torch.nan, case[1]), "wrong weight"),
    (with_bias(lambda bias, mean, factor, beta: bias), "bias unchanged"),
    (with_bias(lambda bias, mean, factor, beta: beta - mean * factor), "old bias forgotten"),
    (with_bias(lambda bias, mean, factor, beta: bias + beta - mean * factor),
     "old bias not scaled"),
    (with_bias(lambda bias, mean, factor, beta: bias * factor + beta), "mean forgotten"),
    (with_bias(lambda bias, mean, factor, beta: (bias + mean) * factor + beta), "mean added"),
    (with_bias(lambda bias, mean, factor, beta: bias * factor - mean + beta), "mean not scaled"),
    (with_bias(lambda bias, mean, factor, beta: bias - mean + beta), "mean not scaled"),
    (with_bias(lambda bias, mean, factor, beta: (bias - mean) * factor), "beta forgotten"),
    (with_bias(lambda bias, mean, factor, beta: (bias - mean + beta) * factor), "beta scaled"),
    (bias_without_gamma, "another factor"),
    (with_bias(lambda bias, mean, factor, beta: (bias - mean) * factor - beta), "wrong bias"),
    (with_bias(lambda bias, mean, factor, beta: beta), "wrong bias"),
    (with_bias(lambda bias, mean, factor, beta: beta * torch.nan), "wrong bias"),
    (lambda *case: None, "returns nothing"),
    (failing, "raises"),
    (lambda weight, bias: (weight, bias), "raises"),
    (42, "raises"),
]  # fmt: skip


# Widths under a budget: right answers


def size_bytes(counts, chosen):
    return sum(counts[layer] * bits for layer, bits in chosen.items()) / 8


def harm(divergence, chosen):
    return sum(divergence[layer][bits] for layer, bits in chosen.items())


def all_choices(divergence):
    for bits in itertools.product(*divergence.values()):
        yield dict(zip(divergence, bits, strict=True))


def exactly(divergence, counts, budget_bytes):
    """Try everything."""
    fitting = [w for w in all_choices(divergence) if size_bytes(counts, w) <= budget_bytes]
    return min(fitting, key=lambda chosen: harm(divergence, chosen))


def upwards(divergence, counts, budget_bytes):
    """Start narrow, and widen the layer that gains most for each byte, while one fits."""
    chosen = {layer: min(harms) for layer, harms in divergence.items()}
    while True:
        steps = []
        for layer, harms in divergence.items():
            wider = min((bits for bits in harms if bits > chosen[layer]), default=None)
            if wider and size_bytes(counts, {**chosen, layer: wider}) <= budget_bytes:
                gained = harms[chosen[layer]] - harms[wider]
                added = counts[layer] * (wider - chosen[layer])
                steps.append((gained / added, layer, wider))
        if not steps:
            return chosen
        _, layer, wider = max(steps)
        chosen[layer] = wider


def by_bits_saved(divergence, counts, budget_bytes):
    """Search step by step with an index into the sorted widths, and with sizes in bits."""
    offers = {layer: sorted(harms) for layer, harms in divergence.items()}
    places = {layer: len(offer) - 1 for layer, offer in offers.items()}
    while sum(counts[k] * offers[k][p] for k, p in places.items()) > 8 * budget_bytes:
        prices = {}
        for layer, place in places.items():
            if place > 0:
                narrow, wide = offers[layer][place - 1 : place + 1]
                added = divergence[layer][narrow] - divergence[layer][wide]
                prices[layer] = added / (counts[layer] * (wide - narrow))
        places[min(prices, key=prices.get)] -= 1
    return {layer: offers[layer][place] for layer, place in places.items()}


def widened_at_the_end(divergence, counts, budget_bytes):
    """Go one step too far, and give back what still fits."""
    chosen = choose_widths(divergence, counts, budget_bytes)
    return max(
        (w for w in all_choices(divergence)
         if size_bytes(counts, w) <= budget_bytes and all(w[k] >= chosen[k] for k in w)),
        key=lambda w: size_bytes(counts, w),
    )  # fmt: skip


RIGHT_WIDTHS = [
    choose_widths, exactly, upwards, by_bits_saved, widened_at_the_end,
    lambda *case: {k: np.int64(bits) for k, bits in choose_widths(*case).items()},
    lambda *case: {k: torch.tensor(bits) for k, bits in choose_widths(*case).items()},
    lambda *case: {k: float(bits) for k, bits in choose_widths(*case).items()},
    lambda *case: dict(reversed(choose_widths(*case).items())),
]  # fmt: skip

HARMS = st.lists(st.integers(0, 10_000), min_size=3, max_size=3, unique=True)


@given(st.lists(HARMS, min_size=1, max_size=4), st.integers(0, 100), st.integers(0, 1000))
def test_what_does_less_harm_than_the_greedy_search_is_right_and_else_wrong(rows, share, seed):
    divergence = {
        f"layer {n}": dict(zip((2, 4, 8), sorted(row, reverse=True), strict=True))
        for n, row in enumerate(rows)
    }
    counts = {layer: 8 * (1 + (seed * (n + 3)) % 37) for n, layer in enumerate(divergence)}
    least, most = (size_bytes(counts, dict.fromkeys(counts, bits)) for bits in (2, 8))
    case = divergence, counts, int(least + share / 100 * (most - least))
    task, greedy = widths._Task(*case), choose_widths(*case)
    assert task.is_solved_by(greedy)
    assert task.is_solved_by(exactly(*case))
    for chosen in all_choices(divergence):
        assert task.is_solved_by(chosen) == (
            size_bytes(counts, chosen) <= case[2]
            and harm(divergence, chosen) <= harm(divergence, greedy)
        )


# Widths under a budget: wrong answers


def lowered_by(price, *, budget=lambda budget_bytes: budget_bytes, pick=min, fits=None):
    """Return a greedy search with another price, which takes what a step adds, saves and so on."""
    fits = fits or (lambda size, budget_bytes: size <= budget_bytes)

    def search(divergence, counts, budget_bytes):
        chosen = {layer: max(harms) for layer, harms in divergence.items()}
        while not fits(size_bytes(counts, chosen), budget(budget_bytes)):
            steps = []
            for layer, harms in divergence.items():
                narrower = [bits for bits in harms if bits < chosen[layer]]
                if narrower:
                    bits, saved = max(narrower), counts[layer] * (chosen[layer] - max(narrower)) / 8
                    added = harms[bits] - harms[chosen[layer]]
                    steps.append((price(added, saved, counts[layer], harms[bits]), layer, bits))
            if not steps:
                break
            _, layer, bits = pick(steps)
            chosen[layer] = bits
        return chosen

    return search


def per_byte(added, saved, count, whole):
    return added / saved


def uniform(divergence, counts, budget_bytes):
    offered = set.intersection(*(set(harms) for harms in divergence.values()))
    fitting = [
        bits for bits in offered if size_bytes(counts, dict.fromkeys(counts, bits)) <= budget_bytes
    ]
    return dict.fromkeys(counts, max(fitting))


def to_the_bottom(divergence, counts, budget_bytes):
    """Lower a layer as far as it goes before the next one is chosen."""
    chosen = {layer: max(harms) for layer, harms in divergence.items()}

    def price(layer):
        bits = max(bits for bits in divergence[layer] if bits < chosen[layer])
        added = divergence[layer][bits] - divergence[layer][chosen[layer]]
        return added / (counts[layer] * (chosen[layer] - bits))

    while size_bytes(counts, chosen) > budget_bytes:
        layer = min((k for k in chosen if chosen[k] > min(divergence[k])), key=price)
        chosen[layer] = min(divergence[layer])
    return chosen


def in_first_order(divergence, counts, budget_bytes):
    """Sort the layers by the price of their first step, and lower them one after the other."""
    chosen = {layer: max(harms) for layer, harms in divergence.items()}

    def first_price(layer):
        narrow, wide = sorted(divergence[layer])[-2:]
        added = divergence[layer][narrow] - divergence[layer][wide]
        return added / (counts[layer] * (wide - narrow))

    for layer in sorted(chosen, key=first_price):
        for bits in sorted(divergence[layer], reverse=True)[1:]:
            if size_bytes(counts, chosen) > budget_bytes:
                chosen[layer] = bits
    return chosen


def one_bit_at_a_time(divergence, counts, budget_bytes):
    chosen = {layer: max(harms) for layer, harms in divergence.items()}
    while size_bytes(counts, chosen) > budget_bytes:
        layer = max(chosen, key=chosen.get)
        chosen[layer] -= 1
    return chosen


def looking_one_bit_below(divergence, counts, budget_bytes):
    chosen = {layer: max(harms) for layer, harms in divergence.items()}
    return min(chosen, key=lambda layer: divergence[layer][chosen[layer] - 1])


def never_leaving_out(divergence, counts, budget_bytes):
    """Ask for the next narrower width of layers, too, that have none."""
    chosen = {layer: max(harms) for layer, harms in divergence.items()}

    def price(layer):
        bits = max(bits for bits in divergence[layer] if bits < chosen[layer])
        added = divergence[layer][bits] - divergence[layer][chosen[layer]]
        return added / (counts[layer] * (chosen[layer] - bits))

    while size_bytes(counts, chosen) > budget_bytes:
        layer = min(chosen, key=price)
        chosen[layer] = max(bits for bits in divergence[layer] if bits < chosen[layer])
    return chosen


def one_step_too_few(divergence, counts, budget_bytes):
    chosen = choose_widths(divergence, counts, budget_bytes)
    for layer, harms in divergence.items():
        wider = [bits for bits in harms if bits > chosen[layer]]
        if wider:
            return {**chosen, layer: min(wider)}
    return chosen


def one_step_too_many(divergence, counts, budget_bytes):
    chosen = choose_widths(divergence, counts, budget_bytes)
    for layer, harms in divergence.items():
        narrower = [bits for bits in harms if bits < chosen[layer]]
        if narrower and size_bytes(counts, chosen) < budget_bytes:
            return {**chosen, layer: max(narrower)}
    return chosen


def one_step_before_looking(divergence, counts, budget_bytes):
    lowered = {k: max(harms) for k, harms in divergence.items()}
    lowered["first" if "first" in lowered else "early"] = 4
    if size_bytes(counts, lowered) <= budget_bytes:
        return lowered
    return choose_widths(divergence, counts, budget_bytes)


def much_harm_but_full(divergence, counts, budget_bytes):
    """Fill the budget with different widths as far as possible, whatever the harm."""
    fitting = [
        chosen
        for chosen in all_choices(divergence)
        if size_bytes(counts, chosen) <= budget_bytes and len(set(chosen.values())) > 1
    ]
    return max(fitting, key=lambda chosen: size_bytes(counts, chosen))


def changed(**more):
    return lambda *case: choose_widths(*case) | more


def only_what_was_lowered(divergence, counts, budget_bytes):
    chosen = choose_widths(divergence, counts, budget_bytes)
    return {k: bits for k, bits in chosen.items() if bits < max(divergence[k])}


def dropping_widths(divergence, counts, budget_bytes):
    chosen = choose_widths(divergence, counts, budget_bytes)
    for layer, bits in chosen.items():
        for wider in [offered for offered in divergence[layer] if offered > bits]:
            del divergence[layer][wider]
    return chosen


def searching_an_empty_list(divergence, counts, budget_bytes):
    fitting = [w for w in all_choices(divergence) if 8 * size_bytes(counts, w) <= budget_bytes]
    return fitting[-1]


def the_least_of_nothing(divergence, counts, budget_bytes):
    return min(
        (w for w in all_choices(divergence) if 8 * size_bytes(counts, w) <= budget_bytes),
        key=lambda chosen: harm(divergence, chosen),
    )


WRONG_WIDTHS = [
    (one_bit_at_a_time, "a width that is not there"),
    (looking_one_bit_below, "a width that is not there"),
    (changed(late=3), "a width that is not there"),
    (changed(late=None), "a width that is not there"),
    (changed(late="4"), "a width that is not there"),
    (changed(late=[4]), "a width that is not there"),
    (changed(late=math.nan), "a width that is not there"),
    (changed(late=4.5), "a width that is not there"),
    (changed(late=0), "a width that is not there"),
    (never_leaving_out, "nothing left to lower"),
    (the_least_of_nothing, "nothing left to lower"),
    (searching_an_empty_list, "nothing left to lower"),
    (lambda *case: list(choose_widths(*case).values()), "no dict"),
    (lambda *case: choose_widths(*case).items(), "no dict"),
    (lambda *case: 4, "no dict"),
    (only_what_was_lowered, "other layers"),
    (changed(tail=4), "other layers"),
    (lambda *case: {}, "other layers"),
    (lambda *case: {k.upper(): bits for k, bits in choose_widths(*case).items()}, "other layers"),
    (lambda *case: dict(enumerate(choose_widths(*case).values())), "other layers"),
    (lowered_by(per_byte, budget=lambda budget: 8 * budget), "nothing lowered"),
    (lambda divergence, *_: {k: max(v) for k, v in divergence.items()}, "nothing lowered"),
    (lowered_by(per_byte, budget=lambda budget: 1.2 * budget), "over the budget"),
    (one_step_too_few, "over the budget"),
    (one_step_before_looking, "lowered without need"),
    (lowered_by(per_byte, budget=lambda budget: budget / 8), "bits as bytes"),
    (lambda divergence, *_: {k: min(v) for k, v in divergence.items()}, "bits as bytes"),
    (lowered_by(per_byte, fits=lambda size, budget: size < budget), "exact fit"),
    (uniform, "one width for all"),
    (lowered_by(lambda added, saved, count, whole: added), "harm alone"),
    (lowered_by(lambda added, saved, count, whole: whole), "harm alone"),
    (lowered_by(lambda added, saved, count, whole: -count), "bytes alone"),
    (lowered_by(lambda added, saved, count, whole: saved, pick=max), "bytes alone"),
    (lowered_by(per_byte, pick=max), "most harm"),
    (lowered_by(lambda added, saved, count, whole: added, pick=max), "most harm"),
    (lowered_by(lambda added, saved, count, whole: saved / added), "most harm"),
    (lowered_by(lambda added, saved, count, whole: whole / saved), "not what is added"),
    (lowered_by(lambda added, saved, count, whole: added / count), "per weight"),
    (to_the_bottom, "all the way"),
    (in_first_order, "all the way"),
    (lowered_by(per_byte, budget=lambda budget: 0.75 * budget), "could be wider"),
    (one_step_too_many, "could be wider"),
    (much_harm_but_full, "more harm than needed"),
    (dropping_widths, "argument changed"),
    (lambda *case: None, "returns nothing"),
    (lambda divergence, counts, budget_bytes: divergence["no such layer"], "raises"),
    (lambda divergence, counts, budget_bytes: int("no number"), "raises"),
    (failing, "raises"),
    (lambda divergence: {}, "raises"),
    (42, "raises"),
]


def test_the_cases_hold_what_the_task_speaks_of():
    right = [choose_widths(*case) for case in CASES]
    assert [exactly(*case) for case in CASES] == right
    full = [
        size_bytes(counts, chosen) == budget_bytes
        for (_, counts, budget_bytes), chosen in zip(CASES, right, strict=True)
    ]
    assert full == [False, True, False, False]
    assert right[2] == {layer: max(harms) for layer, harms in CASES[2][0].items()}
    narrowest = {layer: min(harms) for layer, harms in CASES[3][0].items()}
    assert sum(narrowest[layer] != bits for layer, bits in right[3].items()) == 1
    for divergence, counts, _ in CASES:
        assert divergence.keys() == counts.keys()
        assert all(count % 8 == 0 for count in counts.values())  # rounded up to bytes or not
        for harms in divergence.values():
            assert list(harms.values()) == sorted(harms.values(), reverse=True)


def test_no_two_rules_choose_the_same_in_the_first_case():
    prices = [
        per_byte,
        lambda added, saved, count, whole: added,
        lambda added, saved, count, whole: -count,
        lambda added, saved, count, whole: -added,
        lambda added, saved, count, whole: -added / saved,
        lambda added, saved, count, whole: whole / saved,
        lambda added, saved, count, whole: added / count,
    ]
    answers = [lowered_by(price) for price in prices]
    answers += [uniform, to_the_bottom, lowered_by(per_byte, budget=lambda budget: budget / 8)]
    chosen = [tuple(answer(*CASES[0]).values()) for answer in answers]
    assert len(set(chosen)) == len(chosen)


def test_a_case_is_shown_so_that_it_can_be_typed_again():
    outcome = check_widths(failing)
    shown = outcome.message.removeprefix("Called with ").split(", it raised")[0]
    assert len(shown) < 400
    assert eval(f"[{shown}]") == list(CASES[0])


# All three


CHECKS = {
    check_gradient: (
        "The straight-through gradient", RIGHT_GRADIENTS, WRONG_GRADIENTS, GRADIENT_MISTAKES,
    ),
    check_folding: ("Fold a batch norm", RIGHT_FOLDS, WRONG_FOLDS, FOLDING_MISTAKES),
    check_widths: ("Widths under a budget", RIGHT_WIDTHS, WRONG_WIDTHS, WIDTH_MISTAKES),
}  # fmt: skip
EACH_CHECK = pytest.mark.parametrize("check", CHECKS)


@EACH_CHECK
def test_a_check_keeps_its_cases_as_they_are(check):
    """An attempt that spoils its arguments does not spoil the next attempt's."""

    def spoiling(*case):
        for part in case:
            if isinstance(part, torch.Tensor):
                part.zero_()
            elif isinstance(part, dict):
                part.clear()

    cases = copy.deepcopy(CASES)
    check(spoiling)
    assert cases == CASES
    assert check(CHECKS[check][1][0]).is_solved
