"""Two yardsticks for what small boards reach: networks of MLPerf Tiny, timed by those who submit.

All run the same networks (Banbury et al., 2021, arXiv 2106.07597): a ResNet-8 on colour images of
32×32, and a DS-CNN on spoken words. The second is made of depthwise convolutions, which usually
reach fewer multiply-adds a cycle.
"""

import math
from dataclasses import dataclass

from course_utils.measure.measurement import Provenance
from course_utils.tables import Table


@dataclass(frozen=True)
class YardstickNetwork:
    """A network of MLPerf Tiny, the same for all boards.

    Attributes:
        name: As a table calls it.
        task: As the results call it.
        macs: Multiply-adds of one input, by the shapes of its layers.
        asked: The quality that a result has to show.
    """

    name: str
    task: str
    macs: int
    asked: str


RESNET8 = YardstickNetwork("ResNet-8", "image classification", 12_501_632, "85 % of CIFAR-10")
# 49×10 features; a 10×4 kernel in steps of 2 to 25×5 places of 64 channels, then four times a
# depthwise 3×3 and a 1×1; 12 classes (MLCommons, tiny, benchmark/training/keyword_spotting).
PLACES, CHANNELS, BLOCKS = 25 * 5, 64, 4
DS_CNN = YardstickNetwork(
    "DS-CNN",
    "keyword spotting",
    PLACES * CHANNELS * (10 * 4 + BLOCKS * (3 * 3 + CHANNELS)) + CHANNELS * 12,
    "90 % of Speech Commands",
)
RESNET8_BYTES = 98_496  # of its int8 file


@dataclass(frozen=True)
class Yardstick:
    """A network of MLPerf Tiny, as somebody timed it on a board.

    Attributes:
        network: Which one.
        board: And its processor.
        clock_mhz: Of what multiplies.
        latency_ms: Of one image.
        energy_uj: Of one image, microjoules; NaN if it was not measured.
        software: That ran the network.
        source: Where the result stands.
        date: Of that.
    """

    network: YardstickNetwork
    board: str
    clock_mhz: float
    latency_ms: float
    energy_uj: float
    software: str
    source: str
    date: str

    @property
    def macs_per_cycle(self) -> float:
        """Multiply-adds of the network for each cycle that it took."""
        return self.network.macs / (self.latency_ms * 1e3 * self.clock_mhz)

    @property
    def provenance(self) -> Provenance:
        """Where the latency comes from."""
        return Provenance("cited", f"{self.source}, {self.board}, {self.software}", self.date)


TINY = "MLCommons, tiny_results_{}"

YARDSTICKS: dict[str, Yardstick] = {
    "M0+": Yardstick(
        RESNET8, "NUCLEO-G0B1RE (Cortex-M0+)", 64, 1669.4, math.nan, "Bosch HALE 1.0",
        TINY.format("v1.1"), "2023-06",
    ),
    "M4, reference": Yardstick(
        RESNET8, "NUCLEO-L4R5ZI (Cortex-M4)", 120, 704.26, 29_207,
        "TensorFlow Lite for Microcontrollers", TINY.format("v0.5"), "2021-06",
    ),
    "M4": Yardstick(
        RESNET8, "NUCLEO-L4R5ZI (Cortex-M4)", 120, 226.90, 10_682, "X-CUBE-AI 7.3",
        TINY.format("v1.0"), "2022-11",
    ),
    "M7, 216 MHz": Yardstick(
        RESNET8, "DISCO-F746NG (Cortex-M7)", 216, 64.77, math.nan, "Plumerai",
        TINY.format("v1.0"), "2022-11",
    ),
    "M7, 280 MHz": Yardstick(
        RESNET8, "NUCLEO-H7A3ZI-Q (Cortex-M7)", 280, 54.35, 8_707, "X-CUBE-AI 7.3",
        TINY.format("v1.0"), "2022-11",
    ),
    "Ethos-U55": Yardstick(
        RESNET8, "Ethos-U55 with 128 multipliers, in Arm's simulator", 1000, 0.203, math.nan,
        "Vela", "a public report on MLPerf Tiny's file, not one of its results", "2026-04",
    ),
    "M4, reference, DS-CNN": Yardstick(
        DS_CNN, "NUCLEO-L4R5ZI (Cortex-M4)", 120, 181.92, 7_374,
        "TensorFlow Lite for Microcontrollers", TINY.format("v0.5"), "2021-06",
    ),
    "M4, DS-CNN": Yardstick(
        DS_CNN, "NUCLEO-L4R5ZI (Cortex-M4)", 120, 75.05, 3_372, "X-CUBE-AI 7.3",
        TINY.format("v1.0"), "2022-11",
    ),
    "M0+, DS-CNN": Yardstick(
        DS_CNN, "NUCLEO-G0B1RE (Cortex-M0+)", 64, 679.45, math.nan, "Bosch HALE 1.0",
        TINY.format("v1.1"), "2023-06",
    ),
    "M7, 216 MHz, DS-CNN": Yardstick(
        DS_CNN, "DISCO-F746NG (Cortex-M7)", 216, 19.13, math.nan, "Plumerai",
        TINY.format("v1.0"), "2022-11",
    ),
    "M7, 280 MHz, DS-CNN": Yardstick(
        DS_CNN, "NUCLEO-H7A3ZI-Q (Cortex-M7)", 280, 16.76, 2_722, "X-CUBE-AI 7.3",
        TINY.format("v1.0"), "2022-11",
    ),
}  # fmt: skip


def tabulate_yardsticks() -> Table:
    """Return what boards took for MLPerf Tiny's image classification and keyword spotting."""
    head = ["", "software", "MHz", "ms", "mJ", "multiply-adds a cycle"]
    rows = [
        [
            one.board,
            one.software,
            f"{one.clock_mhz:g}",
            f"{one.latency_ms:,.3g}" if one.latency_ms < 100 else f"{one.latency_ms:,.0f}",
            "–" if math.isnan(one.energy_uj) else f"{one.energy_uj / 1000:.3g}",
            f"{one.macs_per_cycle:.2f}",
        ]
        for one in YARDSTICKS.values()
    ]
    networks = [one.network.name for one in YARDSTICKS.values()]
    rows = [[name, *row] for name, row in zip(networks, rows, strict=True)]
    told = [
        f"{one.name}: {one.task}, int8, {one.macs / 1e6:.2f}·10⁶ multiply-adds; {one.asked} asked"
        " for."
        for one in (RESNET8, DS_CNN)
    ]
    told.append(f"The file of the ResNet-8 has {RESNET8_BYTES:,} bytes.")
    sources = dict.fromkeys(f"{one.source}, {one.date}" for one in YARDSTICKS.values())
    return Table(["network", *head], rows, [*told, *sources])
