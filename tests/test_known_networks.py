"""Networks of articles: as large as the articles say, and the same each time."""

import numpy as np
import pytest
import torch

from course_utils.bounds import scale_batch
from course_utils.known_networks import STAGES, ResNet50, count_decoder_step
from course_utils.layer_costs import count_costs
from course_utils.models import count_parameters


@pytest.fixture(scope="module")
def resnet() -> ResNet50:
    return ResNet50().eval()


# ResNet-50


def test_it_has_the_parameters_and_multiply_adds_of_the_article(resnet):
    assert count_parameters(resnet) == 25_557_032
    costs = count_costs(resnet, np.zeros((1, 3, 224, 224), np.float32))
    products = [layer for layer in costs.layers if layer.kind in ("convolution", "linear")]
    assert sum(layer.macs for layer in products) == 4_089_184_256
    assert costs.parameters == 25_557_032
    assert sum(layer.kind == "convolution" for layer in products) == 1 + 3 * 16 + 4
    assert sum(layer.kind == "linear" for layer in products) == 1


@pytest.mark.parametrize(("side", "batch"), [(64, 2), (96, 1)])
def test_it_answers_with_a_row_for_each_image(resnet, side, batch):
    with torch.inference_mode():
        logits = resnet(torch.zeros(batch, 3, side, side))
    assert logits.shape == (batch, 1000)
    assert torch.isfinite(logits).all()


def test_its_stride_is_in_the_3x3_convolution_of_a_stage_s_first_block(resnet):
    strided = [block.conv2.stride for block in resnet.blocks]
    firsts = np.cumsum([0, *STAGES.values()])[1:4]
    assert [number for number, stride in enumerate(strided) if stride == (2, 2)] == list(firsts)
    assert all(block.conv1.stride == block.conv3.stride == (1, 1) for block in resnet.blocks)
    assert len(strided) == 16
    assert sum(len(block.shortcut) > 0 for block in resnet.blocks) == 4


def test_its_weights_are_those_of_its_seed(resnet):
    def weights(network):
        return torch.cat([value.flatten().float() for value in network.state_dict().values()])

    assert torch.equal(weights(ResNet50()), weights(resnet))
    assert not torch.equal(weights(ResNet50(seed=1)), weights(resnet))
    assert ResNet50(classes=7).head.out_features == 7


def test_drawing_it_leaves_torch_s_random_numbers_as_they_were():
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    ResNet50(seed=5)
    assert torch.equal(torch.rand(3), expected)


# A decoder's step


def test_a_step_of_the_7b_model_reads_all_its_matrices_once():
    costs = count_decoder_step(context=0)
    block = 4 * 4096 * 4096 + 3 * 4096 * 11008
    weights = 32 * block + 4096 * 32000
    assert weights == 6_607_077_376  # 6.74 billion with the words' vectors, of which it reads one
    assert costs.parameters == costs.macs == weights
    assert costs.weight_bytes == 2 * weights
    linear = [layer for layer in costs.layers if layer.kind == "linear"]
    assert len(linear) == 32 * 7 + 1
    assert len({layer.name for layer in costs.layers}) == len(costs.layers)


@pytest.mark.parametrize("context", [0, 1, 1000])
def test_attention_reads_a_key_and_a_value_of_each_earlier_token(context):
    costs = count_decoder_step(context=context)
    names = ["query", "key", "value", "attention", "merge", "gate", "up", "down"]
    assert [layer.name for layer in costs.layers] == [
        *(f"{n}.{name}" for n in range(32) for name in names), "words",
    ]  # fmt: skip
    kept = 2 * context * 4096
    for layer in costs.layers:
        if layer.kind == "attention":
            assert (layer.macs, layer.parameters, layer.weight_bytes) == (kept, 0, 0)
            assert layer.input_bytes == 2 * (kept + 4096)
            assert layer.output_bytes == 2 * 4096
            assert layer.live_bytes == 32 * 2 * kept  # the other blocks' stay meanwhile
    texts = scale_batch(costs, 5)  # each has keys and values of its own
    assert texts.peak_activation_bytes == 5 * costs.peak_activation_bytes
    assert texts.weight_bytes == costs.weight_bytes


def test_a_token_needs_an_operation_for_each_byte_or_so():
    costs = count_decoder_step(context=0)
    assert costs.flop_per_byte == pytest.approx(1, abs=0.001)  # two for each weight of two bytes
    assert count_decoder_step(context=0, bytes_per_weight=0.5).flop_per_byte == pytest.approx(
        4, abs=0.02
    )


@pytest.mark.parametrize(("per_weight", "per_activation"), [(4, 4), (2, 2), (1, 2), (0.5, 2)])
def test_bytes_are_those_of_the_formats(per_weight, per_activation):
    costs = count_decoder_step(
        blocks=1, width=8, inside=20, vocabulary=50, context=3,
        bytes_per_weight=per_weight, bytes_per_activation=per_activation,
    )  # fmt: skip
    shapes = {
        "0.query": (8, 8), "0.key": (8, 8), "0.value": (8, 8), "0.merge": (8, 8),
        "0.gate": (8, 20), "0.up": (8, 20), "0.down": (20, 8), "words": (8, 50),
    }  # fmt: skip
    linear = [layer for layer in costs.layers if layer.kind == "linear"]
    assert [layer.name for layer in linear] == list(shapes)
    (attention,) = (layer for layer in costs.layers if layer.kind == "attention")
    assert attention.input_bytes == (2 * 3 * 8 + 8) * per_activation
    for layer in linear:
        given, made = shapes[layer.name]
        assert layer.macs == layer.parameters == given * made
        assert layer.weight_bytes == given * made * per_weight
        assert layer.input_bytes == given * per_activation
        assert layer.output_bytes == made * per_activation
        assert layer.live_bytes == layer.input_bytes + layer.output_bytes
    assert costs.weight_bytes == sum(layer.weight_bytes for layer in costs.layers)
