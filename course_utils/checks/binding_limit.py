"""Check of the exercise in lesson 07 on the limit of a device that binds."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from course_utils.checks.outcome import Mistake, Outcome, judge

Needs = dict[str, Any]  # "flash_bytes", "ram_bytes", "macs", "arithmetic", "deadline_ms"
Card = dict[str, Any]  # "flash_bytes", "ram_bytes", "macs_per_s" (by arithmetic)
Answer = tuple[str, bool]
LIMITS = ("flash", "RAM", "latency")
WORDS = ("arithmetic", *LIMITS)


def _needs(
    flash: float, ram: float, macs: float, arithmetic: str = "int8", deadline_ms: float = 100
) -> Needs:
    return {
        "flash_bytes": flash, "ram_bytes": ram, "macs": macs, "arithmetic": arithmetic,
        "deadline_ms": deadline_ms,
    }  # fmt: skip


def _card(flash: float, ram: float, **macs_per_s: float) -> Card:
    return {"flash_bytes": flash, "ram_bytes": ram, "macs_per_s": macs_per_s}


# Shares of flash, RAM and latency in percent. No two rules lead to the same first wrong answer.
BINDING_CASES: list[tuple[Needs, Card]] = [
    (_needs(20_000, 39_990, 2e6), _card(10**6, 40_000, int8=1e8)),  # 2, 99.98, 20
    (_needs(900_000, 80_000, 2e6), _card(10**6, 262_144, int8=1e8, fp32=1e7)),  # 90, 31, 20
    (_needs(40_000, 30_000, 9e6), _card(10**6, 262_144, int8=1e8)),  # 4, 11, 90
    (_needs(1_200_000, 300_000, 4e7), _card(10**6, 262_144, int8=1e8)),  # 120, 114, 400
    (_needs(1_200_000, 400_000, 1e6), _card(10**6, 262_144, int8=1e8)),  # 120, 153, 10
    (_needs(90_000, 2_048, 1e5), _card(10**6, 2_048, int8=1e8)),  # 9, 100, 1
    (_needs(40_000, 90_000, 3e6, "fp32", 500), _card(10**6, 262_144, int8=2e8, fp32=1e7)),  # 60
    (_needs(40_000, 90_000, 3e6, "fp32", 20), _card(10**6, 262_144, int8=2e9, fp32=1e8)),  # 150
    (_needs(40_000, 30_000, 2e6, "fp32"), _card(10**6, 262_144, int8=1e8)),  # there is no fp32
]


def check_binding_limit(attempt: Callable[[Needs, Card], Answer]) -> Outcome:
    """Check a function that names the limit that binds, and says whether all is within it.

    Args:
        attempt: Takes what a network needs and what a device has; returns a word and a bool.
    """
    return judge(
        "The limit that binds",
        attempt,
        _solve,
        BINDING_CASES,
        lambda given, right: _is_answer(given) and tuple(given) == right,
        BINDING_MISTAKES,
        must_keep_arguments=True,
    )


def find_shares(needs: Needs, card: Card, **changed: Any) -> dict[str, float]:
    """Return which share of each limit is needed; none if the device lacks the arithmetic.

    Args:
        needs: What a network needs.
        card: What a device has.
        changed: Other values of a name in either of them.
    """
    needs, card = needs | changed, card | changed
    rate = card["macs_per_s"].get(needs["arithmetic"])
    if rate is None:
        return {}
    return {
        "flash": needs["flash_bytes"] / card["flash_bytes"],
        "RAM": needs["ram_bytes"] / card["ram_bytes"],
        "latency": 1000 * needs["macs"] / rate / needs["deadline_ms"],
    }


def _solve(needs: Needs, card: Card) -> Answer:
    return _judge_shares(find_shares(needs, card))


def _judge_shares(shares: Mapping[str, float]) -> Answer:
    if not shares:
        return "arithmetic", False
    limit = max(shares, key=lambda name: shares[name])
    return limit, shares[limit] <= 1


def _is_answer(given: Any) -> bool:
    return (
        isinstance(given, tuple)
        and len(given) == 2
        and given[0] in WORDS
        and isinstance(given[1], bool | np.bool_)
    )


def _answers(*ways: Callable[[Needs, Card], Answer | None]) -> Callable[..., bool]:
    """Return the question whether one of these gives the same answer."""
    return lambda given, right, *case: any(given == way(*case) for way in ways)


def _picks(way: Callable[[Mapping[str, float]], str]) -> Callable[[Needs, Card], Answer | None]:
    """Return what is answered if another limit is picked from the shares."""

    def answer(needs: Needs, card: Card) -> Answer | None:
        shares = find_shares(needs, card)
        return (way(shares), max(shares.values()) <= 1) if shares else None

    return answer


def _weighs(**factors: float) -> Callable[[Needs, Card], Answer | None]:
    """Return what is answered if shares are counted so many times; 0 leaves a limit out."""

    def answer(needs: Needs, card: Card) -> Answer | None:
        shares = find_shares(needs, card)
        weighed = {name: share * factors.get(name, 1) for name, share in shares.items()}
        return _judge_shares(weighed) if shares else None

    return answer


def _first_over(shares: Mapping[str, float]) -> str:
    over = [name for name, share in shares.items() if share > 1]
    return over[0] if over else max(shares, key=lambda name: shares[name])


def _by_numbers(needs: Needs, card: Card) -> Answer | None:
    """Compare bytes with milliseconds: the largest number that is needed."""
    shares = find_shares(needs, card)
    if not shares:
        return None
    numbers = {
        "flash": needs["flash_bytes"], "RAM": needs["ram_bytes"],
        "latency": shares["latency"] * needs["deadline_ms"],
    }  # fmt: skip
    return max(numbers, key=lambda name: numbers[name]), max(shares.values()) <= 1


def _by_rest(needs: Needs, card: Card) -> Answer | None:
    """Look for the least that is left over, in bytes and milliseconds."""
    shares = find_shares(needs, card)
    if not shares:
        return None
    there = {
        "flash": card["flash_bytes"], "RAM": card["ram_bytes"], "latency": needs["deadline_ms"],
    }  # fmt: skip
    limit = min(there, key=lambda name: there[name] * (1 - shares[name]))
    return limit, max(shares.values()) <= 1


def _at_another_rate(needs: Needs, card: Card) -> Answer | None:
    """Take the rate of the other arithmetic."""
    others = [kind for kind in card["macs_per_s"] if kind != needs["arithmetic"]]
    return _judge_shares(find_shares(needs, card, arithmetic=others[0])) if others else None


BINDING_MISTAKES = [
    Mistake("fails without the arithmetic",
            lambda given, right, *_: right[0] == "arithmetic" and isinstance(given, Exception),
            "Where the device lacks the arithmetic, it raises.",
            'Is the key in `card["macs_per_s"]`? The task says what to return if it is not.',
            of_failures=True),
    Mistake("word alone", lambda given, *_: given in WORDS,
            "It returns a word, but does not say whether the network fits.",
            "The task asks for two things: a word and a bool."),
    Mistake("no pair", lambda given, *_: not (isinstance(given, tuple) and len(given) == 2),
            "It should return a tuple: a word, and True or False.",
            "Print your result. Which of the two comes first?"),
    Mistake("another word", lambda given, *_: given[0] not in WORDS,
            "The first of the two is none of the four words.",
            f"They are {', '.join(map(repr, WORDS))}, written like this."),
    Mistake("no bool", lambda given, *_: not _is_answer(given),
            "The second of the two is neither True nor False.",
            "It is the answer to a question: is the largest share at most 1?"),
    Mistake("arithmetic not asked for", lambda given, right, *_: right[0] == "arithmetic",
            "The device has no unit for this arithmetic, but you name another limit.",
            "No memory and no time helps there. What does the task say?"),
    Mistake("arithmetic not found", lambda given, *_: given[0] == "arithmetic",
            "The device has the arithmetic, but you say that it lacks it.",
            'Look into `card["macs_per_s"]` for `needs["arithmetic"]`.'),
    Mistake("exactly all of it", lambda given, right, *case: (
                given[0] == right[0] and max(find_shares(*case).values()) == 1),
            "What needs exactly all that there is has dropped out.", "`<` or `<=`?"),
    Mistake("rate of the other arithmetic", _answers(_at_another_rate),
            "You take the rate of another arithmetic than the network's.",
            "A device has several rates. Which key does the network ask for?"),
    Mistake("first that is too small", _answers(_picks(_first_over)),
            "You name the first limit that is exceeded, though another is exceeded further.",
            "Compute all three shares before you choose."),
    Mistake("numbers for shares", _answers(_by_numbers),
            "You compare bytes with milliseconds.",
            "30,000 of 40,000 is more than 900,000 of 10 million. What makes them comparable?"),
    Mistake("rest for shares", _answers(_by_rest),
            "You look for the least that is left over, in bytes and milliseconds.",
            "Is a rest of 200 bytes little? Of 1,000 it is much. Divide instead."),
    Mistake("smallest share", _answers(_picks(lambda shares: min(shares, key=lambda n: shares[n]))),
            "You name the limit with the most room.",
            "Is your share needed / available, or the other way round? `max` or `min`?"),
    Mistake("latency left out", _answers(_weighs(latency=0), _weighs(latency=1e-3),
                                         _weighs(latency=1e-6)),
            "The latency hardly counts, or not at all.",
            "multiply-adds / (a second) is a time in seconds. In which unit is the deadline?"),
    Mistake("operations for multiply-adds", _answers(_weighs(latency=2)),
            "Your latency is twice as long as it should be.",
            "The rate counts multiply-adds too. Is there anything to double?"),
    Mistake("latency too large", _answers(_weighs(latency=1e3), _weighs(latency=1e6),
                                          lambda needs, card: _judge_shares(find_shares(
                                              needs, card, deadline_ms=1))),
            "The latency weighs much more than it should.",
            "Is it divided by the deadline? Are both in milliseconds?"),
    Mistake("flash left out", _answers(_weighs(flash=0)), "The flash does not count with you.",
            "Where does the model lie when the device is switched off?"),
    Mistake("RAM left out", _answers(_weighs(RAM=0)), "The RAM does not count with you.",
            "Where do the activations lie while the network runs?"),
    Mistake("other verdict", lambda given, right, *_: given[0] == right[0],
            "The word is right, the verdict is not.",
            "What does a share of more than 1 mean? And one below 1?"),
]  # fmt: skip
