"""The fingerprint: it changes with all that a measurement depends on, and with nothing else."""

import copy
import functools
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from course_utils import datasets, fingerprint, models, quantize
from course_utils.fingerprint import of


def run_cell(source: str) -> dict[str, Any]:
    """Run source as a cell of a new notebook does, and return its names."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, "<cell>", "exec"), names)
    return names


def assert_told_apart(cell: str, first: Any, second: Any) -> None:
    """Check the digest of ``at`` in a cell that holds VALUE."""
    one, again, other = (
        of(run_cell(cell.replace("VALUE", repr(value)))["at"]) for value in (first, first, second)
    )
    assert one == again
    assert one != other


# Values


@dataclass
class Pair:
    left: Any
    right: Any


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(1, 2, id="number"),
        pytest.param(1, True, id="type"),
        pytest.param("per channel", "per tensor", id="text"),
        pytest.param([1, 2], [2, 1], id="order of a list"),
        pytest.param([[1], 2], [[1, 2]], id="nesting of a list"),
        pytest.param({"bits": [2]}, {"bits": [2, 3]}, id="values of a mapping"),
        pytest.param({"bits": 2}, {"width": 2}, id="keys of a mapping"),
        pytest.param(np.arange(3), np.arange(1, 4), id="array"),
        pytest.param(np.zeros(4), np.zeros((2, 2)), id="shape of an array"),
        pytest.param(np.zeros(2, np.int32), np.zeros(2, np.float32), id="type of an array"),
        pytest.param(torch.zeros(3), torch.ones(3), id="tensor"),
        pytest.param(Pair(1, 2), Pair(1, 3), id="field of a dataclass"),
    ],
)
def test_values_are_told_apart_by_their_content(first, second):
    assert of(first) == of(copy.deepcopy(first))
    assert of(first) != of(second)


def test_a_set_has_no_order():
    assert of({"a", "b", "c"}) == of({"c", "b", "a"})


def test_a_digest_has_16_hexadecimal_digits():
    assert len(of(1)) == 16
    assert int(of(1), 16) >= 0


# Models


def with_changed_bias(model: nn.Module) -> nn.Module:
    changed = copy.deepcopy(model)
    *_, last = (parameter for parameter in changed.parameters() if parameter.ndim == 1)
    last.data[0] += 1e-6
    return changed


def test_models_of_the_same_weights_are_equal(tiny_resnet):
    assert of(tiny_resnet) == of(copy.deepcopy(tiny_resnet))


def test_a_traced_model_is_equal_to_one_traced_from_the_same_model(tiny_resnet):
    first, second = (quantize.fold_batch_norms(tiny_resnet) for _ in range(2))
    assert of(first) == of(second)


def test_one_changed_weight_changes_the_digest(tiny_resnet, tiny_convnet):
    assert of(with_changed_bias(tiny_resnet)) != of(tiny_resnet)
    assert of(with_changed_bias(tiny_convnet)) != of(copy.deepcopy(tiny_convnet))


def test_a_changed_structure_changes_the_digest():
    assert of(nn.Sequential(nn.ReLU())) != of(nn.Sequential(nn.GELU()))


def test_a_changed_statistic_of_a_batch_norm_changes_the_digest(tiny_resnet):
    changed = copy.deepcopy(tiny_resnet)
    changed.norm.running_mean[0] += 1
    assert of(changed) != of(tiny_resnet)


def test_an_attribute_of_a_model_that_is_no_weight_counts():
    first, second = nn.Identity(), nn.Identity()
    first.slope, second.slope = 0.1, 0.2
    assert of(first) != of(second)


def test_a_private_attribute_of_a_model_counts():
    first, second = nn.Identity(), nn.Identity()
    first._slope, second._slope = 0.1, 0.2
    assert of(first) != of(second)


def test_a_buffer_that_is_not_saved_counts():
    first, second = nn.Identity(), nn.Identity()
    for model, value in ((first, 0.1), (second, 0.2)):
        model.register_buffer("slope", torch.tensor(value), persistent=False)
    assert of(first) != of(second)


def test_a_model_in_bfloat16_has_a_digest():
    first, second = nn.Linear(2, 2).bfloat16(), nn.Linear(2, 2).bfloat16()
    assert of(first) == of(copy.deepcopy(first))
    assert of(first) != of(second)


# Functions


@pytest.mark.parametrize(
    ("cell", "first", "second"),
    [
        pytest.param("def at(bits): return bits + VALUE", 1, 2, id="constant"),
        pytest.param("def at(bits, scale=VALUE): return bits", 1, 2, id="default"),
        pytest.param("def at(bits, *, scale=VALUE): return bits", 1, 2, id="keyword's default"),
        pytest.param("width = VALUE\ndef at(bits): return width", 1, 2, id="global"),
        pytest.param(
            "def make(width):\n  return lambda bits: width\nat = make(VALUE)", 1, 2, id="closure"
        ),
        pytest.param(
            "def helper(x): return x + VALUE\ndef at(bits): return helper(bits)", 1, 2, id="helper"
        ),
        pytest.param(
            "def helper(x): return x + VALUE\n"
            "def at(bits):\n  def run(x): return helper(x)\n  return run",
            1, 2, id="helper that an inner function calls",
        ),
        pytest.param(
            "width = VALUE\ndef at(bits): return lambda x: x + width", 1, 2,
            id="global of an inner function",
        ),
        pytest.param(
            "import functools\n"
            "@functools.cache\ndef helper(): return VALUE\n"
            "def at(bits): return helper()",
            1, 2, id="helper in a cache",
        ),
        pytest.param(
            "import functools\n"
            "def build(width, bits): return width\n"
            "at = functools.partial(build, VALUE)",
            1, 2, id="argument of a partial",
        ),
        pytest.param(
            "class Lab:\n"
            "  def __init__(self, width): self.width = width\n"
            "  def at(self, bits): return self.width\n"
            "at = Lab(VALUE).at",
            1, 2, id="object of a method",
        ),
    ],
)  # fmt: skip
def test_functions_are_told_apart_by_all_that_they_refer_to(cell, first, second):
    assert_told_apart(cell, first, second)


def test_a_changed_weight_of_a_model_that_a_function_uses(tiny_resnet):
    def using(model):
        return lambda bits: quantize.quantize_weights(model, bits)

    assert of(using(tiny_resnet)) == of(using(copy.deepcopy(tiny_resnet)))
    assert of(using(tiny_resnet)) != of(using(with_changed_bias(tiny_resnet)))


def test_a_name_that_is_not_used_does_not_count():
    cell = "unused = VALUE\ndef at(bits): return bits"
    first, second = (run_cell(cell.replace("VALUE", value))["at"] for value in "12")
    assert of(first) == of(second)


def test_calling_a_function_does_not_change_its_digest():
    at = run_cell("def at(bits):\n  return sum(n * bits for n in range(9))")["at"]
    before = of(at)
    for _ in range(5000):  # often enough for the interpreter to rewrite its code for speed
        at(3)
    assert of(at) == before


def test_functions_of_the_course_are_told_apart():
    assert of(quantize.quantize_affine) == of(quantize.quantize_affine)
    assert of(quantize.quantize_affine) != of(quantize.quantize_symmetric)
    architectures = [of(make) for make in models.ARCHITECTURES.values()]
    assert len(set(architectures)) == len(architectures)


def test_recursion_ends():
    factorial = "def at(n): return 1 if n < VALUE else n * at(n - 1)"
    assert_told_apart(factorial, 1, 2)
    each_other = "def even(n): return n == VALUE or at(n - 1)\ndef at(n): return even(n - 1)"
    assert_told_apart(each_other, 0, 2)


def test_the_digest_is_the_same_in_another_process():
    """A set's order differs from process to process; so does an object's address."""
    source = (
        "from course_utils import fingerprint\n"
        "def at(scheme): return scheme in {'per channel', 'per tensor', 'per group', 'none'}\n"
        "print(fingerprint.of(at))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", source],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    digests = {process.communicate()[0] for process in processes}
    assert len(digests) == 1
    assert digests != {""}


# Classes of a notebook


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param("class Layer:\n  def forward(self): return VALUE", id="method"),
        pytest.param("class Layer:\n  def __call__(self): return VALUE", id="call"),
        pytest.param("class Layer:\n  slope = VALUE", id="constant"),
        pytest.param("class Layer:\n  def forward(self, slope=VALUE): return slope", id="default"),
        pytest.param("class Layer:\n  @property\n  def slope(self): return VALUE", id="property"),
        pytest.param(
            "class Layer:\n  @staticmethod\n  def slope(): return VALUE", id="static method"
        ),
        pytest.param(
            "class Base:\n  def forward(self): return VALUE\nclass Layer(Base): pass", id="base"
        ),
        pytest.param(
            "def helper(): return VALUE\nclass Layer:\n  def forward(self): return helper()",
            id="helper that a method calls",
        ),
    ],
)
def test_classes_of_a_notebook_are_told_apart_by_what_they_hold(cell):
    assert_told_apart(cell + "\ndef at(bits): return Layer()", 1, 2)


def test_a_dataclass_of_a_notebook_counts_with_its_methods():
    cell = (
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Lab:\n"
        "  width: int\n"
        "  def run(self): return VALUE\n"
        "lab = Lab(1)\n"
        "def at(bits): return lab.run()"
    )
    assert_told_apart(cell, 1, 2)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param("def one(): return 1\ndef two(): return 2\n", id="functions"),
        pytest.param(
            "class Layer:\n  def __init__(self, width): self.width = width\n"
            "one, two = Layer(1), Layer(2)\n",
            id="objects",
        ),
        pytest.param(
            "from torch import nn\none, two = nn.Hardtanh(0, 1), nn.Hardtanh(0, 2)\n", id="models"
        ),
    ],
)
def test_which_of_two_things_a_third_name_stands_for_counts(make):
    cell = make + "which = [one, two][VALUE]\ndef at(bits): return one, two, which"
    assert_told_apart(cell, 0, 1)


def test_a_model_s_class_in_a_notebook_counts_with_its_methods():
    cell = (
        "from torch import nn\n"
        "class Slope(nn.Module):\n"
        "  def forward(self, x): return VALUE * x\n"
        "model = Slope()\n"
        "def at(bits): return model"
    )
    assert_told_apart(cell, 1, 2)


# What has no content


@pytest.mark.parametrize("strange", [object(), threading.Lock(), np.random.default_rng(0)])
def test_an_unknown_object_is_refused_with_what_to_do(strange):
    with pytest.raises(TypeError, match=f"A {type(strange).__name__} cannot be .*Build it inside"):
        of(strange)


def test_a_function_that_uses_an_unknown_object_is_refused():
    strange = object()
    with pytest.raises(TypeError, match=r"A object cannot be .*Build it inside the function"):
        of(lambda bits: strange)


# The course itself


def test_a_dataset_counts_with_its_published_files(monkeypatch):
    before = of(datasets.load_fashion())
    assert of(datasets.load_fashion()) == before
    monkeypatch.setattr(fingerprint.verified, "published_digests", lambda: {"fashion": "other"})
    assert of(datasets.load_fashion()) != before


def test_the_source_of_the_course_counts_but_not_what_only_shows(monkeypatch, tmp_path):
    package = tmp_path / "course_utils"
    for name in ("measure.py", "runtimes/export.py", "lab/panel.py", "checks/quantization.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("first = 1\n")
    monkeypatch.setattr(fingerprint, "PACKAGE", package)
    # read once a process: here, anew each time
    monkeypatch.setattr(fingerprint, "package_digest", fingerprint.package_digest.__wrapped__)

    def digest_after_changing(name: str) -> str:
        (package / name).write_text(f"changed = {name!r}\n")
        return of(quantize)

    before = of(quantize)
    assert digest_after_changing("lab/panel.py") == before
    assert digest_after_changing("checks/quantization.py") == before
    assert digest_after_changing("measure.py") != before
    assert digest_after_changing("runtimes/export.py") != before


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_function_of_the_course_counts_with_the_course_s_source(monkeypatch, is_installed):
    prefix = fingerprint.PACKAGE.parent if is_installed else fingerprint.PACKAGE.parent / "other"
    monkeypatch.setattr(sys, "prefix", str(prefix))
    monkeypatch.setattr(fingerprint, "package_digest", lambda: "first")
    before = of(quantize.quantize_weights)
    assert of(quantize.quantize_weights) == before
    monkeypatch.setattr(fingerprint, "package_digest", lambda: "second")
    assert of(quantize.quantize_weights) != before


@pytest.mark.parametrize("library", [copy.deepcopy, functools.reduce, os.path.join, np.mean])
def test_a_function_of_another_library_can_be_used(library):
    assert of(lambda bits: library(bits)) == of(lambda bits: library(bits))


def test_the_folders_that_only_show_exist():
    assert Path(fingerprint.PACKAGE).name == "course_utils"
    for folder in fingerprint.DOES_NOT_MEASURE:
        assert (fingerprint.PACKAGE / folder).is_dir()


def test_partial_functions_of_the_course_count_with_their_arguments(tiny_resnet):
    first, same, other = (
        of(functools.partial(quantize.quantize_weights, model))
        for model in (tiny_resnet, copy.deepcopy(tiny_resnet), with_changed_bias(tiny_resnet))
    )
    assert first == same
    assert first != other


def test_a_global_with_the_name_of_an_attribute_does_not_count():
    names = run_cell("import math\ndef at(x): return math.sqrt(x)")
    before = of(names["at"])
    names["sqrt"] = threading.Lock()  # has no content to digest, and is not what is called
    assert of(names["at"]) == before
    names["math"] = np
    assert of(names["at"]) != before
