"""Shared by the tests: folders of their own, and data and models small enough to be quick."""

import dataclasses
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from recipes import PLAIN
from torch import nn

from course_utils import models, quantize, quick
from course_utils.datasets import Split
from course_utils.measure import timing_lock
from course_utils.runtimes import Runner
from course_utils.training import Recipe, train

HERE = Path(__file__).parent

# The same examples on every run and every machine, and no limit on how long one may take.
settings.register_profile("course", deadline=None, derandomize=True, database=None)
settings.load_profile("course")

# Started in the background of a script one inherits that Ctrl-C is ignored, and hands it on.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def uses_the_environment(path: Path) -> bool:
    """Whether the tests of a file share the folders and threads that the environment sets."""
    return HERE / "browser" in path.parents


def pytest_collectstart() -> None:
    """Draw the same weights for the layers that a file of tests makes when it is imported."""
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Draw the same weights whichever tests ran before, before even the fixtures are made."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_folders(request, tmp_path, monkeypatch):
    """Give each test a cache, a progress and a lock for timing that nothing else uses."""
    if not uses_the_environment(request.node.path):
        monkeypatch.setattr(timing_lock, "lock_file", lambda: tmp_path / "timing.lock")
        monkeypatch.setenv("INFERENCE_MEASURED_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("INFERENCE_MEASURED_DATA", str(tmp_path / "progress"))
        monkeypatch.delenv(quick.VARIABLE, raising=False)


@pytest.fixture(autouse=True)
def one_thread(request):
    """Let torch use one thread: the models are too small for two, which would only wait."""
    if uses_the_environment(request.node.path):
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_split() -> Split:
    """Return 30 images of 1x2x2 in three classes.

    The first pixel holds the label and the second the number of the image, so that the runners
    of ``make_runner`` can know both.
    """
    numbers = np.arange(30)
    labels = numbers % 3
    images = np.zeros((30, 1, 2, 2), np.float32)
    images[:, 0, 0, 0] = labels
    images[:, 0, 0, 1] = numbers
    return Split(images, labels)


@pytest.fixture
def make_runner() -> Callable[..., Runner]:
    """Return a function that plants a runner; it takes ``images`` of ``tiny_split``."""

    def make(
        right: int = 30, size_bytes: int = 100, kernel: str = "planted", sleep_s: float = 0.0
    ) -> Runner:
        """Return a runner that is right on exactly the first ``right`` images."""

        def run(images: np.ndarray) -> np.ndarray:
            if sleep_s:
                time.sleep(sleep_s)
            labels, numbers = images[:, 0, 0, 0].astype(int), images[:, 0, 0, 1]
            answers = np.where(numbers < right, labels, (labels + 1) % 3)
            return np.eye(3, dtype=np.float32)[answers]

        return Runner(run, "planted runtime", kernel, "", bytes(size_bytes), (1, 2, 2))

    return make


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Return 40 images of 1x12x12 for the tiny models: smooth, no two alike."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:12, 0:12] / 12
    waves = random.uniform(0, 6, (40, 2, 1, 1))
    pictures = 0.5 + 0.5 * np.sin(waves[:, 0] * rows + waves[:, 1] * columns)
    return pictures[:, None].astype(np.float32)


@pytest.fixture(scope="session")
def tiny_resnet() -> nn.Module:
    """Return a ResNet-8 of width 4 whose batch norms have statistics as after a training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        resnet = models.ResNet8(width=4)
        for norm in resnet.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.uniform_(norm.running_mean, -0.5, 0.5)
                nn.init.uniform_(norm.running_var, 0.5, 2)
                nn.init.uniform_(norm.weight, 0.5, 2)
                nn.init.uniform_(norm.bias, -0.5, 0.5)
    return resnet.eval()


@pytest.fixture(scope="session")
def tiny_convnet(tiny_resnet) -> nn.Module:
    """Return ``tiny_resnet`` with its batch norms folded: what a lesson quantizes."""
    return quantize.fold_batch_norms(tiny_resnet)


@pytest.fixture(scope="session")
def tiny_mlp() -> nn.Module:
    """Return three fully connected layers for the same images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return quantize.fold_batch_norms(models.MLP([144, 64, 32, 10]))


@pytest.fixture(scope="session")
def pictures() -> Split:
    """Return 800 noisy pictures of ten patterns, 1x12x12, of bytes: the last 200 are to test on."""
    random = np.random.default_rng(0)
    patterns = random.random((10, 4, 4)).repeat(3, 1).repeat(3, 2)
    labels = np.arange(800) % 10
    noisy = 0.25 + 0.5 * patterns[labels] + 0.3 * random.normal(size=(800, 12, 12))
    pixels = np.round(255 * np.clip(noisy, 0, 1)) / 255
    return Split(pixels[:, None].astype(np.float32), labels)


@pytest.fixture(scope="session")
def trained_resnet(pictures) -> nn.Module:
    """Return a ResNet-8 of width 8 that knows the patterns, with its batch norms.

    With fewer channels some processors' kernels of strided convolutions crash in training.
    """
    return _train(lambda: models.ResNet8(width=8), pictures, PLAIN)


@pytest.fixture(scope="session")
def trained_mlp(pictures) -> nn.Module:
    """Return three fully connected layers that know the patterns."""
    recipe = dataclasses.replace(PLAIN, epochs=8)
    return _train(lambda: models.MLP([144, 32, 24, 10]), pictures, recipe)


def _train(make: Callable[[], nn.Module], pictures: Split, recipe: Recipe) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
    images, labels = torch.from_numpy(pictures.images), torch.from_numpy(pictures.labels)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trained = train(model, images[:600], labels[:600], recipe)
    torch.set_num_threads(threads)
    return trained
