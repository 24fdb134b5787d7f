"""The interactive part of a lesson: a panel over the points of a sweep, and a quiz."""

from course_utils.lab.bits import BitView
from course_utils.lab.browser_model import BrowserModel
from course_utils.lab.cells import Cells
from course_utils.lab.details import Bars, Histogram
from course_utils.lab.panel import Panel
from course_utils.lab.quiz import Question, Quiz
from course_utils.lab.readouts import Card
from course_utils.lab.roof import Roof
from course_utils.lab.spec import Chart

__all__ = [
    "Bars",
    "BitView",
    "BrowserModel",
    "Card",
    "Cells",
    "Chart",
    "Histogram",
    "Panel",
    "Question",
    "Quiz",
    "Roof",
]
