"""Zeros in weights: how many, which, and that they stay through training and on disk."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes import PLAIN
from torch import nn

from course_utils import prune, training
from course_utils.models import MLP, ResNet8
from course_utils.prune.checkpoints import pack_tensors, unpack_tensors
from course_utils.prune.holding import find_masks
from course_utils.prune.training import RAMP

SHARES = st.floats(0, 1)


def build(seed: int = 0, width: int = 4) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet8(width).eval()


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    kinds = nn.Conv2d | nn.Linear
    layers = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, kinds))
    return {name: layer.weight.detach() for name, layer in layers}


def count_zeros(model: nn.Module) -> int:
    return sum(int((weight == 0).sum()) for weight in weights_of(model).values())


def count_weights(model: nn.Module) -> int:
    return sum(weight.numel() for weight in weights_of(model).values())


@pytest.fixture(scope="module")
def lessons():
    """Return 200 images of two kinds: bright on the left or on the right."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    images = torch.rand(200, 1, 28, 28, generator=generator) * 0.3
    for image, label in zip(images, labels, strict=True):
        image[:, :, 14 * int(label) : 14 * int(label) + 14] += 0.6
    return images, labels


# How many, and which


@given(SHARES)
@settings(max_examples=30, deadline=None)
def test_exactly_the_share_is_zero_over_all_layers(sparsity):
    model = build()
    pruned = prune.prune_weights(model, sparsity)
    assert count_zeros(pruned) == round(sparsity * count_weights(model))


@given(SHARES)
@settings(max_examples=20, deadline=None)
def test_exactly_the_share_of_each_layer_is_zero(sparsity):
    pruned = prune.prune_weights(build(), sparsity, scope="layer")
    for weight in weights_of(pruned).values():
        assert int((weight == 0).sum()) == round(sparsity * weight.numel())


def test_of_equal_weights_exactly_the_share_is_zero_too():
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    for layer in model:
        layer.weight.data.fill_(0.5)
    assert count_zeros(prune.prune_weights(model, 0.37)) == 74


def test_the_smallest_of_all_layers_go():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[0.1, -0.2], [0.3, 5.0]])
    model[1].weight.data = torch.tensor([[-1.0, 2.0], [3.0, -4.0]])
    kept = weights_of(prune.prune_weights(model, 0.5))
    assert torch.equal(kept["0"], torch.tensor([[0.0, 0.0], [0.0, 5.0]]))
    assert torch.equal(kept["1"], torch.tensor([[0.0, 2.0], [3.0, -4.0]]))
    each = weights_of(prune.prune_weights(model, 0.5, scope="layer"))
    assert torch.equal(each["0"], torch.tensor([[0.0, 0.0], [0.3, 5.0]]))
    assert torch.equal(each["1"], torch.tensor([[0.0, 0.0], [3.0, -4.0]]))


def test_only_the_layers_named_are_pruned_and_the_model_is_left_alone():
    model = build()
    before = copy.deepcopy(model.state_dict())
    pruned = prune.prune_weights(model, 0.5, layers=["head"])
    shares = prune.measure_sparsity(pruned)
    assert shares["head"] == 0.5
    assert sum(shares.values()) == 0.5
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_scores_choose_in_the_place_of_magnitudes():
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    scores = {"0": torch.tensor([[1.0, 2.0], [4.0, 3.0]])}
    pruned = prune.prune_weights(model, 0.5, scores=scores)
    assert (weights_of(pruned)["0"] == 0).tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("sparsity", [-0.01, 1.01, 90, float("nan"), float("inf")])
def test_a_sparsity_that_is_no_share_is_refused(sparsity):
    with pytest.raises(ValueError, match="between 0"):
        prune.prune_weights(build(), sparsity)
    with pytest.raises(ValueError, match="between 0"):
        prune.train_pruned(build(), sparsity, torch.ones(1), torch.ones(1), PLAIN)


def test_percent_are_refused_with_the_cure():
    with pytest.raises(ValueError, match="divide by 100"):
        prune.prune_weights(build(), 90)


def test_what_cannot_be_pruned_is_named():
    with pytest.raises(ValueError, match=r"no layer 'hat'.*'stem'"):
        prune.prune_weights(build(), 0.5, layers=["hat"])
    with pytest.raises(ValueError, match="no layer with weights"):
        prune.prune_weights(nn.Sequential(nn.ReLU()), 0.5)
    with pytest.raises(ValueError, match="'global' or 'layer', not 'all'"):
        prune.prune_weights(build(), 0.5, scope="all")
    with pytest.raises(ValueError, match=r"'stem' needs scores of shape \(4, 1, 3, 3\)"):
        prune.prune_weights(build(), 0.5, scores={"stem": torch.ones(2)})
    broken = build()
    broken.head.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"'head' .*no finite"):
        prune.prune_weights(broken, 0.5)


# N of M


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_of_each_four_the_two_largest_stay(seed):
    model = build(seed)
    pruned = weights_of(prune.prune_n_of_m(model, 2, 4))
    for name, weight in weights_of(model).items():
        if weight[0].numel() % 4:
            assert torch.equal(pruned[name], weight)
            continue
        groups, kept = weight.reshape(-1, 4), pruned[name].reshape(-1, 4)
        assert ((kept != 0).sum(dim=1) == 2).all()
        assert torch.equal(kept.abs().sum(1), groups.abs().sort(dim=1).values[:, 2:].sum(1))


def test_groups_that_do_not_fill_a_row_are_refused():
    with pytest.raises(ValueError, match=r"'stem' has 9 weights.*groups of 4"):
        prune.prune_n_of_m(build(), 2, 4, layers=["stem"])
    with pytest.raises(ValueError, match=r"'0' has 9 weights"):
        prune.prune_n_of_m(nn.Sequential(nn.Conv2d(1, 4, 3)))
    for n, m in ((0, 4), (5, 4)):
        with pytest.raises(ValueError, match="1 <= n <= m"):
            prune.prune_n_of_m(build(), n, m)


# The criterion of first order


def test_the_first_order_score_is_weight_times_gradient(lessons):
    images, labels = (part[:50] for part in lessons)
    model = MLP([784, 8, 2]).eval()
    nn.functional.cross_entropy(model(images), labels).backward()
    scores = prune.score_first_order(model, images, labels)
    for name, weight in (
        ("layers.0", model.layers[0].weight),
        ("layers.1", model.layers[1].weight),
    ):
        assert torch.allclose(scores[name], (weight * weight.grad).abs(), atol=1e-7)


def test_a_weight_that_nothing_depends_on_scores_least(lessons):
    model = MLP([784, 8, 2]).eval()
    model.layers[1].weight.data[:, 3] = 0  # so that neuron 3 is never heard
    scores = prune.score_first_order(model, *lessons)
    assert (scores["layers.0"][3] == 0).all()


def test_images_without_labels_are_refused(lessons):
    with pytest.raises(ValueError, match="as many of both"):
        prune.score_first_order(build(), lessons[0], lessons[1][:3])
    with pytest.raises(ValueError, match="does not accept"):
        prune.score_first_order(MLP([9, 3]), *lessons)


# Zeros that stay


@given(st.floats(0.1, 0.95), st.sampled_from(["global", "layer"]))
@settings(max_examples=5, deadline=None)
def test_masks_survive_fine_tuning(sparsity, scope):
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.rand(100, 1, 28, 28, generator=generator), torch.arange(100) % 2
    pruned = prune.prune_weights(MLP([784, 16, 2]), sparsity, scope=scope)
    trained = prune.train_held(pruned, images, labels, PLAIN)
    before, after = weights_of(pruned), weights_of(trained)
    for name, weight in before.items():
        assert (after[name][weight == 0] == 0).all()
        assert not torch.equal(after[name], weight)
    assert count_zeros(trained) == count_zeros(pruned)


@pytest.mark.parametrize(("sparsity", "scope"), [(0.9, "global"), (0.5, "layer"), (0.0, "global")])
def test_gradual_pruning_ends_at_exactly_the_share(lessons, sparsity, scope):
    model = MLP([784, 16, 2])
    pruned = prune.train_pruned(model, sparsity, *lessons, PLAIN, scope=scope)
    shares = prune.measure_sparsity(pruned)
    if scope == "layer":
        assert list(shares.values()) == [0.5, 0.5]
    assert count_zeros(pruned) == round(sparsity * count_weights(model))
    assert training.evaluate(pruned, *lessons) > 0.95


def test_a_pruned_model_is_a_plain_one(lessons):
    model = build()
    pruned = prune.release_zeros(prune.hold_zeros(prune.prune_weights(model, 0.5)))
    assert pruned.state_dict().keys() == model.state_dict().keys()
    assert type(pruned.stem) is nn.Conv2d
    assert pruned.stem.weight.requires_grad


def test_the_sparsity_rises_fast_at_first():
    steps = [prune.cubic_sparsity(done / 4, 0.8) for done in range(5)]
    assert steps == pytest.approx([0, 0.8 * 37 / 64, 0.8 * 7 / 8, 0.8 * 63 / 64, 0.8])


def test_a_second_ramp_begins_where_the_first_ended():
    steps = [prune.cubic_sparsity(done / 2, 0.9, initial=0.5) for done in range(3)]
    assert steps == pytest.approx([0.5, 0.85, 0.9])


def test_zeros_cannot_become_fewer(lessons):
    pruned = prune.prune_weights(MLP([784, 16, 2]), 0.8)
    with pytest.raises(ValueError, match=r"80\.00% zeros already"):
        prune.train_pruned(pruned, 0.5, *lessons, PLAIN)
    assert count_zeros(prune.train_pruned(pruned, 0.8, *lessons, PLAIN)) == count_zeros(pruned)


def test_weights_in_another_order_of_memory_are_pruned_alike():
    model = build()
    turned = build().to(memory_format=torch.channels_last)
    for do in (lambda m: prune.prune_n_of_m(m, 2, 4), lambda m: prune.prune_weights(m, 0.5)):
        ours, theirs = weights_of(do(model)), weights_of(do(turned))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_masks_only_grow_while_training(lessons):
    seen = []

    def note(epoch, loss, model):
        seen.append({name: mask.mask.clone() for name, mask in find_masks(model).items()})

    prune.train_pruned(MLP([784, 16, 2]), 0.9, *lessons, PLAIN, on_epoch=note)
    for earlier, later in itertools.pairwise(seen):
        assert all((later[name] <= earlier[name]).all() for name in earlier)
    assert len(seen) == PLAIN.epochs
    assert RAMP < 1


def test_interrupted_pruning_goes_on_where_it_was(lessons, tmp_path):
    model = MLP([784, 16, 2])
    whole = prune.train_pruned(model, 0.8, *lessons, PLAIN)

    def interrupt(epoch, *_):
        if epoch == 2:
            raise KeyboardInterrupt

    state_file = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        prune.train_pruned(model, 0.8, *lessons, PLAIN, state_file=state_file, on_epoch=interrupt)
    resumed = prune.train_pruned(model, 0.8, *lessons, PLAIN, state_file=state_file)
    for name, weight in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight)


def test_the_state_of_another_sparsity_is_refused(lessons, tmp_path):
    state_file, model = tmp_path / "state", MLP([784, 16, 2])
    prune.train_pruned(model, 0.8, *lessons, PLAIN, state_file=state_file)
    with pytest.raises(ValueError, match=r"80\.00% zeros.*90\.00% zeros"):
        prune.train_pruned(model, 0.9, *lessons, PLAIN, state_file=state_file)


def test_zeros_are_held_once():
    held = prune.hold_zeros(build())
    for refused in (prune.hold_zeros, lambda model: prune.prune_weights(model, 0.5)):
        with pytest.raises(ValueError, match=r"'stem' holds its zeros.*release_zeros"):
            refused(held)
    with pytest.raises(ValueError, match="not held"):
        prune.release_zeros(build())


def test_a_pruned_training_that_diverges_leaves_a_plain_model(lessons):
    images, labels = lessons
    broken = images.clone()
    broken[0] = float("nan")
    with pytest.raises(training.DivergedError) as caught:
        prune.train_pruned(MLP([784, 16, 2]), 0.5, broken, labels, PLAIN)
    assert not find_masks(caught.value.model)


# The lottery ticket


def test_a_ticket_has_the_zeros_of_one_and_the_weights_of_the_other():
    pruned, earlier = prune.prune_weights(build(0), 0.7), build(1)
    ticket = weights_of(prune.rewind_weights(pruned, earlier))
    for name, weight in weights_of(pruned).items():
        assert torch.equal(ticket[name], weights_of(earlier)[name] * (weight != 0))


def test_a_ticket_of_another_network_is_refused():
    with pytest.raises(ValueError, match="not the same layers"):
        prune.rewind_weights(build(width=4), build(width=5))


# On disk


@pytest.mark.parametrize("bits", [8, 16])
@given(sparsity=SHARES)
@settings(max_examples=10, deadline=None)
def test_files_give_back_the_zeros_and_nearly_the_weights(bits, sparsity):
    pruned = prune.prune_weights(build(), sparsity)
    packed, shapes = pack_tensors(pruned.state_dict(), bits)
    state = unpack_tensors(packed, shapes)
    assert state.keys() == pruned.state_dict().keys()
    for name, tensor in pruned.state_dict().items():
        found = state[name]
        assert found.shape == tensor.shape
        assert found.dtype == tensor.dtype
        if tensor.is_floating_point():
            assert (found[tensor == 0] == 0).all()
            largest = float(tensor.abs().max())
            assert torch.allclose(found, tensor, rtol=2**-11, atol=largest * 2**-7)


def test_a_network_of_many_zeros_makes_a_small_file(tmp_path):
    sizes = []
    for sparsity in (0, 0.9):
        file = tmp_path / f"{sparsity}"
        model = prune.prune_weights(ResNet8(32), sparsity)
        prune.save_pruned(model, file, "resnet8_w32_fashion", {"recipe": "none"})
        again = prune.read_pruned(file.read_bytes())
        # of random weights a few may be too small for the 16 bits of the file
        assert count_zeros(model) <= count_zeros(again) <= count_zeros(model) + 20
        sizes.append(file.stat().st_size)
    weights = count_weights(ResNet8(32))
    assert sizes[0] - sizes[1] == pytest.approx(weights * (2 - 0.1 * 2 - 1 / 8), rel=0.01)


def test_a_cut_network_without_a_block_is_read_back(tmp_path):
    file = tmp_path / "cut.safetensors"
    model = prune.remove_blocks(prune.prune_channels(ResNet8(32), 0.5), ["block1"]).eval()
    prune.save_pruned(model, file, "resnet8_w32_fashion", {}, ("block1",))
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    again = prune.read_pruned(file.read_bytes())
    with torch.inference_mode():
        assert torch.allclose(again(images), model(images), atol=2e-2)


@pytest.mark.parametrize("content", [b"", b"no file", b"\x00" * 100])
def test_other_files_are_refused(content):
    with pytest.raises(ValueError, match=r"no file of prune\.save_pruned"):
        prune.read_pruned(content)


def test_an_unknown_checkpoint_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="no pruned network 'nothing'; there are"):
        prune.load_pruned("nothing")
