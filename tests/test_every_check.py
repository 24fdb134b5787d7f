"""What holds for the check of every exercise: answers, mistakes, stubs and garbage."""

import re

import numpy as np
import pytest
import test_aware_checks
import test_checks
import test_device_checks
import test_distillation_checks
import test_edge_checks
import test_latency_checks
import test_pruning_checks
import torch

from course_utils import progress

# Each check with its exercise, right answers, wrong ones with their states, and its mistakes.
CHECKS = (
    test_checks.LATER_CHECKS
    | test_latency_checks.CHECKS
    | test_aware_checks.CHECKS
    | test_pruning_checks.CHECKS
    | test_device_checks.CHECKS
    | test_distillation_checks.CHECKS
    | test_edge_checks.CHECKS
)
EACH_CHECK = pytest.mark.parametrize("check", CHECKS)


def stub(*_):
    raise NotImplementedError


def pairs_with(place: int) -> list:
    """Return each check with each of its right answers (place 1), or of its wrong ones (2)."""
    return [(check, answer) for check, parts in CHECKS.items() for answer in parts[place]]


@pytest.mark.parametrize(("check", "right"), pairs_with(1))
def test_right_answers_of_any_form_are_accepted(check, right):
    outcome = check(right)
    assert outcome.is_solved, outcome
    exercise = CHECKS[check][0]
    assert repr(outcome).startswith(f"✔ {exercise}: ")
    assert f"“{exercise}”: solved" in progress.report()


@pytest.mark.parametrize(("check", "answer"), pairs_with(2))
def test_wrong_answers_are_named_and_get_a_hint(check, answer):
    wrong, state = answer
    outcome = check(wrong)
    assert outcome.state == state, outcome
    assert not outcome.is_solved
    assert outcome.message
    assert outcome.hint
    assert outcome.hint in repr(outcome)
    assert repr(outcome).startswith("✘")
    assert len(repr(outcome)) < 1000
    assert f"“{CHECKS[check][0]}”: not solved yet" in progress.report()


@EACH_CHECK
def test_each_stub_is_not_attempted(check):
    outcome = check(stub)
    assert outcome.state == "not attempted"
    assert outcome.exercise == CHECKS[check][0]
    assert repr(outcome).startswith("○")
    assert "Nothing yet" in progress.report()


@EACH_CHECK
def test_nothing_returned_is_named(check):
    assert check(lambda *_: None).state == "returns nothing"


@EACH_CHECK
def test_every_mistake_that_is_named_is_made_here(check):
    _, _, wrong, mistakes = CHECKS[check]
    assert {mistake.name for mistake in mistakes} <= {state for _, state in wrong}


@EACH_CHECK
def test_every_mistake_has_a_message_and_a_hint_of_its_own(check):
    mistakes = CHECKS[check][3]
    for field in ("name", "message", "hint"):
        assert all(getattr(mistake, field) for mistake in mistakes)
        assert len({getattr(mistake, field) for mistake in mistakes}) == len(mistakes)


@EACH_CHECK
@pytest.mark.parametrize(
    "garbage",
    [
        "a string", "1.0", b"bytes", object(), (), [], {}, [None] * 3, ("a", "b", "c"), {"A": 1},
        {"stem": 1}, {None: None}, True, False, -1, 10**400, float("nan"), float("inf"), 1j,
        (None, None), (10**400, 1), [[1.0], [2.0, 3.0]], range(3), np.zeros((2, 2, 2)),
        np.zeros((2, 2)), np.array(["x"]), np.array("23.4"), torch.tensor([]), torch.zeros(3, 4),
        torch.zeros(2), torch.full((3,), float("nan")), torch.full((12,), float("nan")),
        (torch.zeros(3, 3, 3, 3), torch.zeros(3)), lambda: 1, KeyError(7), ValueError("returned"),
    ],
    ids=lambda one: re.sub(" at 0x[0-9a-f]+", "", repr(one)),  # alike in every process
)  # fmt: skip
def test_no_garbage_raises_or_is_right(check, garbage):
    outcome = check(lambda *_: garbage)
    assert not outcome.is_solved
    assert outcome.state not in {"raises", "not attempted"}
    assert outcome.message
    assert outcome.hint
    assert repr(outcome)
