"""Each operation alone: the reference against exact sums, the C file against the reference."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from course_utils import micro
from course_utils.micro.arithmetic import saturate
from course_utils.micro.integers import Addition, Convolution, Linear, Mean, Operation, Tensor

SEED = 0
LANES = (1, 7, 64)

# channels, outputs, groups, kernel, stride, padding
CONVOLUTIONS = [
    (1, 5, 1, (3, 3), (1, 1), (1, 1)),
    (3, 4, 1, (1, 1), (1, 1), (0, 0)),
    (2, 9, 1, (5, 3), (2, 1), (2, 0)),
    (4, 4, 4, (3, 3), (1, 1), (1, 1)),
    (5, 5, 5, (3, 2), (2, 2), (1, 1)),
    (4, 6, 2, (3, 3), (1, 2), (1, 2)),
    (3, 6, 3, (2, 2), (1, 1), (1, 0)),  # two outputs for each input
    (2, 3, 1, (2, 2), (3, 3), (2, 2)),  # some places see nothing but padding
]


def draw_weights(random, *shape: int) -> dict[str, np.ndarray]:
    """Return weights and scales with which the outputs fill the range of a byte, and some more."""
    count = shape[0]
    ratio = 60 / np.sqrt(np.prod(shape[1:])) / 70**2
    scaled = [micro.find_multiplier(ratio * factor) for factor in random.uniform(0.5, 2, count)]
    multiplier, shift = np.array(scaled, np.int32).T
    return {
        "weight": random.integers(-127, 128, shape, np.int8),
        "bias": random.integers(-20_000, 20_000, count, np.int32),
        "multiplier": multiplier,
        "shift": shift,
    }


def network_of(*tensors: Tensor, operation: Operation) -> micro.IntegerNetwork:
    return micro.IntegerNetwork(tensors, (operation,))


def draw_pixels(network: micro.IntegerNetwork, count: int = 6) -> np.ndarray:
    random = np.random.default_rng(SEED + 1)
    return random.integers(0, 256, (count, *network.image_shape), np.uint8)


def centre(network: micro.IntegerNetwork, pixels: np.ndarray) -> np.ndarray:
    """Return what the image's bytes are above their zero point."""
    return pixels.astype(np.int64) - 128 - network.tensors[0].zero_point


def make_convolution(channels, outputs, groups, kernel, stride, padding, low=-128):
    random = np.random.default_rng(SEED)
    weights = draw_weights(random, outputs, *kernel, channels // groups)
    sizes = [
        (size + 2 * pad - length) // step + 1
        for size, pad, length, step in zip((7, 8), padding, kernel, stride, strict=True)
    ]
    tensors = Tensor((7, 8, channels), 1.0, -11), Tensor((*sizes, outputs), 1.0, 5)
    operation = Convolution("conv", (0,), 1, low, **weights, stride=stride, padding=padding,
                            groups=groups)  # fmt: skip
    return network_of(*tensors, operation=operation)


def run_last(network: micro.IntegerNetwork, pixels: np.ndarray) -> np.ndarray:
    """Return the last tensor, its channels first."""
    return list(network.trace(pixels))[-1].transpose(0, 3, 1, 2)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_convolution_requantizes_exact_sums(case):
    network = make_convolution(*case)
    (conv,) = network.operations
    pixels = draw_pixels(network)
    sums = F.conv2d(  # in float64, which holds these whole numbers exactly
        torch.from_numpy(centre(network, pixels)).double(),
        torch.from_numpy(conv.weight.transpose(0, 3, 1, 2)).double(),
        torch.from_numpy(conv.bias).double(),
        conv.stride, conv.padding, groups=conv.groups,
    ).numpy().astype(np.int64).transpose(0, 2, 3, 1)  # fmt: skip
    expected = saturate(micro.requantize(sums, conv.multiplier, conv.shift) + 5)
    found = run_last(network, pixels).transpose(0, 2, 3, 1)
    assert np.array_equal(found, expected)
    assert len(np.unique(found)) > 50  # so that little is lost in saturation


def test_a_relu_is_part_of_a_convolution():
    plain, rectified = (make_convolution(*CONVOLUTIONS[0], low=low) for low in (-128, 5))
    pixels = draw_pixels(plain)
    assert np.array_equal(run_last(rectified, pixels), np.maximum(run_last(plain, pixels), 5))
    assert (run_last(plain, pixels) < 5).mean() > 0.2


def make_linear(inputs=(3, 4, 5), outputs=7, gives_logits=False):
    weights = draw_weights(np.random.default_rng(SEED), outputs, int(np.prod(inputs)))
    operation = Linear("linear", (0,), 1, -128, **weights, gives_logits=gives_logits)
    zero = 0 if gives_logits else -9
    return network_of(Tensor(inputs, 1.0, 20), Tensor((1, 1, outputs), 0.5, zero),
                      operation=operation)  # fmt: skip


def scale_linear(network: micro.IntegerNetwork, pixels: np.ndarray) -> np.ndarray:
    (linear,) = network.operations
    flat = centre(network, pixels).transpose(0, 2, 3, 1).reshape(len(pixels), -1)
    sums = flat @ linear.weight.astype(np.int64).T + linear.bias
    return micro.requantize(sums, linear.multiplier, linear.shift)


def test_a_linear_layer_requantizes_exact_sums():
    network = make_linear()
    pixels = draw_pixels(network, 40)
    expected = saturate(scale_linear(network, pixels) - 9)
    assert np.array_equal(run_last(network, pixels)[:, :, 0, 0], expected)
    assert np.array_equal(network.run(pixels), expected.astype(np.int32) + 9)
    assert len(np.unique(expected)) > 50


def test_logits_keep_32_bits():
    network = make_linear(gives_logits=True)
    pixels = draw_pixels(network)
    logits = network.run(pixels)
    assert logits.dtype == np.int32
    assert np.array_equal(logits, scale_linear(network, pixels))


def make_addition(low=-128):
    """Return a network that adds a convolution's output to the image."""
    first = make_convolution(3, 3, 1, (3, 3), (1, 1), (1, 1))
    ratios, shift = (0.7, 0.4), 20
    multipliers = tuple(round(ratio * 2**shift) for ratio in ratios)
    added = Addition("add", (1, 0), 2, low, multipliers, shift)
    tensors = (*first.tensors, Tensor((7, 8, 3), 1.0, 3))
    return micro.IntegerNetwork(tensors, (*first.operations, added))


@pytest.mark.parametrize("low", [-128, 3])
def test_an_addition_rounds_once(low):
    network = make_addition(low)
    pixels = draw_pixels(network)
    image, convolved, found = (tensor.astype(np.int64) for tensor in network.trace(pixels))
    one, other = network.operations[1].multipliers
    exact = ((convolved - 5) * one + (image + 11) * other) / 2**20  # few bits, so exact
    assert np.array_equal(found, np.clip(np.floor(exact + 0.5) + 3, low, 127))
    assert len(np.unique(found)) > 50


def make_mean(rows=5, columns=4):
    multiplier, shift = micro.find_multiplier(1.7 / (rows * columns))
    mean = Mean("mean", (0,), 1, -128, multiplier, shift)
    tensors = Tensor((rows, columns, 6), 1.7, 4), Tensor((1, 1, 6), 1.0, -3)
    return network_of(*tensors, operation=mean)


def test_a_mean_is_rounded_once():
    network = make_mean()
    pixels = draw_pixels(network, 30)
    exact = 1.7 * centre(network, pixels).mean(axis=(2, 3))
    found = network.run(pixels)
    assert found.dtype == np.int32
    assert np.abs(found - exact).max() <= 0.5 + 1e-6
    assert len(np.unique(found)) > 50


NETWORKS = {
    **{f"convolution {number}": lambda case=case: make_convolution(*case)
       for number, case in enumerate(CONVOLUTIONS)},
    "convolution with relu": lambda: make_convolution(*CONVOLUTIONS[2], low=5),
    "linear": make_linear,
    "logits": lambda: make_linear(gives_logits=True),
    "addition": make_addition,
    "mean": make_mean,
}  # fmt: skip


def with_logits(network: micro.IntegerNetwork) -> micro.IntegerNetwork:
    """Return the network with a linear layer behind it, whose sums tell every byte apart."""
    if network.gives_wide_logits:
        return network
    last = len(network.tensors) - 1
    weights = draw_weights(np.random.default_rng(9), 6, int(np.prod(network.tensors[last].shape)))
    weights["multiplier"], weights["shift"] = np.full((2, 6), [[2**30], [33]], np.int32)
    linear = Linear("head", (last,), last + 1, -128, **weights, gives_logits=True)
    logits = Tensor((1, 1, 6), 1.0, 0)
    return micro.IntegerNetwork((*network.tensors, logits), (*network.operations, linear))


@pytest.mark.parametrize(("name", "lanes"), [*itertools.product(NETWORKS, LANES)])
@pytest.mark.parametrize("wide", [1, 2])
def test_the_c_file_computes_each_operation_bit_for_bit(name, lanes, wide):
    network = with_logits(NETWORKS[name]())
    pixels = draw_pixels(network)
    source = micro.write_c(network, "one", lanes=lanes, weight_bytes=wide)
    run = micro.load_c(network, source, "one", ["-O1", "-ftrapv"])
    assert np.array_equal(run(pixels), network.run(pixels))


@pytest.mark.parametrize("name", ["convolution 0", "convolution 3", "linear", "mean"])
def test_bytes_serve_as_logits_where_no_linear_layer_comes_last(name):
    network = NETWORKS[name]()
    if name.startswith("convolution"):  # down to a single place
        place = network.tensors[1]._replace(shape=(1, 1, network.tensors[1].shape[2]))
        network = micro.IntegerNetwork((network.tensors[0], place), network.operations)
    pixels = draw_pixels(network)
    run = micro.load_c(network, micro.write_c(network, "one"), "one", ["-O1"])
    logits = network.run(pixels)
    assert logits.dtype == np.int32
    assert np.array_equal(run(pixels), logits)
