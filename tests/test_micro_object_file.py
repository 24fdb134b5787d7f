"""Flash and RAM, counted from the sections of an object file."""

import struct
import subprocess

import pytest

from course_utils import micro
from course_utils.micro import object_file
from course_utils.runtimes import NoCompilerError

C_FILE = """
static const int constants[100] = {1};
static int variables[30] = {2};
static int zeros[50];
int look(int i) { variables[i] += zeros[i]++; return variables[i] + constants[i]; }
"""


def make_elf(sections: list[tuple[str, int, int, int]], bits: int = 64, order: str = "<") -> bytes:
    """Return a file with nothing but a list of sections: name, kind, flags, size."""
    word, header = ("Q", 64) if bits == 64 else ("I", 52)
    names = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in sections) + b".names\0"
    table, rows, at = header + len(names), [], 1
    for name, kind, flags, size in sections:
        rows.append(struct.pack(f"{order}II{word * 4}", at, kind, flags, 0, 0, size))
        at += len(name) + 1
    rows.append(struct.pack(f"{order}II{word * 4}", at, 3, 0, 0, header, len(names)))
    size = len(rows[0])
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]) + bytes(9)
    fields = struct.pack(f"{order}HHI{word * 3}I6H", 1, 0, 1, 0, 0, table, 0, header, 0, 0, size,
                         len(rows), len(rows) - 1)  # fmt: skip
    return ident + fields + names + b"".join(rows)


SECTIONS = [
    (".text", 1, 6, 1000),
    (".text.hot", 1, 6, 24),
    (".rodata", 1, 2, 300),
    (".data", 1, 3, 40),
    (".bss", 8, 3, 5000),
    (".eh_frame", 1, 2, 77),
    (".comment", 1, 0, 99),
]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_sections_add_up_to_flash_and_ram(bits, order):
    found = object_file.count_memory(make_elf(SECTIONS, bits, order))
    assert found == micro.ObjectSize(
        flash_bytes=1000 + 24 + 300 + 40, ram_bytes=5040, code_bytes=1024
    )


def test_a_compiled_file_has_the_sizes_that_its_c_code_says():
    found = micro.measure_object(C_FILE)
    assert found.ram_bytes == 4 * (30 + 50)
    assert found.flash_bytes - found.code_bytes == 4 * (100 + 30)
    assert 0 < found.code_bytes < 200


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda content: b"", "no ELF file.*Linux or for a microcontroller"),
        (lambda content: b"MZ" + content[2:], "no ELF file"),
        (lambda content: content[:-10], "damaged or cut off"),
        (lambda content: content[: len(content) // 2], "damaged or cut off"),
        (lambda content: content[:60] + b"\xff\xff\xff\xff" + content[64:], "damaged or cut off"),
    ],
)
def test_what_is_no_object_file_is_refused(spoil, told):
    with pytest.raises(ValueError, match=told):
        object_file.count_memory(spoil(make_elf(SECTIONS)))


def test_a_compiler_that_is_not_here_is_named():
    with pytest.raises(NoCompilerError, match=r"no-such-gcc.*Install"):
        micro.measure_object(C_FILE, compiler="no-such-gcc")


def test_it_agrees_with_the_program_size(tmp_path):
    source, target = tmp_path / "one.c", tmp_path / "one.o"
    source.write_text(C_FILE)
    subprocess.run(["cc", "-Os", "-fno-pie", "-fno-asynchronous-unwind-tables", "-c", source,
                    "-o", target], check=True)  # fmt: skip
    told = subprocess.run(["size", target], capture_output=True, text=True, check=True).stdout
    text, data, zeros = (int(number) for number in told.split("\n")[1].split()[:3])
    found = object_file.count_memory(target.read_bytes())
    assert (found.flash_bytes, found.ram_bytes) == (text + data, data + zeros)
