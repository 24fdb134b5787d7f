"""The view of a number's bits, driven from Python: it says what the page says."""

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils.formats import FORMATS
from course_utils.lab.bits import BitView, Row, write_error, write_number


@pytest.fixture
def view() -> BitView:
    return BitView()


def row(view: BitView, name: str) -> Row:
    (found,) = [row for row in view.rows if row.name == name]
    return found


# The rows


def test_the_rows_of_a_tenth(view):
    assert view.rows == [
        ("fp32", "00111101110011001100110011001101", "0.10000000149011612", "1.5e−6 %"),
        ("tf32", "0011110111001100110", "0.0999755859375", "0.024 %"),
        ("fp16", "0010111001100110", "0.0999755859375", "0.024 %"),
        ("bf16", "0011110111001101", "0.10009765625", "0.098 %"),
        ("fp8 E4M3", "00011101", "0.1015625", "1.6 %"),
        ("fp8 E5M2", "00101110", "0.09375", "6.3 %"),
        ("int8", "00001101", "0.10236220472440945", "2.4 %"),
        ("int4", "0001", "0.14285714285714285", "43 %"),
    ]


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, -0.3, 1e-6, 500.0, -7e4, 1e300, 5e-324])
def test_every_row_is_what_its_format_stores(view, value):
    view.value = value
    assert [row.name for row in view.rows] == list(FORMATS)
    for name, one in FORMATS.items():
        if name.startswith("int"):
            one = one.with_range(1.0)
        shown = row(view, name)
        assert shown.bits == one.encode(value)
        assert shown.stored == write_number(one.decode(shown.bits))
        assert shown.error == write_error(value, one.decode(shown.bits))


def test_the_integers_reach_to_the_end_of_the_slider():
    view = BitView(3.0, largest=3.0)
    assert row(view, "int8") == ("int8", "01111111", "3", "exact")
    assert row(view, "int4").bits == "0111"
    view.value = -4.0
    assert row(view, "int8") == ("int8", "10000001", "−3", "25 %")


def test_a_whole_number_can_be_given(view):
    view.value = 2
    assert row(view, "fp16") == ("fp16", "0100000000000000", "2", "exact")


def test_zero_has_no_sign_until_it_is_flipped(view):
    view.value = -0.0
    assert {(row.stored, row.error) for row in view.rows} == {("0", "exact")}
    view.flip("bf16", 0)
    assert row(view, "bf16") == ("bf16", "1" + "0" * 15, "−0", "exact")
    view.flip("bf16", 15)
    assert row(view, "bf16").error == "not defined"


# Flips


def test_every_single_flip_shows_what_the_bits_stand_for(view):
    before = view.rows
    for name, bits, *_ in before:
        one = FORMATS[name].with_range(1.0) if name.startswith("int") else FORMATS[name]
        for position in range(len(bits)):
            view.flip(name, position)
            flipped = row(view, name)
            assert sum(a != b for a, b in zip(bits, flipped.bits, strict=True)) == 1
            assert flipped.bits[position] != bits[position]
            assert flipped.stored == write_number(one.decode(flipped.bits))
            assert [r for r in view.rows if r.name != name] == [r for r in before if r.name != name]
            view.flip(name, position)
            assert view.rows == before


def test_flips_add_up_and_another_value_ends_them(view):
    view.flip("fp8 E4M3", 0)
    view.flip("fp8 E4M3", 7)
    view.flip("int8", 0)
    assert row(view, "fp8 E4M3") == ("fp8 E4M3", "10011100", "−0.09375", "190 %")
    assert row(view, "int8").stored.startswith("−0.905")
    view.value = 0.2
    view.value = 0.1
    assert view.rows == BitView(0.1).rows
    assert view.flipped == {}


def test_flips_that_come_with_a_number_from_the_page_are_kept(view):
    view.set_state({"value": 0.5, "flipped": {"value": 0.5, "bits": {"int4": "1000"}}})
    assert row(view, "int4") == ("int4", "1000", "−1.1428571428571428", "330 %")


def test_flips_that_the_page_sends_late_belong_to_no_other_number(view):
    view.value = 0.5
    view.set_state({"flipped": {"value": 0.1, "bits": {"int4": "1000"}}})
    assert view.rows == BitView(0.5).rows


@pytest.mark.parametrize(
    ("name", "position", "said"),
    [
        ("fp64", 0, "no format 'fp64'; there are fp32, tf32"),
        ("int4", 4, "int4 has bits 0 to 3, not 4"),
        ("int4", -1, "int4 has bits 0 to 3, not -1"),
    ],
)
def test_a_bit_that_does_not_exist_is_refused(view, name, position, said):
    with pytest.raises(ValueError, match=said):
        view.flip(name, position)
    assert view.flipped == {}


# Bad input


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_refused(view, value):
    with pytest.raises(ValueError, match="give a finite number"):
        view.value = value
    assert view.value == 0.1
    with pytest.raises(ValueError, match="give a finite number"):
        BitView(value)


@pytest.mark.parametrize("largest", [0.0, -1.0, math.nan, math.inf])
def test_a_slider_without_an_end_is_refused(largest):
    with pytest.raises(ValueError, match=f"above 0 and finite, not {largest}"):
        BitView(largest=largest)


# The words


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0.0, "0"), (-0.0, "−0"), (1.0, "1"), (-448, "−448"), (0.1, "0.1"), (1e-4, "0.0001"),
        (9.5e-5, "9.5e−5"), (-2.0**-149, "−1.401298464324817e−45"), (1e16, "1e16"),
        (123456789.0, "123456789"), (3.4028234663852886e38, "3.4028234663852886e38"),
        (math.inf, "∞"), (-math.inf, "−∞"), (math.nan, "NaN"),
    ],
)  # fmt: skip
def test_a_number_in_words(number, said):
    assert write_number(number) == said


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_written_number_can_be_read_again(number):
    read = float(write_number(number).replace("−", "-"))
    assert read == number
    assert math.copysign(1, read) == math.copysign(1, number)


@pytest.mark.parametrize(
    ("value", "stored", "said"),
    [
        (0.1, 0.1, "exact"), (0.0, -0.0, "exact"), (0.0, 1.0, "not defined"),
        (1.0, math.nan, "not defined"), (1.0, -math.inf, "∞ %"), (1.0, 1.125, "13 %"),
        (-1.0, 1.0, "200 %"), (8.0, 8.09, "1.1 %"), (1.0, 1.0 + 2.0**-30, "9.3e−8 %"),
        (5e-324, 1e38, "∞ %"), (1000.0, 1009.96, "1 %"),
    ],
)  # fmt: skip
def test_an_error_in_words(value, stored, said):
    assert write_error(value, stored) == said


# What the page gets


def test_the_page_gets_every_bit_with_its_field_and_label(view):
    assert json.loads(json.dumps(view.spec)) == json.loads(json.dumps(BitView(0.7).spec))
    for sent, one in zip(view.spec["formats"], FORMATS.values(), strict=True):
        assert sent["name"] == one.name
        assert len(sent["bits"]) == one.bits
        assert len({bit["label"] for bit in sent["bits"]}) == one.bits
        assert all(bit["label"].startswith(bit["field"]) for bit in sent["bits"])
        assert {bit["field"] for bit in sent["bits"]} <= set(view.spec["key"])
    fp16 = view.spec["formats"][2]["bits"]
    assert fp16[0] == {"field": "sign", "label": "sign bit 1 of 1"}
    assert fp16[3] == {"field": "exponent", "label": "exponent bit 3 of 5"}


@pytest.mark.parametrize(
    ("largest", "step"), [(1.0, 1e-3), (0.37, 1e-4), (5.0, 1e-2), (500.0, 1.0), (1e5, 100.0)]
)
def test_the_slider_moves_in_round_steps(largest, step):
    assert BitView(largest=largest).spec["step"] == step
    assert BitView(largest=largest).spec["largest"] == largest


def test_the_note_says_what_is_computed_and_what_a_step_is():
    note = BitView(largest=2.0).spec["note"]
    assert note.startswith("computed: ")
    assert "one step of int8 0.0157 and int4 0.286, so that both reach from −2 to 2" in note


# The static twin


def test_without_a_kernel_the_view_is_a_table_and_a_sentence(view):
    view.value = -0.3
    view.flip("fp16", 1)
    data, _ = view._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    sentence = data["text/plain"]
    assert sentence.startswith("−0.3 is stored as −0.30000001192092896 in fp32 (4e−6 %), ")
    assert sentence.endswith(" in int4 (4.8 %).")
    assert "\n" not in sentence
    table = data["text/html"]
    assert table.count("<tr>") == 1 + len(FORMATS)
    for name, bits, stored, error in view.rows:
        parted = " ".join(FORMATS[name].fields(bits).values())
        assert f">{name}</th>" in table
        assert f"<code>{parted}</code>" in table
        assert f">{stored}</td>" in table
        assert f">{error}</td></tr>" in table
    assert "class=" not in table
    assert "<script" not in table


def test_the_view_does_not_wait_for_torch():
    source = "import sys, course_utils.lab.bits; print('torch' in sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    ).stdout
    assert shown.split() == ["False"]
