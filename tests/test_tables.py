"""Tables: the same words as HTML and as text."""

import re

from course_utils.tables import Table

TABLE = Table(["what", "how much"], [["a < b", "1"], ["longer words", "22"]], ["note & so on"])


def test_text_is_aligned_and_ends_with_the_notes():
    assert repr(TABLE).splitlines() == [
        "what          how much",
        "a < b         1",
        "longer words  22",
        "note & so on",
    ]


def test_html_holds_all_cells_escaped():
    page = TABLE._repr_html_()
    cells = re.findall(r"<t[dh] [^>]*>(.*?)</t[dh]>", page)
    assert cells == ["what", "how much", "a &lt; b", "1", "longer words", "22"]
    assert page.endswith("<p>note &amp; so on</p>")


def test_without_notes_there_is_no_paragraph():
    assert "<p>" not in Table(["a"], [["b"]])._repr_html_()
    assert repr(Table(["a"], [["b"]])) == "a\nb"


def test_no_rows_leave_the_head():
    assert repr(Table(["a", "b"], [])) == "a  b"
