"""Words for what a learner does with a panel of devices and their roofs."""

import re
from collections.abc import Sequence
from typing import Any

from lab_page import LabPage
from panel_page import PanelOnPage, to_number
from playwright.sync_api import Locator

READ_LAYERS = """node => [...node.querySelectorAll(".im-layer")]
  .filter((dot) => dot.getAttribute("visibility") === "visible")
  .map((dot) => {
    const { x, y, width, height } = dot.getBoundingClientRect();
    const is_square = dot.getAttribute("d").includes("h");
    const side = dot.getBBox().width;
    return { told: dot.textContent, is_square, is_orange: dot.classList.contains("im-b"),
      x: x + width / 2, y: y + height / 2, area: side ** 2 * (is_square ? 1 : Math.PI / 4) };
  })"""
LAYER = re.compile(
    r"(?P<name>.+?): (?P<intensity>[\d.,]+) \D+, (?P<rate>[\d.,]+) × .+,"
    r" (?P<percent>[\d.]+) % of the time, bound by (?P<binds>memory|arithmetic)"
)


class RoofOnPage(PanelOnPage):
    """A panel with layers under the roofs of devices, beside its curves."""

    def __init__(self, lab: LabPage, name: str, knob: str, stops: Sequence[int]) -> None:
        """Find the panel; its first knob stands on a slider with these stops."""
        super().__init__(lab, name)
        self.knob = knob
        self.stops = stops

    @property
    def picture(self) -> Locator:
        return self.root.locator("svg").last

    @property
    def menu(self) -> Locator:
        return self.root.get_by_role("combobox", name="device", exact=True)

    def choose(self, device: str, network: str, format: str, stop: int = 1) -> None:
        """Take a setting, by keyboard."""
        for knob, value in {"device": device, "network": network, "format": format}.items():
            self.take(knob, value)
        self.move(self.knob, self.stops.index(stop))

    def said(self) -> str:
        return self.picture.get_attribute("aria-label") or ""

    def layers(self) -> dict[str, dict[str, Any]]:
        """Return of each layer what a pointer is told and which sign stands for it, by its name."""
        found = {}
        for drawn in self.picture.evaluate(READ_LAYERS):
            told = re.fullmatch(LAYER, drawn["told"]).groupdict()
            numbers = {name: to_number(told[name]) for name in ("intensity", "rate", "percent")}
            found[told["name"]] = {**drawn, **numbers, "binds": told["binds"]}
        return found

    def lines(self, chart: str) -> dict[str, bool]:
        """Return for each line of a chart whether it is pale, by what it tells a pointer."""
        groups = self.root.get_by_role("img", name=chart, exact=True).locator("g:has(.im-line)")
        pairs = groups.evaluate_all(
            "all => all.map((g) => [g.querySelector('title').textContent,"
            " g.classList.contains('im-faint')])"
        )
        assert len(pairs) == len(dict(pairs))
        return dict(pairs)
