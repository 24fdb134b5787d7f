"""Check of the exercise in lesson 03 on a width for each layer under a size budget."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from course_utils.checks.outcome import Mistake, Outcome, judge, to_number

Divergence = dict[str, dict[int, float]]  # layer -> bits -> harm of rounding only that layer
Widths = dict[str, int]  # layer -> bits


def check_widths(attempt: Callable[[Divergence, dict[str, int], int], Widths]) -> Outcome:
    """Check a function that chooses a width for each layer, so that all fit into a budget.

    Whatever fits and does no more harm than the greedy search is right: a better search is too.

    Args:
        attempt: Takes the harm of each layer by its width in bits, the number of weights of each
            layer, and the budget in bytes; returns the width of each layer.
    """
    return judge(
        "Widths under a budget",
        attempt,
        _Task,
        CASES,
        lambda given, task: task.is_solved_by(given),
        WIDTH_MISTAKES,
        must_keep_arguments=True,
    )


CASES: list[tuple[Divergence, dict[str, int], int]] = [
    (  # every mistake below that is not about an edge chooses other widths here
        {
            "stem": {2: 0.5, 4: 0.06, 8: 0.002},
            "early": {2: 0.061, 4: 0.0071, 8: 0.0003},
            "middle": {2: 0.76, 4: 0.13, 8: 0.01},
            "late": {2: 1.0, 4: 0.12, 8: 0.01},
            "head": {2: 0.035, 4: 0.0079, 8: 0.0004},
        },
        {"stem": 400, "early": 2304, "middle": 4608, "late": 18432, "head": 1280},
        13700,
    ),
    (  # (8, 4, 2) fits to the byte
        {
            "first": {2: 0.5, 4: 0.08, 8: 0.01},
            "second": {2: 0.3, 4: 0.02, 8: 0.005},
            "third": {2: 0.03, 4: 0.01, 8: 0.004},
        },
        {"first": 400, "second": 800, "third": 1600},
        1200,
    ),
    (  # the widest fit
        {"first": {2: 0.2, 4: 0.05, 8: 0.01}, "second": {2: 0.3, 4: 0.04, 8: 0.02}},
        {"first": 400, "second": 800},
        1250,
    ),
    (  # all but one at their narrowest, which is not the same for all
        {
            "first": {4: 0.06, 8: 0.01},
            "second": {2: 0.05, 3: 0.03, 4: 0.02},
            "third": {2: 0.4, 3: 0.2, 4: 0.1},
        },
        {"first": 80, "second": 1600, "third": 160},
        510,
    ),
]


@dataclass(frozen=True)
class _Step:
    """A layer made narrower: what it costs and what it saves."""

    layer: str
    bits: int
    weights: int
    harm: float
    added: float
    saved_bytes: float


Price = Callable[[_Step], float]


def _per_byte(step: _Step) -> float:
    return step.added / step.saved_bytes


@dataclass(frozen=True)
class _Task:
    """The arguments of a call, and what can be said about an answer to it."""

    divergence: Divergence
    counts: dict[str, int]
    budget_bytes: float

    def is_solved_by(self, given: Any) -> bool:
        return (
            isinstance(given, Mapping)
            and given.keys() == self.counts.keys()
            and self.offers(given)
            and self.size_bytes(_read(given)) <= self.budget_bytes
            and self.harm(_read(given)) <= self.harm(self.lower(_per_byte)) * (1 + 1e-9)
        )

    def offers(self, given: Mapping[str, Any]) -> bool:
        return all(to_number(bits) in self.divergence[layer] for layer, bits in given.items())

    def size_bytes(self, widths: Widths) -> float:
        return sum(self.counts[layer] * bits for layer, bits in widths.items()) / 8

    def harm(self, widths: Widths) -> float:
        return sum(self.divergence[layer][bits] for layer, bits in widths.items())

    def widest(self) -> Widths:
        return {layer: max(harms) for layer, harms in self.divergence.items()}

    def lower(self, price: Price, budget_bytes: float | None = None) -> Widths:
        """Take the step of the lowest price until the weights fit or nothing is left to lower."""
        budget_bytes = self.budget_bytes if budget_bytes is None else budget_bytes
        widths = self.widest()
        while self.size_bytes(widths) > budget_bytes and (steps := self.steps(widths)):
            step = min(steps, key=price)
            widths[step.layer] = step.bits
        return widths

    def lower_to_the_bottom(self) -> Widths:
        """Lower the layer of the lowest price to its narrowest at once, then the next."""
        widths = self.widest()
        while self.size_bytes(widths) > self.budget_bytes and (steps := self.steps(widths)):
            layer = min(steps, key=_per_byte).layer
            widths[layer] = min(self.divergence[layer])
        return widths

    def lower_in_first_order(self) -> Widths:
        """Lower layer after layer, in the order of the prices of their first steps."""
        prices = {step.layer: _per_byte(step) for step in self.steps(self.widest())}
        return self.lower(lambda step: prices[step.layer])

    def could_be_wider(self, widths: Widths) -> bool:
        """Return whether the next width of some layer would fit too, with less harm."""
        wider = [
            {**widths, layer: min(bits for bits in harms if bits > widths[layer])}
            for layer, harms in self.divergence.items()
            if widths[layer] < max(harms)
        ]
        return any(
            self.size_bytes(more) <= self.budget_bytes and self.harm(more) < self.harm(widths)
            for more in wider
        )

    def steps(self, widths: Widths) -> list[_Step]:
        steps = []
        for layer, wide in widths.items():
            harms, weights = self.divergence[layer], self.counts[layer]
            if wide > min(harms):
                bits = max(bits for bits in harms if bits < wide)
                added, saved_bytes = harms[bits] - harms[wide], weights * (wide - bits) / 8
                steps.append(_Step(layer, bits, weights, harms[bits], added, saved_bytes))
        return steps


def _read(given: Mapping[str, Any]) -> Widths:
    return {layer: int(to_number(bits)) for layer, bits in given.items()}


def _goes_by(*prices: Price) -> Callable[..., bool]:
    """Return the question whether the widths are those of a search with another price."""
    return lambda given, task, *case: _read(given) in [task.lower(price) for price in prices]


WIDTH_MISTAKES = [
    Mistake(
        "a width that is not there",
        lambda given, task, *case: (
            not task.offers(given)
            if isinstance(given, Mapping) and given.keys() == task.counts.keys()
            else isinstance(given, KeyError) and isinstance(given.args[0], int)
        ),
        "You use a width that is not on offer for its layer.",
        "Not every number of bits was measured. Which widths does `divergence[layer]` hold?",
        of_failures=True,
    ),
    Mistake(
        "nothing left to lower",
        lambda given, task, *case: (
            isinstance(given, IndexError)
            or (isinstance(given, ValueError) and "empty" in str(given))
        ),
        "It looks for something narrower where there is nothing: an empty list was searched.",
        "Does a layer at its narrowest stay out of the search? Are size and budget both in bytes?",
        of_failures=True,
    ),
    Mistake(
        "no dict",
        lambda given, task, *case: not isinstance(given, Mapping),
        "It should return a dict: from the name of each layer to its width.",
        "`return widths`, one number of bits by the name of each layer.",
    ),
    Mistake(
        "other layers",
        lambda given, task, *case: given.keys() != task.counts.keys(),
        "A layer has no width, or one has that does not exist.",
        "Print the result's keys beside those of `counts`. Layers that stay wide have a width too.",
    ),
    Mistake(
        "nothing lowered",
        lambda given, task, *case: (
            _read(given) == task.widest() and task.size_bytes(_read(given)) > task.budget_bytes
        ),
        "All layers keep their widest width, and that does not fit.",
        "By hand: how many bytes do 2304 weights of 8 bits take? Does your function say so?",
    ),
    Mistake(
        "over the budget",
        lambda given, task, *case: task.size_bytes(_read(given)) > task.budget_bytes,
        "The widths that you chose do not fit into the budget.",
        "Is the size computed anew after every step, over all layers, with the bits of each?",
    ),
    Mistake(
        "lowered without need",
        lambda given, task, *case: task.size_bytes(task.widest()) <= task.budget_bytes,
        "The widest widths fit already, but you lower a layer all the same.",
        "What does your loop do before it looks at the size for the first time?",
    ),
    Mistake(
        "bits as bytes",
        lambda given, task, *case: _read(given) == task.lower(_per_byte, task.budget_bytes / 8),
        "You lower far below the budget, as if it were eight times as small.",
        "The budget is in bytes. What is the number that you compare with it?",
    ),
    Mistake(
        "exact fit",
        lambda given, task, *case: _read(given) == task.lower(_per_byte, task.budget_bytes - 1e-6),
        "Widths that fill the budget to the last byte are lowered once more.",
        "The size must not exceed the budget: `>` or `>=`?",
    ),
    Mistake(
        "one width for all",
        lambda given, task, *case: len(set(_read(given).values())) == 1,
        "All layers have the same width, although some suffer far more than others.",
        "Lower one layer at a time, and look at the size after each.",
    ),
    Mistake(
        "harm alone",
        _goes_by(lambda step: step.added, lambda step: step.harm),
        "You choose by harm alone: small layers are spoilt, and hardly a byte is saved.",
        "What does a step give in return for its harm?",
    ),
    Mistake(
        "bytes alone",
        _goes_by(lambda step: -step.weights, lambda step: -step.saved_bytes),
        "You lower where most bytes are saved, whatever harm it does.",
        "What does a step cost for the bytes that it saves?",
    ),
    Mistake(
        "most harm",
        _goes_by(lambda step: -_per_byte(step), lambda step: -step.added),
        "You lower the layer that suffers most.",
        "`min` or `max`? Or is the fraction upside down?",
    ),
    Mistake(
        "not what is added",
        _goes_by(lambda step: step.harm / step.saved_bytes),
        "You count the whole harm of the narrower width, not what the step adds.",
        "The layer does some harm at the width that it has now, too.",
    ),
    Mistake(
        "per weight",
        _goes_by(lambda step: step.added / step.weights),
        "You divide by the number of weights, as if every step saved the same for each of them.",
        "How many bytes does *this* step save?",
    ),
    Mistake(
        "all the way",
        lambda given, task, *case: (
            _read(given) in [task.lower_to_the_bottom(), task.lower_in_first_order()]
        ),
        "Once you have chosen a layer you lower it again and again, though its price has risen.",
        "After each step, compare all layers anew.",
    ),
    Mistake(
        "could be wider",
        lambda given, task, *case: task.could_be_wider(_read(given)),
        "A layer could be one width wider: it would still fit, and do less harm.",
        "Do you start at the widest, take one step at a time, and stop as soon as all fit?",
    ),
    Mistake(
        "more harm than needed",
        lambda given, task, *case: True,
        "It fits, but other widths fit too and do less harm in sum.",
        "Print each step: the layer, the harm that it adds, the bytes that it saves.",
    ),
]
