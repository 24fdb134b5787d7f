"""The journal: what is read back is what was written, or nothing."""

import json
import warnings
import zlib

import pytest

from course_utils.journal import Journal

ENTRIES = [
    {"kind": "point", "index": 0, "right": "ff10", "images": 14, "seconds": 0.25},
    {"kind": "round", "seconds": 1.5, "when": "2026-01-31 12:00", "times_ms": [[0.1, 1e-05]]},
    {"kind": "point", "index": 1, "right": "0a0b", "images": 14, "remark": "“é ×”"},
]


def write() -> Journal:
    journal = Journal("key", "here")
    for entry in ENTRIES:
        fields = {name: value for name, value in entry.items() if name != "kind"}
        journal.add(entry["kind"], **fields)
    return journal


def read(machine_id: str = "here") -> Journal:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Journal("key", machine_id)


def test_entries_come_back_by_their_kind_oldest_first():
    write()
    journal = read()
    assert journal.entries == ENTRIES
    assert journal.entries_of("point") == [ENTRIES[0], ENTRIES[2]]
    assert journal.entries_of("round") == [ENTRIES[1]]
    assert journal.entries_of("something else") == []


def test_a_line_is_a_checksum_and_json():
    lines = [line for line in write().path.read_text().splitlines() if line]
    assert len(lines) == 1 + len(ENTRIES)
    for line in lines:
        checksum, _, text = line.partition(" ")
        assert checksum == f"{zlib.crc32(text.encode()):08x}"
    assert [json.loads(line[9:]) for line in lines[1:]] == ENTRIES


@pytest.mark.parametrize("number", range(len(ENTRIES)))
def test_a_changed_byte_at_any_place_of_a_line_drops_that_line(number):
    path = write().path
    content = path.read_bytes()
    line = [line for line in content.splitlines() if line][1 + number]
    start = content.index(line)
    others = [entry for entry in ENTRIES if entry is not ENTRIES[number]]
    for place in range(start, start + len(line)):
        now = content[place]
        for byte in {now ^ 1 << bit for bit in range(8)} | {*b"0 \n\x00\xff", now ^ 0xFF}:
            if byte != now:
                path.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
                with pytest.warns(UserWarning, match="damaged lines"):
                    assert Journal("key", "here").entries == others


def test_a_changed_byte_anywhere_in_the_file_gives_no_other_entry():
    path = write().path
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            kept = read().entries
            assert [entry for entry in ENTRIES if entry in kept] == kept


def test_a_damaged_header_puts_the_file_aside():
    path = write().path
    content = bytearray(path.read_bytes())
    content[12] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="put aside"):
        assert Journal("key", "here").entries == []
    assert not path.exists()
    assert path.with_suffix(".damaged").read_bytes() == content


def test_another_machine_reads_nothing():
    write()
    assert read("elsewhere").entries == []


def test_what_is_added_after_a_broken_line_is_kept():
    path = write().path
    path.write_bytes(path.read_bytes()[:-20])  # the last line broke off
    read().add("round", seconds=2.0)
    assert read().entries == [*ENTRIES[:2], {"kind": "round", "seconds": 2.0}]
