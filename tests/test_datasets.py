"""The data that the repository ships: what it holds, and that damage is noticed."""

import hashlib
import io
import lzma
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from course_utils import datasets, verified
from course_utils.datasets import Split

DATA = Path(__file__).parent.parent / "data"
FOLDERS = ("fashion", "answers", "checkpoints", "encoder", "glosses", "recorded")
SIZES = {"train": 12_000, "calibration": 1_000, "test": 10_000}
# Of the published file of test images, decompressed (see data/make/idx.py)
PUBLISHED_IMAGES = "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"


@pytest.fixture(scope="module")
def fashion():
    return datasets.load_fashion()


def stored(part: str, name: str) -> np.ndarray:
    content = lzma.decompress((DATA / "fashion" / f"{part}.npz.xz").read_bytes())
    with np.load(io.BytesIO(content)) as arrays:
        return arrays[name]


def listed_digests() -> dict[str, str]:
    lines = (DATA / "SHA256SUMS").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def shipped_files() -> list[Path]:
    """Return the files of the data folders, without what a training leaves while it runs."""
    files = [path for part in FOLDERS for path in (DATA / part).rglob("*")]
    return [
        file for file in files if file.is_file() and file.suffix not in (".train_state", ".part")
    ]


# What the splits hold


@pytest.mark.parametrize("part", SIZES)
def test_a_split_has_its_size_shape_and_types(fashion, part):
    split = getattr(fashion, part)
    assert len(split) == SIZES[part]
    assert split.images.shape == (SIZES[part], 1, 28, 28)
    assert split.images.dtype == np.float32
    assert split.labels.shape == (SIZES[part],)
    assert split.labels.dtype == np.int64


@pytest.mark.parametrize("part", SIZES)
def test_pixels_reach_from_0_to_1(fashion, part):
    images = getattr(fashion, part).images
    assert images.min() == 0
    assert images.max() == 1
    assert len(np.unique(images)) == 256


def test_the_test_images_are_the_published_ones_pixel_for_pixel(fashion):
    images = fashion.test.images[np.argsort(stored("test", "rows"))]  # in the published order
    pixels = np.round(images * 255).astype(np.uint8)
    content = struct.pack(">IIII", 2051, 10_000, 28, 28) + pixels.tobytes()
    assert hashlib.sha256(content).hexdigest() == PUBLISHED_IMAGES


@pytest.mark.parametrize("part", SIZES)
def test_images_lie_in_memory_row_by_row(fashion, part):
    assert getattr(fashion, part).images.flags.c_contiguous


@pytest.mark.parametrize("part", SIZES)
def test_every_class_has_the_same_number_of_images(fashion, part):
    counts = np.bincount(getattr(fashion, part).labels, minlength=10)
    assert counts.tolist() == [SIZES[part] // 10] * 10


def test_the_splits_are_disjoint():
    train, calibration = stored("train", "rows"), stored("calibration", "rows")
    assert len(np.union1d(train, calibration)) == SIZES["train"] + SIZES["calibration"]
    assert max(train.max(), calibration.max()) < 60_000
    # the test split is drawn from another published file: all of it, each image once
    assert np.array_equal(np.sort(stored("test", "rows")), np.arange(10_000))


def test_the_first_test_images_are_a_fair_sample(fashion):
    counts = np.bincount(fashion.test.first(1000).labels, minlength=10)
    # 100 of each are expected; a count is off by more than 40 in 1 of 10,000 random orders
    assert abs(counts - 100).max() <= 40


def test_the_dataset_names_its_ten_classes(fashion):
    assert fashion.name == "Fashion-MNIST"
    assert len(set(fashion.classes)) == 10
    assert fashion.classes[fashion.test.labels[0]] in fashion.classes


def test_first_takes_images_with_their_labels(tiny_split):
    three = tiny_split.first(3)
    assert len(three) == 3
    assert np.array_equal(three.images, tiny_split.images[:3])
    assert np.array_equal(three.labels, tiny_split.labels[:3])
    assert len(tiny_split.first(len(tiny_split))) == len(tiny_split)


@pytest.mark.parametrize("count", [0, -1, 31])
def test_first_refuses_a_count_that_the_split_does_not_have(tiny_split, count):
    with pytest.raises(ValueError, match=f"has 30 images; {count} cannot be taken"):
        tiny_split.first(count)


def test_a_split_is_as_long_as_its_labels():
    assert len(Split(np.zeros((4, 1, 2, 2), np.float32), np.zeros(4, np.int64))) == 4


# Digests and sizes


def test_every_file_is_listed_and_every_listed_file_is_there():
    found = {file.relative_to(DATA).as_posix() for file in shipped_files()}
    assert found == listed_digests().keys()


@pytest.mark.parametrize("name", listed_digests())
def test_a_listed_file_has_its_digest(name):
    digest = hashlib.sha256((DATA / name).read_bytes()).hexdigest()
    assert digest == listed_digests()[name]


@pytest.mark.parametrize("name", listed_digests())
def test_the_readme_of_the_data_shows_the_digest(name):
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    assert listed_digests()[name] in readme
    assert Path(name).name in readme


def test_the_images_take_at_most_9_megabytes():
    files = [file for file in shipped_files() if file.parent.name == "fashion"]
    assert {file.name for file in files} == {f"{part}.npz.xz" for part in SIZES}
    assert sum(file.stat().st_size for file in files) <= 9e6


PACKED = [name for name in listed_digests() if name.endswith(".xz")]


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_file_is_read_as_it_was_and_a_tenth_smaller(name):
    stored = (DATA / name).read_bytes()
    content = verified.read(name.removesuffix(".xz"))
    assert content == lzma.decompress(stored)
    assert len(stored) < 0.9 * len(content)


# Damage

CALIBRATION = "fashion/calibration.npz.xz"
MIDDLE = SIZES["calibration"] * 200


def change_byte(position):
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        path.write_bytes(content)

    return change


def cut_off_at(length):
    return lambda path: path.write_bytes(path.read_bytes()[:length])


@pytest.fixture
def copied_data(tmp_path, monkeypatch):
    """Return a copy of a part of ``data/``, which the course reads instead of its own."""
    for name in ("SHA256SUMS", CALIBRATION):
        copied = tmp_path / "data" / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(DATA / name, copied)
    monkeypatch.setattr(verified, "DATA", tmp_path / "data")
    verified.published_digests.cache_clear()
    yield tmp_path / "data"
    verified.published_digests.cache_clear()


def test_an_undamaged_copy_is_read(copied_data):
    assert verified.read(CALIBRATION) == (DATA / CALIBRATION).read_bytes()
    assert len(datasets.load_fashion().calibration) == 1000


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(change_byte(0), id="first byte changed"),
        pytest.param(change_byte(MIDDLE), id="byte in the middle changed"),
        pytest.param(change_byte(-1), id="last byte changed"),
        pytest.param(cut_off_at(-1), id="last byte missing"),
        pytest.param(cut_off_at(MIDDLE), id="cut in the middle"),
        pytest.param(cut_off_at(0), id="empty"),
    ],
)
def test_a_damaged_file_is_named_with_its_cure(copied_data, damage):
    damage(copied_data / CALIBRATION)
    fashion = datasets.load_fashion()
    with pytest.raises(verified.DamagedFileError, match=f"data/{CALIBRATION} is damaged") as error:
        fashion.calibration  # noqa: B018  # reading it is what fails
    assert f"git checkout -- data/{CALIBRATION}" in str(error.value)


def test_a_missing_file_is_named_with_its_cure(copied_data):
    (copied_data / CALIBRATION).unlink()
    fashion = datasets.load_fashion()
    with pytest.raises(verified.DamagedFileError, match=f"data/{CALIBRATION} is missing") as error:
        fashion.calibration  # noqa: B018
    assert f"git checkout -- data/{CALIBRATION}" in str(error.value)


def test_a_file_that_is_not_listed_is_named(copied_data):
    (copied_data / "fashion" / "more.npz").write_bytes(b"")  # no packed file stands for it
    with pytest.raises(verified.DamagedFileError, match=r"data/fashion/more\.npz"):
        verified.read("fashion/more.npz")


def test_a_missing_list_of_digests_is_named_with_its_cure(copied_data):
    (copied_data / "SHA256SUMS").unlink()
    with pytest.raises(verified.DamagedFileError, match="git checkout -- data/SHA256SUMS"):
        verified.read(CALIBRATION)
