"""Compress a file of the course, bit for bit: ``NAME`` becomes ``NAME.xz``.

``course_utils.verified.read("NAME")`` returns it as it was.
"""

import lzma
from pathlib import Path

# What tells most about a byte: its place among the four of a float, or the byte before it.
FLOATS = {"lc": 2, "lp": 2, "pb": 2}
BYTES = {"lc": 4, "lp": 0, "pb": 0}


def pack_(file: Path, layout: dict[str, int]) -> Path:
    """Compress a file, remove it, and return the one that stands for it.

    Args:
        file: Of any kind.
        layout: ``FLOATS``, or ``BYTES`` for pixels and texts.
    """
    settings = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, **layout}
    packed = file.with_name(f"{file.name}.xz")
    packed.write_bytes(lzma.compress(file.read_bytes(), filters=[settings]))
    file.unlink()
    return packed
