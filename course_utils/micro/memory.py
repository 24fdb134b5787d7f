"""Where a network's activations lie in memory: one buffer, used again and again.

An activation is needed from the operation that writes it to the last one that reads it. Two that
are never needed at once may lie in the same place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from course_utils.micro.integers import Convolution, IntegerNetwork, WeightedOperation

BYTES_PER_SUM = 4
BYTES_PER_OUTPUT = 9  # bias and multiplier of 32 bits, shift of 8
PIXELS_AT_ONCE = 4
KIB = 1024
WEIGHT_BUDGET, ACTIVATION_BUDGET = 64 * KIB, 32 * KIB


class OverBudgetError(ValueError):
    """A network does not fit into the memory that it is given."""


@dataclass(frozen=True)
class MemoryPlan:
    """Where each activation lies, and what has to be held besides.

    Attributes:
        offsets: Of each tensor's first byte; logits of 32 bits have none, and lie at 0.
        sizes: Bytes of each tensor; 0 for logits of 32 bits.
        first: The number of the operation that writes a tensor; -1 for the image.
        last: The number of the last operation that reads it.
        activation_bytes: Length of the buffer.
        held_bytes: Of all activations that have to exist during each operation. No plan needs less
            than the most of these.
        scratch_bytes: For patches, the pixels below a kernel, and for sums of products.
        weight_bytes: Weights, and bias, multiplier and shift of each output.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]
    activation_bytes: int
    held_bytes: tuple[int, ...]
    scratch_bytes: int
    weight_bytes: int

    @property
    def ram_bytes(self) -> int:
        """Activations and scratch."""
        return self.activation_bytes + self.scratch_bytes


def plan_memory(network: IntegerNetwork, lanes: int = 1) -> MemoryPlan:
    """Return a place for each activation, such that none lies on another that is still needed.

    The largest are placed first, each as low as it fits (Pisarchyk & Lee, 2020, arXiv 2001.03288,
    "greedy by size").

    Args:
        network: Its operations, in the order in which they run.
        lanes: As in ``write_c``; behind each activation is room for the rest of a step.
    """
    slack = lanes - 1
    count = len(network.tensors)
    sizes = [prod(tensor.shape) for tensor in network.tensors]
    first, last = [-1] * count, [len(network.operations) - 1] * count
    for place, operation in enumerate(network.operations):
        first[operation.output] = place
        for number in operation.inputs:
            last[number] = place
    if network.gives_wide_logits:
        sizes[-1] = 0
    offsets = [0] * count
    placed: list[int] = []
    for number in sorted(range(count), key=lambda number: -sizes[number]):
        meets = [other for other in placed if _overlap(number, other, first, last)]
        offset = 0
        for other in sorted(meets, key=lambda other: offsets[other]):
            if offset + sizes[number] + slack <= offsets[other]:
                break
            offset = max(offset, offsets[other] + sizes[other] + slack)
        if sizes[number]:
            offsets[number] = offset
            placed.append(number)
    held = [
        sum(sizes[number] for number in range(count) if first[number] <= place <= last[number])
        for place in range(len(network.operations))
    ]
    length = max(offsets[number] + sizes[number] + slack for number in placed)
    return MemoryPlan(
        tuple(offsets), tuple(sizes), tuple(first), tuple(last), length, tuple(held),
        count_pixels(lanes) * sum(count_scratch(network, lanes)), count_weight_bytes(network),
    )  # fmt: skip


def _overlap(one: int, other: int, first: Sequence[int], last: Sequence[int]) -> bool:
    """Return whether two activations are needed at once."""
    return first[one] <= last[other] and first[other] <= last[one]


def count_scratch(network: IntegerNetwork, lanes: int = 1) -> tuple[int, int]:
    """Return the bytes of a patch and of a pixel's sums, where most are needed."""
    patch, sums = 0, 0
    for operation in network.operations:
        if isinstance(operation, Convolution) and operation.is_depthwise:
            sums = max(sums, round_up(len(operation.weight), lanes))
        elif isinstance(operation, WeightedOperation):
            patch = max(patch, round_up(operation.weight[0].size, lanes) + lanes - 1)
            sums = max(sums, round_up(len(operation.weight), lanes))
    return patch, BYTES_PER_SUM * sums


def count_weight_bytes(network: IntegerNetwork) -> int:
    """Return the bytes of all that is constant in a network: weights, and 9 bytes an output."""
    total = 0
    for operation in network.operations:
        if isinstance(operation, WeightedOperation):
            total += operation.weight.size + BYTES_PER_OUTPUT * len(operation.weight)
    return total


def count_pixels(lanes: int) -> int:
    """Return how many pixels a convolution computes at once, each with a patch and sums of its own.

    With wide registers it pays: what they read has been written in pieces, and a processor waits
    for these where they are fresh. A microcontroller does not, and is short of memory.
    """
    return PIXELS_AT_ONCE if lanes > 1 else 1


def round_up(count: int, lanes: int) -> int:
    """Return the next multiple of ``lanes``."""
    return -(-count // lanes) * lanes


def check_budget(
    network: IntegerNetwork,
    *,
    weight_bytes: int = WEIGHT_BUDGET,
    activation_bytes: int = ACTIVATION_BUDGET,
) -> MemoryPlan:
    """Return the plan of a network, if it fits.

    Args:
        network: As it would be written with a step of one lane, without room for more.
        weight_bytes: For all constants: weights, biases, multipliers and shifts.
        activation_bytes: For the activations that have to be held at once, and the scratch.

    Raises:
        OverBudgetError: It does not fit; the message says which limit binds, by how much, and what
            could be done.
    """
    plan = plan_memory(network)
    problems = []
    if plan.weight_bytes > weight_bytes:
        problems.append(
            f"its weights take {plan.weight_bytes:,} bytes, {plan.weight_bytes - weight_bytes:,}"
            f" more than the {weight_bytes:,} of the budget; take a narrower network, or cut"
            " channels"
        )
    if plan.ram_bytes > activation_bytes:
        busiest = network.operations[np.argmax(plan.held_bytes)].name
        problems.append(
            f"its activations take {plan.ram_bytes:,} bytes,"
            f" {plan.ram_bytes - activation_bytes:,} more than the {activation_bytes:,} of the"
            f" budget, most of them at {busiest!r}; halve the image earlier, or take fewer channels"
            " where it is large"
        )
    if problems:
        raise OverBudgetError(f"The network does not fit: {'; and '.join(problems)}.")
    return plan
