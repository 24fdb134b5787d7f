"""The C file of a network, compiled by this machine's compiler and called from Python."""

import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from course_utils import machine
from course_utils.micro.arithmetic import to_pixels
from course_utils.micro.c_code import write_c
from course_utils.micro.integers import IntegerNetwork
from course_utils.micro.object_file import ObjectSize, count_memory
from course_utils.runtimes import NoCompilerError, Runner
from course_utils.runtimes.loading import LoadingCode

NAME = "C, compiled here"
FAST = ("-O3", "-march=native")
SMALL = ("-Os",)
STANDARD = ("-std=c99", "-Wall", "-Wextra", "-Werror")
FOR_A_CHIP = ("-ffreestanding", "-fno-pie", "-fno-asynchronous-unwind-tables")
COMPILERS = ("cc", "gcc", "clang")
# Lanes, and bytes of a weight. Bytes as wide as the widest registers, where there are dot products
# of them; else 16 bits: on an AMD EPYC with AVX2 that halves the time of the student of lesson 05.
BY_BYTES, BY_16_BITS = (64, 1), (8, 2)

Run = Callable[[np.ndarray], np.ndarray]


def build_c(
    network: IntegerNetwork,
    *,
    name: str = "network",
    lanes: int | None = None,
    weight_bytes: int | None = None,
    flags: Sequence[str] = FAST,
) -> Runner:
    """Return a runner that calls the network's C file, compiled here.

    Args:
        network: See ``quantize_to_integers``.
        name: Begins the name of its function in C.
        lanes: See ``write_c``: 1 is how a microcontroller would get it; None: what is quick here.
        weight_bytes: See ``write_c``; None: what is quick here.
        flags: For the compiler.

    Raises:
        ValueError: The C file cannot be written like this.
        NoCompilerError: There is no C compiler here, or it does not work.
    """
    quick = BY_16_BITS if machine.int8_sums_overflow() else BY_BYTES
    lanes = quick[0] if lanes is None else lanes
    weight_bytes = quick[1] if weight_bytes is None else weight_bytes
    source = write_c(network, name, lanes=lanes, weight_bytes=weight_bytes)
    run_integers, used = _load(network, source, name, flags)
    scale = np.float32(network.logit_scale)

    def run(batch: np.ndarray) -> np.ndarray:
        logits: np.ndarray = np.multiply(run_integers(batch), scale, dtype=np.float32)
        return logits

    told = [" ".join(used)] + [f"rows filled up to {lanes} weights"] * (lanes > 1)
    remark = ", ".join(told + ["each in 16 bits"] * (weight_bytes == 2))
    return Runner(run, NAME, "int8", remark, source.encode(), network.image_shape)


def load_c(network: IntegerNetwork, source: str, name: str, flags: Sequence[str] = FAST) -> Run:
    """Return a function that gives the logits of images, int32, as ``network.run`` does.

    Args:
        network: Whose C file it is.
        source: From ``write_c``.
        name: As given to ``write_c``.
        flags: For the compiler.

    Raises:
        NoCompilerError: There is no C compiler here, or it does not work.
    """
    return _load(network, source, name, flags)[0]


def _load(
    network: IntegerNetwork, source: str, name: str, flags: Sequence[str]
) -> tuple[Run, Sequence[str]]:
    """Return the function of ``load_c``, and which of the flags the compiler knew."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        library = Path(folder) / "network.so"
        used = compile_c(source, library, (*flags, "-shared", "-fPIC"))[:-2]
        # PyDLL keeps Python's other threads waiting: the buffers serve one call at a time
        classify = ctypes.PyDLL(str(library))[f"{name}_classify"]
    classify.argtypes = [ctypes.c_void_p, ctypes.c_void_p]

    def run(images: np.ndarray) -> np.ndarray:
        pixels = to_pixels(images, network.image_shape)
        pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))  # channels last
        logits = np.empty((len(pixels), network.classes), np.int32)
        source_at, target_at = pixels.ctypes.data, logits.ctypes.data
        for _ in range(len(pixels)):
            classify(source_at, target_at)
            source_at += pixels.strides[0]
            target_at += logits.strides[0]
        return logits

    return run, used


def compile_library(source: str) -> bytes:
    """Return a C file of ``write_c`` compiled as a library; its function is network_classify.

    Raises:
        NoCompilerError: There is no C compiler here, or it does not work.
    """
    source = re.sub(r"\b\w+_classify\(", "network_classify(", source)  # no layer: that has no (
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "network.so"
        compile_c(source, library, (*FAST, "-shared", "-fPIC"))
        return library.read_bytes()


def pack_library(artefact: bytes) -> dict[str, bytes]:
    """Return what opens a C file elsewhere: its library, and how many logits it writes.

    Raises:
        NoCompilerError: There is no C compiler here, or it does not work.
    """
    source = artefact.decode()
    logits = re.findall(r"int32_t logits\[(\d+)\]", source)[0]
    return {"network.so": compile_library(source), "logits": logits.encode()}


LOADING = LoadingCode(
    imports="",
    load="""
        classify = ctypes.PyDLL("./network.so").network_classify
        logits = (ctypes.c_int32 * int(open("logits").read()))()
    """,
    call="""
        pixels = numpy.rint(images * 255).astype(numpy.uint8).transpose(0, 2, 3, 1)
        pixels = numpy.ascontiguousarray(pixels)
        for image in pixels:
            classify(ctypes.c_void_p(image.ctypes.data), logits)
    """,
    unpack=pack_library,
)


def measure_object(
    source: str, flags: Sequence[str] = SMALL, *, compiler: str | None = None
) -> ObjectSize:
    """Return how much flash and RAM a C file needs, counted from its object file.

    Args:
        source: From ``write_c``.
        flags: For the compiler.
        compiler: E.g. "arm-none-eabi-gcc"; None: this machine's.

    Raises:
        ValueError: This compiler's object files cannot be read.
        NoCompilerError: There is no such compiler here, or it does not work.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "network.o"
        compile_c(source, target, (*flags, *FOR_A_CHIP, "-c"), compiler=compiler)
        return count_memory(target.read_bytes())


def compile_c(
    source: str, target: Path, flags: Sequence[str], *, compiler: str | None = None
) -> Sequence[str]:
    """Compile a C file, strictly: a warning is an error. Return the flags that were used.

    A compiler that does not know this processor is called again without ``-march=native``.

    Args:
        source: The file's text.
        target: The file to write.
        flags: For the compiler, besides those for C99 and for warnings.
        compiler: Its name; None: the first of cc, gcc and clang that is there.

    Raises:
        NoCompilerError: There is no such compiler here, or it does not work.
    """
    found = next(filter(None, map(shutil.which, [compiler] if compiler else COMPILERS)), None)
    if found is None:
        raise NoCompilerError(
            f"There is no C compiler here ({compiler or ', '.join(COMPILERS)}). {_how_to_install()}"
        )
    command = [found, *STANDARD, *flags, "-o", str(target), "-x", "c", "-"]
    try:
        done = subprocess.run(command, input=source, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoCompilerError(f"{found} does not work: {error}. {_how_to_install()}") from None
    if done.returncode and "-march=native" in flags:
        fewer = [flag for flag in flags if flag != "-march=native"]
        return compile_c(source, target, fewer, compiler=compiler)
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
        said = f"{found} {' '.join(flags)} failed. It says: {told[0][:300].strip()}."
        raise NoCompilerError(f"{said} {_how_to_install()}")
    return flags


def _how_to_install() -> str:
    return (
        "Install one, then try again: `sudo apt install gcc` (Debian, Ubuntu), `xcode-select"
        " --install` (macOS); on Windows, work in WSL."
    )
