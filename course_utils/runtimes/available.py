"""Which runtimes are here, and what to install for one that is not."""

import contextlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterator
from dataclasses import dataclass

MODULES = {  # what each needs; the first is the runtime itself
    "ONNX Runtime": ("onnxruntime", "onnx", "onnxscript"),
    "OpenVINO": ("openvino", "nncf"),
    "ExecuTorch": ("executorch", "torchao"),
    "LiteRT": ("ai_edge_litert", "ai_edge_quantizer", "litert_torch", "litert_converter"),
}
CONVERTS_ON = {("Linux", "x86_64"), ("Darwin", "arm64")}  # what litert_converter is built for
CORE = "`make setup` installs it, or `pip install onnxruntime onnx onnxscript` where this runs."
EXTRA = (
    "`make lab EXTRAS=edge` installs it; elsewhere, in the course's folder and where this runs,"
    " `pip install -e '.[edge]' -c constraints.txt` and"
    " `pip install --no-deps -r litert.txt -c constraints.txt`. Then restart the kernel."
)


class MissingRuntimeError(ModuleNotFoundError):
    """A runtime is not installed here; the message says how to install it."""


@dataclass(frozen=True)
class Availability:
    """Whether a runtime is here. As a condition it is true if so; as text it says so.

    Attributes:
        version: Of the runtime; empty if something is missing.
        reason: What is missing and how to install it; empty if nothing is.
    """

    version: str = ""
    reason: str = ""

    def __bool__(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        return self.version or self.reason


def list_available() -> dict[str, Availability]:
    """Return for each runtime its version, or why it cannot be used; none of them is imported."""
    found = {}
    for runtime, modules in MODULES.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            found[runtime] = Availability(reason=_say_missing(runtime, missing))
        else:
            package = modules[0].replace("_", "-")
            found[runtime] = Availability(version=importlib.metadata.version(package))
    return found


def is_built_here(runtime: str) -> bool:
    """Return whether there are packages of a runtime for this system and processor."""
    return runtime != "LiteRT" or (platform.system(), platform.machine()) in CONVERTS_ON


@contextlib.contextmanager
def needed_for(runtime: str) -> Iterator[None]:
    """Turn a failing import into an error that says what to install.

    Raises:
        MissingRuntimeError: A module is not there, or cannot be loaded.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = [str(error.name)]
        raise MissingRuntimeError(_say_missing(runtime, missing), name=error.name) from None
    except (ImportError, OSError) as error:  # of another version, or a library that is damaged
        reason = " ".join(str(error).split())[-300:]
        raise MissingRuntimeError(
            f"{runtime} is installed but cannot be loaded: {reason}. {_how_to_install(runtime)}"
        ) from None


def _say_missing(runtime: str, modules: list[str]) -> str:
    lacks = "there is no module" if len(modules) == 1 else "there are no modules"
    named = ", ".join(modules)
    return f"{runtime} is not ready here: {lacks} {named}. {_how_to_install(runtime)}"


def _how_to_install(runtime: str) -> str:
    if not is_built_here(runtime):
        return (
            f"What converts a network for it is not built for {platform.system()} on"
            f" {platform.machine()}; it is for Linux on x86_64 and for macOS on arm64."
        )
    return CORE if runtime == "ONNX Runtime" else EXTRA
