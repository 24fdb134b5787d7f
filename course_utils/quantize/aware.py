"""Quantization-aware training: rounding in the forward pass, as if it were not there backward.

Where integers will be, *fake quantization* rounds the real numbers to the values that the
integers stand for, in training already; its steps are learned (LSQ: Esser et al., 2020, arXiv
1902.08153; see ``rounding``). Where roundings stand follows Jacob et al., 2018, arXiv 1712.05877:
so that a runtime can compute with integers alone from the image to the logits.

As in LSQ the first and the last layer keep 8 bits. Unlike there, weights take the levels
``-(2**(bits-1) - 1)`` to ``2**(bits-1) - 1`` with a step for each output channel, so that a
batch norm can be folded into the steps without rounding anew; the terms of a sum and the logits
are rounded to 8 bits too; and steps start where the squared error is least.
"""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from course_utils import calibrate
from course_utils.quantize.folding import find_pair, fold_batch_norms, trace
from course_utils.quantize.integers import (
    SMALLEST_BITS,
    QuantizedTensor,
    quantize_bias,
    spread_integers,
)
from course_utils.quantize.rounding import (
    LearnedStep,
    RoundedLayer,
    round_activation,
    round_pixels,
    round_weight,
)
from course_utils.quantize.weights import Widths, remember_grid_, spread_widths
from course_utils.training import DivergedError, Recipe, train

OUTER_BITS = 8  # of the first and the last layer, of the terms of a sum and of logits
OBSERVED_IMAGES = 200
CUTS_OFF = {"clamp", "clip", "hardtanh", "relu6"}  # at two ends
LARGEST_BIAS = 2**30  # in steps: 32 bits have to hold the sum of products too
MOVES_VALUES = {  # or leaves some out, but changes none
    "contiguous", "dropout", "dropout2d", "flatten", "identity", "max_pool2d", "maxpool2d",
    "reshape", "view",
}  # fmt: skip


def prepare_aware(model: nn.Module, bits: Widths, images: np.ndarray) -> nn.Module:
    """Return a copy that rounds weights and activations in its forward pass, ready to train.

    Not trained, it is what rounding after training gives: the steps have the least squared
    error, of each channel's weights and of the activations over the first 200 images.

    Args:
        model: Of ``nn.Conv2d`` and ``nn.Linear`` layers, with or without batch norms.
        bits: 2 to 8, of weights and of the activations that a layer reads; one width for all but
            the first and the last layer, which have 8 bits, or a width by the name of each. Images
            stay bytes; what several layers read has the widest of their widths, and what only a
            sum or nothing reads has 8 bits.
        images: A batch (n, ...) float32 in [0, 1] to choose the steps of activations.

    Raises:
        ValueError: A width is none of these, there is no such layer or none at all, the images are
            unfit, or the model cannot be traced, has batch norms without statistics, an activation
            that is cut off at two ends or dropout that is no layer, or rounds already.
    """
    calibrate.check_images(images)
    traced = trace(model)
    _check_operations(traced)
    calls = [node for node in traced.graph.nodes if node.op == "call_module"]
    widths = spread_widths(traced, bits)
    layers = [node.target for node in calls if node.target in widths]
    if find_roundings(traced):
        raise ValueError("This model rounds its activations already: prepare the one in float32.")
    if not layers:
        raise ValueError("There is no convolution or linear layer in this model to round.")
    for name, layer in traced.named_modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is None:
            raise ValueError(f"The batch norm {name!r} keeps no statistics: integers need some.")
    wrong = [width for width in widths.values() if width not in range(SMALLEST_BITS, 9)]
    if wrong:
        raise ValueError(f"Training with rounding takes {SMALLEST_BITS} to 8 bits, not {wrong[0]}.")
    widths = {name: int(width) for name, width in widths.items()}
    if not isinstance(bits, Mapping):
        widths |= dict.fromkeys((layers[0], layers[-1]), OUTER_BITS)
    roundings = {}
    for node, values in _observe(traced, images).items():
        readers = _readers(node, traced)
        read_by = [widths[user.target] for user in readers if user.target in widths]
        is_image = node.op == "placeholder"
        roundings[f"round_{node.name}"] = (
            round_pixels(values)
            if is_image
            else round_activation(values, max(read_by, default=OUTER_BITS))
        )
    insert_roundings_(traced, roundings)
    for name, width in widths.items():
        layer = traced.get_submodule(name)
        traced.set_submodule(name, RoundedLayer(layer, round_weight(layer, width)))
    traced.recompile()
    return traced


def convert_aware(model: nn.Module) -> nn.Module:
    """Return the network of a prepared one: integers for weights, batch norms folded into steps.

    Its layers remember their integers (see ``quantized_weights``) and its activations are rounded
    still, so that a runtime can run it with integers. Its biases are rounded to the grid of the
    sums that they are added to (see ``spread_integers``): nothing else of what it computes changes,
    but for channels so small that no such grid holds their bias.

    Raises:
        ValueError: The model was not made by ``prepare_aware``.
    """
    converted = copy.deepcopy(model).cpu().eval()
    rounded = {n: m for n, m in converted.named_modules() if isinstance(m, RoundedLayer)}
    if not rounded or not isinstance(converted, fx.GraphModule):
        raise ValueError("Only what quantize.prepare_aware returned can be converted.")
    for name, module in rounded.items():
        layer, rounding = module.layer, module.rounding
        weight = layer.weight.detach()  # type: ignore[operator]
        step = rounding.positive_step.detach().view(-1, *[1] * (weight.ndim - 1))
        integers = torch.round(weight / step).clamp(rounding.low, rounding.high).int()
        zero = torch.zeros_like(step).int()
        remember_grid_(layer, QuantizedTensor(integers, step, zero, rounding.bits))
        converted.set_submodule(name, layer)
    folded = fold_batch_norms(converted)
    round_biases_(folded)
    return folded.requires_grad_(False)


def train_aware(
    model: nn.Module,
    bits: Widths,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    calibration: np.ndarray,
    **settings: Any,
) -> nn.Module:
    """Return a copy that was trained with rounding, and converted: see ``convert_aware``.

    Args:
        model: Trained in float32.
        bits: See ``prepare_aware``.
        images: (n, 1, height, width) float32 in [0, 1].
        labels: (n,) int64.
        recipe: See ``training.train``.
        calibration: See ``images`` of ``prepare_aware``.
        settings: See the rest of ``training.train``: device, precision, state_file, on_epoch (its
            model is still a prepared one), on_step, compiled.

    Raises:
        ValueError: As of ``prepare_aware`` and ``training.train``.
        TypeError: ``training.train`` has no such setting.
        training.DivergedError: The loss is no longer a number; its ``model`` is converted too.
    """
    prepared = prepare_aware(model, bits, calibration)
    try:
        trained = train(prepared, images, labels, recipe, **settings)
    except DivergedError as error:
        error.model = convert_aware(error.model)
        raise
    return convert_aware(trained)


def insert_roundings_(traced: fx.GraphModule, roundings: Mapping[str, LearnedStep]) -> None:
    """Put each rounding, named "round_" and a node of the graph, behind that node."""
    for node in list(traced.graph.nodes):
        name = f"round_{node.name}"
        if name not in roundings:
            continue
        traced.add_submodule(name, roundings[name])
        with traced.graph.inserting_after(node):
            after = traced.graph.call_module(name, (node,))
        node.replace_all_uses_with(after, delete_user_cb=lambda user, after=after: user != after)
    traced.recompile()


def find_roundings(model: nn.Module) -> dict[str, LearnedStep]:
    """Return the roundings of activations by name; none if the model does not round any."""
    modules = dict(model.named_modules())
    weights = {
        id(module.rounding) for module in modules.values() if isinstance(module, RoundedLayer)
    }
    return {
        name: module
        for name, module in modules.items()
        if isinstance(module, LearnedStep) and id(module) not in weights
    }


def _check_operations(traced: fx.GraphModule) -> None:
    """Raise ``ValueError`` if training, or a runtime's integers, would not do what a node says."""
    for node in traced.graph.nodes:
        name = _name(node, traced)
        if name in CUTS_OFF:
            raise ValueError(
                f"{node.name!r} cuts off at two ends ({name}): ONNX Runtime merges that with the"
                " layer before, and then rounds otherwise than in training. Use a ReLU."
            )
        if name.startswith("dropout") and node.op != "call_module":
            raise ValueError(
                f"{node.name!r} is a function, which would stay off in training. Make it a layer,"
                " nn.Dropout."
            )


def round_biases_(model: fx.GraphModule) -> None:
    """Round each bias to multiples of the step of what it is added to in a kernel for bytes."""
    for node in model.graph.nodes:
        layer = model.get_submodule(node.target) if node.op == "call_module" else None
        grid = vars(layer).get("quantized_weight") if layer is not None else None
        if layer is None or grid is None or layer.bias is None:
            continue
        (source,) = node.all_input_nodes
        while _name(source, model) in MOVES_VALUES:
            source = source.all_input_nodes[0]  # the others are sizes
        step = float(model.get_submodule(source.target).positive_step.detach())  # type: ignore[operator]
        bias: Tensor = layer.bias.detach()  # type: ignore[operator]
        grid = _make_room(grid, bias / step)
        remember_grid_(layer, grid)
        layer.bias = nn.Parameter(quantize_bias(bias, step, spread_integers(grid)).dequantize())


def _make_room(grid: QuantizedTensor, bias: Tensor) -> QuantizedTensor:
    """Return weights with steps so large that 32 bits hold the biases beside the sums.

    The weights of a channel that training has all but switched off have tiny steps. They become 0
    then, or nearly so.

    Args:
        grid: Weights with a step for each channel.
        bias: Divided by the step of the layer's input.
    """
    factor = grid.scale / spread_integers(grid).scale
    least = factor * bias.abs().view_as(grid.scale) / LARGEST_BIAS
    scale = torch.maximum(grid.scale, least)
    integers = torch.round(grid.integers * (grid.scale / scale)).int()
    return QuantizedTensor(integers, scale, grid.zero_point, grid.bits)


@torch.no_grad()
def _observe(traced: fx.GraphModule, images: np.ndarray) -> dict[fx.Node, Tensor]:
    """Return what each tensor that has to be rounded holds over some images: (n, ...).

    Raises:
        ValueError: The model does not take these images.
    """
    seen: dict[fx.Node, Tensor] = {}

    class Watch(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            value = super().run_node(node)
            if isinstance(value, Tensor) and _has_to_be_rounded(node, traced):
                seen[node] = value.clone()  # the next layer may overwrite it
            return value

    try:
        Watch(traced).run(torch.from_numpy(images[:OBSERVED_IMAGES]))
    except RuntimeError as error:
        raise calibrate.refuse_images(images, error) from None
    return seen


def _has_to_be_rounded(node: fx.Node, traced: fx.GraphModule) -> bool:
    """Return whether a runtime that computes with integers writes a node's values to memory.

    A convolution, its batch norm and the ReLU after it are one: only what comes last is written.
    """
    if node.op in ("output", "get_attr") or _name(node, traced) in MOVES_VALUES:
        return False
    return not all(_name(user, traced) == "relu" or find_pair(user, traced) for user in node.users)


def _name(node: fx.Node, traced: fx.GraphModule) -> str:
    """Return what a node does: "relu" for the layer, the function and the method."""
    if node.op == "call_module":
        return type(traced.get_submodule(str(node.target))).__name__.lower()
    return str(getattr(node.target, "__name__", node.target))


def _readers(node: fx.Node, traced: fx.GraphModule) -> list[fx.Node]:
    """Return who reads a node's values, moved or not."""
    found = []
    for user in node.users:
        moves = _name(user, traced) in MOVES_VALUES
        found += _readers(user, traced) if moves else [user]
    return found
