"""The interactive part of a lesson: a panel over measured points, and a quiz."""

from course_utils.lab.panel import Panel
from course_utils.lab.quiz import Question, Quiz
from course_utils.lab.spec import Histogram

__all__ = ["Histogram", "Panel", "Question", "Quiz"]
