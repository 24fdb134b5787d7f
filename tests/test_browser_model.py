"""A model for the page, driven from Python: what is sent, what is kept, what is compared."""

import dataclasses
import gzip
import hashlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from course_utils import quantize, runtimes, web_runtime
from course_utils.datasets import Split
from course_utils.lab import BrowserModel
from course_utils.lab.browser_model import Agreement

CLASSES = [f"pattern {n}" for n in range(10)]
RUNTIME = {web_runtime.SCRIPT: b"export default 1;", web_runtime.WASM: b"\0asm" * 9}


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """Install a runtime of a few bytes."""
    monkeypatch.setenv("INFERENCE_MEASURED_INSTALLED", str(tmp_path))
    web_runtime.folder().mkdir()
    for file, content in RUNTIME.items():
        monkeypatch.setitem(web_runtime.SHA256, file, hashlib.sha256(content).hexdigest())
        (web_runtime.folder() / f"{file}.gz").write_bytes(gzip.compress(content))
    return web_runtime.folder()


@pytest.fixture(scope="module")
def held_out(pictures) -> Split:
    return Split(pictures.images[600:], pictures.labels[600:])


@pytest.fixture(scope="module")
def models(trained_resnet, pictures) -> dict[str, runtimes.Runner]:
    folded = quantize.fold_batch_norms(trained_resnet)
    images = pictures.images[:50]
    return {
        "fp32": runtimes.build(folded, images),
        "int4": runtimes.build(quantize.quantize_weights(folded, 4), images),
    }


@pytest.fixture
def widget(models, held_out, monkeypatch) -> BrowserModel:
    """Return a widget that keeps in ``sent`` what it sends to the page."""
    made = BrowserModel(models, held_out, CLASSES, count=60, name="Patterns")
    sent: list[tuple[dict[str, Any], list[bytes]]] = []
    monkeypatch.setattr(made, "send", lambda content, buffers=(): sent.append((content, buffers)))
    made.sent = sent
    return made


def ask(widget: BrowserModel, *, runtime: bool) -> tuple[dict[str, Any], list[bytes]]:
    """Return what Python answers to a page that asks for the files."""
    widget._receive(widget, {"do": "load", "runtime": runtime}, [])
    return widget.sent[-1]


# What the page gets


def test_the_page_gets_images_and_models_that_run(widget, models, held_out):
    content, (images, *files) = ask(widget, runtime=False)
    assert content == {"do": "files", "models": 2}
    pixels = np.frombuffer(images, np.uint8).reshape(60, 1, 12, 12)
    assert (np.divide(pixels, 255, dtype=np.float32) == held_out.images[:60]).all()
    for file, (name, runner) in zip(files, models.items(), strict=True):
        run = runtimes.load(file)
        assert np.allclose(run(held_out.images[:9]), runner(held_out.images[:9]), atol=1e-5)
        assert (len(file) > runner.size_bytes) == (name == "int4")  # it was packed


def test_a_page_that_has_no_runtime_gets_it_too(widget):
    content, files = ask(widget, runtime=True)
    assert content["models"] == 2
    script, wasm = files[3:]
    assert script == RUNTIME[web_runtime.SCRIPT]
    assert gzip.decompress(wasm) == RUNTIME[web_runtime.WASM]


def test_a_runtime_that_has_gone_meanwhile_is_told(widget, installed):
    (installed / f"{web_runtime.WASM}.gz").unlink()
    content, files = ask(widget, runtime=True)
    assert list(files) == []
    assert "python -m course_utils.fetch onnxruntime-web" in content["error"]
    assert "error" not in ask(widget, runtime=False)[0]


def test_other_messages_are_not_answered(widget):
    widget._receive(widget, {"do": "measure"}, [])
    assert widget.sent == []


def test_no_file_is_in_the_state_that_a_notebook_may_keep(widget):
    _, files = ask(widget, runtime=True)
    kept = [value for value in widget.get_state().values() if isinstance(value, bytes)]
    assert kept == [widget.picture]
    assert not set(kept) & set(files)
    assert "error" not in str(widget.get_state()["spec"])
    assert len(str(widget.get_state()["spec"])) < 3000


def test_the_page_knows_shape_labels_and_sizes(widget, models, held_out):
    spec = widget.spec
    assert (spec["height"], spec["width"], spec["strip"]) == (12, 12, 12)
    assert spec["labels"] == held_out.labels[:60].tolist()
    assert [one["name"] for one in spec["models"]] == ["fp32", "int4"]
    assert spec["models"][1]["size"] == f"{models['int4'].size_bytes / 1024:.1f} KiB"
    assert spec["missing"] == ""


def test_few_images_make_a_short_strip(models, held_out):
    widget = BrowserModel({"fp32": models["fp32"]}, held_out.first(5), CLASSES)
    assert widget.spec["strip"] == len(widget.spec["labels"]) == 5


# What Python says, and compares


def test_python_says_what_each_model_says(widget, models, held_out):
    answers = widget.answers_of(held_out.images[:7])
    assert list(answers) == ["fp32", "int4"]
    for name, shares in answers.items():
        logits = models[name](held_out.images[:7])
        assert np.allclose(shares.sum(1), 1, atol=1e-6)
        assert (shares.argsort(1) == logits.argsort(1)).all()
        assert np.allclose(np.log(shares[:, :1] / shares), logits[:, :1] - logits, atol=1e-3)


def test_nothing_can_be_compared_before_the_page_has_counted(widget):
    found = widget.compare("fp32")
    assert (found.count, found.differing) == (0, ())
    assert np.isnan(found.share)
    assert str(found) == "fp32: nothing counted yet; press “Count …” in the page"


def page_counts(widget: BrowserModel, run: int = 1, **changed: dict[int, int]) -> None:
    """Have the page send the classes that Python has, but for those changed."""
    of = {}
    for name, shares in widget.answers_of(widget._images.images).items():
        of[name] = [int(one) for one in shares.argmax(1)]
        for number, other in changed.get(name, {}).items():
            of[name][number] = other
    widget.set_state({"answers": {"run": run, "of": of}})


def test_what_the_page_counted_is_compared_image_by_image(widget, models, held_out):
    own = models["int4"](held_out.images[:60]).argmax(1)
    page_counts(widget, int4={7: int(own[7] + 1) % 10, 30: int(own[30] + 5) % 10})
    assert widget.compare("fp32") == Agreement("fp32", 60, ())
    found = widget.compare("int4")
    assert found.differing == (7, 30)
    assert found.share == pytest.approx(58 / 60)
    assert str(found) == "int4: the same class for 58 of 60 images (96.7 %)"
    assert widget.told == {
        "run": 1,
        "text": "Compared with Python on the same files: fp32: the same class for 60 of 60 images"
        " (100.0 %); int4: the same class for 58 of 60 images (96.7 %).",
    }


def test_counting_again_is_answered_again(widget):
    for run in (1, 2):
        page_counts(widget, run)
        assert widget.told["run"] == run


def test_the_page_can_be_compared_with_another_runner(widget, models, held_out):
    page_counts(widget)
    classes = {name: run(held_out.images[:60]).argmax(1) for name, run in models.items()}
    differing = widget.compare("int4", models["fp32"]).differing
    assert list(differing) == np.flatnonzero(classes["int4"] != classes["fp32"]).tolist()


@pytest.mark.parametrize("of", [{"fp32": [1, 2, 3]}, {"other": [1] * 60}])
def test_what_cannot_be_compared_is_told_in_the_page(widget, of):
    widget.set_state({"answers": {"run": 5, "of": of}})
    assert widget.told["run"] == 5
    assert widget.told["text"].startswith("Python could not compare: ")


def test_a_model_that_is_not_in_the_page_cannot_be_compared(widget):
    with pytest.raises(ValueError, match=r"no model 'int8' in the page; choose \['fp32', 'int4'\]"):
        widget.compare("int8")


def test_an_image_is_chosen_by_its_number(widget):
    widget.choose(59)
    assert widget.chosen == 59
    for number in (60, -1):
        with pytest.raises(ValueError, match=rf"images 0 to 59, not {number}"):
            widget.choose(number)
    assert widget.chosen == 59


# The static twin


def test_without_a_page_it_is_a_picture_and_a_sentence(widget):
    data, _ = widget._repr_mimebundle_()
    assert data["image/png"].startswith("iVBOR")
    assert len(data["image/png"]) < 200_000
    right = (widget._first_answers["fp32"].argmax(1) == widget._images.labels[:12]).sum()
    assert data["text/plain"].startswith(
        f"Patterns: the first 12 images; fp32 names {right} of them rightly, int4 names "
    )
    assert data["text/plain"].endswith(" of them rightly, in Python.")
    assert "application/vnd.jupyter.widget-view+json" in data


def test_without_the_runtime_the_twin_says_so(models, held_out, installed):
    (installed / f"{web_runtime.WASM}.gz").write_bytes(b"damaged")
    widget = BrowserModel(models, held_out, CLASSES)
    assert "is damaged" in widget.spec["missing"]
    data, _ = widget._repr_mimebundle_()
    assert data["text/plain"].endswith(widget.spec["missing"])
    assert widget.compare("fp32").count == 0


# Bad input


def test_the_number_of_models_is_one_or_two(models, held_out):
    for given in ({}, {**models, "third": models["fp32"]}):
        with pytest.raises(ValueError, match=f"one or 2 models, not {len(given)}"):
            BrowserModel(given, held_out, CLASSES)


def test_a_model_that_is_no_onnx_file_is_refused(models, held_out):
    other = dataclasses.replace(models["fp32"], artefact=b"weights" * 9, runtime="another runtime")
    with pytest.raises(ValueError, match=r"'mine' \(another runtime\) is no ONNX file"):
        BrowserModel({"mine": other}, held_out, CLASSES)


def test_images_of_another_size_are_refused(models):
    images = Split(np.zeros((4, 1, 14, 14), np.float32), np.zeros(4, np.int64))
    with pytest.raises(ValueError, match=r"'fp32' does not take these images: .*\(n, 1, 12, 12\)"):
        BrowserModel(models, images, CLASSES)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda images: images * 255,
        lambda images: images + 0.001,
        lambda images: images * np.nan,
        lambda images: images.repeat(3, 1),
        lambda images: -images,
    ],
)
def test_images_that_bytes_cannot_hold_are_refused(models, held_out, spoil):
    images = Split(spoil(held_out.images).astype(np.float32), held_out.labels)
    with pytest.raises(ValueError, match="whole 255ths from 0 to 1"):
        BrowserModel(models, images, CLASSES)


@pytest.mark.parametrize("classes", [CLASSES[:9], [*CLASSES, "another"]])
def test_the_names_are_those_of_the_classes(models, held_out, classes):
    with pytest.raises(ValueError, match=f"knows 10 classes.*{len(classes)} names were given"):
        BrowserModel(models, held_out, classes)


def test_it_does_not_wait_for_torch():
    source = "import sys, course_utils.lab.browser_model; print('torch' in sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    ).stdout
    assert shown.split() == ["False"]
