"""The encoder: what it computes, that every runtime takes it, and what is stored of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import fx, nn
from torch.nn import functional as F

from course_utils import datasets, encoder, fetch, runtimes
from course_utils.encoder import Attention, Encoder, MaskedLanguageModel, Sizes, build_encoder
from course_utils.models import count_parameters
from course_utils.prune.magnitude import find_weights, measure_sparsity, prune_weights
from course_utils.runtimes.export import export_onnx
from course_utils.training import evaluate

SIZES = Sizes(
    vocabulary=30, positions=8, width=12, heads=(2, 3), head_width=4, neurons=(16, 8), classes=5
)


def lively(seed: int = 0, sizes: Sizes = SIZES) -> Encoder:
    """Return an encoder whose biases and norms differ from 0 and 1, as after a training."""
    model = build_encoder(sizes, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture
def ids():
    drawn = torch.randint(5, 30, (6, 8), generator=torch.Generator().manual_seed(1)).float()
    drawn[:3, 5:] = 0  # [PAD]
    return drawn


# What it computes


def test_it_has_the_parameters_of_its_sizes():
    blocks = sum(
        3 * (12 + 1) * 4 * heads + (4 * heads + 1) * 12  # query, key and value; out
        + (12 + 1) * neurons + (neurons + 1) * 12  # up and down
        + 4 * 12  # two norms
        for heads, neurons in [(2, 16), (3, 8)]
    )  # fmt: skip
    assert count_parameters(build_encoder(SIZES)) == (30 + 8) * 12 + 2 * 12 + blocks + 13 * 5


def test_attention_is_that_of_torch(ids):
    ours = Attention(width=12, heads=3, head_width=4)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    parts = [ours.query, ours.key, ours.value]
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(6, 8, 12, generator=torch.Generator().manual_seed(2))
    hidden = ids.eq(0)
    found = ours(x.flatten(0, 1), hidden.float()[:, None, None] * encoder.HIDDEN)
    wanted, _ = theirs(x, x, x, key_padding_mask=hidden)
    torch.testing.assert_close(found.view(6, 8, 12), wanted)


def test_a_block_is_the_encoder_layer_of_torch(ids):
    model = lively(sizes=replace(SIZES, heads=(3,), neurons=(16,)))
    (block,) = model.blocks
    theirs = nn.TransformerEncoderLayer(
        12, 3, 16, dropout=0, activation=F.gelu, layer_norm_eps=1e-12, batch_first=True
    )
    attention, parts = theirs.self_attn, block.attention
    with torch.no_grad():
        projections = [parts.query, parts.key, parts.value]
        attention.in_proj_weight.copy_(torch.cat([part.weight for part in projections]))
        attention.in_proj_bias.copy_(torch.cat([part.bias for part in projections]))
    attention.out_proj.load_state_dict(parts.out.state_dict())
    pairs = {"linear1": "up", "linear2": "down", "norm1": "norm1", "norm2": "norm2"}
    for name, ours in pairs.items():
        getattr(theirs, name).load_state_dict(getattr(block, ours).state_dict())
    x = model.norm(model.tokens(ids.long()) + model.positions)
    wanted = theirs(x, src_key_padding_mask=ids.eq(0))
    is_real = ids.ne(0)
    torch.testing.assert_close(model.encode(ids)[is_real], wanted[is_real])


def test_the_vector_of_a_text_is_the_mean_over_its_tokens(ids):
    model = lively()
    tokens = model.encode(ids)
    torch.testing.assert_close(model.embed(ids)[0], tokens[0, :5].mean(dim=0))
    torch.testing.assert_close(model.embed(ids)[4], tokens[4].mean(dim=0))


def test_padding_changes_nothing(ids):
    model = lively()
    shorter = lively(sizes=replace(SIZES, positions=5))
    cut = {**model.state_dict(), "positions": model.positions[:5]}
    shorter.load_state_dict(cut)
    torch.testing.assert_close(shorter(ids[:3, :5]), model(ids[:3]))


def test_in_training_a_batch_may_be_cut_to_its_longest_text(ids):
    model = lively().train()
    torch.testing.assert_close(model(ids[:3, :5]), model(ids[:3]))


def test_each_text_is_classified_alone(ids):
    model = lively()
    torch.testing.assert_close(torch.cat([model(one[None]) for one in ids]), model(ids))


def test_the_order_of_the_words_matters(ids):
    model = lively()
    assert not torch.allclose(model(ids[5:].flip(1)), model(ids[5:]), atol=1e-3)


def test_padding_alone_gives_finite_numbers_that_tell_models_apart():
    empty = torch.zeros(2, 8)
    assert lively(0)(empty).isfinite().all()
    changed = lively(0)
    with torch.no_grad():
        changed.blocks[0].up.weight.mul_(0.5)
    assert not torch.allclose(lively(0)(empty), changed(empty), atol=1e-3)


def test_without_classes_it_returns_the_vector_of_the_text(ids):
    model = lively(sizes=replace(SIZES, classes=0))
    assert torch.equal(model(ids), model.embed(ids))


def test_it_is_drawn_from_its_seed():
    one, same, other = (build_encoder(SIZES, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["tokens.weight"], other["tokens.weight"])
    assert math.isclose(float(one["tokens.weight"].std()), 0.02, rel_tol=0.2)


def test_hidden_tokens_are_guessed_with_the_embeddings(ids):
    model = MaskedLanguageModel(lively()).eval()
    at = torch.zeros(ids.shape, dtype=torch.bool)
    at[0, 2] = at[4, 7] = True
    logits = model(ids, at)
    assert logits.shape == (2, 30)
    with torch.no_grad():
        model.encoder.tokens.weight[29] = 0.0  # of no hidden or visible token of the two texts
        assert torch.allclose(model(ids, at)[:, 29], model.bias[29])


# What takes it


def test_pruning_finds_its_matrices_and_no_embedding():
    names = find_weights(build_encoder(SIZES))
    assert len(names) == 2 * 6 + 1
    assert "blocks.1.attention.query" in names
    assert not [name for name in names if "tokens" in name or "positions" in name]


def test_it_can_be_traced():
    fx.symbolic_trace(lively())


def test_the_exported_graph_computes_the_same_and_keeps_all_names(ids):
    model = lively()
    runner = runtimes.build(model, ids.numpy())
    assert np.allclose(runner(ids.numpy()), model(ids).detach().numpy(), atol=1e-5)
    graph = export_onnx(model, ids.numpy())
    names = {initializer.name for initializer in graph.graph.initializer}
    assert set(model.state_dict()) <= names


# What is stored


def test_a_stored_encoder_has_its_zeros_and_shares_the_embeddings(tmp_path, ids):
    model = lively()
    layers = [name for name in find_weights(model) if name.startswith("blocks")]
    pruned = prune_weights(model, 0.5, scope="layer", layers=layers)
    file = tmp_path / "encoder_x.safetensors"
    encoder.save_encoder(pruned, file, {"recipe": "none"})
    read = encoder.read_encoder(file.read_bytes(), model.tokens.weight)
    assert read.sizes == SIZES
    for name, weight in find_weights(pruned).items():
        stored = read.get_submodule(name).weight
        assert torch.equal(stored == 0, weight == 0)
        torch.testing.assert_close(stored, weight, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(read(ids), pruned(ids), rtol=0.01, atol=0.01)


@pytest.fixture(scope="module")
def tested():
    return datasets.load_glosses().validation.first(100)


@pytest.mark.parametrize("percent", [0, 20, 40, 60, 80, 90])
def test_a_shipped_encoder_has_its_zeros_and_classifies(tested, percent):
    shipped = encoder.load_encoder("encoder_glosses" + f"_pruned{percent}" * (percent > 0))
    sparsity = measure_sparsity(shipped)
    inside = [share for name, share in sparsity.items() if name.startswith("blocks.")]
    # the smallest that are left become zero too, where weights are rounded to 8 bits
    assert all(percent / 100 - 0.001 <= share <= percent / 100 + 0.015 for share in inside)
    assert len(inside) == 24
    assert evaluate(shipped, *map(torch.tensor, (tested.images, tested.labels))) > 0.6


@pytest.mark.parametrize(("name", "blocks", "heads"), [("blocks2", 2, 16), ("heads16", 4, 16)])
def test_a_smaller_encoder_is_smaller_and_classifies(tested, name, blocks, heads):
    shipped = encoder.load_encoder(f"encoder_glosses_{name}")
    assert len(shipped.blocks) == blocks
    assert sum(shipped.sizes.heads) == heads
    assert evaluate(shipped, *map(torch.tensor, (tested.images, tested.labels))) > 0.6


def test_fine_tuning_left_the_embeddings_as_they_were():
    pretrained, tuned = map(encoder.load_encoder, ("encoder_pretrained", "encoder_glosses"))
    assert torch.equal(pretrained.tokens.weight, tuned.tokens.weight)
    assert not torch.equal(pretrained.blocks[0].up.weight, tuned.blocks[0].up.weight)


def test_the_pretrained_encoder_guesses_a_hidden_word():
    tokenizer = datasets.load_vocabulary()
    ids = tokenizer.encode("a member of the house of representatives", 32)
    hidden = ids.index(tokenizer.ids["of"])
    at = torch.zeros(1, 32, dtype=torch.bool)
    at[0, hidden] = True
    shown = torch.tensor([ids]).float()
    shown[at] = tokenizer.ids["[MASK]"]
    guess = encoder.load_masked_model()(shown, at).argmax()
    assert tokenizer.pieces[guess] == "of"


def test_an_unknown_encoder_is_refused():
    with pytest.raises(ValueError, match="no encoder 'encoder_huge'; choose one of"):
        encoder.load_encoder("encoder_huge")


# MiniLM


def bert_of(sizes: Sizes) -> dict[str, torch.Tensor]:
    """Return weights under the names that BERT's checkpoints give them."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "embeddings.word_embeddings.weight": (sizes.vocabulary, sizes.width),
        "embeddings.position_embeddings.weight": (512, sizes.width),
        "embeddings.token_type_embeddings.weight": (2, sizes.width),
    }
    like = Encoder(sizes).state_dict()
    for ours, theirs in encoder._names_in_bert(len(sizes.heads)).items():
        for part in ("weight", "bias"):
            shapes[f"{theirs}.{part}"] = like[f"{ours}.{part}"].shape
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def test_the_weights_of_minilm_find_their_places(monkeypatch):
    sizes = Sizes(30522, 16, 384, (12,) * 6, 32, (1536,) * 6, classes=0)
    stored = bert_of(sizes)
    monkeypatch.setattr(fetch, "read", lambda name, file: save(stored))
    model = encoder.load_minilm(16)
    assert model.sizes == sizes
    positions = stored["embeddings.position_embeddings.weight"][:16]
    first_kind = stored["embeddings.token_type_embeddings.weight"][0]
    assert torch.equal(model.positions, positions + first_kind)
    for name in ("attention.output.dense.weight", "intermediate.dense.bias"):
        ours = {"attention.output.dense.weight": "attention.out.weight"}.get(name, "up.bias")
        assert torch.equal(
            model.state_dict()[f"blocks.5.{ours}"], stored[f"encoder.layer.5.{name}"]
        )


@pytest.mark.parametrize("positions", [2, 513])
def test_minilm_has_at_most_512_positions(positions):
    with pytest.raises(ValueError, match=f"3 to 512 tokens, not of {positions}"):
        encoder.load_minilm(positions)
