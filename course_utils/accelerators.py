"""Accelerators as their makers describe them: peak, bandwidth, memory, power and price."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from course_utils.devices import Device
from course_utils.roofline import Roofline, cache_bytes
from course_utils.tables import Table


@dataclass(frozen=True)
class Accelerator:
    """A device as a few numbers.

    Attributes:
        name: As it is called.
        kind: "CPU", "GPU", "TPU" or "NPU".
        peaks: 10¹² operations a second, two a multiply-add, by format; without sparsity.
        bandwidth_gb_s: Of the memory that holds the weights, 10⁹ bytes a second.
        memory_gib: How much there is of it.
        on_chip_mib: Caches or buffers beside the multipliers; 0 if not published.
        watts: Rated power; 0 if not published.
        price_per_hour: US dollars; 0 if there is none.
        price_note: What that price is.
        source: Where the numbers are published.
        date: When that was published or looked up.
    """

    name: str
    kind: str
    peaks: Mapping[str, float]
    bandwidth_gb_s: float
    memory_gib: float
    on_chip_mib: float = 0.0
    watts: float = 0.0
    price_per_hour: float = 0.0
    price_note: str = ""
    source: str = ""
    date: str = ""


NAMES = {"fp32": "fp32", "bf16": "16 bits", "fp16": "16 bits", "int8": "int8", "fp8": "fp8"}
HOPPER = "NVIDIA, Hopper architecture in-depth, 2022, table 3"
SCALING_BOOK = "JAX team, How to scale your model, 2025"
INSTANCES = "AWS, us-east-1, on demand, as listed by instances.vantage.sh"
GOOGLE = "Google Cloud documentation of TPUs"

CATALOGUE: tuple[Accelerator, ...] = (
    Accelerator(
        "laptop CPU (Ryzen 7 7840U)", "CPU",
        # 8 cores × 2 units × 8 lanes × 2 × 3.3 GHz; pairs of bf16 and fours of bytes a lane
        {"fp32": 0.845, "16 bits": 1.69, "int8": 3.38},
        bandwidth_gb_s=89.6, memory_gib=32, on_chip_mib=16, watts=28,
        source="computed: 8 cores, 32 operations a cycle, 3.3 GHz, two channels of DDR5-5600"
        " (Liliputing, 2023; cputronic.com); 32 GiB are an example",
        date="2023-05",
    ),
    Accelerator(
        "NVIDIA T4", "GPU", {"fp32": 8.1, "16 bits": 65, "int8": 130},
        bandwidth_gb_s=320, memory_gib=16, on_chip_mib=4, watts=70,
        price_per_hour=0.526, price_note=f"g4dn.xlarge, $0.526 an hour ({INSTANCES})",
        source="NVIDIA's announcement as reported by Geektopia, 2018; sysrqmts.com",
        date="2025-11-30",
    ),
    Accelerator(
        "NVIDIA A100", "GPU", {"fp32": 19.5, "16 bits": 312, "int8": 624},
        bandwidth_gb_s=2039, memory_gib=80, on_chip_mib=40, watts=400,
        price_per_hour=3.43,
        price_note=f"an eighth of p4de.24xlarge, $3.43 an hour ({INSTANCES})",
        source=f"{HOPPER}; bandwidth of the version with 80 GB: thundercompute.com, 2026",
        date="2025-11-30",
    ),
    Accelerator(
        "NVIDIA H100", "GPU",
        {"fp32": 66.9, "16 bits": 989.4, "int8": 1978.9, "fp8": 1978.9},
        bandwidth_gb_s=3350, memory_gib=80, on_chip_mib=50, watts=700,
        price_per_hour=6.88, price_note=f"p5.4xlarge, $6.88 an hour ({INSTANCES})",
        source=f"glennklockwood.com, SXM5, dense; {SCALING_BOOK}", date="2025-11-30",
    ),
    Accelerator(
        "NVIDIA H200", "GPU",
        {"fp32": 66.9, "16 bits": 989.4, "int8": 1978.9, "fp8": 1978.9},
        bandwidth_gb_s=4800, memory_gib=141, on_chip_mib=50, watts=700,
        price_per_hour=7.91,
        price_note=f"an eighth of p5en.48xlarge, $7.91 an hour ({INSTANCES})",
        source=f"{SCALING_BOOK}; MLCommons, inference v4.1", date="2025-11-30",
    ),
    Accelerator(
        "Google TPU v4", "TPU", {"16 bits": 275, "int8": 275},
        bandwidth_gb_s=1200, memory_gib=32, on_chip_mib=160, watts=192,
        price_per_hour=3.22, price_note="$3.22 a chip and hour (Google, us-central2, on demand)",
        source=f"{GOOGLE}, v4; on-chip memory: JAX, tpu_info.py, 2025", date="2025-01-31",
    ),
    Accelerator(
        "Google TPU v5e", "TPU", {"16 bits": 197, "int8": 393},
        bandwidth_gb_s=819, memory_gib=16, on_chip_mib=128,
        price_per_hour=1.20, price_note="$1.20 a chip and hour (Google, US, on demand)",
        source=f"{GOOGLE}, v5e; on-chip memory: JAX, tpu_info.py, 2025", date="2025",
    ),
    Accelerator(
        "NVIDIA Jetson AGX Orin", "GPU", {"fp32": 5.3, "16 bits": 42.5, "int8": 85},
        bandwidth_gb_s=204.8, memory_gib=64, watts=60,
        source="NVIDIA, data sheet DS-10662-001 v1.8: its GPU alone, without sparsity; 16 bits"
        " computed as half of int8",
        date="2023",
    ),
    Accelerator(
        "phone (Snapdragon 888)", "NPU", {"int8": 26},
        bandwidth_gb_s=51.2, memory_gib=8,
        source="techwarrant.com, 2020: 26·10¹² operations a second by CPU, GPU and DSP together;"
        " bandwidth computed from 64 bits of LPDDR5-6400; 8 GiB are an example",
        date="2020-12",
    ),
    Accelerator(
        "Coral Edge TPU", "NPU", {"int8": 4},
        bandwidth_gb_s=0.5, memory_gib=4, on_chip_mib=8, watts=2,
        source="coral.ai, benchmarks and FAQ; bandwidth: that of USB 3, over which weights come"
        " that its 8 MiB do not hold (Kavalerov, 2019), computed as 8 of 10 bits of 5 Gbit/s; 4 GiB"
        " of the host are an example",
        date="2019-12",
    ),
)  # fmt: skip


def get_accelerator(name: str) -> Accelerator:
    """Return a device of the catalogue.

    Raises:
        ValueError: There is none of this name.
    """
    for device in CATALOGUE:
        if device.name == name:
            return device
    raise ValueError(f"There is no {name!r}; there are {[device.name for device in CATALOGUE]}.")


def describe_here(
    name: str,
    device: Device,
    *roofs: Roofline,
    price_per_hour: float = 0.0,
    price_note: str = "",
) -> Accelerator:
    """Return a device of this machine in the terms of the catalogue, as it was measured.

    Args:
        name: To call it by.
        device: Which one.
        roofs: Measured on it, at least one; of each format the highest peak counts. The first
            has the bandwidth.
        price_per_hour: US dollars, if you pay for it.
        price_note: What that price is.

    Raises:
        ValueError: There is no roofline.
    """
    if not roofs:
        raise ValueError("Give at least one roofline of the device.")
    peaks: dict[str, float] = {}
    for roof in roofs:
        for kind, peak in roof.peaks.items():
            told = NAMES.get(kind)
            if told:
                peaks[told] = max(peaks.get(told, 0.0), peak.value / 1000)
    bandwidth = roofs[0].bandwidths["memory"]
    is_processor = not device.is_queued
    return Accelerator(
        name,
        "CPU" if is_processor else "GPU",
        peaks,
        bandwidth_gb_s=bandwidth.value,
        memory_gib=round(device.memory_bytes() / 2**30, 1),
        on_chip_mib=max(cache_bytes()) / 2**20 if is_processor else 0.0,
        price_per_hour=price_per_hour,
        price_note=price_note,
        source=str(bandwidth.provenance),
        date=bandwidth.provenance.when,
    )


def tabulate(devices: Sequence[Accelerator]) -> Table:
    """Return devices as a table, with the ridge of their widest multipliers.

    Args:
        devices: In their order.
    """
    kinds = ("fp32", "16 bits", "int8", "fp8")
    head = ["", "", *kinds, "GB/s", "GiB", "on chip, MiB", "W", "$/hour", "ridge"]
    rows = [
        [
            device.name,
            device.kind,
            *(f"{device.peaks[kind]:.3g}" if kind in device.peaks else "–" for kind in kinds),
            f"{device.bandwidth_gb_s:,.3g}",
            f"{device.memory_gib:g}",
            _or_dash(device.on_chip_mib),
            _or_dash(device.watts),
            _or_dash(device.price_per_hour),
            f"{1000 * max(device.peaks.values()) / device.bandwidth_gb_s:,.0f}",
        ]
        for device in devices
    ]
    notes = [
        "; ".join(filter(None, (f"{device.name}: {device.source}", device.price_note, device.date)))
        for device in devices
    ]
    told = "Peaks in 10¹² operations a second; the ridge, that of the fastest format, is computed."
    return Table(head, rows, [told, *notes])


def _or_dash(value: float) -> str:
    return f"{value:.3g}" if value else "–"
