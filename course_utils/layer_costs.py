"""What a network costs on paper, layer by layer: multiply-adds, parameters, bytes.

A multiply-accumulate (MAC) is one product added to a sum; it counts as two floating-point
operations (FLOP), as in the literature on rooflines. Convolutions and fully connected layers
have one for each weight that goes into an output value, those that meet a padding's zeros
included; a batch norm has one for each value. Additions, ReLUs, means, pooling and the adding of
a bias are no multiply-adds and count 0, but the bytes that they move are counted.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, fx, nn

FLOP_PER_MAC = 2
BYTES_PER_BIAS = 4  # float32, and int32 in int8 arithmetic; so are the numbers of a batch norm

LAYERS: dict[type[nn.Module], str] = {
    nn.Conv2d: "convolution", nn.Linear: "linear", nn.BatchNorm2d: "batch norm", nn.ReLU: "relu",
    nn.AvgPool2d: "pooling", nn.MaxPool2d: "pooling", nn.AdaptiveAvgPool2d: "pooling",
    nn.Flatten: "view", nn.Identity: "view", nn.Dropout: "view",
}  # fmt: skip
FUNCTIONS = {
    "relu": "relu", "relu_": "relu", "add": "add", "add_": "add", "iadd": "add", "mean": "mean",
    "flatten": "view", "reshape": "view", "view": "view", "dropout": "view",
}  # fmt: skip
ELEMENTWISE = ("relu", "add", "batch norm")  # can write over what they read


@dataclass(frozen=True)
class LayerCost:
    """What one call of a layer costs, for the whole batch.

    Attributes:
        name: Of the module, e.g. "block1.conv1"; of a function "relu", "add_1", ...
        kind: "convolution", "linear", "batch norm", "relu", "add", "mean" or "pooling".
        macs: Multiply-accumulates.
        parameters: How many it adds to the model: 0 if a call before used the same.
        weight_bytes: Of weights, biases and a batch norm's statistics, read in every call.
        input_bytes: Of the activations that it reads; a stride can leave out some of them.
        output_bytes: Of the activations that it writes.
        live_bytes: Of all activations that have to exist while it runs.
    """

    name: str
    kind: str
    macs: int
    parameters: int
    weight_bytes: int
    input_bytes: int
    output_bytes: int
    live_bytes: int

    @property
    def flop(self) -> int:
        """Floating-point (or integer) operations: two a multiply-accumulate."""
        return FLOP_PER_MAC * self.macs

    @property
    def bytes_moved(self) -> int:
        """A lower bound: what is needed is read once, the output written once, nothing else.

        A kernel that reads its input again, or copies it into another order, moves more. One that
        is fused with the layer before it does not move what they hand over.
        """
        return self.weight_bytes + self.input_bytes + self.output_bytes

    @property
    def flop_per_byte(self) -> float:
        """Arithmetic intensity: operations for each byte moved, an upper bound."""
        return self.flop / self.bytes_moved


@dataclass(frozen=True)
class ModelCosts:
    """The costs of all calls of a model's layers, in the order in which they run.

    Attributes:
        layers: One for each call.
        weight_bytes: Of all weights, each stored once, however often it is used.
    """

    layers: Sequence[LayerCost]
    weight_bytes: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the batch."""
        return sum(layer.macs for layer in self.layers)

    @property
    def flop(self) -> int:
        """Operations of the batch: two a multiply-accumulate."""
        return sum(layer.flop for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Parameters of the layers, each counted once."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def bytes_moved(self) -> int:
        """Of all layers, if none is fused with another; else a lower bound, as for a layer."""
        return sum(layer.bytes_moved for layer in self.layers)

    @property
    def flop_per_byte(self) -> float:
        """Arithmetic intensity of the model, none of its layers fused."""
        return self.flop / self.bytes_moved

    @property
    def peak_activation_bytes(self) -> int:
        """Of the activations that have to exist at once, where most of them do.

        The layers run one by one, an activation is forgotten after its last reader, and ReLUs,
        additions and batch norms write over an input that nobody reads after them.
        """
        return max(layer.live_bytes for layer in self.layers)


def count_costs(
    model: nn.Module,
    images: np.ndarray,
    *,
    bytes_per_weight: float = 4,
    bytes_per_activation: float = 4,
) -> ModelCosts:
    """Count what a model costs for a batch of images.

    It runs once, in evaluation mode. Batch norms are counted as they stand in the model; most
    runtimes fold them into the convolutions, so ``quantize.fold_batch_norms`` comes first where
    the costs of what really runs are wanted.

    Args:
        model: Built of the layers and functions that this module lists.
        images: A batch (n, ...) float32.
        bytes_per_weight: 4 for float32, 1 for int8, 0.5 for int4; biases and batch norms have 4.
        bytes_per_activation: 4 for float32, 1 for int8.

    Raises:
        ValueError: The model does not accept these images, cannot be traced, or has a layer whose
            multiply-adds cannot be counted; the layer is named.
    """
    if not (bytes_per_weight > 0 and bytes_per_activation > 0):
        raise ValueError(
            f"A weight of {bytes_per_weight} bytes or an activation of {bytes_per_activation} bytes"
            " cannot be; give numbers above 0."
        )
    if len(images) == 0:
        raise ValueError("There are no images in this batch; give one or more.")
    model = copy.deepcopy(model).eval()
    batch = torch.from_numpy(images)
    try:
        with torch.inference_mode():
            model(batch)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"The model does not accept {images.dtype} images of shape {images.shape}: {error}"
        ) from None
    try:
        is_single = isinstance(model, tuple(LAYERS))  # would be traced into its own insides
        traced = fx.symbolic_trace(nn.Sequential(model) if is_single else model)
    except Exception as error:  # fx has many, one for each thing that it cannot follow
        raise ValueError(
            f"The model cannot be traced, so its layers cannot be counted: {error}. Its forward"
            " must not branch on the values of tensors."
        ) from None
    counter = _Counter(traced, bytes_per_weight, bytes_per_activation)
    with torch.inference_mode():
        counter.run(batch)
    return ModelCosts(counter.list_costs(), counter.stored_bytes)


class _Counter(fx.Interpreter):
    """Runs a traced model call by call and notes what each one costs."""

    def __init__(self, traced: fx.GraphModule, per_weight: float, per_activation: float) -> None:
        super().__init__(traced)
        self.extra_traceback = False
        self.per_weight, self.per_activation = per_weight, per_activation
        self.costs: dict[fx.Node, LayerCost] = {}  # their live_bytes are known at the end
        self.home: dict[fx.Node, fx.Node] = {}  # whose memory a tensor lies in: views share it
        self.size: dict[fx.Node, int] = {}  # bytes of an activation
        self.stored: dict[int, Tensor] = {}  # by id; holding them keeps the ids from being reused
        self.stored_bytes = 0

    def run_node(self, n: fx.Node) -> object:
        """Run one call and note its costs."""
        inputs = {
            node: self.env[node] for node in n.all_input_nodes if isinstance(self.env[node], Tensor)
        }
        result = super().run_node(n)
        if n.op == "output" or not isinstance(result, Tensor):  # a shape, for instance
            return result
        self.size[n] = self._activation_bytes(result.numel())
        shares = [node for node, tensor in inputs.items() if _memory(tensor) == _memory(result)]
        self.home[n] = self.home[shares[0]] if shares else n
        layer = self.module.get_submodule(str(n.target)) if n.op == "call_module" else None
        kind = "view" if n.op == "placeholder" else _find_kind(n, layer)
        if kind != "view":
            parameters, weight_bytes = self._count_weights(layer, kind) if layer else (0, 0)
            read = [_count_read(layer, tensor, result) for tensor in inputs.values()]
            self.costs[n] = LayerCost(
                name=str(n.target) if layer else n.name,
                kind=kind,
                macs=_count_macs(layer, result),
                parameters=parameters,
                weight_bytes=weight_bytes,
                input_bytes=self._activation_bytes(sum(read)),
                output_bytes=self.size[n],
                live_bytes=0,
            )
        return result

    def _activation_bytes(self, values: int) -> int:
        return math.ceil(values * self.per_activation)

    def _count_weights(self, layer: nn.Module, kind: str) -> tuple[int, int]:
        """Return a layer's parameters, those that were not seen before, and the bytes it reads."""
        new = [tensor for tensor in layer.parameters() if id(tensor) not in self.stored]
        read_bytes = 0
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensor = getattr(layer, name, None)
            if tensor is not None:
                is_weight = name == "weight" and kind != "batch norm"
                size = tensor.numel() * (self.per_weight if is_weight else BYTES_PER_BIAS)
                read_bytes += math.ceil(size)
                self.stored_bytes += 0 if id(tensor) in self.stored else math.ceil(size)
                self.stored[id(tensor)] = tensor
        return sum(tensor.numel() for tensor in new), read_bytes

    def list_costs(self) -> list[LayerCost]:
        """Return the costs of all calls, now that the last reader of each activation is known."""
        order = {node: place for place, node in enumerate(self.graph.nodes)}
        last_use = {home: order[home] for home in self.home.values()}
        for node, home in self.home.items():
            last_use[home] = max(last_use[home], *(order[at] for at in (node, *node.users)))
        costs = []
        for node, cost in self.costs.items():
            place = order[node]
            alive = [home for home, last in last_use.items() if order[home] <= place <= last]
            live_bytes = sum(self.size[home] for home in alive)
            sources = (self.home[source] for source in node.all_input_nodes if source in self.home)
            done = [self.size[home] for home in sources if last_use[home] == place]
            in_place = cost.kind in ELEMENTWISE and self.home[node] is node
            if in_place and cost.output_bytes in done:
                live_bytes -= cost.output_bytes
            costs.append(replace(cost, live_bytes=live_bytes))
        return costs


def _find_kind(node: fx.Node, layer: nn.Module | None) -> str:
    called = getattr(node.target, "__name__", str(node.target))
    if layer is not None:
        found = next((kind for of, kind in LAYERS.items() if isinstance(layer, of)), None)
        what = f"{node.target!r}, a {type(layer).__name__},"
    elif node.op == "get_attr":
        found, what = None, f"{node.target!r}, a tensor that is used outside of a layer,"
    else:
        found, what = FUNCTIONS.get(called), f"{node.name!r}, a call of {called!r},"
    if found is None:
        layers = ", ".join(of.__name__ for of in LAYERS)
        raise ValueError(
            f"It is not known how many multiply-adds {what} stands for. Known are the layers"
            f" {layers} and the functions {', '.join(FUNCTIONS)}."
        )
    return found


def _count_macs(layer: nn.Module | None, output: Tensor) -> int:
    if isinstance(layer, nn.Conv2d):
        return output.numel() * layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    return output.numel() if isinstance(layer, nn.BatchNorm2d) else 0


def _count_read(layer: nn.Module | None, tensor: Tensor, output: Tensor) -> int:
    """Return how many values of an input a layer needs: a stride can pass over some."""
    if not isinstance(layer, nn.Conv2d):
        return tensor.numel()
    needed = tensor.numel() // math.prod(tensor.shape[-2:])  # planes
    for axis in (0, 1):
        taps = [tap * layer.dilation[axis] for tap in range(layer.kernel_size[axis])]
        if isinstance(layer.padding, str):
            before = taps[-1] // 2 if layer.padding == "same" else 0
        else:
            before = layer.padding[axis]
        starts = [at * layer.stride[axis] - before for at in range(output.shape[axis - 2])]
        reached = {start + tap for start in starts for tap in taps}
        needed *= len(reached & set(range(tensor.shape[axis - 2])))
    return needed


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
