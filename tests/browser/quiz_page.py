"""Words for what a learner does with a quiz."""

from pathlib import Path

from lab_page import LabPage
from playwright.sync_api import Locator, expect


def expect_quiz_to_answer(
    lab: LabPage,
    name: str,
    wrong: tuple[str, str],
    right: tuple[str, str],
    picture: Path,
    count: int = 5,
) -> None:
    """Expect a word to every answer of a quiz; keep a picture.

    Args:
        lab: The lesson.
        name: Of the quiz.
        wrong: A wrong answer to the first question, and a piece of what is said to it.
        right: The right one, and a piece of what is said to that.
        picture: Where to keep it.
        count: Of questions.
    """
    quiz = lab.page.get_by_role("region", name=name, exact=True)
    answers = pick_every_answer(quiz)
    assert len(answers) == count
    assert all(sorted(said.values()) == ["im-right", "im-wrong", "im-wrong"] for said in answers)
    assert all(all(said) for said in answers)
    question = quiz.locator("fieldset").first
    for (answer, said), look in ((wrong, ".im-wrong"), (right, ".im-right")):
        question.get_by_role("radio", name=answer).check()
        expect(question.locator(look)).to_contain_text(said)
    quiz.screenshot(path=picture)


def pick_every_answer(quiz: Locator) -> list[dict[str, str]]:
    """Return for each question what is said to each answer, and whether as right or wrong."""
    found = []
    for question in quiz.locator("fieldset").all():
        said = question.locator("[role=status]")
        answers = {}
        for answer in question.get_by_role("radio").all():
            answer.check()
            answers[said.text_content() or ""] = said.get_attribute("class") or ""
        found.append(answers)
    return found
