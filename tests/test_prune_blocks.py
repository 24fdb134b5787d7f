"""Residual blocks without their branch: what is left, computed by hand; and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_utils import models, runtimes
from course_utils.prune.blocks import find_blocks, remove_blocks
from course_utils.prune.channels import fit_shapes, prune_channels


class Stack(nn.Module):
    """Blocks without anything between them, each a convolution with its input added."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1) for _ in range(depth))
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        for step in self.steps:
            x = x + step(x).relu()
        return self.head(x.mean(dim=(2, 3)))


class Split(nn.Module):
    """Two branches of the same depth, and a sum of what does not come from one place."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.other = (nn.Conv2d(1, 2, 1) for _ in range(3))

    def forward(self, x):
        return (self.left(x) + self.right(x)) + 1


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def test_blocks_have_the_names_of_the_modules_that_hold_them():
    assert find_blocks(models.ResNet8(4)) == ["block1", "block2", "block3"]
    assert find_blocks(Stack()) == ["steps.0", "steps.1", "steps.2"]
    assert find_blocks(models.MLP([4, 3, 2])) == find_blocks(Split()) == []


def test_the_shortcut_of_a_block_stays(tiny_resnet, pictures):
    smaller = remove_blocks(tiny_resnet, ["block1", "block3"])
    with torch.inference_mode():
        x = F.relu(tiny_resnet.norm(tiny_resnet.stem(pictures)))
        x = F.relu(tiny_resnet.block3.shortcut(tiny_resnet.block2(x)))
        assert torch.equal(smaller(pictures), tiny_resnet.head(x.mean(dim=(2, 3))))
    left = {name for name, _ in smaller.named_parameters() if name.startswith("block")}
    assert {name.split(".")[0] for name in left} == {"block2", "block3"}
    assert {name for name in left if "block3" in name} == {
        "block3.shortcut.0.weight", "block3.shortcut.1.weight", "block3.shortcut.1.bias"
    }  # fmt: skip
    assert find_blocks(smaller) == ["block2"]
    assert find_blocks(tiny_resnet) == ["block1", "block2", "block3"]


def test_blocks_can_go_in_any_order_and_one_after_the_other(tiny_resnet, pictures):
    there = find_blocks(tiny_resnet)
    both = remove_blocks(tiny_resnet, ["block1", "block2"])
    for first, second in (("block1", "block2"), ("block2", "block1")):
        assert torch.equal(remove_blocks(tiny_resnet, [first, second])(pictures), both(pictures))
        again = remove_blocks(remove_blocks(tiny_resnet, [first]), [second])
        assert torch.equal(again(pictures), both(pictures))
    none_left = remove_blocks(tiny_resnet, there)
    assert find_blocks(none_left) == []
    assert none_left(pictures).shape == (3, 10)
    assert torch.equal(remove_blocks(tiny_resnet, [])(pictures), tiny_resnet(pictures))


@pytest.mark.parametrize("gone", [[0, 1], [1, 0], [1, 2], [2, 1], [0, 2], [2, 1, 0], [1, 1]])
def test_neighbours_can_go(gone):
    model, x = Stack(), torch.rand(2, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    smaller = remove_blocks(model, [f"steps.{at}" for at in gone])
    with torch.inference_mode():
        expected = x
        for at in sorted({0, 1, 2} - set(gone)):
            expected = expected + model.steps[at](expected).relu()
        assert torch.equal(smaller(x), model.head(expected.mean(dim=(2, 3))))


def test_the_copy_has_weights_of_its_own_and_the_mode_of_the_model(tiny_resnet):
    smaller = remove_blocks(tiny_resnet, ["block1"])
    assert not smaller.training
    assert remove_blocks(models.ResNet8(4), ["block1"]).training
    before = tiny_resnet.stem.weight.clone()
    with torch.no_grad():
        smaller.stem.weight.zero_()
    assert torch.equal(tiny_resnet.stem.weight, before)


def test_what_is_left_can_lose_channels_and_be_exported(tiny_resnet, pictures):
    smaller = prune_channels(remove_blocks(tiny_resnet, ["block1"]), 0.5)
    assert smaller.stem.out_channels == 2
    with torch.inference_mode():
        logits = smaller(pictures).numpy()
    runner = runtimes.build(smaller, pictures[:1].numpy())
    np.testing.assert_allclose(runner(pictures.numpy()), logits, rtol=1e-4, atol=1e-4)
    architecture = remove_blocks(models.ResNet8(8), ["block1"])
    fitted = fit_shapes(architecture, smaller.state_dict()).eval()
    assert np.array_equal(fitted(pictures).detach().numpy(), logits)


def test_what_is_no_residual_block_is_refused(tiny_resnet):
    there = r"there are \['block1', 'block2', 'block3'\]"
    for name in ("stem", "block1.conv1", "block4", ""):
        with pytest.raises(ValueError, match=f"{name!r} is no residual block .*; {there}"):
            remove_blocks(tiny_resnet, ["block1", name])
    with pytest.raises(ValueError, match=r"'left' is no residual block .*; the model has none"):
        remove_blocks(Split(), ["left"])
    with pytest.raises(ValueError, match="cannot be traced"):
        remove_blocks(Branching(), ["block1"])


def test_one_name_is_one_block(tiny_resnet):
    assert find_blocks(remove_blocks(tiny_resnet, "block2")) == ["block1", "block3"]


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x
