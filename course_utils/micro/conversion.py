"""A trained network turned into whole numbers: batch norms folded, weights and ranges rounded."""

import math
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor as TorchTensor
from torch import fx, nn

from course_utils import calibrate
from course_utils.calibrate import Range
from course_utils.layer_costs import FUNCTIONS, LAYERS
from course_utils.micro.arithmetic import HIGHEST, LARGEST_PIXEL, LOWEST, find_multiplier
from course_utils.micro.integers import (
    Addition,
    Convolution,
    IntegerNetwork,
    Linear,
    Mean,
    Operation,
    Tensor,
)
from course_utils.quantize import fold_batch_norms
from course_utils.runtimes.sparse_kernel import find_padding

LEVELS = HIGHEST - LOWEST
LARGEST_RATIO = 0.2  # of a product's step to the output's: shifts are above 32 then
LEAST_RATIO = 2.0**-20  # tinier weights would leave their bias no room in 32 bits
ADDITION_BITS, LARGEST_ADDITION_SHIFT = 22, 30  # 255 * 2**22 and half of a step fit into 32 bits


def quantize_to_integers(
    model: nn.Module,
    calibration_images: np.ndarray,
    *,
    method: calibrate.Method = calibrate.min_max,
) -> IntegerNetwork:
    """Return a network that computes with whole numbers what a trained one does with real ones.

    Weights get a scale for each output channel and are symmetric, from -127 to 127; biases have
    32 bits; activations get one scale and zero point a tensor, signed bytes. A ReLU is computed by
    the operation before it: its bytes end at the zero point.

    Args:
        model: Convolutions, linear layers, batch norms, ReLUs, additions, means over the plane and
            flattening; it is copied.
        calibration_images: (n, channels, rows, columns) float32 in [0, 1] that set the ranges of
            the activations; some hundreds do.
        method: Which range to take of the values seen; see ``calibrate``.

    Raises:
        ValueError: The images are unfit to calibrate on, the model does not accept them, cannot be
            traced, or has a layer that is none of these; it is named.
    """
    calibrate.check_images(calibration_images)
    is_single = isinstance(model, tuple(LAYERS))  # would be traced into its own insides
    traced = fold_batch_norms(nn.Sequential(model) if is_single else model)
    traced.graph.eliminate_dead_code()
    watcher = _Watcher(traced, method)
    try:
        with torch.inference_mode():
            watcher.run(torch.from_numpy(calibration_images))
    except RuntimeError as error:
        raise calibrate.refuse_images(calibration_images, error) from None
    converter = _Converter(traced, watcher)
    for node in traced.graph.nodes:
        converter.convert(node)
    return IntegerNetwork(tuple(converter.tensors), tuple(converter.operations))


class _Watcher(fx.Interpreter):
    """Runs a traced model and notes the shape and the range of each activation."""

    def __init__(self, traced: fx.GraphModule, method: calibrate.Method) -> None:
        super().__init__(traced)
        self.extra_traceback = False
        self.method = method
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}  # without the number of images
        self.ranges: dict[fx.Node, Range] = {}

    def run_node(self, n: fx.Node) -> object:
        """Run one call and note what comes out."""
        result = super().run_node(n)
        if isinstance(result, TorchTensor) and n.op != "output":
            self.shapes[n] = tuple(result.shape[1:])
            if find_relu(n) is None:
                self.ranges[n] = self.method(calibrate.count(result.numpy()))
        return result


def find_relu(node: fx.Node) -> fx.Node | None:
    """Return the ReLU that reads a node's result, if nothing else does."""
    readers = list(node.users)
    return readers[0] if len(readers) == 1 and _name_kind(readers[0]) == "relu" else None


def _name_kind(node: fx.Node) -> str | None:
    """Return "convolution", "linear", "relu", ...; None for what is not known."""
    if node.op == "call_module":
        module: nn.Module = node.graph.owning_module.get_submodule(str(node.target))  # type: ignore[union-attr]
        return next((kind for of, kind in LAYERS.items() if isinstance(module, of)), None)
    return FUNCTIONS.get(getattr(node.target, "__name__", str(node.target)))


class _Converter:
    """Turns the calls of a traced model into operations, one by one."""

    def __init__(self, traced: fx.GraphModule, watcher: _Watcher) -> None:
        self.traced, self.shapes, self.ranges = traced, watcher.shapes, watcher.ranges
        self.tensors: list[Tensor] = []
        self.operations: list[Operation] = []
        self.number: dict[fx.Node, int] = {}  # of the tensor that holds a node's result

    def convert(self, node: fx.Node) -> None:
        """Add the operation for a call, if it needs one."""
        if node.op == "output":
            self._finish(node)
        elif node.op == "placeholder":
            self._add_tensor(node, 1 / LARGEST_PIXEL, LOWEST)
        elif node in self.shapes:
            kind = _name_kind(node)
            convert = getattr(self, f"_convert_{kind}", None)
            if convert is None:
                self._refuse(node, "cannot be computed with whole numbers here")
            convert(node)

    def _convert_convolution(self, node: fx.Node) -> None:
        layer: nn.Conv2d = self.traced.get_submodule(str(node.target))  # type: ignore[assignment]
        if set(layer.dilation) != {1} or layer.padding_mode != "zeros":
            self._refuse(node, "has a dilation, or a padding of something else than zeros")
        left, _, top, _ = find_padding(layer)
        weight = layer.weight.detach().double().numpy().transpose(0, 2, 3, 1)
        scaled = self._scale_sums(node, weight, layer.bias)
        stride = layer.stride[0], layer.stride[1]
        self.operations.append(Convolution(*scaled, stride, (top, left), layer.groups))

    def _convert_linear(self, node: fx.Node) -> None:
        layer: nn.Linear = self.traced.get_submodule(str(node.target))  # type: ignore[assignment]
        (source,) = node.all_input_nodes
        if len(self.shapes[source]) != 1:
            self._refuse(node, "reads a plane; flatten it first")
        rows, columns, channels = self.tensors[self.number[source]].shape
        weight = layer.weight.detach().double().numpy()
        weight = weight.reshape(-1, channels, rows, columns).transpose(0, 2, 3, 1)  # as tensors lie
        weight = weight.reshape(len(weight), -1)
        gives_logits = [reader.op for reader in node.users] == ["output"]
        scaled = self._scale_sums(node, weight, layer.bias, is_wide=gives_logits)
        self.operations.append(Linear(*scaled, gives_logits))

    def _scale_sums(
        self, node: fx.Node, weight: np.ndarray, bias: TorchTensor | None, is_wide: bool = False
    ) -> tuple[str, tuple[int, ...], int, int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Add the output's tensor; return what convolutions and linear layers have in common."""
        source = self._find_inputs(node, 1)[0]
        input_scale = self.tensors[source].scale
        scale, zero_point, is_rectified = self._choose_grid(node)
        largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
        steps = np.maximum(largest / HIGHEST, LEAST_RATIO * scale / input_scale)  # (outputs,)
        by_output = steps.reshape(-1, *[1] * (weight.ndim - 1))
        integers = np.rint(weight / by_output).astype(np.int8)
        steps = steps * input_scale  # now of the products
        given = np.zeros(len(weight)) if bias is None else bias.detach().double().numpy()
        biases = np.rint(given / steps)
        products = np.abs(integers.astype(np.int64)).reshape(len(weight), -1).sum(axis=1)
        if (np.abs(biases) + 2 * LEVELS * products >= 2**31).any():
            self._refuse(node, "has sums of products that do not fit into 32 bits")
        coarsest = float(steps.max()) / LARGEST_RATIO
        if is_wide:
            scale, zero_point = coarsest, 0
        elif scale < coarsest:
            scale, zero_point = _fit_grid(self.ranges[find_relu(node) or node], coarsest)
        scaled = np.array([find_multiplier(step / scale) for step in steps], np.int64)
        multiplier, shift = scaled.astype(np.int32).T
        output = self._add_tensor(node, scale, zero_point)
        low = zero_point if is_rectified else LOWEST
        biases = biases.astype(np.int32)
        return str(node.target), (source,), output, low, integers, biases, multiplier, shift

    def _convert_add(self, node: fx.Node) -> None:
        one, other = self._find_inputs(node, 2)
        if node.kwargs.get("alpha", 1) != 1:
            self._refuse(node, "multiplies what it adds")
        if self.tensors[one].shape != self.tensors[other].shape:
            self._refuse(node, "adds tensors of two shapes")
        scale, zero_point, is_rectified = self._choose_grid(node)
        ratios = [self.tensors[number].scale / scale for number in (one, other)]
        shift = min(ADDITION_BITS - int(np.ceil(np.log2(sum(ratios)))), LARGEST_ADDITION_SHIFT)
        if shift < 1:
            self._refuse(node, "adds numbers that are millions of times as large as their sum")
        first, second = (round(ratio * 2**shift) for ratio in ratios)
        low = zero_point if is_rectified else LOWEST
        output = self._add_tensor(node, scale, zero_point)
        added = Addition(node.name, (one, other), output, low, (first, second), shift)
        self.operations.append(added)

    def _convert_mean(self, node: fx.Node) -> None:
        dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else ())
        if not isinstance(dims, tuple | list) or {dim % 4 for dim in dims} != {2, 3}:
            self._refuse(node, "is no mean over the plane, as x.mean(dim=(2, 3)) is")
        self._average(node)

    def _convert_pooling(self, node: fx.Node) -> None:
        layer = self.traced.get_submodule(str(node.target))
        if not isinstance(layer, nn.AdaptiveAvgPool2d) or self.shapes[node][1:] != (1, 1):
            self._refuse(node, "pools; only the mean over the whole plane is supported")
        self._average(node)

    def _average(self, node: fx.Node) -> None:
        (source_node,) = node.all_input_nodes
        if len(self.shapes[source_node]) != 3:
            self._refuse(node, "reads no plane")
        source = self.number[source_node]
        pixels = math.prod(self.tensors[source].shape[:2])
        scale, zero_point, is_rectified = self._choose_grid(node)
        multiplier, shift = find_multiplier(self.tensors[source].scale / (scale * pixels))
        low = zero_point if is_rectified else LOWEST
        output = self._add_tensor(node, scale, zero_point)
        self.operations.append(Mean(node.name, (source,), output, low, multiplier, shift))

    def _convert_view(self, node: fx.Node) -> None:
        (source,) = (one for one in node.all_input_nodes if one in self.shapes)
        before, after = self.shapes[source], self.shapes[node]
        if after not in (before, (math.prod(before),)):
            self._refuse(node, f"turns {before} into {after}; only flattening is supported")
        self.number[node] = self.number[source]

    def _convert_relu(self, node: fx.Node) -> None:
        (source,) = node.all_input_nodes
        number = self.number[source]
        is_done = number == 0 or self.operations[number - 1].low == self.tensors[number].zero_point
        if not is_done:
            self._refuse(node, "is a ReLU of what others read too; it cannot be done before it")
        self.number[node] = number

    def _find_inputs(self, node: fx.Node, count: int) -> tuple[int, ...]:
        """Return the numbers of the tensors that a call reads."""
        found = tuple(self.number[one] for one in node.args if isinstance(one, fx.Node))
        if len(found) != count or any(isinstance(given, int | float) for given in node.args):
            self._refuse(node, f"should read {count} tensors and nothing else")
        return found

    def _choose_grid(self, node: fx.Node) -> tuple[float, int, bool]:
        """Return scale and zero point for what a call writes, and whether a ReLU is part of it."""
        relu = find_relu(node)
        return *_fit_grid(self.ranges[relu or node]), relu is not None

    def _add_tensor(self, node: fx.Node, scale: float, zero_point: int) -> int:
        channels, rows, columns = (*self.shapes[node], 1, 1)[:3]
        self.tensors.append(Tensor((rows, columns, channels), scale, zero_point))
        self.number[node] = len(self.tensors) - 1
        return self.number[node]

    def _finish(self, node: fx.Node) -> None:
        (last,) = node.args
        if not isinstance(last, fx.Node) or len(self.shapes[last]) != 1 or not self.operations:
            raise ValueError("An integer network returns logits (n, classes), one for each class.")

    def _refuse(self, node: fx.Node, why: str) -> NoReturn:
        what = f"The call {node.name!r}"
        if node.op == "call_module":
            layer = self.traced.get_submodule(str(node.target))
            what = f"Layer {node.target!r}, a {type(layer).__name__},"
        raise ValueError(
            f"{what} {why}. An integer network is made of Conv2d, BatchNorm2d behind a Conv2d,"
            " Linear, ReLU, +, the mean over a plane, and flatten."
        )


def _fit_grid(limits: Range, least_scale: float = 0.0) -> tuple[float, int]:
    """Return the scale and the zero point with which bytes cover a range that holds 0."""
    scale = max((limits.high - limits.low) / LEVELS, least_scale)
    scale = scale or 1.0  # nothing but zeros: any step will do
    return scale, int(np.clip(np.rint(LOWEST - limits.low / scale), LOWEST, HIGHEST))
