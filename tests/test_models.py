"""The architectures: their exact sizes, and the trained checkpoints."""

import json
import lzma
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from course_utils import datasets, models, training, verified
from course_utils.models import ARCHITECTURES, MLP, ResNet8, build_model, count_parameters

DATA = Path(__file__).parent.parent / "data"


# Architectures


def count_of_block(inputs: int, outputs: int) -> int:
    """Two convolutions and, where the shapes differ, one on the shortcut; a norm after each."""
    shortcut = 0 if inputs == outputs else inputs * outputs + 2 * outputs
    return inputs * outputs * 9 + 2 * outputs + outputs * outputs * 9 + 2 * outputs + shortcut


def count_of_resnet(width: int, classes: int) -> int:
    stem = 1 * width * 9 + 2 * width
    blocks = [(width, width), (width, 2 * width), (2 * width, 4 * width)]
    head = 4 * width * classes + classes
    return stem + sum(count_of_block(*channels) for channels in blocks) + head


def count_of_ds_cnn(width: int, classes: int) -> int:
    """A 5x5 stem; six times nine weights a channel, then a mix of channels; a norm after each."""
    wider = 3 * width // 2
    pairs = [(width, width)] * 3 + [(width, wider), (wider, wider), (wider, 2 * width)]
    blocks = sum(9 * a + 2 * a + a * b + 2 * b for a, b in pairs)
    return 25 * width + 2 * width + blocks + 2 * width * classes + classes


COUNTS = {
    "resnet8_w32_fashion": count_of_resnet(32, 10),
    "resnet8_w16_fashion": count_of_resnet(16, 10),
    "lenet_300_100_fashion": (784 + 1) * 300 + (300 + 1) * 100 + (100 + 1) * 10,
    "mlp_1024_fashion": (784 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * 10,
    "resnet8_w64_fashion": count_of_resnet(64, 10),
    "ds_cnn_w40_fashion": count_of_ds_cnn(40, 10),
}


def test_every_architecture_is_counted_here():
    assert COUNTS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_the_number_of_parameters(name):
    assert count_parameters(build_model(name)) == COUNTS[name]


def test_the_resnet_has_the_layers_of_the_formula():
    by_hand = (
        1 * 32 * 9 + 2 * 32
        + 32 * 32 * 9 + 2 * 32 + 32 * 32 * 9 + 2 * 32
        + 32 * 64 * 9 + 2 * 64 + 64 * 64 * 9 + 2 * 64 + 32 * 64 + 2 * 64
        + 64 * 128 * 9 + 2 * 128 + 128 * 128 * 9 + 2 * 128 + 64 * 128 + 2 * 128
        + 128 * 10 + 10
    )  # fmt: skip
    assert count_of_resnet(32, 10) == by_hand


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("batch", [1, 3])
def test_an_image_gives_ten_logits(name, batch):
    with torch.inference_mode():
        logits = build_model(name).eval()(torch.rand(batch, 1, 28, 28))
    assert logits.shape == (batch, 10)
    assert logits.dtype == torch.float32


def test_width_and_classes_are_free():
    assert ResNet8(width=4, classes=3).eval()(torch.rand(2, 1, 28, 28)).shape == (2, 3)
    assert MLP([6, 5, 4, 2])(torch.rand(3, 1, 2, 3)).shape == (3, 2)


def test_the_same_seed_draws_the_same_weights():
    first, again, other = (build_model("lenet_300_100_fashion", seed) for seed in (1, 1, 2))
    for mine, same, different in zip(
        first.parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(mine, same)
        assert not torch.equal(mine, different)


def test_building_a_model_leaves_torch_s_own_randomness_alone():
    before = torch.random.get_rng_state()
    build_model("lenet_300_100_fashion", seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("make", [build_model, models.load_pretrained])
def test_an_unknown_name_is_answered_with_the_known_ones(make):
    with pytest.raises(ValueError, match=r"no model 'resnet_50'.*'lenet_300_100_fashion'"):
        make("resnet_50")


# Checkpoints


def metadata_of(name: str) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        file = DATA / "checkpoints" / f"{name}.safetensors"
        if not file.exists():
            packed = file.with_name(f"{file.name}.xz")
            file = Path(folder, file.name)
            file.write_bytes(lzma.decompress(packed.read_bytes()))
        with safe_open(file, framework="pt") as checkpoint:
            return checkpoint.metadata()


@pytest.fixture(scope="module")
def thousand():
    return datasets.load_fashion().test.first(1000)


OF_STUDENTS = "ds_cnn_w40_fashion"  # its checkpoints are those of students, in files of their own
TRAINED = [name for name in ARCHITECTURES if name != OF_STUDENTS]


@pytest.mark.parametrize("name", TRAINED)
def test_a_checkpoint_is_as_accurate_as_it_says(name, thousand):
    model = models.load_pretrained(name)
    assert not model.training
    images, labels = torch.from_numpy(thousand.images), torch.from_numpy(thousand.labels)
    share = training.evaluate(model, images, labels)
    # 2.5 points: 3 standard errors of an accuracy of 0.93 on 1,000 of the 10,000 images
    assert share == pytest.approx(float(metadata_of(name)["test_accuracy"]), abs=0.025)


@pytest.mark.parametrize("name", TRAINED)
def test_a_checkpoint_says_how_it_was_made(name):
    metadata = metadata_of(name)
    assert metadata.keys() >= {"recipe", "test_accuracy", "torch"}
    recipe = training.Recipe(**json.loads(metadata["recipe"]))
    assert recipe.epochs > 0


def test_the_model_of_the_lessons_is_accurate():
    assert float(metadata_of("resnet8_w32_fashion")["test_accuracy"]) >= 0.93


def test_a_checkpoint_of_another_architecture_is_refused_with_both_named():
    with pytest.raises(ValueError, match=r"'resnet8_w16_fashion'.*'resnet8_w32_fashion'"):
        models.load_pretrained("resnet8_w32_fashion", "resnet8_w16_fashion")


def test_a_checkpoint_may_have_another_name_than_its_architecture():
    named = models.load_pretrained("lenet_300_100_fashion", "lenet_300_100_fashion")
    plain = models.load_pretrained("lenet_300_100_fashion")
    for mine, theirs in zip(named.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_control_is_stored_in_16_bits_and_read_in_32():
    name = "resnet8_w32_fashion_longer"
    with safe_open(DATA / "checkpoints" / f"{name}.safetensors", framework="pt") as checkpoint:
        stored = checkpoint.get_tensor("block3.conv2.weight")
    assert stored.dtype == torch.float16
    read = models.load_pretrained("resnet8_w32_fashion", name)
    assert {value.dtype for value in read.parameters()} == {torch.float32}
    assert torch.equal(read.block3.conv2.weight, stored.float())


# Notes in a file


@pytest.mark.parametrize("name", TRAINED)
def test_what_is_told_of_a_training_is_what_the_file_says(name):
    assert models.describe_training(name) == metadata_of(name)


def test_notes_are_read_without_the_tensors():
    noted = {"recipe": "a pinch of salt", "größe": "ein Löffel"}
    content = save({"weight": torch.ones(3)}, noted)
    assert models.read_metadata(content) == noted


@pytest.mark.parametrize(
    "content",
    [
        b"", b"1234567", b"certainly no safetensors file", bytes(100),
        b"\xff" * 20, (2).to_bytes(8, "little") + b"[]", (2).to_bytes(8, "little") + b"17",
        save({"weight": torch.ones(3)}),  # it has no notes
        save({"weight": torch.ones(3)}, {"a": "b"})[:20],
    ],
)  # fmt: skip
def test_a_file_without_notes_is_refused(content):
    with pytest.raises(ValueError, match="no safetensors file with notes") as error:
        models.read_metadata(content)
    assert error.value.__suppress_context__
    assert len(str(error.value)) < 200


SMALLEST = "lenet_300_100_fashion"
CHECKPOINT = f"checkpoints/{SMALLEST}.safetensors"


@pytest.fixture
def copied_checkpoint(tmp_path, monkeypatch):
    """Return a copy of a checkpoint, which the course reads instead of its own."""
    (tmp_path / "data" / "checkpoints").mkdir(parents=True)
    for name in ("SHA256SUMS", CHECKPOINT):
        shutil.copyfile(DATA / name, tmp_path / "data" / name)
    monkeypatch.setattr(verified, "DATA", tmp_path / "data")
    verified.published_digests.cache_clear()
    yield tmp_path / "data" / CHECKPOINT
    verified.published_digests.cache_clear()


@pytest.mark.parametrize("position", [0, 5000, -1])
def test_a_checkpoint_with_a_changed_byte_is_refused(copied_checkpoint, position):
    content = bytearray(copied_checkpoint.read_bytes())
    content[position] ^= 1
    copied_checkpoint.write_bytes(content)
    with pytest.raises(verified.DamagedFileError, match=f"data/{CHECKPOINT} is damaged.*git check"):
        models.load_pretrained(SMALLEST)


def test_nothing_is_told_of_a_missing_or_damaged_checkpoint(copied_checkpoint):
    copied_checkpoint.write_bytes(copied_checkpoint.read_bytes()[:-1])
    with pytest.raises(verified.DamagedFileError, match=f"data/{CHECKPOINT} is damaged"):
        models.describe_training(SMALLEST)
    with pytest.raises(verified.DamagedFileError, match=r"data/checkpoints/other\.safetensors"):
        models.describe_training("other")


def test_a_missing_checkpoint_is_named(copied_checkpoint):
    copied_checkpoint.unlink()
    with pytest.raises(verified.DamagedFileError, match=f"data/{CHECKPOINT} is missing.*git check"):
        models.load_pretrained(SMALLEST)


def test_an_undamaged_copy_loads(copied_checkpoint):
    assert count_parameters(models.load_pretrained(SMALLEST)) == COUNTS[SMALLEST]
