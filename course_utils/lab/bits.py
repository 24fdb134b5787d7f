"""The bits of a number: move it and see what each format stores; flip a bit and see what it does.

The page computes by itself, so a drag needs no kernel. It follows the rules of ``formats``, and
``BitView.rows`` gives the same text without a page; the browser tests hold the two together.
"""

from __future__ import annotations

import html
import math
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any, NamedTuple

import anywidget
import traitlets

from course_utils.formats import FORMATS, FloatFormat, IntegerFormat
from course_utils.lab import page

FIELDS = ("sign", "exponent", "fraction", "integer")
AnyFormat = FloatFormat | IntegerFormat
HEAD = ("format", "bits", "value stored", "relative error")


class Row(NamedTuple):
    """One format: its name, its bits, the value they stand for, and how far off that is."""

    name: str
    bits: str
    stored: str
    error: str


class BitView(anywidget.AnyWidget):
    """A number in the bits of every format of ``formats.FORMATS``.

    Set it from Python with ``value`` and ``flip``; read it with ``rows``.
    """

    _esm = page.read("dom.js", "bits.js")
    _css = page.read("panel.css", "bits.css")

    spec = traitlets.Dict().tag(sync=True)  # all words, and what the page computes with
    value = traitlets.Float().tag(sync=True)
    flipped = traitlets.Dict().tag(sync=True)  # {"value": the number it was, "bits": {name: bits}}

    def __init__(self, value: float = 0.1, largest: float = 1.0) -> None:
        """Show a number.

        Args:
            value: The number at first.
            largest: Where the slider ends, and where the integers do.

        Raises:
            ValueError: ``value`` is not finite, or ``largest`` is not above 0 and finite.
        """
        if not 0 < largest < math.inf:
            raise ValueError(f"The slider needs an end above 0 and finite, not {largest}.")
        self._formats = {
            name: one.with_range(largest) if isinstance(one, IntegerFormat) else one
            for name, one in FORMATS.items()
        }
        super().__init__(spec=_make_spec(self._formats, largest), value=value)

    @property
    def rows(self) -> list[Row]:
        """What the page shows, in its words: one row for each format."""
        rows = []
        for name, one in self._formats.items():
            bits = self._flipped_bits().get(name, one.encode(self.value))
            stored = one.decode(bits)
            rows.append(Row(name, bits, write_number(stored), write_error(self.value, stored)))
        return rows

    def flip(self, name: str, position: int) -> None:
        """Flip a bit of one format; position 0 is the leftmost. Another value ends all flips.

        Raises:
            ValueError: There is no such format, or it has no such bit.
        """
        bits = {row.name: row.bits for row in self.rows}.get(name)
        if bits is None:
            raise ValueError(f"There is no format {name!r}; there are {', '.join(FORMATS)}.")
        if position not in range(len(bits)):
            raise ValueError(f"{name} has bits 0 to {len(bits) - 1}, not {position}.")
        other = "1" if bits[position] == "0" else "0"
        changed = {**self._flipped_bits(), name: bits[:position] + other + bits[position + 1 :]}
        self.flipped = {"value": self.value, "bits": changed}

    def _flipped_bits(self) -> dict[str, str]:
        """Return the flips of the number shown now; the page may still send those of another."""
        bits: dict[str, str] = self.flipped.get("bits", {})
        return bits if self.flipped.get("value") == self.value else {}

    @traitlets.validate("value")
    def _check_value(self, proposal: dict[str, Any]) -> float:
        value: float = proposal["value"]
        if not math.isfinite(value):
            raise ValueError(f"The bits of {value} are not shown; give a finite number.")
        return value + 0.0  # the slider has no negative zero; flip the sign to see it

    @traitlets.observe("value")
    def _forget_flips(self, _: Any) -> None:
        if not self._flipped_bits():
            self.flipped = {}

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        bundle = super()._repr_mimebundle_(**options)
        if bundle is None:
            return None
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        twins = {"text/html": self._to_html(), "text/plain": self._to_sentence()}
        return {**data, **twins}, dict(metadata or {})

    def _to_html(self) -> str:
        """Return the rows as a table; a space parts sign, exponent and fraction."""
        left = 'style="text-align: left"'
        head = "".join(f'<th scope="col" {left}>{title}</th>' for title in HEAD)
        body = "".join(
            f'<tr><th scope="row" {left}>{html.escape(row.name)}</th><td {left}><code>'
            f"{' '.join(self._formats[row.name].fields(row.bits).values())}</code></td>"
            f"<td {left}>{row.stored}</td><td {left}>{row.error}</td></tr>"
            for row in self.rows
        )
        caption = f"<caption {left}>{write_number(self.value)} in the bits of each format</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _to_sentence(self) -> str:
        stored = ", ".join(f"{row.stored} in {row.name} ({row.error})" for row in self.rows)
        return f"{write_number(self.value)} is stored as {stored}."


def write_number(number: float) -> str:
    """Return the fewest digits that tell a float64 from its neighbours, as the page writes them."""
    sign = "−" if math.copysign(1, number) < 0 else ""
    if not math.isfinite(number):
        return "NaN" if math.isnan(number) else f"{sign}∞"
    digits, _, exponent = repr(abs(float(number))).partition("e")
    power = f"e{int(exponent)}".replace("-", "−") if exponent else ""
    return sign + digits.removesuffix(".0") + power


def write_error(value: float, stored: float) -> str:
    """Return how far the stored value is off, in percent of the value with two digits."""
    if stored == value:
        return "exact"
    if value == 0 or math.isnan(stored):
        return "not defined"
    percent = 100 * (abs(stored - value) / abs(value))
    if math.isfinite(percent):  # as JavaScript rounds: of two equally near, the larger
        rounding = Context(prec=2, rounding=ROUND_HALF_UP)
        percent = float(rounding.create_decimal(Decimal(percent)))
    return f"{write_number(percent)} %"


def _make_spec(formats: dict[str, AnyFormat], largest: float) -> dict[str, Any]:
    """Return all that the page writes and computes with."""
    ends = " and ".join(
        f"{name} {write_number(float(f'{one.scale:.3g}'))}"
        for name, one in formats.items()
        if isinstance(one, IntegerFormat)
    )
    return {
        "name": "The bits of a number",
        "slider": "number",
        "field": "or type it",
        "largest": largest,
        "step": float(f"1e{math.floor(math.log10(largest) - math.log10(500))}"),
        "head": HEAD,
        "key": FIELDS,
        "hint": "Click a bit, or press Space on it, to flip it; a flipped bit has a box around it.",
        "note": "computed: the nearest value of each format; of two equally near, the even code ·"
        f" one step of {ends}, so that both reach from {write_number(-largest)} to"
        f" {write_number(largest)} · tf32 takes 32 bits in memory, of which these 19 count",
        "formats": [_describe(one) for one in formats.values()],
    }


def _describe(one: AnyFormat) -> dict[str, Any]:
    """Return a format as the page needs it: its widths, and the field and label of each bit."""
    bits = [
        {"field": field, "label": f"{field} bit {n} of {len(digits)}"}
        for field, digits in one.fields("0" * one.bits).items()
        for n in range(1, len(digits) + 1)
    ]
    if isinstance(one, IntegerFormat):
        return {"name": one.name, "bits": bits, "scale": one.scale}
    return {
        "name": one.name,
        "bits": bits,
        "exponentBits": one.exponent_bits,
        "fractionBits": one.fraction_bits,
        "hasInfinity": one.has_infinity,
    }
