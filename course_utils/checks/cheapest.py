"""Check of the exercise in lesson 06 on the cheapest devices for a load and a deadline."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from course_utils.checks.outcome import Mistake, Outcome, judge, to_number
from course_utils.checks.technique import NONE_FITS

Device = dict[str, Any]  # "name", "price_per_hour", "latency_ms" (batch size -> milliseconds)
Choice = tuple[str, int, int]  # name, batch, count


def _make(name: str, price_per_hour: float, latency_ms: dict[int, float]) -> Device:
    return {"name": name, "price_per_hour": price_per_hour, "latency_ms": latency_ms}


CHOICE_CASES: list[tuple[list[Device], float, float]] = [
    ([_make("A", 0.5, {1: 4.0})], 200, 10.0),  # what can be got wrong here is the form
    ([  # nearly every other rule leads to another choice
        _make("A", 0.25, {2: 6.5, 8: 23.0, 32: 33.0}),
        _make("B", 0.2, {2: 15.0, 8: 31.5, 32: 53.0, 64: 72.5}),
        _make("C", 0.3, {2: 6.0, 8: 20.0, 16: 32.5, 64: 113.5}),
        _make("D", 3.0, {2: 4.0, 4: 5.0, 16: 20.0, 64: 38.5}),
        _make("E", 1.5, {1: 7.5, 8: 17.0, 64: 37.0}),
        _make("F", 0.01, {64: 1700.0}),
    ], 1250, 25.0),
    ([  # batch 16 is in time for most of its requests
        _make("A", 1.0, {1: 3.5, 16: 20.0, 32: 25.0}),
    ], 1000, 32.0),
    ([  # batch 4 is answered at the very end of the deadline
        _make("A", 1.0, {4: 14.0, 8: 9.0}), _make("B", 4.0, {8: 4.5, 1: 3.5}),
    ], 500, 20.0),
    ([  # exactly two devices
        _make("A", 1.0, {4: 8.0}), _make("B", 5.0, {4: 2.5, 1: 1.5}),
    ], 1000, 16.0),
    ([  # neither the first batch in time, nor the last, nor the largest
        _make("A", 0.75, {1: 6.5, 8: 55.0}),
        _make("B", 1.0, {32: 90.0, 2: 7.0, 16: 45.0, 8: 10.0, 4: 11.0}),
        _make("C", 1.1, {4: 12.0, 8: 50.0}),
    ], 400, 100.0),
    ([  # equally cheap; one device would not do
        _make("A", 0.5, {1: 3.5}), _make("B", 1.0, {1: 1.75}), _make("C", 2.0, {1: 1.25}),
    ], 1000, 5.0),
    ([  # too slow, or waiting too long
        _make("A", 0.5, {1: 12.5, 4: 15.0}), _make("B", 4.0, {16: 2.0}),
    ], 1000, 10.0),
]  # fmt: skip


def check_cheapest(attempt: Callable[[list[Device], float, float], Choice | None]) -> Outcome:
    """Check a function that picks the cheapest devices that answer a load within a deadline.

    Args:
        attempt: Takes the devices, the requests in a second and the deadline in milliseconds;
            returns name, batch and count, or None.
    """
    has_answered = False

    def attempt_or_none(*case: Any) -> Any:
        """Tell None as an answer from a missing ``return``, after which nothing is answered."""
        nonlocal has_answered
        given = attempt(*case)
        if given is None:
            return NONE_FITS if has_answered or not _choose(*case) else None
        has_answered = True
        return given

    return judge(
        "The cheapest device",
        attempt_or_none,
        _choose,
        CHOICE_CASES,
        lambda given, right: given in (right or [NONE_FITS]),
        CHOICE_MISTAKES,
        must_keep_arguments=True,
    )


@dataclass(frozen=True)
class _Offer:
    """A device with one of its batch sizes, under a load."""

    name: str
    price_per_hour: float
    batch: int
    latency_ms: float
    requests_per_s: float

    @property
    def wait_ms(self) -> float:
        return (self.batch - 1) * 1000 / self.requests_per_s

    @property
    def total_ms(self) -> float:
        return self.wait_ms + self.latency_ms

    @property
    def need(self) -> float:
        """How many devices the load keeps busy: no whole number."""
        return self.requests_per_s * self.latency_ms / (1000 * self.batch)

    @property
    def count(self) -> int:
        return max(1, math.ceil(self.need))


Fits = Callable[[_Offer, float], bool]


def _fits(offer: _Offer, deadline_ms: float) -> bool:
    return offer.total_ms <= deadline_ms


def _choose(
    devices: list[Device],
    requests_per_s: float,
    deadline_ms: float,
    fits: Fits = _fits,
    count: Callable[[_Offer], float] = lambda offer: offer.count,
    score: Callable[[_Offer, float], float] = lambda offer, count: count * offer.price_per_hour,
    keep: Callable[[list[_Offer]], list[_Offer]] = lambda offers: offers,
    stops_at_late: bool = False,
) -> list[tuple[str, int, float]]:
    """Return the best choices by these rules.

    Args:
        devices: As the attempt gets them, and so are the next two.
        requests_per_s: The load.
        deadline_ms: The deadline.
        fits: Whether an offer is in time.
        count: How many devices it takes.
        score: What is made as small as possible.
        keep: Which of a device's offers in time are compared with those of the others.
        stops_at_late: Whether the first batch that is late ends the search in its device.
    """
    scores = {}
    for device in devices:
        offers = [
            _Offer(device["name"], device["price_per_hour"], batch, ms, requests_per_s)
            for batch, ms in device["latency_ms"].items()
        ]
        select = takewhile if stops_at_late else filter
        for offer in keep(list(select(lambda offer: fits(offer, deadline_ms), offers))):
            choice = (offer.name, offer.batch, count(offer))
            scores[choice] = score(offer, choice[2])
    return [choice for choice in scores if scores[choice] == min(scores.values())]


def _chooses(*rules: dict[str, Any]) -> Callable[..., bool]:
    """Return the question whether the result is a best choice by other rules."""
    return lambda given, right, *case: any(given in _choose(*case, **rule) for rule in rules)


def _in_time(*times: Callable[[_Offer], float]) -> Callable[..., bool]:
    """Return the question whether something else was compared with the deadline."""
    return _chooses(*({"fits": lambda offer, ms, time=time: time(offer) <= ms} for time in times))


def _counts(*counts: Callable[[_Offer], float]) -> Callable[..., bool]:
    """Return the question whether the devices were counted otherwise."""
    return _chooses(*({"count": count} for count in counts))


def _scores(*scores: Callable[[_Offer, float], float]) -> Callable[..., bool]:
    """Return the question whether something else was made as small as possible."""
    return _chooses(*({"score": score} for score in scores))


def _find(given: Choice, devices: list[Device], requests_per_s: float, _: float) -> _Offer:
    """Return the offer that was chosen.

    Raises:
        StopIteration: There is none of this name.
        KeyError: It has no such batch.
    """
    device = next(one for one in devices if one["name"] == given[0])
    ms = device["latency_ms"][given[1]]
    return _Offer(given[0], device["price_per_hour"], given[1], ms, requests_per_s)


def _is_choice(given: Any, *case: Any) -> bool:
    try:
        _find(given, *case)
    except (StopIteration, KeyError, TypeError):
        return False
    return isinstance(given, tuple) and len(given) == 3 and not math.isnan(to_number(given[2]))


CHOICE_MISTAKES = [
    Mistake("fails when none fits",
            lambda given, right, *_: not right and isinstance(given, Exception),
            "When no device is in time, it raises.",
            "What is the smallest of no prices? The task says what to return.", of_failures=True),
    Mistake("something although none fits", lambda given, right, *_: not right,
            "Nothing is in time here, but it does not return None.",
            "For each device and batch: waiting, call, deadline. What is left?"),
    Mistake("none although one fits", lambda given, *_: given is NONE_FITS,
            "It returns None, though there is a choice that is in time.",
            "Must a single device carry the whole load? Does the search end too early?"),
    Mistake("name alone",
            lambda given, right, devices, *_: given in [one["name"] for one in devices],
            "It returns a name, but neither the batch nor how many devices.",
            "The task asks for three things."),
    Mistake("no triple", lambda given, right, *case: not _is_choice(given, *case),
            "It should return a tuple: a name, one of that device's batch sizes, a count.",
            "Print your result. Which of the three comes first?"),
    Mistake("part of a device", lambda given, *_: to_number(given[2]) % 1 != 0,
            "The count is not a whole number.", "Can you hire 0.8 of a device?"),
    Mistake("waiting ignored",
            _in_time(lambda offer: offer.latency_ms,
                     lambda offer: offer.latency_ms + offer.wait_ms / 1000),
            "The time in which the batch fills counts for nothing, or nearly so.",
            "When does the first request of a batch come, and when the last? In milliseconds?"),
    Mistake("call ignored", _in_time(lambda offer: offer.wait_ms),
            "You compare with the deadline only how long the batch takes to fill.",
            "Is the first request answered when the batch is full?"),
    Mistake("deadline ignored", _chooses({"fits": lambda offer, ms: True}),
            "This is the cheapest of all, whether in time or not.",
            "Who drops out before prices are compared?"),
    Mistake("time per request",
            _in_time(lambda offer: offer.latency_ms / offer.batch,
                     lambda offer: offer.wait_ms + offer.latency_ms / offer.batch),
            "The time of a call is divided by the batch before it meets the deadline.",
            "When does the first request of a batch get its answer?"),
    Mistake("mean waiting", _in_time(lambda offer: offer.wait_ms / 2 + offer.latency_ms),
            "You let requests wait for as long as they do on average.",
            "Whose answer has to be in time: that of most requests, or of each?"),
    Mistake("one interval too many",
            _in_time(lambda offer: offer.total_ms + 1000 / offer.requests_per_s),
            "Your first request waits too long: a choice that is in time has dropped out.",
            "Between 8 requests, how many intervals are there?"),
    Mistake("strictly below", _chooses({"fits": lambda offer, ms: offer.total_ms < ms}),
            "A choice that is answered exactly at the deadline has dropped out.", "`<` or `<=`?"),
    Mistake("rounded down",
            _counts(lambda offer: max(1, int(offer.need)), lambda offer: int(offer.need)),
            "The count is rounded down: the queue grows for ever.",
            "2.4 devices are busy all the time. How many do you hire?"),
    Mistake("rounded to the nearest", _counts(lambda offer: max(1, round(offer.need))),
            "The count is rounded to the nearest whole number, which can be too few.",
            "Would two devices do, if 2.4 are busy all the time?"),
    Mistake("always one", _counts(lambda offer: 1), "You count one device, whatever the load.",
            "How many requests does it answer in a second, and how many come?"),
    Mistake("a device for each request",
            _counts(lambda offer: max(1, math.ceil(offer.need * offer.batch))),
            "You count devices as if each call answered a single request.",
            "How many requests are answered when a call is done?"),
    Mistake("milliseconds for seconds", _counts(lambda offer: math.ceil(offer.need * 1000)),
            "You count a thousand times too many devices.",
            "Are requests and calls counted in the same unit of time?"),
    Mistake("one too many", _counts(lambda offer: int(offer.need) + 1),
            "You count one device more where the load just fits.",
            "What does your rounding make of exactly 2?"),
    Mistake("price of one", _scores(lambda offer, count: offer.price_per_hour),
            "This is the device of the lowest price, but how many of it do you pay for?",
            "Prices are for one device each. What is the whole bill?"),
    Mistake("bill not rounded", _scores(lambda offer, _: offer.need * offer.price_per_hour),
            "You compare prices as if a part of a device could be hired.",
            "Which number of devices is on the bill?"),
    Mistake("fewest devices", _scores(lambda offer, count: count),
            "This needs the fewest devices, not the least money.", "What do they cost together?"),
    Mistake("fastest",
            _scores(lambda offer, _: offer.latency_ms, lambda offer, _: offer.total_ms,
                    lambda offer, _: offer.latency_ms / offer.batch),
            "This is the fastest choice, not the cheapest.",
            "To be earlier than the deadline is worth nothing here. What is?"),
    Mistake("largest batch",
            _chooses({"score": lambda offer, _: -offer.batch},
                     {"keep": lambda offers: sorted(offers, key=lambda o: o.batch)[-1:]}),
            "You take the largest batch in time, of all or of each device.",
            "Is it always the cheapest one? Look at the milliseconds for each request."),
    Mistake("smallest batch", _scores(lambda offer, _: offer.batch),
            "This is the smallest batch in time.", "It waits the least. But what does it cost?"),
    Mistake("order of the dict",
            _chooses({"keep": lambda offers: offers[:1]}, {"keep": lambda offers: offers[-1:]},
                     {"stops_at_late": True}),
            "Which batches you look at depends on the order in which they stand in the dict.",
            "Nobody has sorted it. Does a loop end too early, or keep only the last?"),
    Mistake("too late", lambda given, right, *case: not _fits(_find(given, *case), case[2]),
            "This choice is not in time.", "Work out its waiting and its call by hand."),
    Mistake("too few devices",
            lambda given, right, *case: given[2] < _find(given, *case).count,
            "So many of these cannot answer as many requests as come.",
            "How many does one of them answer in a second?"),
    Mistake("too many devices",
            lambda given, right, *case: given[2] > _find(given, *case).count,
            "Fewer of these would do.", "How many requests does one of them answer in a second?"),
    Mistake("not the cheapest", lambda given, *_: True,
            "This is in time, but another choice costs less.",
            "List by hand what is in time: name, batch, count, price of all."),
]  # fmt: skip
