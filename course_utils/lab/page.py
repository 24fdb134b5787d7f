"""The browser's half of the widgets: plain JavaScript and CSS, read from this folder."""

from pathlib import Path

HERE = Path(__file__).parent


def read(*names: str) -> str:
    """Return the files one after the other: what they share stands in front."""
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)
