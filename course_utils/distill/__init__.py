"""Distillation: a small network learns what a large one would answer."""

from course_utils.distill.answers import (
    Answers,
    Views,
    cache_answers,
    check_answers,
    load_answers,
)
from course_utils.distill.encoders import (
    Transfer,
    finetune_student,
    look_inside,
    match_blocks,
)
from course_utils.distill.hints import read_features, train_hints
from course_utils.distill.students import Student, load_students, save_students
from course_utils.distill.targets import (
    align_classes,
    distillation_loss,
    measure_entropy,
    soft_loss,
    soften,
)
from course_utils.distill.training import train_alone, train_student

__all__ = [
    "Answers", "Student", "Transfer", "Views", "align_classes", "cache_answers", "check_answers",
    "distillation_loss", "finetune_student", "load_answers", "load_students", "look_inside",
    "match_blocks", "measure_entropy", "read_features", "save_students", "soft_loss", "soften",
    "train_alone", "train_hints", "train_student",
]  # fmt: skip
