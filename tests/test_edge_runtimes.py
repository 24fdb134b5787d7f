"""OpenVINO, ExecuTorch and LiteRT: they compute what the model computes, or say what is missing."""

import copy
import functools
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from course_utils import measure, quantize, runtimes
from course_utils.runtimes import (
    Runner,
    available,
    executorch_runtime,
    exported,
    litert_runtime,
    openvino_runtime,
)

BUILDERS = {
    "OpenVINO": runtimes.build_openvino,
    "ExecuTorch": runtimes.build_executorch,
    "LiteRT": runtimes.build_litert,
}
LOADERS = {
    "OpenVINO": lambda artefact: openvino_runtime.load_openvino(artefact, (1, 12, 12)),
    "ExecuTorch": executorch_runtime.load_executorch,
    "LiteRT": litert_runtime.load_litert,
}
# Where there is no build of a runtime for this system, what is tested is that it says so.
HERE = [name for name in BUILDERS if runtimes.is_built_here(name)]
INT8_TOLERANCE = 0.05
LAYERS = 4
WIDE_WEIGHTS = 154 * 10_000


class Net(nn.Module):
    """One layer of each kind: a convolution, a depthwise and a pointwise one, and a linear one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.pointwise = nn.Conv2d(32, 64, 1)
        self.head = nn.Linear(64, 10)

    def forward(self, images):
        x = torch.relu(self.norm(self.stem(images)))
        x = torch.relu(self.pointwise(torch.relu(self.depthwise(x))))
        return self.head(x.mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().eval()


@pytest.fixture(scope="module")
def built(net, images) -> Callable[[str, int], Runner]:
    """Return a function that builds each runner once: it takes seconds."""
    return functools.cache(lambda name, bits: BUILDERS[name](net, images, bits=bits))


@pytest.fixture(scope="module")
def wide(images) -> Callable[[str], Runner]:
    """Return a function that builds a network in int8 that is nearly nothing but its weights."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 10_000), nn.ReLU(), nn.Linear(10_000, 10))
    return functools.cache(lambda name: BUILDERS[name](model, images, bits=8))


@pytest.fixture
def line() -> nn.Module:
    """Return a network that is built quickly."""
    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(144, 10))


def logits_of(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(images)).numpy()


# The same logits


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("name", HERE)
def test_a_runner_agrees_with_the_model_image_by_image(built, net, images, name, bits):
    runner = built(name, bits)
    found = measure.compare_answers(runner, lambda batch: logits_of(net, batch), images)
    assert found.difference.value < (0.01 if bits == 32 else 100 * INT8_TOLERANCE)
    logits = runner(images)
    assert (logits.dtype, logits.shape) == (np.float32, (40, 10))
    assert (runner.runtime, runner.image_shape, runner.threads) == (name, (1, 12, 12), 1)


@pytest.mark.parametrize("name", HERE)
def test_it_says_what_really_runs(built, name):
    fp32, int8 = built(name, 32), built(name, 8)
    assert fp32.kernel.startswith("fp32")
    assert int8.kernel.startswith("int8")
    assert "int8" not in fp32.remark
    assert f"all {LAYERS} layers ran in int8" in int8.remark
    assert all(runner.remark.endswith(exported.ONE_BY_ONE) for runner in (fp32, int8))


@pytest.mark.parametrize("name", HERE)
def test_int8_rounds(built, images, name):
    assert not np.allclose(built(name, 8)(images), built(name, 32)(images), atol=1e-5)


@pytest.mark.parametrize("name", HERE)
def test_a_file_of_bytes_holds_a_byte_for_each_weight(wide, name):
    runner = wide(name)
    assert WIDE_WEIGHTS < runner.size_bytes < 1.2 * WIDE_WEIGHTS
    assert "all 2 layers ran in int8" in runner.remark


def test_what_is_left_to_the_slow_library_is_named(built):
    assert "not in XNNPACK: mean;" in built("ExecuTorch", 8).remark


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("name", HERE)
def test_batches_of_any_size_give_the_logits_of_single_images(built, images, name, bits):
    runner = built(name, bits)
    single = np.concatenate([runner(image[None]) for image in images])
    assert np.array_equal(runner(images), single)
    assert np.array_equal(runner(images[::3]), single[::3])
    turned = np.ascontiguousarray(images.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    assert not turned.flags["C_CONTIGUOUS"]
    assert np.array_equal(runner(turned[:1]), single[:1])
    assert np.array_equal(runner(turned), single)
    assert runner(images[:0]).shape == (0, 10)


@pytest.mark.parametrize("name", HERE)
def test_logits_stay_as_they_were_returned(built, images, name):
    runner = built(name, 32)
    first = runner(images[:1])
    kept = first.copy()
    runner(images[1:2])
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("name", HERE)
def test_calls_from_several_threads_do_not_mix(built, images, name):
    runner = built(name, 32)
    alone = runner(images)
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda index: runner(images[index % 40][None]), range(400)))
    assert all(np.array_equal(row[0], alone[index % 40]) for index, row in enumerate(together))


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("name", HERE)
def test_what_ships_is_enough_to_run_it(built, images, name, bits):
    runner = built(name, bits)
    loaded = LOADERS[name](runner.artefact)
    assert loaded.image_shape == (1, 12, 12)
    assert np.array_equal(loaded(images[:5]), runner(images[:5]))


@pytest.mark.parametrize("name", HERE)
def test_a_file_that_is_cut_off_or_foreign_is_refused(built, name):
    artefact = built(name, 32).artefact
    for content in (artefact[: len(artefact) // 2], b"no model at all", b""):
        with pytest.raises(ValueError, match=rf"{name} cannot run these {len(content):,} bytes"):
            LOADERS[name](content)


# Threads


def busy_seconds() -> dict[int, float]:
    """Return how long each thread of this process has computed."""
    return {
        thread.id: thread.user_time + thread.system_time for thread in psutil.Process().threads()
    }


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("name", HERE)
def test_one_thread_does_all_the_work(built, images, name, bits):
    """Only processor time counts here, which other programs do not change."""
    runner = built(name, bits)
    before, start = busy_seconds(), time.process_time()
    while time.process_time() - start < 0.5:
        runner(images)
    spent = [after - before.get(thread, 0.0) for thread, after in busy_seconds().items()]
    assert max(spent) > 0.9 * sum(spent)


@pytest.mark.parametrize("name", HERE)
def test_models_with_different_numbers_of_threads_live_in_one_process(line, images, name):
    one, two = (BUILDERS[name](line, images, threads=threads) for threads in (1, 2))
    assert (one.threads, two.threads) == (1, 2)
    expected = logits_of(line.eval(), images[:2])
    for runner in (one, two, one, one, two):
        assert np.allclose(runner(images[:2]), expected, atol=1e-5)


INTERRUPTED = """
import gc, signal
import numpy as np
from torch import nn
from course_utils import runtimes

images = np.zeros((1, 1, 12, 12), np.float32)
net = nn.Sequential(nn.Flatten(), nn.Linear(144, 10))
runners = [runtimes.build_openvino(net, images) for _ in range(2)]
while runners:
    del runners[0]  # in the order in which they were made
    gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_is_no_crash_after_models_were_closed():
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", INTERRUPTED], capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == ("interrupted\n", 0), done.stderr


# In a process of its own


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("name", HERE)
def test_loading_is_measured_in_a_fresh_process(built, images, name, bits):
    found = measure.measure_loading(built(name, bits), images[:2], repeats=1)
    for part in (found.imports, found.load, found.first_call):
        assert (part.unit, part.count) == ("ms", 1)
        assert 0 < part.low <= part.value <= part.high
    assert found.peak.unit == "bytes"
    assert 0 < found.peak.value < 2**28


@pytest.mark.parametrize("name", HERE)
def test_the_memory_of_a_model_is_measured(wide, images, name):
    """Its weights have to show; what a runtime holds besides is at most some tens of megabytes."""
    found = measure.measure_memory(wide(name), images[:1])
    held = found.model.value + found.later_calls.value
    assert 0.9 * WIDE_WEIGHTS < held < WIDE_WEIGHTS + 100 * 2**20
    assert found.model.unit == found.first_call.unit == "bytes"


# What is refused


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize(
    "strange",
    [
        pytest.param(np.zeros((2, 1, 10, 12), np.float32), id="other height"),
        pytest.param(np.zeros((1, 12, 12), np.float32), id="an image, not a batch"),
        pytest.param(np.zeros((2, 1, 12, 12), np.uint8), id="bytes"),
    ],
)
def test_a_runner_refuses_other_images(built, name, strange):
    with pytest.raises(ValueError, match=r"takes float32 images of shape \(n, 1, 12, 12\)"):
        built(name, 32)(strange)


class BranchesOnValues(Net):
    def forward(self, images):
        logits = super().forward(images)
        return -logits if logits.sum() > 0 else logits


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 4}, "kernels for 32 and for 8 bits, not for 4"),
        ({"bits": 16}, "not for 16"),
        ({"threads": 0}, "at least one thread"),
        ({"images": np.zeros((0, 1, 12, 12), np.float32)}, "batch of float32 images"),
        ({"images": np.zeros((2, 3, 12, 12), np.float32)}, "does not accept images of shape"),
        ({"images": np.full((2, 1, 12, 12), 255, np.float32), "bits": 8}, "divided by 255"),
        ({"model": BranchesOnValues()}, r"^The model cannot be exported: \w+\. Does its forward"),
    ],
)
def test_what_cannot_be_built_is_refused_in_a_sentence(net, images, name, change, message):
    asked = {"model": net, "images": images, **change}
    with pytest.raises(ValueError, match=message) as error:
        BUILDERS[name](**asked)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize("name", HERE)
def test_a_model_with_roundings_of_its_own_is_refused(tiny_convnet, images, name):
    aware = quantize.prepare_aware(tiny_convnet, 8, images)
    with pytest.raises(ValueError, match=r"which only runtimes\.build runs"):
        BUILDERS[name](aware, images)


@pytest.mark.parametrize("name", HERE)
def test_building_changes_nothing_and_prints_nothing(line, images, name, capfd):
    before = copy.deepcopy(line.state_dict())
    runner = BUILDERS[name](line, images, bits=8)
    logits = runner(images[:3])
    assert line.training
    assert all(torch.equal(before[key], one) for key, one in line.state_dict().items())
    for parameter in line.parameters():
        parameter.data.zero_()
    assert np.array_equal(runner(images[:3]), logits)
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")


# A runtime that is not there


def needs(name: str) -> list[str]:
    return [module for module in available.MODULES[name] if module != "litert_converter"]


@pytest.mark.parametrize("name", HERE)
def test_a_runtime_that_is_installed_has_its_version(name):
    found = runtimes.list_available()[name]
    assert found
    assert str(found) == found.version
    assert found.version[0].isdigit()


@pytest.mark.parametrize(
    ("name", "module"), [(name, module) for name in HERE for module in needs(name)]
)
def test_a_runtime_that_is_missing_says_what_to_install(net, images, monkeypatch, name, module):
    for loaded in [key for key in sys.modules if key.split(".")[0] == module]:
        monkeypatch.setitem(sys.modules, loaded, None)
    monkeypatch.setitem(sys.modules, module, None)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda one: None if one == module else find_spec(one)
    )
    found = runtimes.list_available()[name]
    assert not found
    assert str(found) == found.reason
    assert f"{name} is not ready here: there is no module {module}. " in found.reason
    with pytest.raises(runtimes.MissingRuntimeError, match=f"{name} is not ready") as error:
        BUILDERS[name](net, images, bits=8)
    assert isinstance(error.value, ImportError)
    for told in (found.reason, str(error.value)):
        assert "`make lab EXTRAS=edge` installs it" in told
        assert "pip install -e '.[edge]' -c constraints.txt" in told
    assert error.value.__cause__ is None


def test_without_nncf_openvino_still_runs_in_float32(net, images, monkeypatch):
    for loaded in [key for key in sys.modules if key.split(".")[0] == "nncf"]:
        monkeypatch.setitem(sys.modules, loaded, None)
    assert np.allclose(
        runtimes.build_openvino(net, images)(images), logits_of(net, images), atol=1e-5
    )


def test_where_nothing_is_built_for_a_system_it_says_so(net, images, monkeypatch):
    monkeypatch.setattr(available.platform, "system", lambda: "Windows")
    monkeypatch.setattr(available.platform, "machine", lambda: "AMD64")
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(
        runtimes.MissingRuntimeError, match=r"not built for Windows on AMD64; it is for Linux on"
    ):
        runtimes.build_litert(net, images)


@pytest.mark.parametrize("kind", [ImportError, OSError])
def test_a_runtime_that_cannot_be_loaded_says_so(kind):
    with (
        pytest.raises(runtimes.MissingRuntimeError, match=r"cannot be loaded: no such symbol\. `"),
        available.needed_for("OpenVINO"),
    ):
        raise kind("no such\nsymbol")


BLOCKED = """
import importlib.abc, sys

EDGE = {"openvino", "nncf", "executorch", "torchao", "ai_edge_litert", "ai_edge_quantizer",
        "litert_torch", "litert_converter", "jax"}

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in EDGE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from course_utils import lab, measure, runtimes, sweep

print("imported")
"""


def test_the_course_is_imported_without_any_of_them():
    shown = subprocess.run(
        [sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=True
    ).stdout
    assert shown == "imported\n"
