"""PyTorch's exported program as a runtime, and how it and a C file are opened elsewhere."""

import numpy as np
import pytest
import torch
from torch import nn

from course_utils import machine, measure, micro, runtimes
from course_utils.micro import compiled
from course_utils.runtimes import NoCompilerError


class Named(nn.Module):
    """Its layer is called as the end of a function in C is."""

    def __init__(self) -> None:
        super().__init__()
        self.network_classify = nn.Linear(144, 10)

    def forward(self, images):
        return self.network_classify(images.flatten(1))


class Branching(nn.Module):
    def forward(self, images):
        return images.flatten(1) if images.mean() > 0.5 else -images.flatten(1)


@pytest.mark.parametrize("name", ["tiny_convnet", "tiny_mlp"])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_it_computes_what_the_model_computes(request, name, batch, images):
    model = request.getfixturevalue(name)
    runner = runtimes.build_exported(model, images)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images[:batch])).numpy()
    assert runner(images[:batch]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert (runner.runtime, runner.kernel) == ("PyTorch, exported", "fp32")
    assert runner.artefact[:2] == b"PK"  # a zip, as .pt2 is


def test_what_cannot_be_exported_or_does_not_fit_is_refused(tiny_convnet, images):
    with pytest.raises(ValueError, match=r"cannot be exported.*branch on the values"):
        runtimes.build_exported(Branching(), images)
    with pytest.raises(ValueError, match="takes float32 images"):
        runtimes.build_exported(tiny_convnet, images)(images.astype(np.float64))


def test_both_are_opened_in_a_fresh_process(tiny_convnet, images):
    network = micro.quantize_to_integers(tiny_convnet, images)
    for runner in (runtimes.build_exported(tiny_convnet, images), micro.build_c(network)):
        found = measure.measure_loading(runner, images[:2], repeats=1)
        for part in (found.imports, found.load, found.first_call):
            assert 0 < part.low <= part.value <= part.high
        assert found.peak.value > 0
        assert "above what the process held" in found.peak.note


def test_the_library_has_one_name_whatever_the_source_calls_its_function(tiny_convnet, images):
    network = micro.quantize_to_integers(tiny_convnet, images)
    library = compiled.compile_library(micro.write_c(network, "other"))
    assert b"network_classify" in library
    assert b"other_classify" not in library
    assert compiled.pack_library(micro.write_c(network, "other").encode())["logits"] == b"10"


def test_a_layer_may_be_called_as_the_function_is(images):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = micro.quantize_to_integers(Named().eval(), images)
    library = compiled.compile_library(micro.write_c(network, "other"))
    assert b"network_classify" in library
    assert b"other_classify" not in library
    assert compiled.pack_library(micro.write_c(network, "other").encode())["logits"] == b"10"


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_of_others_stay_as_they_were(threads, tiny_mlp, images):
    before = torch.get_num_threads()
    runner = runtimes.build_exported(tiny_mlp, images, threads=threads)
    runner(images)
    assert runner.threads == threads
    assert torch.get_num_threads() == before


def test_without_a_compiler_a_c_file_cannot_be_opened(tiny_convnet, images, tmp_path, monkeypatch):
    runner = micro.build_c(micro.quantize_to_integers(tiny_convnet, images))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCompilerError, match="apt install gcc"):
        measure.measure_loading(runner, images[:1], repeats=1)


@pytest.mark.parametrize(("overflows", "layout"), [(True, (8, 2)), (False, (64, 1))])
def test_the_quick_layout_is_that_of_the_processor(
    overflows, layout, tiny_convnet, images, monkeypatch
):
    monkeypatch.setattr(machine, "int8_sums_overflow", lambda: overflows)
    network = micro.quantize_to_integers(tiny_convnet, images)
    runner = micro.build_c(network, name="tiny")
    lanes, wide = layout
    assert (
        runner.artefact == micro.write_c(network, "tiny", lanes=lanes, weight_bytes=wide).encode()
    )
    assert f"rows filled up to {lanes} weights" in runner.remark
    assert runner.remark.endswith("in 16 bits") is overflows
    logits = network.run(images).astype(np.float32) * np.float32(network.logit_scale)
    assert np.array_equal(runner(images), logits)
