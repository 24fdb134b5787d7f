"""A device's whole set of measurements, so that a page can show a device that is not at hand.

``python -m course_utils.record`` makes such a file; ``load_records`` reads those in
``data/recorded``. All its numbers are medians with their quartiles, from the course's own
instruments; the machine, the versions and the date stand beside them.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from course_utils import datasets, machine, measure, models, runtimes, verified
from course_utils.device_roofline import measure_device_roofline
from course_utils.devices import Device, OutOfDeviceMemoryError, find_largest_batch
from course_utils.known_networks import ResNet50
from course_utils.measure import Measurement, Provenance
from course_utils.measure.on_device import estimate_seconds

FOLDER = verified.DATA / "recorded"
PREFIX = "device_"
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
QUICK_BATCHES = (1, 4)
PRECISIONS = {"cuda": ("fp32", "tf32", "fp16", "bf16"), "mps": ("fp32", "fp16")}
SLOW_MS = 500.0  # a larger batch is not tried after a call of this length
SECONDS, LEAST_CALLS = 2.0, 8  # for a setting; slow calls get longer, for warm-up and a round
MOST = 4096  # images, in the search for the largest batch
SPREAD = ("value", "unit", "low", "high", "count", "fastest", "p95")


def measure_device(
    device: Device, *, is_quick: bool = False, say: Callable[[str], object] = print
) -> dict[str, Any]:
    """Measure all that the lesson on accelerators shows of a device.

    Args:
        device: Which one.
        is_quick: Only two batch sizes of two small networks, to see that all works.
        say: Is told what is being measured.

    Raises:
        OutOfDeviceMemoryError: The device has no room for what the roofs are measured with.
        DeviceLostError: The device stopped answering.
        TimeoutError: Other measurements kept the machine for ten minutes.
    """
    here = machine.describe()
    say("roofs")
    roofs = measure_device_roofline(device)
    say("launches and copies")
    number = torch.zeros(1, device=device.place)
    launches = measure.measure_launches(lambda: number.add_(1), device)
    copies = measure.measure_copies(device)
    rows, largest = [], {}
    for name, (network, images) in _find_networks(is_quick).items():
        for precision in _find_precisions(device, is_quick):
            say(f"{name} in {precision}")
            rows += _measure_batches(name, network, images, device, precision, is_quick)
        if device.is_queued:
            largest[name] = _search_batch(network, images[:1], device)
    return {
        "what": "a device, measured with the instruments of the lesson on accelerators",
        "made_by": "python -m course_utils.record",
        "date": date.today().isoformat(),
        "device": {"kind": device.kind, "title": device.title, "clocks": device.describe_clocks()},
        "machine": str(here),
        "system": here.system,
        "versions": {**here.versions, "cuda": torch.version.cuda or "none"},
        "peaks": {kind: _describe(peak) for kind, peak in roofs.peaks.items()},
        "bandwidth": _describe(roofs.bandwidths["memory"]),
        "launches": {name: _describe(found) for name, found in vars(launches).items()},
        "copies": {name: _describe(found) for name, found in copies.items()},
        "calls": rows,
        "largest_batch": largest,
    }


def _find_networks(is_quick: bool) -> dict[str, tuple[nn.Module, np.ndarray]]:
    images = datasets.load_fashion().test.images[: max(BATCHES)]
    found = {
        "ResNet-8": (models.load_pretrained("resnet8_w32_fashion"), images),
        "three matrices": (models.load_pretrained("mlp_1024_fashion"), images),
    }
    if not is_quick:
        pixels = np.random.default_rng(0).random((max(BATCHES), 3, 224, 224), np.float32)
        found["ResNet-50"] = (ResNet50(), pixels)
    return found


def _find_precisions(device: Device, is_quick: bool) -> Sequence[str]:
    precisions = PRECISIONS.get(device.kind, ("fp32", "bf16"))
    precisions = tuple(one for one in precisions if one != "tf32" or device.has_tf32)
    return precisions[:1] if is_quick else precisions


def _measure_batches(
    name: str,
    network: nn.Module,
    images: np.ndarray,
    device: Device,
    precision: str,
    is_quick: bool,
) -> list[dict[str, Any]]:
    """Return a row for each batch and way of calling, until a call is slow or does not fit."""
    rows = []
    for batch in QUICK_BATCHES if is_quick else BATCHES:
        given = images[:batch]
        ways: dict[str, dict[str, bool]] = {"copied": {}, "kept": {"keeps_images": True}}
        if device.kind == "cuda":
            ways["graph"] = {"keeps_images": True, "with_graph": True}
        try:
            runners = {
                way: runtimes.build_on_device(
                    network, given, device, precision=precision, **options
                )
                for way, options in ways.items()
            }
            calls_s = sum(
                estimate_seconds(partial(runner, given), device, calls=LEAST_CALLS)
                for runner in runners.values()
            )
            timed = measure.compare(
                *runners.values(),
                images=given,
                names=list(runners),
                limit_s=SECONDS + calls_s,
                rounds=2 if is_quick else None,
            )
        except OutOfDeviceMemoryError:
            break
        for way in runners:
            latency = _describe(timed.latency(way))
            told = {"network": name, "precision": precision, "batch": batch, "way": way}
            rows.append({**told, "latency": latency})
        if timed.latency(0).value > SLOW_MS:
            break
    return rows


def _search_batch(network: nn.Module, image: np.ndarray, device: Device) -> dict[str, int]:
    """Return the largest batch in fp32 that fits, and where the search ended."""

    def run(batch: int) -> None:
        images = np.repeat(image, batch, axis=0)
        runtimes.build_on_device(network, images[:1], device)(images)

    return {"images": find_largest_batch(run, MOST, device), "most tried": MOST}


def _describe(found: Measurement) -> dict[str, Any]:
    told = {name: getattr(found, name) for name in SPREAD}
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in told.items()
    } | {"note": found.note}


def save_record(record: Mapping[str, Any], path: Path) -> None:
    """Write a record; a file that is there already is replaced only when all is written."""
    part = path.with_suffix(".part")
    text = json.dumps(record, indent=1) + "\n"
    part.write_text(text, encoding="utf-8", newline="\n")  # the same bytes on every system
    os.replace(part, path)


def name_in_data(path: Path) -> str:
    """Return a file's name in ``data/SHA256SUMS``; empty if it is none of the course's data."""
    folder, data = path.parent.resolve(), verified.DATA.resolve()
    return (folder / path.name).relative_to(data).as_posix() if folder.is_relative_to(data) else ""


@dataclass(frozen=True)
class DeviceRecord:
    """What was recorded of a device.

    Attributes:
        content: As it stands in the file.
        path: The file.
    """

    content: Mapping[str, Any]
    path: Path

    @property
    def title(self) -> str:
        """What the device calls itself."""
        return str(self.content["device"]["title"])

    @property
    def provenance(self) -> Provenance:
        """Where and when it was recorded."""
        source = f"{self.title} in {self.content['machine']}"
        return Provenance("recorded", source, str(self.content["date"]), self.path.name)

    def measurement(self, described: Mapping[str, Any]) -> Measurement:
        """Return a number of the record with its spread and origin."""
        values: dict[str, Any] = {
            name: math.nan if value is None else value for name, value in described.items()
        }
        return Measurement(**values, provenance=self.provenance)

    def latency(
        self, network: str, batch: int, precision: str = "fp32", way: str = "copied"
    ) -> Measurement | None:
        """Return the latency of a call; None if it was not measured."""
        wanted = {"network": network, "precision": precision, "batch": batch, "way": way}
        for row in self.content["calls"]:
            if all(row[name] == value for name, value in wanted.items()):
                return self.measurement(row["latency"])
        return None

    def latency_of_call(self, batch: int, network: str) -> Measurement | None:
        """Return the latency of a call in fp32, images copied there; for ``sweep.add_calls``."""
        return self.latency(network, batch)


def load_records(folder: Path = FOLDER) -> list[DeviceRecord]:
    """Return all records of devices in a folder, by name of the file.

    Those in the course's data folder are checked against ``data/SHA256SUMS``; elsewhere a file has
    no digest, and is read as it is.

    Raises:
        DamagedFileError: A file of the course is damaged, or not listed; it is named.
        ValueError: A file is no such record; it is named.
    """
    return list(_read(sorted(folder.glob(f"{PREFIX}*.json"))))


def _read(paths: Iterable[Path]) -> Iterable[DeviceRecord]:
    for path in paths:
        name = name_in_data(path)
        content = verified.read(name) if name else path.read_bytes()
        try:
            record = DeviceRecord(json.loads(content.decode("utf-8")), path)
            _check(record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path.name} is no record of a device ({error!r}). Make it again with"
                " `python -m course_utils.record`, or remove it."
            ) from None
        yield record


def _check(record: DeviceRecord) -> None:
    """Raise one of several errors if something is missing that a lesson reads."""
    content = record.content
    described = [content["bandwidth"], *(row["latency"] for row in content["calls"])]
    for part in ("peaks", "launches", "copies"):
        described += content[part].values()
    for one in described:
        math.isnan(record.measurement(one).value)
    for row in content["calls"]:
        _ = [row[name] for name in ("network", "precision", "batch", "way")]
