"""Exports that fail or are wrong: what is said of them, and that the check tells."""

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from course_utils import export_check, export_clinic, quantize, runtimes
from course_utils.datasets import Split
from course_utils.export_check import check_export
from course_utils.export_clinic import CASES, Export, tell_error, try_export
from course_utils.runtimes import onnx_runtime
from course_utils.runtimes.onnx_runtime import OLDEST_OPSET

EXAMPLES = 2


@pytest.fixture(scope="module")
def some(pictures):
    """200 pictures that the networks have not seen; every third is dark."""
    images = pictures.images[600:].copy()
    images[::3] *= 0.3
    return Split(images, pictures.labels[600:])


@pytest.fixture(scope="module")
def example(some):
    return some.images[:EXAMPLES]


@pytest.fixture(scope="module")
def exports(trained_mlp, example):
    """What came of each case, sick and cured; the cures of two of them are the same."""
    made = {name: try_export(case.sick(trained_mlp), example) for name, case in CASES.items()}
    cured = {case.cured for case in CASES.values()}
    made |= {cure: try_export(cure(trained_mlp), example) for cure in cured}
    return made


def run(export: Export):
    return runtimes.load(export.content)


# The cases


@pytest.mark.parametrize(
    ("name", "error", "where"),
    [
        ("brightening", "GuardOnDataDependentSymNode: Could not guard", "if images.mean() < DARK:"),
        ("median", "DispatchError: No ONNX function found", ""),
    ],
)
def test_what_cannot_be_exported_says_so_in_two_lines(exports, name, error, where):
    export = exports[name]
    assert export.content == b""
    assert export.error.startswith(error)
    assert export.error.partition("\n  at: ")[2] == where
    assert len(export.error) < 300
    assert repr(export) == export.error


def test_the_missing_operator_is_named(exports):
    assert "aten.median" in exports["median"].error


@pytest.mark.parametrize("name", ["smoothing", "batch"])
def test_what_is_exported_wrongly_says_nothing(exports, name):
    assert exports[name].error == ""
    assert exports[name].content
    assert "bytes, opset" in repr(exports[name])


@pytest.mark.parametrize("name", ["smoothing", "batch"])
def test_a_check_on_the_example_alone_lets_a_wrong_export_pass(trained_mlp, exports, example, name):
    remembering = CASES[name].sick(trained_mlp)
    with torch.no_grad():
        remembering(torch.from_numpy(example))  # as it was when it was exported
    found = check_export(
        remembering, run(exports[name]), Split(example, np.zeros(EXAMPLES)), batches=[EXAMPLES]
    )
    assert found.is_right


def test_a_check_on_many_images_finds_an_answer_that_is_mixed_with_another(
    trained_mlp, exports, some
):
    found = check_export(trained_mlp, run(exports["smoothing"]), some)
    assert not found.is_right
    assert found.same_class < 0.9
    assert found.difference > 0.1 * found.largest_logit
    assert repr(found).startswith("✘ wrong")


def test_a_check_of_several_batches_finds_a_fixed_size(trained_mlp, exports, some):
    found = check_export(trained_mlp, run(exports["batch"]), some)
    assert not found.is_right
    assert found.same_class == 1  # in batches of the one size that runs
    assert found.batches[EXAMPLES] < 1e-4
    for batch in (1, 7):
        assert "does not run" in found.batches[batch]
        assert f"Got: {batch} Expected: {EXAMPLES}" in found.batches[batch]
        assert f"batch of {batch}: does not run" in repr(found)


@pytest.mark.parametrize("name", CASES)
def test_each_cure_exports_rightly(trained_mlp, exports, some, name):
    cure = CASES[name].cured
    found = check_export(cure(trained_mlp), run(exports[cure]), some)
    assert found.is_right, found
    assert found.same_class == 1
    assert set(found.batches) == {1, 2, 7}
    assert repr(found).startswith("✔ right: 100.0% of 196 images")


@pytest.mark.parametrize("name", ["brightening", "median", "batch"])
def test_each_cure_computes_what_was_meant_for_an_image(trained_mlp, some, name):
    sick, cured = (wrap(trained_mlp) for wrap in (CASES[name].sick, CASES[name].cured))
    with torch.inference_mode():
        for image in torch.from_numpy(some.images[:12]).split(1):
            torch.testing.assert_close(sick(image), cured(image))


def test_dark_pictures_are_told_apart_only_by_the_cure(trained_mlp, some):
    sick, cured = (
        wrap(trained_mlp) for wrap in (CASES["brightening"].sick, CASES["brightening"].cured)
    )
    images = torch.from_numpy(some.images[:6])  # two of them are dark
    with torch.inference_mode():
        assert not torch.allclose(sick(images), cured(images))


def test_smoothing_remembers_the_answer_before(trained_mlp, some):
    model = CASES["smoothing"].sick(trained_mlp)
    first, second = torch.from_numpy(some.images[:2]).split(1)
    with torch.inference_mode():
        plain = [trained_mlp(image) for image in (first, second)]
        torch.testing.assert_close(model(first), plain[0])
        torch.testing.assert_close(model(second), (plain[0] + plain[1]) / 2)


def test_neighbours_are_what_lies_around():
    image = torch.arange(1.0, 10).reshape(1, 1, 3, 3)
    around = export_clinic.neighbours(image)
    assert around.shape == (9, 1, 1, 3, 3)
    assert around[:, 0, 0, 1, 1].tolist() == list(range(1, 10))
    assert sorted(around[:, 0, 0, 0, 0].tolist()) == [0, 0, 0, 0, 0, 1, 2, 4, 5]


def test_the_model_stays_as_it_was(trained_mlp, example):
    model = CASES["smoothing"].sick(trained_mlp)
    try_export(model, example)
    assert model.previous is None


# Errors


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("too small. And more"), "ValueError: too small"),
        (ValueError(), "ValueError: no message"),
        (KeyError("x" * 500), f"KeyError: '{'x' * 158}…"),
        (RuntimeError('one\n  File "m.py", line 3, in forward\n    if x > 0:\n'),
         "RuntimeError: one\n  at: if x > 0:"),
        (RuntimeError("one, in forward"), "RuntimeError: one, in forward"),
    ],
)  # fmt: skip
def test_a_long_story_is_told_in_two_lines(error, told):
    assert tell_error(error) == told


def test_the_first_error_is_told_not_those_that_followed():
    last = RuntimeError("what followed")
    last.__cause__ = ZeroDivisionError("the reason")
    assert tell_error(last) == "ZeroDivisionError: the reason"


# The check


def test_differences_count_from_the_tolerance_on(trained_mlp, exports, some):
    runner = run(exports[CASES["batch"].cured])
    shifted = replace(runner, run=lambda batch: runner.run(batch) + np.float32(0.01))
    strict = check_export(trained_mlp, shifted, some, tolerance=1e-4)
    assert not strict.is_right
    assert strict.same_class == 1
    assert strict.difference == pytest.approx(0.01, rel=0.02)
    assert check_export(trained_mlp, shifted, some, tolerance=0.1).is_right


def test_an_int8_file_is_another_computation(trained_mlp, pictures, some):
    smaller = quantize.quantize_weights(trained_mlp, 8)
    runner = runtimes.build(smaller, pictures.images[:200])
    found = check_export(trained_mlp, runner, some, tolerance=0.2)
    assert found.is_right
    assert found.difference > 1e-3 * found.largest_logit
    assert not check_export(trained_mlp, runner, some).is_right


def test_what_never_runs_is_wrong(trained_mlp, exports, some):
    def broken(batch):
        raise RuntimeError("no memory")

    runner = replace(run(exports[CASES["batch"].cured]), run=broken)
    found = check_export(trained_mlp, runner, some)
    assert not found.is_right
    assert math.isnan(found.difference)
    assert found.batches == dict.fromkeys((1, 2, 7), "does not run: no memory")
    assert "0.0% of 0 images" in repr(found)


def test_nan_is_wrong(trained_mlp, exports, some):
    runner = run(exports[CASES["batch"].cured])
    lost = replace(runner, run=lambda batch: runner.run(batch) * np.float32(np.nan))
    assert not check_export(trained_mlp, lost, some).is_right


def test_too_few_images_are_refused(trained_mlp, exports, some):
    runner = run(exports[CASES["batch"].cured])
    with pytest.raises(ValueError, match="cannot make batches"):
        check_export(trained_mlp, runner, Split(some.images[:5], some.labels[:5]))


def test_the_standard_sizes_hold_one_and_a_prime():
    assert 1 in export_check.BATCHES
    assert 7 in export_check.BATCHES


# Opsets


@pytest.mark.parametrize("opset", [18, 21])
def test_an_opset_is_read_back(tiny_mlp, images, opset):
    export = try_export(tiny_mlp, images[:2], opset)
    assert export.opset == opset
    logits = run(export)(images)
    with torch.inference_mode():
        np.testing.assert_allclose(logits, tiny_mlp(torch.from_numpy(images)), atol=1e-5)


def test_an_opset_that_is_not_kept_is_told(tiny_mlp, images):
    with pytest.raises(ValueError, match="Opset 12 was asked for, and the exporter wrote"):
        try_export(tiny_mlp, images[:2], 12)


@pytest.mark.parametrize("opset", [1, OLDEST_OPSET - 1, 99])
def test_a_file_of_an_opset_that_is_too_old_or_too_new_is_refused(exports, opset):
    graph = onnx.load_from_string(exports[CASES["batch"].cured].content)
    graph.opset_import[0].version = opset
    with pytest.raises(ValueError, match=f"opset {opset}.*export it again"):
        runtimes.load(graph.SerializeToString())


@pytest.mark.parametrize("kept", [0, 20, 0.5, 0.99])
def test_a_truncated_or_foreign_file_is_refused(exports, kept):
    content = exports[CASES["batch"].cured].content
    length = kept if kept >= 1 else int(kept * len(content))
    with pytest.raises(ValueError, match=r"no ONNX file|cannot run this file|one input"):
        runtimes.load(content[:length])
    with pytest.raises(ValueError, match="no ONNX file"):
        runtimes.load(b"PK\x03\x04 a zip" + content[:length])


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("one\n  two", "one two"),
        ("x" * 300, "x" * 300),
        ("A" * 200 + ". " + "B" * 200 + ".", "B" * 200 + "."),
        ("A" * 100 + " " + "b" * 170 + " " + "c" * 140, "… " + "c" * 140),
    ],
)
def test_of_a_long_reason_the_last_sentences_are_told(message, told):
    assert onnx_runtime._shorten(message) == told


def test_why_a_file_does_not_run_is_told_in_a_few_sentences(exports):
    graph = onnx.load_from_string(exports[CASES["batch"].cured].content)
    graph.opset_import[0].version = 99
    with pytest.raises(ValueError, match="It says: ") as caught:
        runtimes.load(graph.SerializeToString())
    advice, reason = str(caught.value).split("It says: ")
    assert advice.startswith("ONNX Runtime cannot run this file. ")
    assert len(reason) <= 300
    assert "opset" in reason
