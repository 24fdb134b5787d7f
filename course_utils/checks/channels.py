"""Check of the exercise in lesson 04 on the shapes of a residual block with fewer channels."""

from collections.abc import Callable, Mapping
from typing import Any

from course_utils.checks.outcome import Mistake, Outcome, judge, to_number

Shapes = dict[str, tuple[int, ...]]  # layer -> (channels out, channels in) or with rows, columns
Kept = dict[str, int]  # "input", "inner" and "output" -> channels that are kept

REFUSED = object()  # in the place of a result: a ValueError where the channels disagree


def check_shapes(attempt: Callable[[Shapes, Kept], Shapes]) -> Outcome:
    """Check a function that returns the shapes of a residual block after removing channels.

    Args:
        attempt: Takes the shapes of the layers, and how many channels are kept where; returns
            the new shapes. It raises a ValueError if the block adds its input as it is to an
            output of another number of channels.
    """

    def attempt_or_refuse(block: Shapes, kept: Kept) -> Any:
        disagree = _disagree(block, kept)
        try:
            return attempt(block, kept)
        except ValueError:
            if disagree:
                return REFUSED
            raise

    return judge(
        "Shapes after the cut",
        attempt_or_refuse,
        _shapes_after,
        CASES,
        _is_right,
        SHAPE_MISTAKES,
        must_keep_arguments=True,
    )


CASES: list[tuple[Shapes, Kept]] = [
    (  # no two numbers are the same
        {
            "conv1": (64, 32, 3, 3), "conv2": (96, 64, 3, 3), "shortcut": (96, 32, 1, 1),
            "next": (128, 96, 3, 3),
        },
        {"input": 24, "inner": 40, "output": 60},
    ),
    (  # nothing in the shortcut
        {"conv1": (48, 32, 3, 3), "conv2": (32, 48, 3, 3), "next": (64, 32, 3, 3)},
        {"input": 24, "inner": 40, "output": 24},
    ),
    (  # a linear layer behind it, and kernels that are no squares
        {
            "conv1": (128, 64, 5, 3), "conv2": (144, 128, 1, 5), "shortcut": (144, 64, 1, 1),
            "next": (10, 144),
        },
        {"input": 56, "inner": 48, "output": 80},
    ),
    (  # nothing in the shortcut, but another number of channels
        {"conv1": (32, 32, 3, 3), "conv2": (32, 32, 3, 3), "next": (64, 32, 3, 3)},
        {"input": 24, "inner": 16, "output": 20},
    ),
    (  # as many channels out as in, but a layer in the shortcut
        {
            "conv1": (32, 32, 3, 3), "conv2": (32, 32, 3, 3), "shortcut": (32, 32, 1, 1),
            "next": (64, 32, 3, 3),
        },
        {"input": 24, "inner": 16, "output": 20},
    ),
]  # fmt: skip

ENDS = {  # layer -> whose channels go out and come in; nobody cuts what the next layer puts out
    "conv1": ("inner", "input"),
    "conv2": ("output", "inner"),
    "shortcut": ("output", "input"),
    "next": (None, "output"),
}


def _disagree(block: Shapes, kept: Kept) -> bool:
    return "shortcut" not in block and kept["input"] != kept["output"]


def _cut(block: Shapes, kept: Kept) -> Shapes:
    shapes = {}
    for layer, (out, into, *kernel) in block.items():
        source, target = ENDS[layer]
        shapes[layer] = (kept[source] if source else out, kept.get(target or "", into), *kernel)
    return shapes


def _shapes_after(block: Shapes, kept: Kept) -> Any:
    return REFUSED if _disagree(block, kept) else _cut(block, kept)


def _read(given: Mapping[str, Any], layer: str) -> tuple[float, ...]:
    return tuple(map(to_number, given[layer]))


def _is_right(given: Any, right: Any) -> bool:
    if right is REFUSED or given is REFUSED:
        return given is right
    return (
        isinstance(given, Mapping)
        and given.keys() == right.keys()
        and all(_read(given, layer) == right[layer] for layer in right)
    )


def _gives(layer: str, compute: Callable[[Shapes, Kept], tuple[int, ...]]) -> Callable[..., bool]:
    """Return the question whether a layer wrongly has these channels out and in."""
    return lambda given, right, block, kept: (
        layer in block
        and _read(given, layer) != right[layer]
        and _read(given, layer)[:2] == compute(block, kept)
    )


def _misses(layer: str) -> Callable[..., bool]:
    return lambda given, right, *case: layer in right and _read(given, layer) != right[layer]


def _has_swapped(given: Any, right: Shapes, block: Shapes, kept: Kept) -> bool:
    """Return whether channels out and in are exchanged in a layer."""
    for layer, (out, into, *kernel) in right.items():
        if out != into and _read(given, layer) == (into, out, *kernel):
            return True
    return False


def _has_removed(given: Any, right: Shapes, block: Shapes, kept: Kept) -> bool:
    """Return whether what is left is as many channels as should go."""
    inner, inputs = block["conv1"][:2]
    totals = {"input": inputs, "inner": inner, "output": block["conv2"][0]}
    return _is_right(given, _cut(block, {where: totals[where] - kept[where] for where in kept}))


SHAPE_MISTAKES = [
    Mistake(
        "not refused",
        lambda given, right, *case: right is REFUSED and not isinstance(given, Exception),
        "Without a layer in the shortcut the input is added to the output as it is. Here the two"
        " would have different numbers of channels, but no ValueError is raised.",
        "Can 24 maps be added to 20? `raise` comes before any shape is computed.",
        of_failures=True,
    ),
    Mistake(
        "another exception",
        lambda given, right, *case: right is REFUSED,
        "Where the channels of input and output disagree, it raises something else.",
        "Which exception does the task ask for?",
        of_failures=True,
    ),
    Mistake(
        "shortcut expected",
        lambda given, right, block, kept: (
            isinstance(given, KeyError) and given.args == ("shortcut",) and "shortcut" not in block
        ),
        "It asks for the shape of a shortcut where no layer is in the shortcut.",
        "Which of the four layers may be missing in `block`? Look before you take it.",
        of_failures=True,
    ),
    Mistake(
        "four axes expected",
        lambda given, right, block, kept: (
            len(block["next"]) == 2
            and (
                isinstance(given, IndexError)
                or (isinstance(given, ValueError) and "unpack" in str(given))
            )
        ),
        "It takes for granted that every shape has four axes, and fails where one has two.",
        "A linear layer has no kernel. How do you copy the rest of a shape, however long?",
        of_failures=True,
    ),
    Mistake(
        "refused without need",
        lambda given, right, *case: (
            isinstance(given, ValueError) and not any(s in str(given) for s in ("unpack", "zip()"))
        ),
        "It raises a ValueError although nothing disagrees here.",
        "What does a layer in the shortcut do to the number of channels? And how do you know"
        " that one is there?",
        of_failures=True,
    ),
    Mistake(
        "no dict",
        lambda given, right, *case: not isinstance(given, Mapping),
        "It should return a dict: from the name of each layer to its shape.",
        "`return shapes`, one tuple by the name of each layer.",
    ),
    Mistake(
        "shortcut made up",
        lambda given, right, block, kept: "shortcut" in given and "shortcut" not in block,
        "You give a shape to a shortcut that holds no layer.",
        "Look at the keys of `block`: the new block has no other layers.",
    ),
    Mistake(
        "other layers",
        lambda given, right, *case: given.keys() != right.keys(),
        "A layer has no shape, or one has that does not exist.",
        "Print the result's keys beside those of `block`. Layers that stay whole have one too.",
    ),
    Mistake(
        "number of axes",
        lambda given, right, *case: any(
            not hasattr(given[layer], "__len__") or len(given[layer]) != len(right[layer])
            for layer in right
        ),
        "A shape should have as many axes as before.",
        "Removing channels makes an axis shorter; none goes away.",
    ),
    Mistake(
        "out and in exchanged",
        _has_swapped,
        "A layer has its channels out and its channels in exchanged.",
        "In `(64, 32, 3, 3)`, which number counts what the layer puts out?",
    ),
    Mistake(
        "counts as factors",
        lambda given, right, block, kept: any(
            not (mine % 1 == 0 and mine <= old)
            for layer in block
            for mine, old in zip(_read(given, layer), block[layer], strict=True)
        ),
        "An axis has become longer than it was, or is no whole number.",
        "`kept` counts channels: is it taken for a factor or a share, or put on a wrong axis?",
    ),
    Mistake(
        "nothing cut",
        lambda given, right, block, kept: _is_right(given, block),
        "These are the old shapes.",
        "Which axes of a weight count channels?",
    ),
    Mistake(
        "kernel changed",
        lambda given, right, block, kept: any(
            _read(given, layer)[2:] != block[layer][2:] for layer in block
        ),
        "The rows and columns of a kernel have changed.",
        "A channel that goes takes whole kernels with it. Does it make others smaller?",
    ),
    Mistake(
        "removed for kept",
        _has_removed,
        "You keep as many channels as should go.",
        "What does `kept` count?",
    ),
    Mistake(
        "only outputs cut",
        lambda given, right, block, kept: all(
            _read(given, layer)[1] == block[layer][1] for layer in block
        ),
        "Layers put out fewer channels, but whoever reads them still expects all.",
        "A channel is made by one layer and read by others. Which axis of theirs belongs to it?",
    ),
    Mistake(
        "shortcut forgotten",
        _gives("shortcut", lambda block, kept: block["shortcut"][:2]),
        "The shortcut's layer has its old shape: its output no longer fits what it is added to.",
        "Two paths meet at the end of the block. How many channels does each bring?",
    ),
    Mistake(
        "next layer forgotten",
        _gives("next", lambda block, kept: block["next"][:2]),
        "The layer behind the block has its old shape.",
        "Who reads what the block puts out?",
    ),
    Mistake(
        "next layer's outputs cut",
        lambda given, right, block, kept: _read(given, "next")[0] != block["next"][0],
        "The layer behind the block puts out another number of channels than before.",
        "Which channels do `kept`'s three numbers speak of? Is one of them made by that layer?",
    ),
    Mistake(
        "inputs of conv1",
        _gives("conv1", lambda block, kept: (kept["inner"], block["conv1"][1])),
        "conv1 still expects all the channels that once came in.",
        "How many channels does the block get now?",
    ),
    Mistake(
        "inputs of conv2",
        _gives("conv2", lambda block, kept: (kept["output"], block["conv2"][1])),
        "conv2 still expects all the channels that conv1 once made.",
        "What comes out of conv1 goes into which layer?",
    ),
    *(
        Mistake(layer, _misses(layer), f"The shape of {layer} is wrong.", hint)
        for layer, hint in {
            "conv1": "conv1 reads what comes into the block and makes what only conv2 sees.",
            "conv2": "conv2 reads what conv1 made. With what is its output added up?",
            "shortcut": "Draw the block: which two points does the shortcut connect?",
            "next": "How many channels leave the block now, and how many does `next` read?",
        }.items()
    ),
]
