"""A network for a microcontroller: whole numbers only, as one C file.

``quantize_to_integers`` makes an ``IntegerNetwork`` of a trained one, ``write_c`` its C file, which
computes the same bit for bit. ``check_budget`` says whether it fits into a chip's memory,
``measure_object`` what the compiler made of it, and ``build_c`` runs it here.
"""

from course_utils.micro.arithmetic import find_multiplier, requantize, to_pixels
from course_utils.micro.c_code import write_c
from course_utils.micro.compiled import build_c, load_c, measure_object
from course_utils.micro.conversion import quantize_to_integers
from course_utils.micro.integers import IntegerNetwork
from course_utils.micro.memory import MemoryPlan, OverBudgetError, check_budget, plan_memory
from course_utils.micro.object_file import ObjectSize

__all__ = [
    "IntegerNetwork", "MemoryPlan", "ObjectSize", "OverBudgetError", "build_c", "check_budget",
    "find_multiplier", "load_c", "measure_object", "plan_memory", "quantize_to_integers",
    "requantize", "to_pixels", "write_c",
]  # fmt: skip
