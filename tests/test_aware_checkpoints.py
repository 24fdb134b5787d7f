"""Files of networks that were trained with rounding: what comes back, and what is refused."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save
from torch import nn

from course_utils import datasets, machine, models, quantize, runtimes, verified
from course_utils.quantize import (
    convert_aware,
    find_roundings,
    load_aware,
    prepare_aware,
    quantized_weights,
    read_aware,
    save_aware,
)

DATA = Path(__file__).parent.parent / "data"
TINY = {
    "tiny_resnet": lambda: models.ResNet8(width=8),
    "wide_resnet": lambda: models.ResNet8(width=5),
    "tiny_mlp": lambda: models.MLP([144, 32, 24, 10]),
}
ABOUT = {"recipe": json.dumps({"epochs": 3}), "test_accuracy": "0.9"}


@pytest.fixture(autouse=True)
def tiny_architectures(monkeypatch):
    monkeypatch.setattr(models, "ARCHITECTURES", {**models.ARCHITECTURES, **TINY})


@pytest.fixture(params=["tiny_resnet", "tiny_mlp"])
def architecture(request) -> str:
    return request.param


@pytest.fixture
def converted(request, architecture, pictures) -> nn.Module:
    trained = request.getfixturevalue(architecture.replace("tiny", "trained"))
    layers = quantize.count_weights(trained)
    widths = {layer: 2 + at % 7 for at, layer in enumerate(layers)}
    return convert_aware(prepare_aware(trained, widths, pictures.images[:200]))


@pytest.fixture
def content(converted, architecture, tmp_path) -> bytes:
    file = tmp_path / "aware.safetensors"
    save_aware(converted, file, architecture, ABOUT)
    return file.read_bytes()


def change(content: bytes, tensors=(), **notes: str) -> bytes:
    """Return a file with other tensors or notes; None leaves a tensor out."""
    changed = {**load(content), **dict(tensors)}
    kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
    return save(kept, {**models.read_metadata(content), **notes})


# What comes back


def test_what_is_read_gives_the_same_logits_to_the_last_bit(
    converted, content, architecture, pictures
):
    read = read_aware(content, architecture)
    images = torch.from_numpy(pictures.images)
    with torch.inference_mode():
        assert torch.equal(read(images), converted(images))
    assert not read.training
    assert not any(parameter.requires_grad for parameter in read.parameters())


def test_integers_steps_and_widths_come_back(converted, content, architecture):
    read = read_aware(content, architecture)
    mine, theirs = quantized_weights(read), quantized_weights(converted)
    assert mine.keys() == theirs.keys()
    for name, grid in mine.items():
        assert torch.equal(grid.integers, theirs[name].integers)
        assert torch.equal(grid.scale, theirs[name].scale)
        assert grid.bits == theirs[name].bits
    mine, theirs = find_roundings(read), find_roundings(converted)
    assert mine.keys() == theirs.keys()
    for name, rounding in mine.items():
        assert torch.equal(rounding.step, theirs[name].step)
        assert (rounding.low, rounding.high) == (theirs[name].low, theirs[name].high)


def test_what_is_read_runs_in_the_same_file_of_integers(converted, content, architecture, pictures):
    read = read_aware(content, architecture)
    one, other = (runtimes.build(model, pictures.images[:1]) for model in (read, converted))
    assert one.artefact == other.artefact


def test_what_is_read_can_be_written_again(content, architecture, tmp_path):
    file = tmp_path / "again.safetensors"
    save_aware(read_aware(content, architecture), file, architecture, ABOUT)
    again = load(file.read_bytes())
    first = load(content)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_notes_are_kept_and_the_architecture_is_noted(content, architecture):
    noted = models.read_metadata(content)
    assert noted["recipe"] == ABOUT["recipe"]
    assert noted["test_accuracy"] == "0.9"
    assert noted["architecture"] == architecture


def test_a_weight_takes_a_byte(content):
    tensors = load(content)
    weights = [name for name in tensors if name.endswith(".weight")]
    assert weights
    assert all(tensors[name].dtype == torch.int8 for name in weights)
    bits = json.loads(models.read_metadata(content)["widths"])
    for name in weights:
        largest = 2 ** (bits[name.removesuffix(".weight")] - 1) - 1
        assert tensors[name].abs().max() <= largest


# What cannot be written


@pytest.mark.parametrize("other", ["tiny_mlp", "wide_resnet", "lenet_300_100_fashion"])
def test_a_network_is_not_written_under_another_name(trained_resnet, pictures, tmp_path, other):
    file = tmp_path / "aware.safetensors"
    model = convert_aware(prepare_aware(trained_resnet, 4, pictures.images[:200]))
    with pytest.raises(ValueError, match=f"in this file are not those of '{other}'"):
        save_aware(model, file, other, ABOUT)
    assert not file.exists()


def test_an_unknown_architecture_is_answered_with_the_known_ones(converted, tmp_path):
    file = tmp_path / "aware.safetensors"
    with pytest.raises(ValueError, match=r"no model 'resnet_50'.*'tiny_resnet'"):
        save_aware(converted, file, "resnet_50", ABOUT)
    assert not file.exists()


def test_what_was_trained_without_its_batch_norms_is_not_written(
    trained_resnet, pictures, tmp_path
):
    """Its sums are rounded elsewhere in the graph than a reader would expect."""
    file = tmp_path / "aware.safetensors"
    folded = quantize.fold_batch_norms(trained_resnet)
    model = convert_aware(prepare_aware(folded, 4, pictures.images[:200]))
    with pytest.raises(ValueError, match="are not those of 'tiny_resnet'"):
        save_aware(model, file, "tiny_resnet", ABOUT)
    assert not file.exists()


def test_only_what_was_converted_is_written(trained_mlp, pictures, tmp_path):
    prepared = prepare_aware(trained_mlp, 4, pictures.images[:200])
    rounded = quantize.quantize_weights(trained_mlp, 4)
    for model in (trained_mlp, prepared, rounded):
        with pytest.raises(ValueError, match=r"Only what quantize\.convert_aware returned"):
            save_aware(model, tmp_path / "aware.safetensors", "tiny_mlp", ABOUT)
    assert not list(tmp_path.glob("*.safetensors"))


# What cannot be read


@pytest.mark.parametrize("asked", ["wide_resnet", "resnet8_w32_fashion", "mlp_1024_fashion"])
def test_a_file_of_another_architecture_is_refused_with_both_named(content, architecture, asked):
    with pytest.raises(ValueError, match=f"'{architecture}', but '{asked}' was asked for"):
        read_aware(content, asked)


def test_a_file_that_says_it_is_another_is_refused(content, architecture):
    with pytest.raises(ValueError, match="are not those of 'wide_resnet'"):
        read_aware(change(content, architecture="wide_resnet"), "wide_resnet")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"", lambda content: b"certainly no file of tensors",
        lambda content: content[:-1], lambda content: content[: len(content) // 2],
        lambda content: content[:8], lambda content: b"\xff" * 8 + content[8:],
        lambda content: save(load(content)), lambda content: change(content, widths="{"),
        lambda content: change(content, limits="no json"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_refused(content, architecture, damage):
    with pytest.raises(ValueError, match=r"no file of quantize\.save_aware") as error:
        read_aware(damage(content), architecture)
    assert error.value.__suppress_context__
    assert len(str(error.value)) < 200


def test_a_checkpoint_in_float32_is_refused():
    content = verified.read("checkpoints/lenet_300_100_fashion.safetensors")
    with pytest.raises(ValueError, match=r"no file of quantize\.save_aware"):
        read_aware(content, "lenet_300_100_fashion")


def without(mapping: str, *keys: str) -> str:
    return json.dumps({key: one for key, one in json.loads(mapping).items() if key not in keys})


@pytest.mark.parametrize(
    "damage",
    [
        lambda one, noted: change(one, {"head.weight": None}),
        lambda one, noted: change(one, {"head.bias": None}),
        lambda one, noted: change(one, {"head.steps": None}),
        lambda one, noted: change(one, {"round_relu.step": None}),
        lambda one, noted: change(one, {"block1.norm1.weight": torch.ones(4)}),
        lambda one, noted: change(one, {"stem.weight": torch.ones(4, 1, 5, 5, dtype=torch.int8)}),
        lambda one, noted: change(one, widths=without(noted["widths"], "stem")),
        lambda one, noted: change(
            one, {"round_relu.step": None}, limits=without(noted["limits"], "round_mean")
        ),
        lambda one, noted: change(
            one, {"round_relu.step": None, "round_gelu.step": torch.tensor(1.0)},
            limits=noted["limits"].replace("round_relu\"", "round_gelu\""),
        ),
    ],
)  # fmt: skip
def test_a_file_in_which_a_layer_or_a_rounding_is_not_right_is_refused(
    trained_resnet, pictures, tmp_path, damage
):
    """A layer that were not read would keep the random weights that it was built with."""
    file = tmp_path / "aware.safetensors"
    model = convert_aware(prepare_aware(trained_resnet, 4, pictures.images[:200]))
    save_aware(model, file, "tiny_resnet", ABOUT)
    content = file.read_bytes()
    with pytest.raises(ValueError, match="layers or roundings in this file are not those of"):
        read_aware(damage(content, models.read_metadata(content)), "tiny_resnet")


# The course's own


def published() -> list[str]:
    """Return the checkpoints of integers that the course lists."""
    names = (Path(name) for name in verified.published_digests())
    return sorted(name.stem for name in names if name.match("*_aware?.safetensors"))


def test_each_checkpoint_of_the_course_answers_the_same_in_integers():
    """On 500 of the test images; the accuracy is that of the metadata, but for the sample."""
    assert published()
    test = datasets.load_fashion().test.first(500)
    for name in published():
        architecture, _, bits = name.rpartition("_aware")
        model = load_aware(architecture, int(bits))
        grids = quantized_weights(model)
        assert {grid.bits for grid in grids.values()} == {int(bits), 8}, name
        runner = runtimes.build(model, test.images[:1])
        assert runner.kernel == "int8 (U8S8)", name
        if machine.int8_sums_overflow():  # layers of 8 bits run in 7
            model = quantize.narrow_weights(model, 7)
        with torch.inference_mode():
            simulated = model(torch.from_numpy(test.images)).numpy().argmax(1)
        answers = runner(test.images).argmax(1)
        assert (answers == simulated).mean() >= 0.995, name
        noted = float(models.describe_training(name)["test_accuracy"])
        for shown in (answers, simulated):  # 0.036: 3 standard errors of 0.92 on 500 images
            assert np.mean(shown == test.labels) == pytest.approx(noted, abs=0.036), name


@pytest.mark.parametrize(
    ("architecture", "bits"),
    [("resnet8_w32_fashion", 9), ("resnet8_w32_fashion", 32), ("lenet_300_100_fashion", 4),
     ("resnet_50", 4)],
)  # fmt: skip
def test_a_width_that_was_not_trained_is_named(architecture, bits):
    with pytest.raises(ValueError, match=f"No '{architecture}' was trained for {bits} bits"):
        load_aware(architecture, bits)


@pytest.fixture
def own_data(tmp_path, monkeypatch, converted, architecture):
    """Return a data folder in which a tiny checkpoint of 3 bits is listed."""
    folder = tmp_path / "data" / "checkpoints"
    folder.mkdir(parents=True)
    file = folder / f"{architecture}_aware3.safetensors"
    save_aware(converted, file, architecture, ABOUT)
    shutil.copyfile(DATA / "SHA256SUMS", tmp_path / "data" / "SHA256SUMS")
    with (tmp_path / "data" / "SHA256SUMS").open("a", encoding="utf-8") as sums:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        sums.write(f"{digest}  checkpoints/{file.name}\n")
    monkeypatch.setattr(verified, "DATA", tmp_path / "data")
    verified.published_digests.cache_clear()
    yield file
    verified.published_digests.cache_clear()


def test_a_listed_checkpoint_is_loaded_and_described(own_data, converted, architecture, pictures):
    model = load_aware(architecture, 3)
    images = torch.from_numpy(pictures.images[:50])
    assert torch.equal(model(images), converted(images))
    assert models.describe_training(own_data.stem)["test_accuracy"] == "0.9"
    with safe_open(own_data, framework="pt") as file:
        assert file.metadata() == models.describe_training(own_data.stem)


def test_the_widths_that_there_are_are_told(own_data, architecture):
    with pytest.raises(ValueError, match=f"only .*{architecture}_aware3"):
        load_aware(architecture, 5)


def test_a_checkpoint_that_is_missing_is_named(own_data, architecture):
    own_data.unlink()
    with pytest.raises(verified.DamagedFileError, match=f"{own_data.name} is missing"):
        load_aware(architecture, 3)


def test_a_damaged_checkpoint_is_named(own_data, architecture):
    content = bytearray(own_data.read_bytes())
    content[-1] ^= 1
    own_data.write_bytes(content)
    with pytest.raises(verified.DamagedFileError, match=f"{own_data.name} is damaged"):
        load_aware(architecture, 3)
