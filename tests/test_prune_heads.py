"""Heads and blocks that go: what is left computes what the whole would without them."""

import pytest
import torch

from course_utils.encoder import Encoder, Sizes, build_encoder
from course_utils.prune.heads import choose_heads, keep_blocks, keep_heads, score_heads

SIZES = Sizes(
    vocabulary=30, positions=6, width=12, heads=(3, 2), head_width=4, neurons=(16, 8), classes=5
)


@pytest.fixture
def model() -> Encoder:
    built = build_encoder(SIZES)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.2 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
            )
    return built.eval()


@pytest.fixture
def ids():
    return torch.randint(5, 30, (20, 6), generator=torch.Generator().manual_seed(1)).float()


def silence_(model: Encoder, block: int, head: int) -> None:
    """Make a head's findings count for nothing."""
    with torch.no_grad():
        model.blocks[block].attention.out.weight[:, 4 * head : 4 * head + 4] = 0.0


def test_what_is_left_computes_as_if_the_others_were_silent(model, ids):
    smaller = keep_heads(model, [[0, 2], [1]])
    assert smaller.sizes.heads == (2, 1)
    assert smaller.blocks[0].attention.query.weight.shape == (8, 12)
    assert smaller.blocks[1].attention.out.weight.shape == (12, 4)
    silence_(model, 0, 1)
    silence_(model, 1, 0)
    torch.testing.assert_close(smaller(ids), model(ids))


def test_all_heads_kept_change_nothing_and_the_original_stays(model, ids):
    before = model(ids)
    assert torch.equal(keep_heads(model, [[2, 1, 0], [0, 1]])(ids), before)
    keep_heads(model, [[0], [0]])
    assert torch.equal(model(ids), before)
    assert model.sizes == SIZES


def test_the_lower_block_alone(model, ids):
    shallow = keep_blocks(model, [0])
    assert shallow.sizes.heads == (3,)
    assert shallow.sizes.neurons == (16,)
    model.blocks = model.blocks[:1]
    assert torch.equal(shallow(ids), model(ids))


def test_what_is_left_can_be_built_anew(model):
    smaller = keep_heads(keep_blocks(model, [1]), [[1]])
    rebuilt = Encoder(smaller.sizes)
    rebuilt.load_state_dict(smaller.state_dict())


def test_a_silent_head_scores_nothing(model, ids):
    labels = torch.arange(20) % 5
    silence_(model, 0, 1)
    scores = score_heads(model, ids, labels)
    assert [len(score) for score in scores] == [3, 2]
    assert scores[0][1] == 0
    assert all(float(score.norm()) == pytest.approx(1) for score in scores)


def test_a_score_is_the_derivative_by_a_factor_on_the_head(model, ids):
    labels = torch.arange(20) % 5
    slopes = score_heads(model, ids, labels)[0]
    changed_by = []
    for head in range(3):
        pair = []
        for factor in (0.99, 1.01):
            one = keep_heads(model, [[0, 1, 2], [0, 1]]).double()
            one.blocks[0].attention.out.weight.data[:, 4 * head : 4 * head + 4] *= factor
            pair.append(torch.nn.functional.cross_entropy(one(ids.double()), labels).item())
        changed_by.append(abs(pair[1] - pair[0]) / 0.02)
    wanted = torch.tensor(changed_by)
    torch.testing.assert_close(slopes, wanted / wanted.norm(), rtol=0.01, atol=0.001)


CHOICES = {  # scores, count -> heads
    "the best of each": ([[0.1, 0.9], [0.2, 0.3]], 2, [[1], [1]]),
    "then the best of all": ([[0.1, 0.9], [0.2, 0.3]], 3, [[1], [0, 1]]),
    "all": ([[0.1, 0.9], [0.2, 0.3, 0.1]], 5, [[0, 1], [0, 1, 2]]),
    "a block of low scores keeps one": ([[0.9, 0.8], [0.1, 0.2]], 3, [[0, 1], [1]]),
}


@pytest.mark.parametrize("what", CHOICES)
def test_heads_are_chosen_by_their_scores(what):
    scores, count, kept = CHOICES[what]
    assert choose_heads([torch.tensor(score) for score in scores], count) == kept


@pytest.mark.parametrize("count", [1, 5])
def test_too_few_or_too_many_heads_are_refused(count):
    with pytest.raises(ValueError, match=f"Of 4 heads in 2 blocks {count} cannot be kept"):
        choose_heads([torch.ones(2), torch.ones(2)], count)


@pytest.mark.parametrize("kept", [[[0], []], [[0]], [[3], [0]], [[0, 0], [1]], [[-1], [0]]])
def test_heads_that_are_none_are_refused(model, kept):
    with pytest.raises(ValueError, match="Name at least one head of each of the 2 blocks"):
        keep_heads(model, kept)


@pytest.mark.parametrize("kept", [[], [2], [1, 0], [0, 0]])
def test_blocks_that_are_none_are_refused(model, kept):
    with pytest.raises(ValueError, match="Name some of the blocks 0 to 1"):
        keep_blocks(model, kept)


def test_texts_without_labels_are_refused(model, ids):
    with pytest.raises(ValueError, match="20 images and 3 labels"):
        score_heads(model, ids, torch.zeros(3, dtype=torch.int64))
