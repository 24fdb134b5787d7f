"""Records of devices: written whole or not at all, read back as they were, refused if damaged."""

import hashlib
import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_device import FakeDevice, FakeGraphs, Launching
from torch import nn

from course_utils import device_record as module
from course_utils import device_roofline, measure, record, verified
from course_utils.device_record import DeviceRecord, load_records, measure_device, save_record
from course_utils.devices import Device, DeviceLostError, OutOfDeviceMemoryError
from course_utils.measure import latency, on_device
from course_utils.record import main, name_file
from course_utils.verified import DamagedFileError

CPU = Device("cpu", "Some CPU (R) @ 2.10GHz", "cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Let all that is measured be small, and take no longer than it must."""
    monkeypatch.setattr(device_roofline, "SIDES", dict.fromkeys(device_roofline.SIDES, (16,)))
    monkeypatch.setattr(
        device_roofline, "CONVOLUTIONS", dict.fromkeys(device_roofline.CONVOLUTIONS, ((1, 2, 3),))
    )
    monkeypatch.setattr(device_roofline, "MEMORY_BYTES", 2**16)
    monkeypatch.setattr(device_roofline, "ACCELERATOR_BYTES", 2**16)
    monkeypatch.setattr(latency, "ENOUGH_SECONDS", 0.0)
    monkeypatch.setattr(on_device, "LAUNCHES", 3)
    monkeypatch.setattr(
        measure, "measure_copies", partial(on_device.measure_copies, size_bytes=2**10)
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (9, 0))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return an empty folder; in its parent lies the lock for timing."""
    folder = tmp_path / "recorded"
    folder.mkdir()
    return folder


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Return an empty folder that stands for the course's ``data/``."""
    data = tmp_path / "data"
    (data / "recorded").mkdir(parents=True)
    (data / "SHA256SUMS").touch()
    monkeypatch.setattr(verified, "DATA", data)
    verified.published_digests.cache_clear()
    yield data
    verified.published_digests.cache_clear()


@pytest.fixture
def networks(monkeypatch):
    """Return a function that lets these be the networks that are recorded, for images of 4."""
    images = np.random.default_rng(0).random((max(module.BATCHES), 4), np.float32)

    def plant(**networks):
        found = {name: (network, images) for name, network in networks.items()}
        monkeypatch.setattr(module, "_find_networks", lambda is_quick: found)

    plant(small=nn.Linear(4, 3))
    return plant


@pytest.fixture
def here(monkeypatch):
    """Return a function that lets this machine have such a device."""

    def plant(device):
        monkeypatch.setattr(record, "find_devices", lambda: [CPU, device])
        monkeypatch.setattr(record, "get_device", lambda kind: device)
        FakeGraphs([]).plant(monkeypatch)
        return device

    return plant


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# From the command line


def test_a_device_is_recorded_and_read_back(folder, networks, capsys):
    path = folder / "device_here.json"
    assert main(["--device", "cpu", "--quick", "--out", str(path)]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert "small in fp32" in told.out
    assert told.out.splitlines()[-1].startswith(f"Written: {path}.")
    assert files_of(folder) == ["device_here.json"]
    (read,) = load_records(folder)
    content = json.loads(path.read_text())
    assert read.content == content
    assert content["device"]["kind"] == "cpu"
    assert read.title == content["device"]["title"]
    assert set(content["peaks"]) >= {"fp32", "int8"}
    assert set(content["launches"]) == {"launch", "device", "answer"}
    assert set(content["copies"]) == {"within main memory"}
    rows = [tuple(row[name] for name in ("batch", "way")) for row in content["calls"]]
    assert rows == [(1, "copied"), (1, "kept"), (4, "copied"), (4, "kept")]
    assert content["largest_batch"] == {}  # of the main memory it is not sought
    found = read.latency("small", 4, way="kept")
    assert (found.unit, found.count) == ("ms", 2 * 9)
    assert 0 < found.fastest <= found.low <= found.value <= found.high
    assert found.provenance.kind == "recorded"
    assert "NaN" not in path.read_text()


def test_an_accelerator_is_the_default_and_gives_its_name_to_the_file(
    monkeypatch, folder, networks, here
):
    here(FakeDevice(title="NVIDIA H200"))
    monkeypatch.setattr(record, "FOLDER", folder)
    monkeypatch.setattr(module, "MOST", 20)
    assert main(["--quick"]) == 0
    (read,) = load_records(folder)
    assert read.path.name == "device_nvidia_h200.json"
    assert read.title == "NVIDIA H200"
    assert [row["way"] for row in read.content["calls"]] == ["copied", "kept", "graph"] * 2
    assert read.content["largest_batch"] == {"small": {"images": 20, "most tried": 20}}
    assert "to the device, pinned" in read.content["copies"]
    assert "tf32" in read.content["peaks"]


def test_a_record_among_the_course_s_data_tells_the_line_with_its_digest(data, networks, capsys):
    path = data / "recorded" / "device_here.json"
    assert main(["--device", "cpu", "--quick", "--out", str(path)]) == 0
    *_, line, last = capsys.readouterr().out.splitlines()
    assert last.startswith(f"Written: {path}.")
    with pytest.raises(DamagedFileError, match=r"data/recorded/device_here\.json is not listed"):
        load_records(path.parent)
    (data / "SHA256SUMS").write_text(f"{line}\n")
    verified.published_digests.cache_clear()
    (read,) = load_records(path.parent)
    assert read.path == path


def test_a_device_that_this_machine_lacks_is_told(monkeypatch, folder, capsys):
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    assert main(["--device", "xpu", "--out", str(folder / "a.json")]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("This machine has no device for Intel's XPU")
    assert told.out == ""
    assert files_of(folder) == []


def test_a_device_that_does_not_exist_is_told(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--device", "abacus"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "invalid choice: 'abacus'" in told
    assert all(kind in told for kind in ("cpu", "cuda", "mps", "xpu"))


def test_the_module_is_a_program():
    command = [sys.executable, "-m", "course_utils.record", "--device", "abacus"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "usage: python -m course_utils.record" in ended.stderr


def test_a_folder_that_does_not_exist_is_told_before_anything_is_measured(
    monkeypatch, folder, capsys
):
    monkeypatch.setattr(record, "measure_device", lambda *_, **__: pytest.fail("it was measured"))
    assert main(["--device", "cpu", "--out", str(folder / "no" / "a.json")]) == 2
    assert capsys.readouterr().err.startswith(f"There is no folder {folder / 'no'}; make it")


@pytest.mark.parametrize("what", ["a folder", "refused"])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(
    monkeypatch, folder, capsys, what
):
    monkeypatch.setattr(record, "measure_device", lambda *_, **__: pytest.fail("it was measured"))
    path = folder if what == "a folder" else folder / "a.json"
    if what == "refused":  # root may write everywhere
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert main(["--device", "cpu", "--out", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"{path} is no file that can be written")


@pytest.mark.parametrize("lost_at", [1, 5, 10, 30])
@pytest.mark.parametrize("before", [None, "what was there"])
def test_a_device_that_is_lost_leaves_no_file_and_none_damaged(
    folder, networks, here, capsys, lost_at, before
):
    device = here(FakeDevice(lost_at=lost_at))
    networks(small=nn.Linear(4, 3), breaking=Launching(device, nn.Linear(4, 3)))
    path = folder / "device_a.json"
    if before:
        path.write_text(before)
    assert main(["--quick", "--out", str(path)]) == 1
    told = capsys.readouterr().err
    assert told.startswith("Nothing was written: Fake GPU stopped answering")
    assert files_of(folder) == (["device_a.json"] if before else [])
    assert not before or path.read_text() == before


@pytest.mark.parametrize(
    "error", [DeviceLostError("it is gone"), OutOfDeviceMemoryError("too large"), TimeoutError("x")]
)
def test_what_ends_a_measurement_is_told_in_a_sentence(monkeypatch, folder, capsys, error):
    def fail(device, *, is_quick):
        raise error

    monkeypatch.setattr(record, "measure_device", fail)
    assert main(["--device", "cpu", "--out", str(folder / "a.json")]) == 1
    assert capsys.readouterr().err == f"Nothing was written: {error}\n"
    assert files_of(folder) == []


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("NVIDIA H200", "device_nvidia_h200.json"),
        ("Intel(R) Xeon(R) CPU @ 2.10GHz", "device_intel_r_xeon_r_cpu_2_10ghz.json"),
        ("../../etc/passwd", "device_etc_passwd.json"),
        ("Größe", "device_gr_e.json"),
        ("核", "device_xpu.json"),
        ("", "device_xpu.json"),
    ],
)
def test_the_file_is_named_after_the_device(title, name):
    assert name_file(Device("xpu", title, "xpu:0")) == name


# What is measured


def test_quick_is_two_batches_of_two_networks_in_one_format(monkeypatch):
    found = module._find_networks(True)
    assert list(found) == ["ResNet-8", "three matrices"]
    assert list(module._find_networks(False)) == [*found, "ResNet-50"]
    for network, images in module._find_networks(False).values():
        assert len(images) >= max(module.BATCHES)
        with torch.inference_mode():
            assert len(network.eval()(torch.from_numpy(images[:1]))) == 1
    for kind in ("cpu", "cuda", "mps", "xpu"):
        assert list(module._find_precisions(FakeDevice(kind), True)) == ["fp32"]
    assert "tf32" in module._find_precisions(FakeDevice(), False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (7, 5))  # a T4
    assert "tf32" not in module._find_precisions(FakeDevice(), False)
    assert list(module._find_precisions(CPU, False)) == ["fp32", "bf16"]


def measure_batches(network, device=CPU, precision="fp32", is_quick=True) -> list[dict]:
    images = np.ones((max(module.BATCHES), 4), np.float32)
    return module._measure_batches("n", network, images, device, precision, is_quick)


def test_larger_batches_are_not_tried_after_one_that_does_not_fit(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.05)
    device = FakeDevice(kind="mps", largest_batch=4)
    rows = measure_batches(Launching(device, nn.Linear(4, 3)), device, is_quick=False)
    assert [row["batch"] for row in rows] == [1, 1, 2, 2, 4, 4]


def test_larger_batches_are_not_tried_after_a_slow_call(monkeypatch):
    monkeypatch.setattr(module, "SLOW_MS", 0.0)
    assert [row["batch"] for row in measure_batches(nn.Linear(4, 3))] == [1, 1]


def test_a_slow_call_gets_the_time_for_a_round(monkeypatch):
    limits = []
    real = measure.compare
    monkeypatch.setattr(module, "estimate_seconds", lambda *_, calls: 3.0 * calls)
    monkeypatch.setattr(
        measure, "compare", lambda *runners, limit_s, **options: limits.append(limit_s)
        or real(*runners, limit_s=limit_s, **options),
    )  # fmt: skip
    measure_batches(nn.Linear(4, 3))
    ways = 2
    assert limits == [module.SECONDS + ways * 3.0 * module.LEAST_CALLS] * len(module.QUICK_BATCHES)


@pytest.mark.parametrize("largest", [0, 1, 13, 10_000])
def test_the_largest_batch_is_sought_on_an_accelerator(largest):
    device = FakeDevice(largest_batch=largest)
    network = Launching(device, nn.Linear(4, 3))
    found = module._search_batch(network, np.ones((1, 4), np.float32), device)
    assert found == {"images": min(largest, module.MOST), "most tried": module.MOST}


def test_what_is_measured_is_told_meanwhile(networks):
    told = []
    measure_device(CPU, is_quick=True, say=told.append)
    assert told == ["roofs", "launches and copies", "small in fp32"]


# Files


def describe(value: float) -> dict:
    numbers = {
        "value": value,
        "low": 0.9 * value,
        "high": 1.1 * value,
        "fastest": None,
        "p95": None,
    }
    return {**numbers, "unit": "ms", "count": 30, "note": ""}


@pytest.fixture
def content() -> dict:
    calls = [
        {"network": "n", "precision": kind, "batch": batch, "way": way, "latency": describe(ms)}
        for kind, batch, way, ms in (("fp32", 1, "copied", 2.0), ("bf16", 4, "kept", 3.0))
    ]
    return {
        "date": "2026-01-31",
        "device": {"kind": "cuda", "title": "A GPU", "clocks": ""},
        "machine": "a machine",
        "peaks": {"fp32": describe(1)},
        "bandwidth": describe(1),
        "launches": {"launch": describe(1)},
        "copies": {"to the device": describe(1)},
        "calls": calls,
        "largest_batch": {},
    }


def test_a_number_comes_back_with_its_origin(content, folder):
    save_record(content, folder / "device_a.json")
    (read,) = load_records(folder)
    found = read.latency("n", 1)
    assert (found.value, found.low, found.high, found.count) == (2.0, 1.8, 2.2, 30)
    assert math.isnan(found.fastest)
    assert math.isnan(found.p95)
    assert str(found.provenance) == "recorded: A GPU in a machine, 2026-01-31, device_a.json"
    assert read.latency("n", 4, "bf16", "kept").value == 3.0


def test_a_call_in_fp32_with_copied_images_is_that_of_a_sweep(content):
    read = DeviceRecord(content, Path("a.json"))
    assert read.latency_of_call(1, "n") == read.latency("n", 1)
    assert read.latency_of_call(4, "n") is None  # only recorded in another format


@pytest.mark.parametrize(
    "asked", [("m", 1), ("n", 2), ("n", 1, "bf16"), ("n", 1, "fp32", "kept")], ids=str
)
def test_what_was_not_measured_is_none(content, asked):
    assert DeviceRecord(content, Path("a.json")).latency(*asked) is None


def test_records_are_read_by_name_and_other_files_left_alone(content, folder):
    for name in ("device_b.json", "device_a.json"):
        save_record(content, folder / name)
    (folder / "other.json").write_text("no record")
    assert [read.path.name for read in load_records(folder)] == ["device_a.json", "device_b.json"]
    assert load_records(folder / "nowhere") == []


@pytest.fixture
def listed(content, data) -> Path:
    """Return a record that ``SHA256SUMS`` lists."""
    path = data / "recorded" / "device_a.json"
    save_record(content, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (data / "SHA256SUMS").write_text(f"{digest}  recorded/device_a.json\n")
    return path


def test_a_listed_record_of_the_course_is_read(listed):
    (read,) = load_records(listed.parent)
    assert read.title == "A GPU"


def test_a_damaged_record_of_the_course_is_refused_by_name(listed):
    listed.write_text(listed.read_text().replace("2.0", "1.0", 1))  # a faster device
    with pytest.raises(DamagedFileError, match=r"^data/recorded/device_a\.json is damaged"):
        load_records(listed.parent)


def test_another_way_to_the_course_s_folder_is_no_way_around_its_digests(listed, monkeypatch):
    listed.write_text(listed.read_text() + "\n")
    monkeypatch.chdir(listed.parent)
    for folder in (Path("."), listed.parent / ".." / "recorded"):
        with pytest.raises(DamagedFileError, match=r"^data/recorded/device_a\.json is damaged"):
            load_records(folder)


def test_a_record_elsewhere_has_no_digest_and_is_read_as_it_is(listed, folder):
    (folder / "device_a.json").write_text(listed.read_text() + "\n")
    assert [read.title for read in load_records(folder)] == ["A GPU"]


def test_a_course_without_records_has_none(data):
    (data / "SHA256SUMS").unlink()
    assert load_records(data / "recorded") == []


def test_all_records_of_the_course_can_be_read():
    names = {path.name for path in module.FOLDER.glob("device_*.json")}
    assert {read.path.name for read in load_records()} == names


def test_a_record_replaces_another_only_when_it_is_whole(content, folder):
    path = folder / "device_a.json"
    save_record(content, path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_record({**content, "more": object()}, path)
    assert path.read_bytes() == before
    assert files_of(folder) == ["device_a.json"]
    save_record({**content, "date": "2026-02-01"}, path)
    (read,) = load_records(folder)
    assert read.provenance.when == "2026-02-01"


def spoil(content: dict, *way) -> str:
    """Return a record from which something is taken away."""
    spoilt = json.loads(json.dumps(content))
    at = spoilt
    for step in way[:-1]:
        at = at[step]
    del at[way[-1]]
    return json.dumps(spoilt)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: "", id="empty"),
        pytest.param(lambda content: json.dumps(content)[:-20], id="cut off"),
        pytest.param(lambda content: "{}", id="nothing in it"),
        pytest.param(lambda content: "[1, 2]", id="a list"),
        pytest.param(lambda content: "3", id="a number"),
        pytest.param(lambda content: '"device"', id="a word"),
        pytest.param(lambda content: "null", id="null"),
        pytest.param(lambda content: json.dumps({**content, "calls": 3}), id="no rows"),
        pytest.param(lambda content: json.dumps({**content, "calls": [None]}), id="an empty row"),
        pytest.param(lambda content: json.dumps({**content, "peaks": [1]}), id="a list of peaks"),
        pytest.param(
            lambda content: json.dumps({**content, "bandwidth": {**describe(1), "value": "much"}}),
            id="a word for a number",
        ),
        *(
            pytest.param(lambda content, way=way: spoil(content, *way), id="/".join(map(str, way)))
            for way in (
                ("date",), ("machine",), ("device",), ("device", "title"), ("peaks",),
                ("bandwidth",), ("bandwidth", "unit"), ("launches",), ("copies",), ("calls",),
                ("calls", 1, "latency"), ("calls", 0, "batch"), ("calls", 0, "latency", "value"),
            )
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_record_is_refused_by_name(content, folder, damage):
    save_record(content, folder / "device_good.json")
    (folder / "device_odd.json").write_text(damage(content))
    with pytest.raises(ValueError, match=r"^device_odd\.json is no record of a device .*Make it"):
        load_records(folder)


def test_bytes_that_are_no_text_are_refused_by_name(folder):
    (folder / "device_odd.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"^device_odd\.json is no record"):
        load_records(folder)
