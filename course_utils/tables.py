"""Tables that a cell shows: as HTML in a notebook, as aligned text elsewhere."""

import html
from collections.abc import Iterable, Sequence


class Table:
    """Rows of words below a head, and notes below the rows."""

    def __init__(
        self, head: Sequence[str], rows: Iterable[Sequence[str]], notes: Sequence[str] = ()
    ) -> None:
        """Show the rows in their order.

        Args:
            head: Titles of the columns.
            rows: As many words each.
            notes: Where the numbers come from, for instance; a line each.
        """
        self.head, self.rows, self.notes = list(head), [list(row) for row in rows], list(notes)

    def __repr__(self) -> str:
        rows = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, *self.notes])

    def _repr_html_(self) -> str:
        body = "".join(_row("td", row) for row in self.rows)
        table = f"<table><thead>{_row('th', self.head)}</thead><tbody>{body}</tbody></table>"
        notes = "<br>".join(map(html.escape, self.notes))
        return table + (f"<p>{notes}</p>" if notes else "")


def _row(tag: str, cells: Iterable[str]) -> str:
    opened = f"<{tag} style='text-align: left'>"
    return "<tr>" + "".join(f"{opened}{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
