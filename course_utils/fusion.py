"""What a runtime makes of a graph: which operators of a file one kernel computes, level by level.

ONNX Runtime rewrites a graph when it loads. *Basic*: folds constants and takes out what changes
nothing. *Extended*: one kernel for several operators, e.g. a convolution and the ReLU behind it.
*All*: also lays memory out as the kernels like it, which lets a convolution add and clip as well.
"""

import html
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import onnx
from onnx import helper

from course_utils.runtimes import load
from course_utils.runtimes.export import Level, find_level, open_session, unpack

SHOWN = 14  # operators of a file that a view shows, unless told otherwise
LAYOUTS = ("ReorderInput", "ReorderOutput", "Transpose")  # compute nothing, only move
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger")
MOVED = "_nchwc"  # ends the name of a node for another layout; before it stands a tensor's name
LEFT = "style='text-align: left'"
BOXED = "style='text-align: left; vertical-align: middle; border: 1px solid gray'"


@dataclass(frozen=True)
class Operator:
    """An operator of a file.

    Attributes:
        label: Its kind, and what is worth knowing: the size of a kernel, what else it reads.
        has_weights: Whether it has inputs that are constants of more than one number.
        inputs: Numbers of the operators that it reads.
    """

    label: str
    has_weights: bool
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Kernel:
    """One node of the graph that runs.

    Attributes:
        label: Its kind, as the runtime names it, and what is worth knowing.
        operators: Numbers of the file's operators that it computes; none if it was put in.
        follows: Number of the last operator that is computed before it.
    """

    label: str
    operators: tuple[int, ...]
    follows: int


@dataclass(frozen=True, repr=False)
class Fusion:
    """The operators of a file, and the kernels that compute them at each level.

    Attributes:
        operators: In the file's order.
        levels: The kernels that run, by level.
        shown: How many operators the view shows.
    """

    operators: Sequence[Operator]
    levels: Mapping[Level, Sequence[Kernel]]
    shown: int

    def kernel_of(self, level: Level, operator: int) -> Kernel | None:
        """Return the kernel that computes an operator, given by number; None: it was taken out."""
        found = (kernel for kernel in self.levels[level] if operator in kernel.operators)
        return next(found, None)

    def cells(self, level: Level) -> list[tuple[str, int]]:
        """Return what stands in a level's column: words, and over how many operators they reach."""
        found = [self.kernel_of(level, number) for number in range(len(self.operators))]
        begins = [
            n for n, one in enumerate(found) if n == 0 or one is None or one is not found[n - 1]
        ]
        cells = []
        for begin, end in pairwise([*begins, len(found)]):
            if begin >= self.shown:
                break
            words = [_tell(found[begin], begin)]
            words += [
                k.label for k in self.levels[level] if not k.operators and begin <= k.follows < end
            ]
            cells.append((" + ".join(words), min(end, self.shown) - begin))
        return cells

    def __repr__(self) -> str:
        columns = [self._column(level) for level in self.levels]
        names = [f"{number} {one.label}" for number, one in enumerate(self.operators[: self.shown])]
        rows = [["in the file", *self.levels], *map(list, zip(names, *columns, strict=True))]
        rows.append(self._totals())
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([*lines, self._note()])

    def _column(self, level: Level) -> list[str]:
        """Return a level's column as text: the words, and a line along what they reach over."""
        return [
            words if row == 0 else "│" for words, rows in self.cells(level) for row in range(rows)
        ]

    def _totals(self) -> list[str]:
        counts = [str(len(kernels)) for kernels in self.levels.values()]
        return [f"all {len(self.operators)}", *counts]

    def _note(self) -> str:
        left = len(self.operators) - self.shown
        more = f"{left} more operators are not shown. " if left > 0 else ""
        return (
            f"{more}A cell is a kernel; it computes the operators of the rows that it reaches over."
        )

    def _repr_html_(self) -> str:
        columns = {level: self.cells(level) for level in self.levels}
        starts: dict[int, list[str]] = defaultdict(list)
        for cells in columns.values():
            row = 0
            for words, rows in cells:
                starts[row].append(_cell(words, rows))
                row += rows
        shown = self.operators[: self.shown]
        lines = [
            f"<tr>{_cell(f'{number} {one.label}')}{''.join(starts[number])}</tr>"
            for number, one in enumerate(shown)
        ]
        head = "".join(f"<th scope='col' {LEFT}>{name}</th>" for name in ("in the file", *columns))
        totals = "".join(f"<td {LEFT}><b>{total}</b></td>" for total in self._totals())
        body = f"{''.join(lines)}<tr>{totals}</tr>"
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"<p>{html.escape(self._note())}</p>"
        )


def _cell(words: str, rows: int = 1) -> str:
    return f"<td rowspan='{rows}' {BOXED}>{html.escape(words)}</td>"


def _tell(kernel: Kernel | None, number: int) -> str:
    if kernel is None:
        return "–"
    first = min(kernel.operators)
    return kernel.label if number == first else f"… with {first}"


def find_fusion(
    content: bytes,
    levels: Sequence[Level] = ("basic", "extended", "all"),
    shown: int = SHOWN,
) -> Fusion:
    """Return which kernels compute the operators of a file, at each level of optimisation.

    A kernel is found by the names that it keeps, of a node or of the tensor that it writes. What
    is left belongs to the kernel behind it as long as that has no weights yet, else to the one
    before it: a kernel multiplies by one operator's weights.

    Args:
        content: An ONNX file in float32.
        levels: See ``runtimes.load``.
        shown: How many operators the view shows, from the first.

    Raises:
        ValueError: There is no such level, nothing would be shown, ONNX Runtime cannot run this
            file, or it is a quantized one.
    """
    if shown < 1:
        raise ValueError(f"Show at least one operator; shown={shown} was given.")
    levels = [find_level(level) for level in levels]
    load(content)  # says what is wrong with a file that does not run
    file = unpack(content)
    graph = file.graph
    if any(node.op_type in QUANTIZED for node in graph.node):
        raise ValueError(
            "This file is quantized: its kernels take in rounding operators too. Look at the file"
            " in fp32, and at runner.operators for what runs in int8."
        )
    for number, node in enumerate(graph.node):  # kernels keep names, which a file may lack
        node.name = node.name or f"operator {number}"
    operators = _describe_operators(graph)
    kernels = {level: _find_kernels(graph, operators, _optimise(file, level)) for level in levels}
    return Fusion(operators, kernels, shown)


def _optimise(model: onnx.ModelProto, level: Level) -> onnx.GraphProto:
    """Return the graph that runs at a level."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimised.onnx"
        open_session(model, optimise=level, optimised_file=file)
        return onnx.load(file, load_external_data=False).graph


def _describe_operators(graph: onnx.GraphProto) -> list[Operator]:
    producer = {name: n for n, node in enumerate(graph.node) for name in node.output}
    constants = {  # real numbers: a shape is no weight
        one.name
        for one in graph.initializer
        if one.data_type == onnx.TensorProto.FLOAT and any(size > 1 for size in one.dims)
    }
    described = []
    for number, node in enumerate(graph.node):
        inputs = tuple(producer[name] for name in node.input if name in producer)
        others = [one for one in inputs if one != number - 1]
        label = _tell_kind(node) + (f", reads {' and '.join(map(str, others))}" if others else "")
        described.append(Operator(label, not constants.isdisjoint(node.input), inputs))
    return described


def _tell_kind(node: onnx.NodeProto) -> str:
    """Return an operator's kind; of a convolution also its size, and whether it is depthwise."""
    told = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    words = node.op_type
    if node.domain.endswith("nchwc") and node.op_type == "Conv":
        return f"{words}, channels in blocks"
    if not node.domain and node.op_type == "Conv":
        size = "×".join(map(str, told.get("kernel_shape", [])))  # may be left to the weights
        words += f" {size}" if size else ""
        words += " depthwise" if told.get("group", 1) > 1 else ""
    return words


def _find_kernels(
    graph: onnx.GraphProto, operators: Sequence[Operator], running: onnx.GraphProto
) -> list[Kernel]:
    """Return the nodes of the graph that runs, each with the operators that it computes."""
    producer = {name: n for n, node in enumerate(graph.node) for name in node.output}
    named = {node.name: n for n, node in enumerate(graph.node)}
    computed: dict[int, int] = {}  # the node, by operator
    nodes = list(enumerate(running.node))
    for k, node in nodes:
        if (
            node.name.endswith(MOVED)
            and (n := producer.get(node.name.removesuffix(MOVED))) is not None
        ):
            computed.setdefault(n, k)
    for k, node in nodes:
        if node.name in named:
            computed.setdefault(named[node.name], k)
    for k, node in nodes:
        if node.op_type in LAYOUTS:
            continue
        for n in (producer[name] for name in node.output if name in producer):
            computed.setdefault(n, k)
    for k, _ in nodes:
        _take_from_behind(k, computed, operators)
    for n, operator in enumerate(operators):
        before = [computed[one] for one in operator.inputs if one in computed]
        if n not in computed and before:
            computed[n] = max(before)
    kernels, latest = [], 0
    for k, node in nodes:
        mine = tuple(sorted(n for n, one in computed.items() if one == k))
        latest = max((latest, *mine))
        kernels.append(Kernel(_tell_kind(node), mine, latest))
    return kernels


def _take_from_behind(kernel: int, computed: dict[int, int], operators: Sequence[Operator]) -> None:
    """Give a kernel without weights the operators that it must have taken in, up to weights."""
    mine = [n for n, one in computed.items() if one == kernel]
    while mine and not any(operators[n].has_weights for n in mine):
        more = [n for one in mine for n in operators[one].inputs if n not in computed]
        if not more:
            return
        computed.update(dict.fromkeys(more, kernel))
        mine += more
