"""Ways to run a model, behind one interface: each ``build`` returns a ``Runner``."""

try:
    from course_utils.runtimes.onnx_int8 import observe_activations
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}. The lessons run their networks in ONNX Runtime; `make setup` installs it, or"
        " `pip install onnxruntime onnx onnxscript` in the environment of this notebook.",
        name=error.name,
    ) from None
from course_utils.runtimes.available import (
    Availability,
    MissingRuntimeError,
    is_built_here,
    list_available,
)
from course_utils.runtimes.executorch_runtime import build_executorch
from course_utils.runtimes.litert_runtime import build_litert
from course_utils.runtimes.onnx_runtime import build, load
from course_utils.runtimes.openvino_runtime import build_openvino
from course_utils.runtimes.profiles import CallProfile, profile_call, profile_operators
from course_utils.runtimes.runner import Runner
from course_utils.runtimes.sparse_kernel import build_sparse
from course_utils.runtimes.torch_compiled import NoCompilerError, build_compiled
from course_utils.runtimes.torch_device import build_on_device
from course_utils.runtimes.torch_eager import build_eager
from course_utils.runtimes.torch_exported import build_exported
from course_utils.runtimes.weight_only import build_weight_only

__all__ = [
    "Availability", "CallProfile", "MissingRuntimeError", "NoCompilerError", "Runner", "build",
    "build_compiled", "build_eager", "build_executorch", "build_exported", "build_litert",
    "build_on_device", "build_openvino", "build_sparse", "build_weight_only", "is_built_here",
    "list_available", "load", "observe_activations", "profile_call", "profile_operators",
]  # fmt: skip
