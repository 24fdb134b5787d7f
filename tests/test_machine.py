"""What this machine is, and what that means for int8."""

import os
import platform
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch

from course_utils import machine
from course_utils.machine import (
    Machine,
    describe,
    explain,
    explain_16_bits,
    explain_int8,
    int8_sums_overflow,
)

OLD_X86 = Machine(
    cpu="Some Xeon",
    architecture="x86_64",
    cores=2,
    memory_gib=15.6,
    vector_instructions="AVX2",
    int8_instructions="",
    bf16_instructions=False,
    fp16_instructions=False,
    system="Linux 6.1",
    python="3.11.7",
    versions={"torch": "2.13.0"},
)
MACHINES = {
    "x86 without VNNI": OLD_X86,
    "x86 with VNNI": replace(OLD_X86, vector_instructions="AVX-512", int8_instructions="VNNI"),
    "x86 on Windows": replace(OLD_X86, architecture="AMD64"),
    "arm64": replace(
        OLD_X86,
        architecture="arm64",
        vector_instructions="NEON",
        int8_instructions="dot product (SDOT/UDOT)",
    ),
    "older arm64": replace(OLD_X86, architecture="aarch64", vector_instructions="NEON"),
}


@pytest.fixture
def pretend(monkeypatch):
    """Return a function after which this machine is another one."""
    return lambda name: monkeypatch.setattr(machine, "describe", lambda: MACHINES[name])


def test_this_machine_is_described():
    here = describe()
    assert here.cpu
    assert here.architecture
    assert 1 <= here.cores <= (os.cpu_count() or 1)
    assert here.memory_gib >= 0
    assert here.vector_instructions in {"SSE", "AVX2", "AVX-512", "NEON", "SVE"}
    assert isinstance(here.bf16_instructions, bool)
    assert isinstance(here.fp16_instructions, bool)
    assert here.python == platform.python_version()
    assert here.system.startswith(platform.system())
    assert here.versions["numpy"] == version("numpy")
    assert here.versions.keys() == set(machine.VERSIONED)


@pytest.mark.parametrize(
    ("tells", "vectors", "int8"),
    [
        ({"architecture": "x86_64"}, "SSE", ""),
        ({"architecture": "x86_64", "avx2": True}, "AVX2", ""),
        ({"architecture": "x86_64", "avx2": True, "avx_vnni": True}, "AVX2", "VNNI"),
        ({"architecture": "x86_64", "avx2": True, "avx512_f": True}, "AVX-512", ""),
        ({"architecture": "x86_64", "avx512_f": True, "avx512_vnni": True}, "AVX-512", "VNNI"),
        (
            {"architecture": "x86_64", "avx512_f": True, "avx512_vnni": True, "amx_int8": True},
            "AVX-512",
            "AMX and VNNI",
        ),
        ({"architecture": "aarch64"}, "NEON", ""),
        ({"architecture": "aarch64", "sve": True, "dot": True}, "SVE", "dot products"),
        ({"architecture": "arm64", "dot": True, "i8mm": True}, "NEON", "matrix products"),
    ],
)
def test_the_widest_instructions_are_named(tells, vectors, int8, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: tells)
    monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
    described = describe.__wrapped__()  # past its cache
    assert described.vector_instructions == vectors
    assert described.int8_instructions.startswith(int8)
    assert bool(described.int8_instructions) == bool(int8)


@pytest.mark.parametrize(
    ("tells", "bf16", "fp16"),
    [
        ({"architecture": "x86_64", "avx2": True, "f16c": True}, False, False),  # f16c only casts
        ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": True}, True, False),
        ({"architecture": "x86_64", "avx512_bf16": True, "avx512_fp16": True}, True, True),
        ({"architecture": "x86_64", "amx_bf16": True}, True, False),
        ({"architecture": "x86_64", "amx_fp16": True}, False, True),
        ({"architecture": "aarch64"}, False, False),
        ({"architecture": "aarch64", "fp16_arith": True}, False, True),
        ({"architecture": "arm64", "bf16": True, "fp16_arith": True}, True, True),
    ],
)
def test_instructions_for_16_bits_are_found(tells, bf16, fp16, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: tells)
    monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
    described = describe.__wrapped__()
    assert (described.bf16_instructions, described.fp16_instructions) == (bf16, fp16)


def test_every_apple_processor_has_dot_products_and_fp16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "arm64"})
    monkeypatch.setattr(machine.platform, "system", lambda: "Darwin")
    described = describe.__wrapped__()
    assert described.int8_instructions.startswith("dot product")
    assert described.fp16_instructions
    assert not described.bf16_instructions


def test_an_apple_system_on_an_intel_processor_is_no_apple_processor(monkeypatch):
    tells = {"architecture": "x86_64", "avx2": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: tells)
    monkeypatch.setattr(machine.platform, "system", lambda: "Darwin")
    described = describe.__wrapped__()
    assert described.int8_instructions == ""
    assert not described.fp16_instructions


def test_the_description_names_processor_cores_and_instructions():
    assert str(OLD_X86) == "Some Xeon, 2 cores, AVX2, no int8 instructions"
    assert str(MACHINES["x86 with VNNI"]) == "Some Xeon, 2 cores, AVX-512, VNNI"
    arm = "Some Xeon, 2 cores, NEON, dot product (SDOT/UDOT)"
    assert str(MACHINES["arm64"]) == arm


def test_the_description_of_a_machine_with_one_core():
    assert "1 core," in str(replace(OLD_X86, cores=1))


def test_the_id_is_short_and_stays_the_same():
    assert describe().id == describe().id
    assert len(describe().id) == 12


@pytest.mark.parametrize(
    "changes",
    [
        {"versions": {"torch": "2.13.1"}},
        {"cpu": "Another Xeon"},
        {"cores": 4},
        {"int8_instructions": "VNNI"},
        {"fp16_instructions": True},
        {"system": "Linux 6.2"},
        {"python": "3.12.0"},
    ],
)
def test_the_id_changes_with_what_can_change_a_measurement(changes):
    assert replace(OLD_X86, **changes).id != OLD_X86.id


@pytest.mark.parametrize(
    ("name", "overflows"),
    [
        ("x86 without VNNI", True),
        ("x86 on Windows", True),
        ("x86 with VNNI", False),
        ("arm64", False),
        ("older arm64", False),
    ],
)
def test_sums_overflow_on_x86_without_vnni_alone(pretend, name, overflows):
    pretend(name)
    assert int8_sums_overflow() == overflows


def test_int8_in_words_with_instructions_for_it(pretend):
    pretend("x86 with VNNI")
    assert "this processor has VNNI" in explain_int8()
    pretend("arm64")
    assert "this processor has dot product" in explain_int8()
    assert "7 bits" not in explain_int8()


def test_int8_in_words_without_instructions_for_it(pretend):
    pretend("x86 without VNNI")
    assert "no instruction of its own" in explain_int8()
    assert "7 bits" in explain_int8()
    pretend("older arm64")
    assert "no instruction of its own" in explain_int8()
    assert "7 bits" not in explain_int8()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("has", [True, False])
def test_16_bits_in_words(precision, has, monkeypatch):
    changed = replace(OLD_X86, **{f"{precision}_instructions": has})
    monkeypatch.setattr(machine, "describe", lambda: changed)
    words = explain_16_bits(precision)
    assert words.startswith(f"{precision}: ")
    assert ("has instructions for it" in words) == has
    assert ("slower than fp32" in words) != has


def test_the_machine_in_words():
    words = explain()
    assert describe().cpu in words
    assert f"torch {version('torch')}" in words
    assert describe().vector_instructions in words
    assert explain_int8() in words
    assert explain_16_bits("bf16") in words
    assert explain_16_bits("fp16") in words


def test_one_core_and_no_known_memory_in_words(monkeypatch):
    monkeypatch.setattr(machine, "describe", lambda: replace(OLD_X86, cores=1, memory_gib=0.0))
    assert "memory" not in explain()
    assert "one core only" in explain()
    assert "1 cores" not in explain()


def test_the_module_prints_the_machine():
    shown = subprocess.run(
        [sys.executable, "-m", "course_utils.machine"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == explain()
    assert shown.stderr == ""
