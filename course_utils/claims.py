"""The claim check of a lesson: what articles say, and this machine's verdict."""

import html
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["holds", "holds in part", "not here"]
SIGNS: dict[Verdict, str] = {"holds": "✔", "holds in part": "◐", "not here": "✘"}


@dataclass(frozen=True)
class Claim:
    """One claim about a technique, and what the lesson's measurements say of it.

    Attributes:
        text: The claim, in our words.
        verdict: Computed from measurements.
        because: The measurement that the verdict rests on.
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
        rows = "".join(
            _row("td", claim.text, f"{SIGNS[claim.verdict]} {claim.verdict}", claim.because)
            for claim in self.claims
        )
        head = _row("th", "the claim", "here", "because")
        return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _row(tag: str, *cells: str) -> str:
    opened = f"<{tag} style='text-align: left'>"
    return "<tr>" + "".join(f"{opened}{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
