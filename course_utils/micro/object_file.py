"""How much of a chip's memory code and data take, read from an object file's list of sections.

Object files on Linux, and for all microcontrollers, are in the format ELF. What a program may
write to needs RAM; all that has contents, the initial values of variables too, needs flash.
"""

import struct
from dataclasses import dataclass

MAGIC = b"\x7fELF"
NO_CONTENTS = 8  # a section of zeros: SHT_NOBITS
IS_WRITABLE, IS_LOADED = 1, 2  # SHF_WRITE, SHF_ALLOC


@dataclass(frozen=True)
class ObjectSize:
    """What an object file needs on the chip.

    Attributes:
        flash_bytes: Code, constants, and what variables begin with: .text, .rodata, .data.
        ram_bytes: Variables: .data, .bss. The stack comes on top.
        code_bytes: Of the flash, the code.
    """

    flash_bytes: int
    ram_bytes: int
    code_bytes: int


def count_memory(content: bytes) -> ObjectSize:
    """Return what the sections of an object file add up to.

    Raises:
        ValueError: It is no complete ELF file; the compiler is one for macOS or Windows, perhaps.
    """
    flash, ram, code = 0, 0, 0
    for name, kind, flags, size in read_sections(content):
        if flags & IS_LOADED and name != ".eh_frame":  # that is for C++ and debuggers
            flash += 0 if kind == NO_CONTENTS else size
            ram += size if flags & IS_WRITABLE else 0
            code += size if name.startswith(".text") else 0
    return ObjectSize(flash, ram, code)


def read_sections(content: bytes) -> list[tuple[str, int, int, int]]:
    """Return name, kind, flags and size of each section of an ELF file; see ``count_memory``."""
    if content[:4] != MAGIC or len(content) < 64:
        raise ValueError(
            f"This is no ELF file ({len(content)} bytes): flash and RAM can only be counted from"
            " what a compiler for Linux or for a microcontroller writes."
        )
    has_64_bits, order = content[4] == 2, "<" if content[5] == 1 else ">"
    word = "Q" if has_64_bits else "I"
    try:
        (table,) = struct.unpack_from(order + word, content, 40 if has_64_bits else 32)
        size, count, names = struct.unpack_from(order + "HHH", content, 58 if has_64_bits else 46)
        headers = [  # where its name stands, kind, flags, address, offset, size
            struct.unpack_from(f"{order}II{word * 4}", content, table + place * size)
            for place in range(count)
        ]
        start = headers[names][4]
        found = []
        for header in headers:
            first = start + header[0]
            name = content[first : content.index(b"\0", first)].decode()
            found.append((name, header[1], header[2], header[5]))
    except (struct.error, ValueError, IndexError) as error:
        raise ValueError(f"This ELF file is damaged or cut off: {error}.") from None
    return found
