"""What this machine is, and what that means for the lessons.

python -m course_utils.machine
"""

import hashlib
import importlib.metadata
import json
import os
import platform
from dataclasses import asdict, dataclass
from functools import cache
from typing import Literal

VERSIONED = ("torch", "onnxruntime", "onnx", "numpy")


@dataclass(frozen=True)
class Machine:
    """The machine that a measurement was made on.

    Attributes:
        cpu: The processor's own name.
        architecture: "x86_64", "arm64", ...
        cores: Logical cores that this process may use.
        memory_gib: Main memory; 0 where the system does not tell.
        vector_instructions: The widest of them, e.g. "AVX2" or "AVX-512".
        int8_instructions: Dot products of bytes, e.g. "VNNI"; empty where there are none.
        bf16_instructions: Whether products of bfloat16 are computed in hardware.
        fp16_instructions: Whether half-precision numbers are, not only turned into fp32 and back.
        system: Operating system and its release.
        python: Version of the interpreter.
        versions: Of the libraries that compute.
    """

    cpu: str
    architecture: str
    cores: int
    memory_gib: float
    vector_instructions: str
    int8_instructions: str
    bf16_instructions: bool
    fp16_instructions: bool
    system: str
    python: str
    versions: dict[str, str]

    @property
    def id(self) -> str:
        """Return a short name for this machine with these versions."""
        described = json.dumps(asdict(self), sort_keys=True).encode()
        return hashlib.sha256(described).hexdigest()[:12]

    def __str__(self) -> str:
        has = [self.vector_instructions, self.int8_instructions or "no int8 instructions"]
        return f"{self.cpu}, {_count_cores(self.cores)}, {', '.join(has)}"


def _count_cores(cores: int) -> str:
    return "1 core" if cores == 1 else f"{cores} cores"


@cache
def describe() -> Machine:
    """Return what this machine is, as far as its processor and system tell."""
    import torch  # here, so that a module that only wants the type does not wait for it

    can = torch.cpu.get_capabilities()
    architecture = str(can.get("architecture") or platform.machine())
    is_arm = architecture.lower() in ("arm64", "aarch64")
    is_apple = is_arm and platform.system() == "Darwin"  # all have dot products and fp16
    if is_arm:
        vectors = "SVE" if can.get("sve") else "NEON"
        int8 = "dot products of bytes" if can.get("dot") or is_apple else ""
        int8 = "matrix products of bytes (I8MM)" if can.get("i8mm") else int8
    else:
        vectors = "AVX-512" if can.get("avx512_f") else "AVX2" if can.get("avx2") else "SSE"
        int8 = "VNNI" if can.get("avx512_vnni") or can.get("avx_vnni") else ""
        int8 = "AMX and VNNI" if int8 and can.get("amx_int8") else int8
    bf16 = ("bf16",) if is_arm else ("avx512_bf16", "amx_bf16")
    fp16 = ("fp16_arith",) if is_arm else ("avx512_fp16", "amx_fp16")
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        cores = os.cpu_count() or 1
    try:
        memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):  # Windows
        memory_gib = 0.0
    return Machine(
        cpu=str(can.get("cpu_name") or platform.processor() or "unknown processor"),
        architecture=architecture,
        cores=cores,
        memory_gib=round(memory_gib, 1),
        vector_instructions=vectors,
        int8_instructions=int8,
        bf16_instructions=any(can.get(name) for name in bf16),
        fp16_instructions=is_apple or any(can.get(name) for name in fp16),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions={name: importlib.metadata.version(name) for name in VERSIONED},
    )


def int8_sums_overflow() -> bool:
    """Return whether the usual int8 kernel of x86 can overflow on this machine.

    Without VNNI, two products of a byte with a signed byte are summed in 16 bits, and the sum
    is cut off at 32,767. With VNNI, and on ARM, sums have 32 bits.
    """
    machine = describe()
    return machine.architecture.lower() in ("x86_64", "amd64") and not machine.int8_instructions


def explain_int8() -> str:
    """Return in a sentence or two what this machine does with products of bytes."""
    has = describe().int8_instructions
    if has:
        return (
            f"int8: this processor has {has}: it multiplies bytes and sums the products into 32"
            " bits in one instruction, so int8 kernels can gain most."
        )
    cure = " The lessons hold 8-bit weights to 7 bits then." if int8_sums_overflow() else ""
    return (
        "int8: this processor has no instruction of its own for sums of products of bytes; int8"
        f" kernels need several, gain less, and some cut off large sums.{cure}"
    )


def explain_16_bits(precision: Literal["bf16", "fp16"]) -> str:
    """Return in a sentence or two what this machine does with 16-bit floating-point numbers."""
    machine = describe()
    has = machine.bf16_instructions if precision == "bf16" else machine.fp16_instructions
    if has:
        return (
            f"{precision}: this processor has instructions for it. Not every library uses them for"
            " every layer, and not on every processor are they faster than those for fp32."
        )
    return (
        f"{precision}: no instructions for it. Each number is turned into fp32 and back, so it is"
        " slower than fp32, not faster."
    )


def explain() -> str:
    """Return the machine in words: what will be fast here, and what will not."""
    machine = describe()
    memory = f" and {machine.memory_gib:.0f} GiB of memory" if machine.memory_gib else ""
    cores = _count_cores(machine.cores)
    libraries = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    lines = [
        f"This machine: {machine.cpu} ({machine.architecture}), {cores}{memory},"
        f" {machine.system}, Python {machine.python}.",
        f"Libraries: {libraries}.",
        f"Vector instructions: {machine.vector_instructions}.",
    ]
    lines.append(explain_int8())
    lines += [explain_16_bits(precision) for precision in ("bf16", "fp16")]
    if machine.cores == 1:
        lines.append("Threads: one core only, so nothing here can be made faster by threads.")
    else:
        lines.append(
            f"Threads: {machine.cores} logical cores. Comparisons run on one thread, so that"
            " other programs disturb them less."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(explain())
