"""PyTorch as a runtime, eager and compiled: the same logits, and what a reader must know."""

import copy
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from course_utils import models, runtimes
from course_utils.runtimes import torch_compiled

VARIANTS = [
    {},
    {"records_gradients": True},
    {"channels_last": True},
    {"records_gradients": True, "channels_last": True},
    {"threads": 2},
]


def logits_of(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(images)).numpy()


class Watch(nn.Module):
    """Notes under which circumstances it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.seen = {}

    def __deepcopy__(self, memo) -> "Watch":
        other = Watch()
        other.seen = self.seen
        return other

    def forward(self, images):
        logits = self.conv(images).mean((2, 3))
        self.seen["threads"] = torch.get_num_threads()
        self.seen["training"] = self.training
        self.seen["inference mode"] = logits.is_inference()
        self.seen["gradients"] = logits.requires_grad
        layout = {"memory_format": torch.channels_last}
        self.seen["channels last"] = (
            images.is_contiguous(**layout),
            self.conv.weight.is_contiguous(**layout),
        )
        return logits


@pytest.fixture
def two_channels() -> np.ndarray:
    return np.random.default_rng(0).random((4, 2, 6, 6), dtype=np.float32)


@pytest.fixture(scope="module")
def compiled(tiny_mlp, images) -> runtimes.Runner:
    return runtimes.build_compiled(tiny_mlp, images, batches=(40,))


# Eager


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_each_eager_variant_agrees_with_the_model(tiny_resnet, images, variant):
    runner = runtimes.build_eager(tiny_resnet, images, **variant)
    expected = logits_of(tiny_resnet, images)
    for batch in (1, 7, 40):
        logits = runner(images[:batch])
        assert logits.dtype == np.float32
        assert np.allclose(logits, expected[:batch], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_variant_runs_as_it_says(two_channels, variant):
    model = Watch()
    runtimes.build_eager(model, two_channels, **variant)(two_channels)
    gradients, last = (variant.get(key, False) for key in ("records_gradients", "channels_last"))
    assert model.seen == {
        "threads": variant.get("threads", 1),
        "training": False,
        "inference mode": not gradients,
        "gradients": gradients,
        "channels last": (last, last),
    }


def test_gradients_are_recorded_whatever_the_caller_said(two_channels):
    model = Watch()
    runner = runtimes.build_eager(model, two_channels, records_gradients=True)
    with torch.no_grad():
        runner(two_channels)
    assert model.seen["gradients"]


@pytest.mark.parametrize(
    ("variant", "remark"),
    [
        ({}, ""),
        ({"records_gradients": True}, "records gradients"),
        ({"channels_last": True}, "channels last"),
        ({"records_gradients": True, "channels_last": True}, "records gradients; channels last"),
    ],
)
def test_the_remark_tells_the_variants_apart(tiny_resnet, images, variant, remark):
    runner = runtimes.build_eager(tiny_resnet, images, **variant)
    assert (runner.runtime, runner.kernel, runner.remark) == ("PyTorch eager", "fp32", remark)
    assert runner.artefact == runtimes.build_eager(tiny_resnet, images).artefact
    assert runner.first_call_s == {}


def test_the_model_stays_as_it_was(tiny_resnet, images):
    model = copy.deepcopy(tiny_resnet).train()
    runtimes.build_eager(model, images, channels_last=True)(images)
    assert model.training
    weight = model.block1.conv1.weight
    assert weight.is_contiguous()
    assert not weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("process", [1, 2])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_process_keeps_its_number_of_threads(two_channels, process, threads):
    model = Watch()
    torch.set_num_threads(process)
    runner = runtimes.build_eager(model, two_channels, threads=threads)
    assert torch.get_num_threads() == process
    runner(two_channels)
    assert model.seen["threads"] == threads
    assert torch.get_num_threads() == process
    assert runner.threads == threads
    with pytest.raises(RuntimeError):
        runner.run(two_channels[:, :1])
    assert torch.get_num_threads() == process


def test_calls_at_the_same_time_leave_the_number_of_threads_as_it_was(tiny_mlp, images):
    torch.set_num_threads(2)
    runner = runtimes.build_eager(tiny_mlp, images, threads=1)
    with ThreadPoolExecutor(4) as pool:
        logits = list(pool.map(runner, [images] * 200))
        assert set(pool.map(lambda _: torch.get_num_threads(), range(50))) <= {1, 2}
    assert all(np.array_equal(one, logits[0]) for one in logits)
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as new:
        assert new.submit(torch.get_num_threads).result() == 2


@pytest.mark.parametrize("build", [runtimes.build_eager, runtimes.build_compiled])
@pytest.mark.parametrize("threads", [0, -1])
def test_no_thread_at_all_is_refused(tiny_mlp, images, build, threads):
    with pytest.raises(ValueError, match=rf"at least one thread; threads={threads} was given"):
        build(tiny_mlp, images, threads=threads)


def test_a_model_without_convolutions_has_no_channels_to_keep_last(tiny_mlp, images):
    with pytest.raises(ValueError, match=r"no convolution.*leave out channels_last"):
        runtimes.build_eager(tiny_mlp, images, channels_last=True)


@pytest.mark.parametrize("build", [runtimes.build_eager, runtimes.build_compiled])
def test_images_that_the_model_does_not_accept_are_named(tiny_mlp, images, build):
    with pytest.raises(ValueError, match=r"does not accept images of shape \(40, 1, 11, 12\)"):
        build(tiny_mlp, images[:, :, 1:])


# Compiled


def test_compiled_agrees_with_the_model_and_says_how_long_it_took(compiled, tiny_mlp, images):
    assert np.allclose(compiled(images), logits_of(tiny_mlp, images), rtol=1e-4, atol=1e-5)
    assert (compiled.runtime, compiled.kernel) == ("PyTorch compiled", "fp32")
    assert compiled.first_call_s.keys() == {40}
    assert compiled.first_call_s[40] > 0
    told = f"compiled in {compiled.first_call_s[40]:.1f} s for batches of 40"
    assert compiled.remark in (told, f"{told} (found in PyTorch's cache)")
    assert compiled.artefact == runtimes.build_eager(tiny_mlp, images).artefact


def test_compiled_refuses_other_images(compiled, images):
    with pytest.raises(ValueError, match=r"shape \(n, 1, 12, 12\); it was given float64"):
        compiled(images.astype(np.float64))
    with pytest.raises(ValueError, match=r"it was given float32 of shape \(40, 1, 11, 12\)"):
        compiled(images[:, :, 1:])


def plant_compiler(monkeypatch, calls: list) -> None:
    """Let torch.compile note its settings, and each size of batch that comes for the first time."""

    def compile_nothing(model, **settings):
        calls.append(settings)
        sizes = set()

        def run(batch):
            if len(batch) not in sizes:
                calls.append(len(batch))
                sizes.add(len(batch))
            return model(batch)

        return run

    monkeypatch.setattr(torch, "compile", compile_nothing)


def test_another_size_of_batch_is_told(tiny_mlp, images, monkeypatch):
    calls = []
    plant_compiler(monkeypatch, calls)
    runner = runtimes.build_compiled(tiny_mlp, images[:2], batches=(1, 32), dynamic=False)
    assert calls == [{"fullgraph": True, "dynamic": False, "isolate_recompiles": True}, 1, 32]
    assert list(runner.first_call_s) == [1, 32]
    assert all(f"s for batches of {size}" in runner.remark for size in (1, 32))
    first = dict(runner.first_call_s)
    runner(images[:32])
    assert runner.first_call_s == first  # the first call only
    runner(images[:7])
    assert list(runner.first_call_s) == [1, 32, 7]


@pytest.mark.parametrize("fresh", [True, False])
def test_a_fresh_build_has_an_empty_cache(tiny_mlp, images, monkeypatch, tmp_path, fresh):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    folders = []

    def compile_nothing(model, **_):
        def run(batch):
            folders.append(os.environ["TORCHINDUCTOR_CACHE_DIR"])
            return model(batch)

        return run

    monkeypatch.setattr(torch, "compile", compile_nothing)
    runner = runtimes.build_compiled(tiny_mlp, images, fresh=fresh)
    assert (folders != [str(tmp_path)]) == fresh
    runner(images)
    assert folders[1:] == [str(tmp_path)]


@pytest.mark.parametrize("hits", [0, 2])
def test_code_that_was_found_in_the_cache_is_told(tiny_mlp, images, monkeypatch, hits):
    def find(model, **_):
        def run(batch):
            counters["inductor"]["fxgraph_cache_hit"] += hits
            return model(batch)

        return run

    monkeypatch.setattr(torch, "compile", find)
    runner = runtimes.build_compiled(tiny_mlp, images)
    assert runner.remark.endswith("(found in PyTorch's cache)") == bool(hits)


COMPILE_IN_A_PROCESS = """
import numpy as np, torch
from course_utils import models, runtimes
torch.manual_seed(0)
model = models.MLP([144, 64, 10])
images = np.random.default_rng(0).random((40, 1, 12, 12), np.float32)
compiled, eager = (
    build(model, images) for build in (runtimes.build_compiled, runtimes.build_eager)
)
print(torch.backends.cpu.get_cpu_capability())
print(compiled.remark)
print(np.allclose(compiled(images), eager(images), rtol=1e-4, atol=1e-5))
"""


def test_code_for_another_processor_is_not_found_in_the_cache(tmp_path):
    """As where the folder of the cache moves to a processor that has no wide vectors."""
    instructions, told = [], []
    for processor in ({}, {"ATEN_CPU_CAPABILITY": "default"}):
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), **processor}
        found = subprocess.run(
            [sys.executable, "-c", COMPILE_IN_A_PROCESS],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        name, remark, is_right = found.stdout.splitlines()
        assert is_right == "True", processor
        instructions.append(name)
        told.append("found in PyTorch's cache" in remark)
    assert told == [False, instructions[0] == instructions[1]]


@pytest.mark.parametrize("batches", [(), (0,), (1, -2)])
def test_batches_of_nothing_are_not_compiled(tiny_mlp, images, batches):
    with pytest.raises(ValueError, match="Give at least one batch, of at least one image"):
        runtimes.build_compiled(tiny_mlp, images, batches=batches)


def test_without_a_compiler_it_says_what_to_do(images, monkeypatch):
    monkeypatch.setattr(inductor.cpp, "cxx", (None, "no-such-compiler"))
    model = models.MLP([144, 23, 10])
    with pytest.raises(runtimes.NoCompilerError) as error:
        runtimes.build_compiled(model, images)
    assert "sudo apt install g++" in str(error.value)
    assert "no-such-compiler" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_compiler_that_fails_is_quoted():
    failed = RuntimeError(
        "C++ compile error\nOutput:\n  x.cpp:3: fatal error: Python.h: not found\n"
    )
    message = torch_compiled._why_no_compiler([RuntimeError("InductorError"), failed])
    assert message.endswith("PyTorch says: x.cpp:3: fatal error: Python.h: not found")


class Branches(nn.Module):
    """Branches on the values of its input, as no graph can."""

    def forward(self, images):
        return images.flatten(1) * 2 if images.sum() > 0 else images.flatten(1)


def test_a_model_that_is_no_graph_is_refused(images):
    with pytest.raises(ValueError, match=r"one graph of this model\..*branch.*It says: ") as error:
        runtimes.build_compiled(Branches(), images)
    assert "\n" not in str(error.value)


def test_the_runtimes_are_imported_without_the_compiler():
    found = "import sys; from course_utils import runtimes; print('torch._inductor' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", found], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
