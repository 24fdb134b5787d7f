"""Which channels of a network can only be cut together.

A layer's output channel is another layer's input; a batch norm scales it in between; an addition
makes the channels of its terms one. All that is found by following a network's calls from its
input to its logits, with no image (Fang et al., 2023, arXiv 2301.12900, do it for any network).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx, nn

from course_utils.quantize.folding import trace

KEEPING = (
    nn.ReLU, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Dropout2d,
    nn.Identity,
)  # fmt: skip  # layers that treat each channel alone, and make zeros of zeros
KEEPING_FUNCTIONS = (
    "relu", "relu_", "avg_pool2d", "max_pool2d", "adaptive_avg_pool2d", "dropout",
)  # fmt: skip
ADDING = ("add", "add_", "iadd")
SHAPES = ("size", "getattr", "getitem")  # of calls that ask a tensor for its shape


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only be cut together.

    Attributes:
        name: The first layer that writes them.
        channels: How many there are.
        writers: Convolutions and linear layers whose outputs they are.
        depthwise: Depthwise convolutions, which read and write them one by one.
        norms: Batch norms in between.
        readers: Convolutions and linear layers whose inputs they are, and how many inputs belong
            to one channel: as many as there were places, for a linear layer behind a flatten.
        last: Those of the writers, depthwise convolutions and norms whose outputs are read or
            added.
    """

    name: str
    channels: int
    writers: tuple[str, ...]
    depthwise: tuple[str, ...]
    norms: tuple[str, ...]
    readers: Mapping[str, int]
    last: tuple[str, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers that have something of each of these channels at their output."""
        return self.writers + self.depthwise + self.norms


def find_groups(model: nn.Module) -> dict[str, ChannelGroup]:
    """Return the groups of channels that can be cut, by name, in the order in which they run.

    The channels of the network's input and of its output (the logits) are not among them.

    Raises:
        ValueError: The model cannot be traced, or has a layer or a call of which it is not known
            what it does to channels; it is named.
    """
    return _Finder(trace(model)).find()


@dataclass(frozen=True)
class _Flow:
    """What a call returns: which channels, how they lie, and the layer that wrote them last."""

    space: int
    layout: str  # "map": (n, c, h, w), "flat": (n, c * h * w), "vector": (n, ..., c), "any"
    last: str | None = None


class _Finder:
    """Follows a traced network's calls; a space is a set of channels before others join it."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced = traced
        self.flows: dict[fx.Node, _Flow] = {}
        self.parents: list[int] = []  # of each space: itself, or one that it was joined to
        self.counts: list[int | None] = []
        self.kept_whole: list[int] = []  # spaces of inputs and outputs
        self.written: dict[str, int] = {}  # the space that a layer writes
        self.depthwise: dict[str, int] = {}
        self.norms: dict[str, int] = {}
        self.read: dict[str, tuple[int, int]] = {}  # the space, inputs for each channel
        self.last: set[str] = set()
        self.owners: dict[int, str] = {}  # the layer of a weight, by the weight's id

    def find(self) -> dict[str, ChannelGroup]:
        """Return the groups that can be cut."""
        for node in self.traced.graph.nodes:
            flow = self.follow(node)
            if flow is not None:
                self.flows[node] = flow
        whole = {self.root(space) for space in self.kept_whole}
        roots = {self.root(space): None for space in self.written.values()}
        groups = [self.gather(root) for root in roots if root not in whole]
        return {group.name: group for group in groups}

    def gather(self, root: int) -> ChannelGroup:
        """Return the group of a space and all that were joined to it."""

        def of(found: Mapping[str, int]) -> tuple[str, ...]:
            return tuple(name for name, space in found.items() if self.root(space) == root)

        writers, depthwise, norms = of(self.written), of(self.depthwise), of(self.norms)
        readers = {name: per for name, (at, per) in self.read.items() if self.root(at) == root}
        last = tuple(name for name in writers + depthwise + norms if name in self.last)
        channels = self.counts[root] or 0
        return ChannelGroup(writers[0], channels, writers, depthwise, norms, readers, last)

    def follow(self, node: fx.Node) -> _Flow | None:
        """Return what a call returns; None for what is no activation."""
        if node.op == "placeholder":
            space = self.add_space(None)
            self.kept_whole.append(space)
            return _Flow(space, "any")
        sources = [self.flows[source] for source in node.all_input_nodes if source in self.flows]
        if node.op == "output":
            self.kept_whole += [self.use(source).space for source in sources]
            return None
        if node.op == "call_module" and len(sources) == 1:
            return self.call_layer(node, sources[0])
        called = _called(node)
        if not sources and called in SHAPES:
            return None
        if called == "size" or (called == "getattr" and node.args[1] == "shape"):
            return None
        flow = self.call_function(node, called, sources)
        if flow is None:
            raise _refuse(node, None)
        return flow

    def call_function(self, node: fx.Node, called: str, sources: Sequence[_Flow]) -> _Flow | None:
        """Return what a function returns; None if that is not known."""
        terms = [self.flows.get(term) for term in node.args[:2] if isinstance(term, fx.Node)]
        if called in ADDING and len(terms) == 2 and terms[0] and terms[1]:
            return self.join(node, terms[0], terms[1])
        if len(sources) != 1 or not terms or terms[0] is None:
            return None
        (flow,) = sources
        is_map = flow.layout in ("map", "any")
        if called in KEEPING_FUNCTIONS and (is_map or "pool" not in called):
            return flow
        if called == "mean" and is_map:
            dims = _argument(node, 1, "dim", None)
            if isinstance(dims, tuple | list) and sorted(dim % 4 for dim in dims) == [2, 3]:
                layout = "map" if _argument(node, 2, "keepdim", False) else "vector"
                return _Flow(flow.space, layout, flow.last)
        dims = (_argument(node, 1, "start_dim", 0), _argument(node, 2, "end_dim", -1))
        if called == "flatten" and dims == (1, -1):
            return _flatten(flow)
        is_flattening = node.args[2:] == (-1,) and _is_batch_size(node.args[1])
        return _flatten(flow) if called in ("view", "reshape") and is_flattening else None

    def call_layer(self, node: fx.Node, flow: _Flow) -> _Flow:
        name = str(node.target)
        layer = self.traced.get_submodule(name)
        if nn.utils.parametrize.is_parametrized(layer) or "quantized_weight" in vars(layer):
            raise ValueError(
                f"Layer {name!r} has weights that are held or rounded: prune.release_zeros comes"
                " before channels are cut, quantizing after it."
            )
        weight = getattr(layer, "weight", None)
        owner = name if weight is None else self.owners.setdefault(id(weight), name)
        if owner != name:
            raise ValueError(
                f"Layers {owner!r} and {name!r} share their weights, so their channels cannot be"
                " cut: give each its own."
            )
        if isinstance(layer, nn.Linear) and flow.layout != "map":
            self.note_read(name, layer.in_features, flow)
            return _Flow(self.note_written(name, layer.out_features), "vector", name)
        is_map = flow.layout in ("map", "any")
        if isinstance(layer, nn.Conv2d) and is_map and layer.groups == 1:
            self.note_read(name, layer.in_channels, flow)
            return _Flow(self.note_written(name, layer.out_channels), "map", name)
        if isinstance(layer, nn.Conv2d) and is_map and _is_depthwise(layer):
            self.note_within(self.depthwise, name, layer.in_channels, flow)
            return _Flow(flow.space, "map", name)
        if isinstance(layer, nn.BatchNorm2d) and is_map:
            self.note_within(self.norms, name, layer.num_features, flow)
            return _Flow(flow.space, "map", name)
        if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) == (1, -1):
            return _flatten(flow)
        if isinstance(layer, KEEPING) and (is_map or not _is_pooling(layer)):
            return flow
        raise _refuse(node, layer)

    def note_read(self, name: str, inputs: int, flow: _Flow) -> None:
        space = self.use(flow).space
        count = self.counts[self.root(space)]
        per_channel = inputs // count if count and flow.layout == "flat" else 1
        if count is not None and per_channel * count != inputs:
            raise ValueError(f"Layer {name!r} reads {inputs} inputs, but gets {count} channels.")
        if name in self.read:  # called before: it reads the same channels of both
            self.unite(name, space, self.read[name][0])
            if self.read[name][1] != per_channel:
                raise ValueError(f"Layer {name!r} is called with flattened and other inputs.")
        self.read[name] = (space, per_channel)

    def note_written(self, name: str, channels: int) -> int:
        if name not in self.written:
            self.written[name] = self.add_space(channels)
        return self.written[name]

    def note_within(self, found: dict[str, int], name: str, channels: int, flow: _Flow) -> None:
        self.unite(name, flow.space, self.add_space(channels))
        self.unite(name, flow.space, found.setdefault(name, flow.space))

    def join(self, node: fx.Node, first: _Flow, second: _Flow) -> _Flow:
        """Return the sum of two terms, whose channels become one group."""
        layouts = {first.layout, second.layout} - {"any"}
        if len(layouts) > 1:
            raise ValueError(f"{node.name!r} adds activations of shapes that differ.")
        self.unite(node.name, self.use(first).space, self.use(second).space)
        return _Flow(first.space, layouts.pop() if layouts else "any")

    def use(self, flow: _Flow) -> _Flow:
        """Note that the layer that wrote these channels last is the last before they are used."""
        if flow.last is not None:
            self.last.add(flow.last)
        return flow

    def add_space(self, channels: int | None) -> int:
        self.parents.append(len(self.parents))
        self.counts.append(channels)
        return len(self.parents) - 1

    def root(self, space: int) -> int:
        while self.parents[space] != space:
            space = self.parents[space]
        return space

    def unite(self, what: str, first: int, second: int) -> None:
        """Let two spaces be one."""
        first, second = self.root(first), self.root(second)
        counts = {self.counts[first], self.counts[second]} - {None}
        if len(counts) > 1:
            one, other = counts
            raise ValueError(f"{what!r} couples {one} channels with {other}: it needs as many.")
        self.parents[second] = first
        self.counts[first] = counts.pop() if counts else None


def _flatten(flow: _Flow) -> _Flow:
    return _Flow(flow.space, "flat" if flow.layout == "map" else flow.layout, flow.last)


def _is_pooling(layer: nn.Module) -> bool:
    return isinstance(layer, nn.AvgPool2d | nn.MaxPool2d | nn.AdaptiveAvgPool2d)


def _is_depthwise(layer: nn.Conv2d) -> bool:
    return layer.groups == layer.in_channels == layer.out_channels


def _is_batch_size(argument: object) -> bool:
    """Whether an argument is ``x.size(0)`` or ``x.shape[0]``."""
    if not isinstance(argument, fx.Node) or _called(argument) not in ("size", "getitem"):
        return False
    return argument.args[1:] == (0,)


def _called(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target))


def _argument(node: fx.Node, place: int, name: str, default: object) -> object:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _refuse(node: fx.Node, layer: nn.Module | None) -> ValueError:
    if node.op == "call_module":
        what = f"layer {node.target!r}, a {type(layer).__name__},"
    elif node.op == "get_attr":
        what = f"{node.target!r}, a tensor that is used outside of a layer,"
    else:
        what = f"{node.name!r}, a call of {_called(node)!r},"
    return ValueError(
        f"It is not known what {what} does to channels, so they cannot be cut. Known are"
        " convolutions (plain or depthwise), linear layers, batch norms, ReLUs, additions of two"
        " activations, pooling, the mean over rows and columns, flatten(1) and dropout."
    )
