"""Words for what a learner does with a panel that has bars."""

from panel_page import READ_BOXES, PanelOnPage
from playwright.sync_api import Locator


class BarsOnPage(PanelOnPage):
    """A panel with named bars beside its curves."""

    @property
    def picture(self) -> Locator:
        return self.root.locator("svg").last

    def bars(self) -> list[tuple[str, str, float]]:
        """Return name, value and length in pixels of each bar, from top to bottom."""
        _, bars, texts = self.picture.evaluate(READ_BOXES, ["rect", "text"])
        found = []
        for bar in sorted(bars, key=lambda bar: bar["middle"]):
            level = [text for text in texts if abs(text["middle"] - bar["middle"]) <= 3]
            name, value = sorted(level, key=lambda text: text["left"])
            found.append((name["text"], value["text"], bar["right"] - bar["left"]))
        return found

    def rows(self) -> dict[str, str]:
        """Return the table beside the bars."""
        self.root.get_by_text("The bars as a table").evaluate("node => node.parentNode.open = true")
        table = self.root.locator("details").last.locator("tbody")
        names, values = (table.locator(cell).all_text_contents() for cell in ("th", "td"))
        return dict(zip(names, values, strict=True))
