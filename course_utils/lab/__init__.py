"""The interactive part of a lesson: a panel over measured points, and a quiz."""

from course_utils.lab.panel import Histogram, Panel
from course_utils.lab.quiz import Question, Quiz

__all__ = ["Histogram", "Panel", "Question", "Quiz"]
