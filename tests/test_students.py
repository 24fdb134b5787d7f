"""Small students: their architectures, and what is stored of them."""

import copy

import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torch.nn import functional as F

from course_utils import verified
from course_utils.bag import BagOfEmbeddings, build_bag, read_bag, save_bag
from course_utils.distill import students
from course_utils.distill.students import (
    NETWORKS,
    Student,
    load_students,
    read_students,
    save_students,
)
from course_utils.models import DSCNN, SeparableBlock, count_parameters, read_metadata


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return the model with weights and statistics as after a training."""
    generator = seeded(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.2 + torch.rand(tensor.shape, generator=generator))
                tensor.mul_(torch.rand(tensor.shape, generator=generator) if tensor.ndim > 1 else 1)
    return model.eval()


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(3, 1, 28, 28, generator=seeded())


DAMAGES = [
    lambda content: b"",
    lambda content: content[: len(content) // 2],
    lambda content: content[:-1],
    lambda content: b"certainly no file of the course",
    lambda content: save(load(content)),  # no notes
    lambda content: save(load(content), {"students": "{", "sizes": "{", "shapes": "{}"}),
]


# DS-CNN


def test_a_separable_block_filters_each_channel_then_mixes_them():
    block = lively(SeparableBlock(4, 6, stride=2))
    x = torch.randn(2, 4, 9, 9, generator=seeded(1))
    filtered = torch.cat(
        [F.conv2d(x[:, [channel]], block.depthwise.weight[[channel]], stride=2, padding=1)
         for channel in range(4)], dim=1
    )  # fmt: skip
    y = block.norm1(filtered).relu()
    mixed = torch.einsum("nchw,dc->ndhw", y, block.pointwise.weight[:, :, 0, 0])
    torch.testing.assert_close(block(x), block.norm2(mixed).relu())
    assert block(x).shape == (2, 6, 5, 5)
    assert count_parameters(block) == 4 * 9 + 4 * 6 + 2 * (4 + 6)


@pytest.mark.parametrize(
    ("channels_out", "stride", "has_shortcut"), [(4, 1, True), (4, 2, False), (5, 1, False)]
)
def test_a_shortcut_leads_around_a_block_that_keeps_the_shape(channels_out, stride, has_shortcut):
    block = SeparableBlock(4, channels_out, stride).eval()
    nn.init.zeros_(block.pointwise.weight)  # what is left is the shortcut
    x = torch.rand(2, 4, 6, 6, generator=seeded())
    if has_shortcut:
        assert torch.equal(block(x), x)
    else:
        assert not block(x).any()


@pytest.mark.parametrize("width", [4, 7])
def test_a_ds_cnn_halves_the_image_twice_and_doubles_its_channels(width, pictures):
    model = lively(DSCNN(width, classes=5))
    shapes = {}
    for name, layer in model.named_children():
        layer.register_forward_hook(
            lambda _, inputs, output, name=name: shapes.update({name: tuple(output.shape[1:])})
        )
    assert model(pictures).shape == (3, 5)
    half_more = width * 3 // 2
    assert shapes == {
        **dict.fromkeys(("stem", "norm", "block1", "block2", "block3"), (width, 14, 14)),
        **dict.fromkeys(("block4", "block5"), (half_more, 7, 7)),
        "block6": (2 * width, 7, 7),
        "head": (5,),
    }
    assert not [name for name, parameter in model.named_parameters() if "bias" in name
                and not ("norm" in name or name == "head.bias")]  # fmt: skip


def test_a_ds_cnn_has_ten_classes_and_any_size_of_image():
    model = lively(DSCNN(4))
    assert model(torch.rand(2, 1, 40, 33, generator=seeded())).shape == (2, 10)


# Files of students


@pytest.fixture(scope="module")
def made():
    """Return three students, of which two names begin alike."""
    ds_cnn, resnet = lively(DSCNN(4), 1), lively(NETWORKS["ResNet-8"](3), 2)
    sparse = lively(DSCNN(6), 3)
    with torch.no_grad():
        sparse.block1.pointwise.weight[:, ::2] = 0
    about = {"seed": 1, "teacher": None, "temperature": 4.0, "test_accuracy": 0.9}
    return {
        "w4": Student(ds_cnn, {"network": "DS-CNN", "width": 4, **about}),
        "w4_taught": Student(sparse, {"network": "DS-CNN", "width": 6, **about, "teacher": "big"}),
        "resnet": Student(resnet, {"network": "ResNet-8", "width": 3, **about}),
    }


@pytest.fixture
def content(made, tmp_path):
    file = tmp_path / "students.safetensors"
    save_students(made, file, {"recipe": "none"})
    assert [one.name for one in tmp_path.glob("students*")] == [file.name]
    return file.read_bytes()


def test_students_are_read_as_they_were_saved_with_matrices_in_float16(made, content, pictures):
    read = read_students(content)
    assert list(read) == list(made)
    for name, student in made.items():
        assert read[name].about == student.about
        model = read[name].model
        assert type(model) is type(student.model)
        assert not model.training
        mine, theirs = model.state_dict(), student.model.state_dict()
        assert mine.keys() == theirs.keys()
        for key, tensor in theirs.items():
            is_matrix = tensor.ndim > 1
            assert mine[key].dtype == tensor.dtype
            assert torch.equal(mine[key], tensor.half().float() if is_matrix else tensor), key
        assert model(pictures).isfinite().all()
    assert not read["w4_taught"].model.block1.pointwise.weight[:, ::2].any()


def test_the_file_says_what_its_reader_should_know(content):
    assert read_metadata(content)["recipe"] == "none"


def test_students_of_a_training_can_be_saved(made, tmp_path):
    """Training leaves their weights in another order in memory."""
    student = copy.deepcopy(made["w4"].model).to(memory_format=torch.channels_last)
    file = tmp_path / "students.safetensors"
    save_students({"w4": Student(student, made["w4"].about)}, file, {})
    (read,) = read_students(file.read_bytes()).values()
    wanted = student.stem.weight.half().float()
    assert torch.equal(read.model.stem.weight, wanted)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_students_is_refused(content, damage):
    with pytest.raises(ValueError, match=r"This is no file of distill.save_students"):
        read_students(damage(content))


def test_a_file_half_written_does_not_replace_one(made, content, tmp_path, monkeypatch):
    def cut(source, target):
        source.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(students.os, "replace", cut)
    file = tmp_path / "students.safetensors"
    with pytest.raises(KeyboardInterrupt):
        save_students({"w4": made["w4"]}, file, {})
    assert file.read_bytes() == content


def test_students_of_the_course_are_found_by_the_name_of_their_file(content, monkeypatch):
    contents = {"checkpoints/students_x.safetensors": content}
    with monkeypatch.context() as patch:
        patch.setattr(verified, "read", contents.__getitem__)
        assert list(load_students("students_x")) == ["w4", "w4_taught", "resnet"]
    with pytest.raises(verified.DamagedFileError, match=r"students_x.safetensors is missing"):
        load_students("students_x")


# A bag of embeddings


@pytest.fixture
def ids():
    drawn = torch.randint(1, 30, (4, 8), generator=seeded(1)).float()
    drawn[:2, 5:] = 0  # [PAD]
    return drawn


def test_a_bag_classifies_the_mean_of_its_tokens_without_padding(ids):
    bag = build_bag(30, 6, 9, 3)
    for text, logits in zip(ids, bag(ids), strict=True):
        mean = bag.tokens.weight[text[text != 0].long()].mean(dim=0)
        torch.testing.assert_close(logits, bag.head(F.gelu(bag.up(mean))))
    torch.testing.assert_close(bag(ids[:2, :5]), bag(ids[:2]))
    torch.testing.assert_close(bag(ids.flip(1)), bag(ids))  # in any order
    assert bag(torch.zeros(1, 8)).isfinite().all()


def test_a_bag_has_the_parameters_of_its_sizes():
    assert count_parameters(build_bag(30, 6, 9, 3)) == 30 * 6 + 7 * 9 + 10 * 3


def test_a_bag_is_drawn_from_its_seed():
    state = torch.random.get_rng_state()
    one, same, other = (build_bag(30, 6, 9, 3, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["tokens.weight"], other["tokens.weight"])
    assert float(one["tokens.weight"].std()) == pytest.approx(0.1, rel=0.2)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.fixture
def bag_content(tmp_path):
    file = tmp_path / "bag.safetensors"
    save_bag(build_bag(30, 6, 9, 3), file, {"recipe": "none"})
    assert [one.name for one in tmp_path.glob("bag*")] == [file.name]
    return file.read_bytes()


def test_a_bag_is_read_as_it_was_saved_in_8_bits(bag_content, ids):
    bag, read = build_bag(30, 6, 9, 3), read_bag(bag_content)
    assert isinstance(read, BagOfEmbeddings)
    assert not read.training
    assert read_metadata(bag_content)["recipe"] == "none"
    for name, tensor in bag.state_dict().items():
        stored = read.state_dict()[name]
        if tensor.ndim == 1:
            assert torch.equal(stored, tensor)
            continue
        steps = tensor.abs().amax(dim=1, keepdim=True) / 127
        assert ((stored - tensor).abs() <= 0.51 * steps).all()
        assert not torch.equal(stored, tensor)
    torch.testing.assert_close(read(ids), bag(ids), atol=0.01, rtol=0)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_a_bag_is_refused(bag_content, damage):
    with pytest.raises(ValueError, match=r"This is no file of bag.save_bag"):
        read_bag(damage(bag_content))
