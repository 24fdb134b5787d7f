"""An integer network as one C file: no library, no allocation, no floating point.

The kernels stand in ``kernels.c``, as they are; around them go the weights as constants, the
buffers, and one function that calls the kernels in turn.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from course_utils.micro.arithmetic import LOWEST
from course_utils.micro.integers import (
    Addition,
    Convolution,
    IntegerNetwork,
    Linear,
    Mean,
    Operation,
    Tensor,
    WeightedOperation,
)
from course_utils.micro.memory import (
    BYTES_PER_SUM,
    count_pixels,
    count_scratch,
    plan_memory,
    round_up,
)

KERNELS = Path(__file__).with_name("kernels.c")
LINE_LENGTH = 98
LARGEST_FIELD = 2**16 - 1  # of a layer's fields in C
MOST_LANES = 64  # bytes of the widest vector registers
WEIGHT_TYPES = {1: ("int8_t", "uint8_t"), 2: ("int16_t", "int16_t")}  # and of what they multiply
STORED_SHIFT = 32  # less than a shift is, so that kernels shift the upper half of a product


def write_c(network: IntegerNetwork, name: str, *, lanes: int = 1, weight_bytes: int = 1) -> str:
    """Return a file in C99 whose function classifies an image, bit for bit as ``network.run``.

    ``int NAME_classify(const uint8_t pixels[], int32_t logits[])`` takes the pixels row by row,
    the channels of a pixel side by side, and returns the class with the largest logit. Its
    buffers are static: it needs no memory but these, and serves one call at a time.

    Args:
        network: See ``quantize_to_integers``.
        name: Begins the function's name.
        lanes: Rows of weights are filled up with zeros to a multiple of this. 1: the smallest file,
            for a microcontroller. 64: as long as the widest vector registers of a computer, so
            that its compiler needs no code for the rest of a row; it takes more memory.
        weight_bytes: 1, or 2 for a computer that multiplies and sums 16 bits, but no bytes, in one
            instruction: each weight then takes two, the same number in either.

    Raises:
        ValueError: The name is none in C, ``lanes`` is not from 1 to 64, ``weight_bytes`` is
            neither 1 nor 2, or a layer is too large.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ValueError(
            f"A name in C has letters, digits and _, a letter first; {name!r} is none."
        )
    if not 1 <= lanes <= MOST_LANES:
        raise ValueError(f"lanes={lanes} is no number from 1 to {MOST_LANES}.")
    if weight_bytes not in WEIGHT_TYPES:
        raise ValueError(f"A weight is stored in 1 or 2 bytes, not in {weight_bytes!r}.")
    for number, tensor in enumerate(network.tensors):
        if max(tensor.shape) > LARGEST_FIELD or np.prod(tensor.shape) >= 2**31:
            raise ValueError(f"Tensor {number} is too large for a microcontroller: {tensor.shape}.")
    writer = _Writer(network, lanes, weight_bytes)
    weight, operand = WEIGHT_TYPES[weight_bytes]
    constants = [writer.write_constants(place) for place in range(len(network.operations))]
    parts = [
        writer.introduce(name),
        "#include <stdint.h>\n",
        f"#define LANES {lanes}\n#define PIXELS {count_pixels(lanes)}\n",
        f"typedef {weight} weight;\ntypedef {operand} operand;\n",
        writer.declare_buffers(),
        *writer.choose_kernels(),
        *filter(None, constants),
        writer.write_function(name),
    ]
    return "\n".join(parts)


def read_kernels() -> dict[str, str]:
    """Return the parts of ``kernels.c`` by the name above each."""
    pieces = re.split(r"^/\* == (\w+) == \*/\n", KERNELS.read_text(encoding="utf-8"), flags=re.M)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def fold_zero_point(operation: WeightedOperation, zero_in: int) -> np.ndarray:
    """Return the bias for sums over a patch of unsigned bytes, each 128 more than a signed one.

    ``sum (q - zero) * w = sum (q + 128) * w - (zero + 128) * sum w``; the last part is constant.
    """
    weight = operation.weight.reshape(len(operation.weight), -1).astype(np.int64)
    folded: np.ndarray = operation.bias - (zero_in - LOWEST) * weight.sum(axis=1)
    return folded


class _Writer:
    """Writes the pieces of a C file."""

    def __init__(self, network: IntegerNetwork, lanes: int, weight_bytes: int) -> None:
        self.network, self.lanes, self.weight_bytes = network, lanes, weight_bytes
        self.plan = plan_memory(network, lanes)

    def introduce(self, name: str) -> str:
        """Return what a reader of the file should know."""
        rows, columns, channels = self.network.tensors[0].shape
        return (
            f"/* {name}: a network of whole numbers, written by course_utils.micro.\n\n"
            f"   Images of {rows} x {columns} x {channels}, {self.network.classes} classes."
            f" A logit of 1 stands for {self.network.logit_scale:.9g}.\n"
            f"   {self.plan.weight_bytes} bytes of constants; more where rows are filled up to"
            f" {self.lanes}, or a weight\n   takes {self.weight_bytes}. */\n"
        )

    def declare_buffers(self) -> str:
        """Return all the memory that the file needs."""
        patch, sum_bytes = count_scratch(self.network, self.lanes)
        buffers = [f"static int8_t activations[{self.plan.activation_bytes}];"]
        if patch:
            buffers.append(
                f"static operand patch[PIXELS][{patch}]; /* what meets a row of weights */"
            )
        if sum_bytes:
            count = sum_bytes // BYTES_PER_SUM
            buffers.append(
                f"static int32_t sums[PIXELS][{count}]; /* of products, one an output */"
            )
        return "\n".join(buffers) + "\n"

    def choose_kernels(self) -> list[str]:
        """Return the kernels that this network calls, and what they call."""
        wanted = {"head"}.union(*map(_find_kernels, self.network.operations))
        return [text.strip() + "\n" for part, text in read_kernels().items() if part in wanted]

    def write_constants(self, place: int) -> str:
        """Return weights and layer of an operation; of one without weights, nothing."""
        operation = self.network.operations[place]
        if not isinstance(operation, WeightedOperation):
            return ""
        source, target = self._find_tensors(operation)
        count, room = len(operation.weight), self.lanes - 1
        if _is_depthwise(operation):
            weights = operation.weight.transpose(1, 2, 0, 3).reshape(-1, count)  # (taps, channels)
            bias = np.pad(operation.bias, (0, round_up(count, self.lanes) - count))
        else:
            weights = operation.weight.reshape(count, -1)  # (outputs, inputs)
            bias = fold_zero_point(operation, source.zero_point)
        row = round_up(weights.shape[1], self.lanes)
        arrays = {
            ("weight", "weights"): np.pad(weights, ((0, 0), (0, row - weights.shape[1]))).ravel(),
            ("int32_t", "bias"): bias,
            ("int32_t", "multipliers"): np.pad(operation.multiplier, (0, room)),
            ("uint8_t", "shifts"): np.pad(
                operation.shift - STORED_SHIFT, (0, room), constant_values=1
            ),
        }
        name = _name(place, operation)
        lines = [_write_array(kind, f"{name}_{of}", a) for (kind, of), a in arrays.items()]
        fields = {of: f"{name}_{of}" for _, of in arrays}
        numbers = {
            **_list_shapes(operation, source, target),
            "row": row,
            "zero_in": source.zero_point,
            "zero_out": target.zero_point,
            "low": operation.low,
        }
        told = (f".{field} = {value}" for field, value in {**fields, **numbers}.items())
        return "\n".join([*lines, _write_list(f"static const layer {name} = {{", told)]) + "\n"

    def write_function(self, name: str) -> str:
        """Return the function that calls the kernels."""
        plan, tensors, classes = self.plan, self.network.tensors, self.network.classes
        places = [
            f"int8_t *const t{number} = activations + {plan.offsets[number]};"
            for number in range(len(tensors))
            if plan.sizes[number]
        ]
        calls = [self._write_call(place) for place in range(len(self.network.operations))]
        if not self.network.gives_wide_logits:
            value = f"t{len(tensors) - 1}[i] - ({tensors[-1].zero_point})"
            calls.append(_write_loop(classes, f"logits[i] = {value};"))
        lines = [
            *places,
            _write_loop(plan.sizes[0], "t0[i] = (int8_t)(pixels[i] - 128);"),
            *calls,
            "int best = 0;",
            _write_loop(classes, "best = logits[i] > logits[best] ? i : best;"),
            "return best;",
        ]
        given = f"const uint8_t pixels[{plan.sizes[0]}], int32_t logits[{classes}]"
        signature = f"int {name}_classify({given})"
        body = "".join(f"    {line}\n" for line in lines)
        return f"{signature};\n\n{signature}\n{{\n{body}}}\n"

    def _write_call(self, place: int) -> str:
        operation = self.network.operations[place]
        source, target = self._find_tensors(operation)
        name, output = _name(place, operation), f"t{operation.output}"
        inputs = ", ".join(f"t{number}" for number in operation.inputs)
        if isinstance(operation, Convolution):
            kernel = "convolve_depthwise" if _is_depthwise(operation) else "convolve"
            return f"{kernel}(&{name}, {inputs}, {output});"
        if isinstance(operation, Linear):
            count, sums = len(operation.weight), f"multiply_all(&{name}, {inputs});\n    "
            if not operation.gives_logits:
                return f"{sums}store(&{name}, 0, 0, {count}, {output});"
            given = f"sums[0][i], {name}_multipliers[i], {name}_shifts[i] + {STORED_SHIFT}"
            return sums + _write_loop(count, f"logits[i] = requantize({given});")
        numbers: list[int]
        if isinstance(operation, Addition):
            kernel, other = "add", self.network.tensors[operation.inputs[1]]
            numbers = [self.plan.sizes[operation.output], source.zero_point, other.zero_point]
            numbers += [*operation.multipliers, operation.shift]
        elif isinstance(operation, Mean):
            kernel, (rows, columns, channels) = "average", source.shape
            numbers = [rows * columns, channels, operation.multiplier, operation.shift]
            numbers.append(source.zero_point)
        else:
            raise TypeError(f"There is no kernel in C for {type(operation).__name__}.")
        told = ", ".join(map(str, [*numbers, target.zero_point, operation.low]))
        return f"{kernel}({inputs}, {output}, {told});"

    def _find_tensors(self, operation: Operation) -> tuple[Tensor, Tensor]:
        return self.network.tensors[operation.inputs[0]], self.network.tensors[operation.output]


def _is_depthwise(operation: Operation) -> bool:
    return isinstance(operation, Convolution) and operation.is_depthwise


def _find_kernels(operation: Operation) -> list[str]:
    """Return the parts of ``kernels.c`` that an operation needs."""
    if isinstance(operation, Convolution):
        products = ["depthwise"] if operation.is_depthwise else ["multiply", "convolve"]
        return ["saturate", "layer", "store", *products]
    if isinstance(operation, Linear):
        end = ["requantize"] if operation.gives_logits else ["saturate", "store"]
        return ["layer", "multiply", "linear", *end]
    return ["saturate", *(["add"] if isinstance(operation, Addition) else ["requantize", "mean"])]


def _list_shapes(operation: WeightedOperation, source: Tensor, target: Tensor) -> dict[str, int]:
    """Return the numbers of a layer in C that say how large it is."""
    if not isinstance(operation, Convolution):
        return {"channels": operation.weight.shape[1], "out_channels": target.shape[2]}
    names = (
        "rows", "columns", "channels", "out_rows", "out_columns", "out_channels",
        "kernel_rows", "kernel_columns", "stride_rows", "stride_columns", "top", "left", "groups",
    )  # fmt: skip
    kernel = *operation.weight.shape[1:3], *operation.stride, *operation.padding, operation.groups
    return dict(zip(names, (*source.shape, *target.shape, *kernel), strict=True))


def _name(place: int, operation: Operation) -> str:
    """Return a name in C that no other operation has."""
    return f"layer{place}_" + re.sub(r"\W", "_", operation.name, flags=re.ASCII)


def _write_array(kind: str, name: str, values: np.ndarray) -> str:
    return _write_list(f"static const {kind} {name}[] = {{", map(str, values))


def _write_list(begin: str, items: Iterable[str]) -> str:
    """Return the items between braces, as many in a line as it holds."""
    lines = [begin]
    line = ""
    for item in items:
        if line and len(line) + len(item) > LINE_LENGTH:
            lines.append(line)
            line = ""
        line += f" {item}," if line else f"    {item},"
    return "\n".join([*lines, line, "};"])


def _write_loop(count: int, statement: str) -> str:
    return f"for (int i = 0; i < {count}; i++)\n        {statement}"
