"""Ways to run a model, behind one interface: each ``build`` returns a ``Runner``."""

from course_utils.runtimes.onnx_runtime import build, count_operators
from course_utils.runtimes.runner import Runner
from course_utils.runtimes.torch_eager import build_eager

__all__ = ["Runner", "build", "build_eager", "count_operators"]
