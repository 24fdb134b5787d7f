"""The quiz at the end of a lesson: pick an answer, and learn why it is right or wrong."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from typing import Any

import anywidget
import traitlets

from course_utils import progress
from course_utils.lab import page


@dataclass(frozen=True)
class Question:
    """A question with one right answer.

    Attributes:
        text: The question.
        answers: What can be picked, each with what is said when it is.
        right: Index of the right answer.
    """

    text: str
    answers: list[tuple[str, str]]
    right: int

    def __post_init__(self) -> None:
        """Refuse a question whose right answer does not exist."""
        if not 0 <= self.right < len(self.answers):
            raise ValueError(f"Question {self.text!r} has no answer number {self.right}.")


class Quiz(anywidget.AnyWidget):
    """Questions with feedback for every answer; the attempts are kept in the progress."""

    _esm = page.read("dom.js", "quiz.js")
    _css = page.read("panel.css")

    name = traitlets.Unicode().tag(sync=True)
    questions: traitlets.List[Any] = traitlets.List().tag(sync=True)
    picked = traitlets.List(traitlets.Int()).tag(sync=True)  # -1: not answered yet

    def __init__(self, name: str, questions: list[Question]) -> None:
        """Ask the questions, in their order; attempts are kept under ``name``."""
        self._questions = questions
        super().__init__(
            name=name,
            questions=[asdict(question) for question in questions],
            picked=[-1] * len(questions),
        )
        self.observe(self._keep, "picked")

    @property
    def score(self) -> int:
        """How many questions are answered rightly now."""
        pairs = zip(self.picked, self._questions, strict=True)
        return sum(answer == question.right for answer, question in pairs)

    def feedback(self) -> list[str]:
        """Return what the page says to each picked answer; empty where none is picked."""
        pairs = zip(self.picked, self._questions, strict=True)
        return [q.answers[answer][1] if answer >= 0 else "" for answer, q in pairs]

    def _keep(self, change: dict[str, Any]) -> None:
        for n, (old, new) in enumerate(zip(change["old"], change["new"], strict=True)):
            if new not in (old, -1):
                outcome = "solved" if new == self._questions[n].right else "wrong answer"
                progress.save_attempt(f"{self.name}, question {n + 1}", outcome)

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        bundle = super()._repr_mimebundle_(**options)
        if bundle is None:
            return None
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        asked = "".join(
            f"<li>{html.escape(question.text)}<ul>"
            + "".join(f"<li>{html.escape(answer)}</li>" for answer, _ in question.answers)
            + "</ul></li>"
            for question in self._questions
        )
        words = f"{self.name}: {len(self._questions)} questions. Run the cell to answer them."
        return {**data, "text/html": f"<ol>{asked}</ol>", "text/plain": words}, dict(metadata or {})
