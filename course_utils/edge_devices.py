"""Devices at the edge as published: flash, RAM, rate.

A rate here is a peak: what the multipliers could do if nothing else had to be done. What was
reached comes from ``yardsticks``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from course_utils.tables import Table
from course_utils.yardsticks import YARDSTICKS

KIB, MIB, GIB = 2**10, 2**20, 2**30
ARITHMETICS = ("fp32", "int8")


@dataclass(frozen=True)
class EdgeDevice:
    """A device as a few numbers.

    Attributes:
        name: As a lesson calls it.
        board: What it is, and what multiplies: one core, as all that this course times runs on one.
        flash_bytes: For program and model together; on a page, what may be downloaded.
        ram_bytes: For everything that changes.
        clock_mhz: Of what multiplies; 0 if not published here.
        macs_per_s: Multiply-adds a second at best, by arithmetic; what is missing has no unit.
        reached_macs_per_s: In int8, what a ResNet-8 has been seen to reach; NaN if no result is
            known.
        reached_depthwise_macs_per_s: The same of a network of depthwise convolutions.
        is_bare: Whether a model is compiled into the program, as constants of its C file; else it
            is a file for a runtime.
        operators: Kinds of layers (see ``layer_costs``) that it computes; empty: all.
        watts: Of the board or chip at work; 0 if not published.
        price: US dollars, the board; 0 if not published here.
        rate_note: How the rates are found.
        source: Where the other numbers are published.
        date: When that was published or looked up.
    """

    name: str
    board: str
    flash_bytes: float
    ram_bytes: float
    clock_mhz: float
    macs_per_s: Mapping[str, float]
    reached_macs_per_s: float = math.nan
    reached_depthwise_macs_per_s: float = math.nan
    is_bare: bool = False
    operators: frozenset[str] = field(default_factory=frozenset)
    watts: float = 0.0
    price: float = 0.0
    rate_note: str = ""
    source: str = ""
    date: str = ""


def _reach(yardstick: str, clock_mhz: float) -> float:
    return YARDSTICKS[yardstick].macs_per_cycle * clock_mhz * 1e6


# A page: who waits longer than ten seconds turns away (Nielsen, 1993); 10 Mbit/s are Lighthouse's
# preset for a desktop; ONNX Runtime's WebAssembly, gzipped, comes first.
PAGE_SECONDS, PAGE_MBIT_PER_S, WEB_RUNTIME_BYTES = 10.0, 10.0, 3.66e6
PAGE_BYTES = PAGE_SECONDS * PAGE_MBIT_PER_S * 1e6 / 8 - WEB_RUNTIME_BYTES

NPU_OPERATORS = frozenset({"convolution", "linear", "relu", "add", "mean", "pooling"})
ARM = "Arm, DSP capabilities of Cortex-M4 and -M7, 2016; elektroniknet.de"

DEVICES: tuple[EdgeDevice, ...] = (
    EdgeDevice(
        "phone", "Snapdragon 888, one Cortex-X1 of 8 cores", 128e9, 8 * GIB, 2840,
        {"fp32": 16 * 2.84e9, "int8": 64 * 2.84e9},
        rate_note="computed: four units of 128 bits, int8 by dot products",
        source="Gizbot, 2021; units: Linley Newsletter, 2020; memories are examples", date="2021",
    ),
    EdgeDevice(
        "browser", "laptop, WebAssembly on one core", PAGE_BYTES, 4 * GIB, 3300,
        {"fp32": 8 * 3.3e9, "int8": 16 * 3.3e9}, watts=28,
        rate_note="computed for a Ryzen 7 7840U: vectors of 128 bits, two products and two sums of"
        " them a cycle, no fused multiply-add; int8 as 16-bit dot products",
        source=f"flash: {PAGE_SECONDS:g} s at {PAGE_MBIT_PER_S:g} Mbit/s less"
        f" {WEB_RUNTIME_BYTES / 1e6:.2f} MB of runtime; RAM: 32-bit addresses (v8.dev)",
        date="2023",
    ),
    EdgeDevice(
        "Raspberry Pi 5", "one Cortex-A76 of 4 cores", 32e9, 4 * GIB, 2400,
        {"fp32": 8 * 2.4e9, "int8": 32 * 2.4e9}, watts=12, price=60,
        rate_note="computed: two units of 128 bits, int8 by dot products",
        source="codeduino.com and xcelwebworks.com; units: Arm, Cortex-A76 software optimization"
        " guide, 2019; the card of 32 GB is an example", date="2023-10",
    ),
    EdgeDevice(
        "Edge TPU", "Coral Dev Board", 8e9, 1 * GIB, 0,
        {"int8": 2e12}, reached_depthwise_macs_per_s=300e6 / 2.5e-3, operators=NPU_OPERATORS,
        watts=2, price=150,
        rate_note="published: 4·10¹² operations a second; reached: MobileNet v2 (300·10⁶, Sandler"
        " et al., 2018) in 2.5 ms; beyond 8 MiB of weights it is slower",
        source="coral.ai, FAQ and data sheet; price: ExtremeTech, 2019", date="2019",
    ),
    EdgeDevice(
        "Ethos-U55", "Grove Vision AI V2, 64 multipliers", 16 * MIB, 2432 * KIB,
        400, {"int8": 64 * 400e6},
        reached_macs_per_s=_reach("Ethos-U55", 400) / 2,  # that one has 128 multipliers
        operators=NPU_OPERATORS, watts=0.35,
        rate_note="computed; reached: half of what 128 multipliers do in a simulator",
        source="Himax, examples for WiseEye2 (Vela's options); Mjrovai, Seeed-Grove-Vision-AI-V2;"
        " flash: its W25Q128 chip; power: Hackaday", date="2025-09",
    ),
    EdgeDevice(
        "Cortex-M7", "STM32F746 Discovery", 1 * MIB, 320 * KIB, 216,
        {"fp32": 216e6, "int8": 2 * 216e6}, reached_macs_per_s=_reach("M7, 216 MHz", 216),
        reached_depthwise_macs_per_s=_reach("M7, 216 MHz, DS-CNN", 216), is_bare=True,
        rate_note=f"computed: two products of 16 bits a cycle, or one of fp32 ({ARM})",
        source="MLCommons, tiny_results_v1.0, DISCO_F746NG.json", date="2022-11",
    ),
    EdgeDevice(
        "Cortex-M4", "nRF52840 (Arduino Nano 33 BLE)", 1 * MIB, 256 * KIB, 64,
        {"fp32": 64e6 / 2, "int8": 2 * 64e6}, reached_macs_per_s=_reach("M4", 64),
        reached_depthwise_macs_per_s=_reach("M4, DS-CNN", 64), is_bare=True, watts=0.024,
        rate_note=f"computed: two products of 16 bits a cycle, fp32 in two cycles ({ARM}); reached:"
        " on a NUCLEO-L4R5ZI of 120 MHz, by the clock",
        source="Nordic Semiconductor, product specification: 8.1 mA at 3 V, while sending",
        date="looked up 2026-11",
    ),
    EdgeDevice(
        "Cortex-M0+", "Raspberry Pi Pico (RP2040), one core of 2", 2 * MIB, 264 * KIB, 133,
        {"int8": 133e6 / 2}, reached_macs_per_s=_reach("M0+", 133),
        reached_depthwise_macs_per_s=_reach("M0+, DS-CNN", 133), is_bare=True, price=4,
        rate_note="computed: a product and a sum, a cycle each; no unit for fp32; reached: on a"
        " NUCLEO-G0B1RE of 64 MHz, by the clock",
        source="Raspberry Pi, product briefs of Pico and RP2040; price as reported at the launch",
        date="2021-01",
    ),
    EdgeDevice(
        "AVR", "Arduino Uno (ATmega328P), 8 bits", 32 * KIB, 2 * KIB, 16, {"int8": 16e6 / 6},
        is_bare=True,
        rate_note="computed: two cycles a product, four to add its 16 bits to 32; no unit for fp32",
        source="Arduino, UNO R3 reference manual, 2023; multiplier: Microchip, ATmega328P",
        date="2023-06",
    ),
)  # fmt: skip


def get_device(name: str) -> EdgeDevice:
    """Return a device of ``DEVICES``.

    Raises:
        ValueError: There is none of this name.
    """
    for device in DEVICES:
        if device.name == name:
            return device
    raise ValueError(f"There is no {name!r}; there are {[device.name for device in DEVICES]}.")


def tabulate_devices(devices: Sequence[EdgeDevice] = DEVICES) -> Table:
    """Return devices as a table; multiply-adds in millions a second.

    Args:
        devices: In their order.
    """
    head = ["", "board", "flash", "RAM", "MHz", *ARITHMETICS, "ResNet", "DS-CNN", "W", "$"]
    rows = [
        [
            device.name,
            device.board,
            *map(tell_size, (device.flash_bytes, device.ram_bytes)),
            _or_dash(device.clock_mhz),
            *(_or_dash(device.macs_per_s.get(kind, 0) / 1e6) for kind in ARITHMETICS),
            _or_dash(device.reached_macs_per_s / 1e6),
            _or_dash(device.reached_depthwise_macs_per_s / 1e6),
            _or_dash(device.watts),
            _or_dash(device.price),
        ]
        for device in devices
    ]
    told = (
        "fp32, int8: multiply-adds at best, 10⁶ a second; ResNet, DS-CNN: what a network of that"
        " kind has reached in int8, 10⁶ a second, where a result is published (of another board"
        " with such a processor: as many a cycle)."
    )
    notes = [f"{one.name}: {one.rate_note}. {one.source}, {one.date}" for one in devices]
    return Table(head, rows, [told, *notes])


def tell_size(size_bytes: float) -> str:
    """Return a size in KiB, MiB or GiB, to three digits."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:,.3g} {name}"
    return f"{size_bytes / KIB:,.{0 if size_bytes >= 100 * KIB else 1}f} KiB"


def _or_dash(value: float) -> str:
    if not value > 0:  # NaN too
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
