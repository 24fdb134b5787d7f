"""Structured pruning of depth: the branch of a residual block goes, its shortcut stays."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import fx, nn

from course_utils.prune.groups import ADDING
from course_utils.quantize.folding import trace


@dataclass(frozen=True)
class _Block:
    """A residual block: its addition, the term of it that can stay alone, the branch's layers."""

    addition: fx.Node
    shortcut: fx.Node
    layers: tuple[str, ...]  # of the branch, then those of the shortcut


def find_blocks(model: nn.Module) -> list[str]:
    """Return the names of the residual blocks, in the order in which they run.

    A block ends with the addition of a shortcut and a branch that has more layers with weights. Its
    name is that of the module that holds both; without one, that of the branch's first layer.

    Raises:
        ValueError: The model cannot be traced.
    """
    return list(_find_blocks(trace(model)))


def remove_blocks(model: nn.Module, names: Iterable[str]) -> fx.GraphModule:
    """Return a copy without the branches of these residual blocks.

    What a block adds to its shortcut is gone; the shortcut stays, and so does what follows the
    addition. Networks with residuals survive that: each block refines what it gets (Veit et al.,
    2016, arXiv 1605.06431). The layers that are left keep their names and weights; a dropout that
    is a function, not a layer, stays switched off.

    Args:
        model: With residual blocks; see ``find_blocks``.
        names: Of the blocks.

    Raises:
        ValueError: There is no such block, or the model cannot be traced.
    """
    if isinstance(names, str):
        names = [names]
    traced = trace(model)
    blocks = _find_blocks(traced)
    for name in dict.fromkeys(names):
        if name not in blocks:
            there = f"there are {list(blocks)}" if blocks else "the model has none"
            raise ValueError(f"{name!r} is no residual block whose branch can go; {there}.")
        block = blocks[name]
        # of blocks without anything between them, one's shortcut is the other's addition
        block.addition.replace_all_uses_with(block.shortcut)
        blocks = {
            other: replace(left, shortcut=block.shortcut)
            if left.shortcut is block.addition
            else left
            for other, left in blocks.items()
        }
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.train(model.training)


def _find_blocks(traced: fx.GraphModule) -> dict[str, _Block]:
    blocks: list[_Block] = []
    for node in traced.graph.nodes:
        called = getattr(node.target, "__name__", str(node.target))
        terms = node.all_input_nodes
        if called not in ADDING or len(terms) != 2 or len(node.args) != 2:
            continue
        ways = [_go_back(term) for term in terms]
        fork = next((place for place in ways[0] if place in ways[1]), None)
        if fork is None:
            continue
        layers = [_list_layers(way[: way.index(fork)], traced) for way in ways]
        branch = 0 if len(layers[0]) > len(layers[1]) else 1
        if len(layers[0]) != len(layers[1]):
            both = (*layers[branch], *layers[1 - branch])
            blocks.append(_Block(node, terms[1 - branch], both))
    every = [layer for block in blocks for layer in block.layers]
    return {_name_block(block.layers, every): block for block in blocks}


def _go_back(node: fx.Node) -> list[fx.Node]:
    """Return a node and those before it, as far as each has one input."""
    chain = [node]
    while len(chain[-1].all_input_nodes) == 1:
        chain += chain[-1].all_input_nodes
    return chain


def _list_layers(chain: list[fx.Node], traced: fx.GraphModule) -> list[str]:
    """Return the layers with weights that are called on a way, the first one first."""
    called = [str(node.target) for node in reversed(chain) if node.op == "call_module"]
    return [name for name in called if [*traced.get_submodule(name).parameters()]]


def _name_block(layers: Sequence[str], of_all_blocks: Sequence[str]) -> str:
    """Return the innermost module that holds these layers and no other block's, or the first."""
    shared = layers[0].split(".")
    for layer in layers:
        parts = layer.split(".")
        while shared != parts[: len(shared)]:
            shared.pop()
    name = ".".join(shared)
    inside = [layer for layer in of_all_blocks if f"{layer}.".startswith(f"{name}.")]
    return name if shared and len(inside) == len(layers) else layers[0]
