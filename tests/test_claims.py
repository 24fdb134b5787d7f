"""The claim check: verdicts from numbers, shown as a table."""

import math
from html.parser import HTMLParser

import pytest

from course_utils.claims import Claim, ClaimTable, Decision, DecisionTable, judge


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (3.0, "holds"),
        (2.0, "holds"),
        (1.999, "holds in part"),
        (1.1, "holds in part"),
        (1.099, "not here"),
        (-5.0, "not here"),
        (math.inf, "holds"),
        (math.nan, "not here"),
    ],
)
def test_a_verdict_changes_at_its_thresholds(value, verdict):
    assert judge(value, holds_from=2, in_part_from=1.1) == verdict


@pytest.mark.parametrize(("holds", "in_part"), [(1, 1), (1, 2), (-2, -0.5)])
def test_thresholds_in_the_wrong_order_are_refused(holds, in_part):
    with pytest.raises(ValueError, match="in_part_from has to be below holds_from"):
        judge(3, holds_from=holds, in_part_from=in_part)


TABLE = ClaimTable(
    Claim("int8 is twice as fast", "holds", "2.4x here"),
    Claim("4 bits are faster again", "not here", "1.0x: the same kernel ran"),
    Claim("a < b & c", "holds in part", '<script>alert("hello")</script>'),
    Claim("16 bits are faster", "not tried here", "no GPU here"),
)


class Cells(HTMLParser):
    """Collects the text of the cells and the names of the tags."""

    def __init__(self, source: str):
        super().__init__()
        self.cells, self.tags = [], set()
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        self.cells[-1] += data


def test_the_table_as_text_has_a_line_for_each_claim():
    lines = repr(TABLE).splitlines()
    assert lines[0] == "✔ holds: int8 is twice as fast — 2.4x here"
    assert lines[1].startswith("✘ not here: 4 bits are faster again")
    assert lines[2].startswith("◐ holds in part: a < b & c")
    assert lines[3] == "– not tried here: 16 bits are faster — no GPU here"
    assert len(lines) == 4


def test_the_table_as_html_has_a_row_for_each_claim():
    shown = Cells(TABLE._repr_html_())
    assert shown.cells == [
        "the claim", "here", "because",
        "int8 is twice as fast", "✔ holds", "2.4x here",
        "4 bits are faster again", "✘ not here", "1.0x: the same kernel ran",
        "a < b & c", "◐ holds in part", '<script>alert("hello")</script>',
        "16 bits are faster", "– not tried here", "no GPU here",
    ]  # fmt: skip


def test_words_are_never_taken_for_html():
    assert Cells(TABLE._repr_html_()).tags == {"table", "thead", "tbody", "tr", "th", "td"}


# What to choose


DECISIONS = DecisionTable(
    Decision("a processor with VNNI", "int8, static", "3.1x here"),
    Decision("no images & no time", "<dynamic>", '2 % slower, "as is"'),
)


def test_decisions_as_text_have_a_line_each():
    assert repr(DECISIONS).splitlines() == [
        "a processor with VNNI: int8, static — 3.1x here",
        'no images & no time: <dynamic> — 2 % slower, "as is"',
    ]


def test_decisions_as_html_have_a_row_each():
    shown = Cells(DECISIONS._repr_html_())
    assert shown.cells == [
        "if you have", "choose", "because here",
        "a processor with VNNI", "int8, static", "3.1x here",
        "no images & no time", "<dynamic>", '2 % slower, "as is"',
    ]  # fmt: skip
    assert shown.tags == {"table", "thead", "tbody", "tr", "th", "td"}


def test_tables_keep_what_they_were_made_of():
    assert [decision.choice for decision in DECISIONS.decisions] == ["int8, static", "<dynamic>"]
    assert [claim.verdict for claim in TABLE.claims] == [
        "holds", "not here", "holds in part", "not tried here",
    ]  # fmt: skip


@pytest.mark.parametrize("table", [ClaimTable(), DecisionTable()])
def test_a_table_of_nothing_has_only_its_head(table):
    assert repr(table) == ""
    assert len(Cells(table._repr_html_()).cells) == 3
