"""The tables at a lesson's end: what articles say and this machine's verdict; what to choose."""

from dataclasses import dataclass
from typing import Literal

from course_utils.tables import Table

Verdict = Literal["holds", "holds in part", "not here", "not tried here"]
SIGNS: dict[Verdict, str] = {
    "holds": "✔", "holds in part": "◐", "not here": "✘", "not tried here": "–",
}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """One claim about a technique, and what the lesson's measurements say of it.

    Attributes:
        text: The claim, in our words.
        verdict: Computed from measurements; "not tried here" where this machine lacks what for.
        because: The measurement that the verdict rests on, or what is lacking.
    """

    text: str
    verdict: Verdict
    because: str


def judge(value: float, *, holds_from: float, in_part_from: float) -> Verdict:
    """Return "holds" from the one threshold on, "holds in part" from the other on.

    Raises:
        ValueError: The second threshold is not below the first.
    """
    if in_part_from >= holds_from:
        raise ValueError("in_part_from has to be below holds_from.")
    return (
        "holds" if value >= holds_from else "holds in part" if value >= in_part_from else "not here"
    )


class ClaimTable:
    """Claims with their verdicts, as a table in a notebook."""

    def __init__(self, *claims: Claim) -> None:
        """Show the claims in their order."""
        self.claims = claims

    def __repr__(self) -> str:
        return "\n".join(
            f"{SIGNS[claim.verdict]} {claim.verdict}: {claim.text} — {claim.because}"
            for claim in self.claims
        )

    def _repr_html_(self) -> str:
        rows = [(c.text, f"{SIGNS[c.verdict]} {c.verdict}", c.because) for c in self.claims]
        return Table(("the claim", "here", "because"), rows)._repr_html_()


@dataclass(frozen=True)
class Decision:
    """What to choose in one case, and the measurement that says so.

    Attributes:
        case: The machine, the model or the data.
        choice: What to do then.
        because: The measurement that the choice rests on.
    """

    case: str
    choice: str
    because: str


class DecisionTable:
    """Decisions as a table in a notebook."""

    def __init__(self, *decisions: Decision) -> None:
        """Show the decisions in their order."""
        self.decisions = decisions

    def __repr__(self) -> str:
        return "\n".join(f"{d.case}: {d.choice} — {d.because}" for d in self.decisions)

    def _repr_html_(self) -> str:
        rows = [(d.case, d.choice, d.because) for d in self.decisions]
        return Table(("if you have", "choose", "because here"), rows)._repr_html_()
