"""Matrices without their zeros: the same values back, and as many bytes as the formula says."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load
from torch import nn

from course_utils import sparse
from course_utils.runtimes.torch_eager import pack_weights
from course_utils.sparse.formats import HEADER, CompressedRows, MaskedValues, TwoOfFour

ANY_PATTERN = [CompressedRows, MaskedValues]
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)

SMALL = torch.tensor([[0, 5, 0, 0, 6, 0], [0, 0, 0, 0, 0, 0], [7, 0, 0, 0, 0, 8.5]])
PAIRS = torch.tensor([[0, 1, 0, 2, 3, 4, 0, 0], [0, 0, 0, 0, 0, 0, 5, 0]]).float()


@st.composite
def matrices(draw, groups: bool = False):
    """Return a matrix of which some share is 0; with ``groups`` at least two of each four."""
    rows = draw(st.integers(1, 12))
    columns = 4 * draw(st.integers(1, 6)) if groups else draw(st.integers(1, 300))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    matrix = random.standard_normal((rows, columns)).astype(np.float32)
    matrix[random.random(matrix.shape) < draw(st.floats(0, 1))] = 0
    if groups:
        order = random.random((rows, columns // 4, 4)).argsort(axis=2)
        np.put_along_axis(matrix.reshape(rows, -1, 4), order[..., :2], 0, axis=2)
    matrix.flat[random.integers(matrix.size)] = draw(FINITE) if not groups else 0
    return torch.from_numpy(matrix)


def prune(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Return the tensor with this share of its values, the smallest, set to 0."""
    order = weight.abs().flatten().argsort()
    pruned = weight.detach().clone().flatten()
    pruned[order[: round(sparsity * len(order))]] = 0
    return pruned.view(weight.shape)


@given(matrices())
def test_what_csr_and_mask_pack_comes_back_and_has_the_size_of_the_formula(matrix):
    values = int(torch.count_nonzero(matrix))
    for kind in ANY_PATTERN:
        stored = kind.from_dense(matrix)
        assert torch.equal(stored.to_dense(), matrix)
        assert torch.equal(kind.unpack(stored.pack()).to_dense(), matrix)
        assert stored.size_bytes == len(stored.pack()) == kind.count_bytes(*matrix.shape, values)


@given(matrices(groups=True))
def test_what_2_of_4_packs_comes_back_and_has_four_and_a_quarter_bytes_for_every_second(matrix):
    stored = TwoOfFour.from_dense(matrix)
    assert torch.equal(stored.to_dense(), matrix)
    assert torch.equal(TwoOfFour.unpack(stored.pack()).to_dense(), matrix)
    half = matrix.numel() // 2
    assert stored.size_bytes == HEADER.size + 4 * half + -(-half // 4)


def test_csr_is_values_with_their_columns_and_where_each_row_begins():
    stored = CompressedRows.from_dense(SMALL)
    assert stored.row_pointers.tolist() == [0, 2, 2, 4]
    assert stored.columns.tolist() == [1, 4, 0, 5]
    assert stored.values.tolist() == [5, 6, 7, 8.5]


def test_a_mask_is_a_bit_for_each_place():
    packed = MaskedValues.from_dense(SMALL).pack()
    assert packed[HEADER.size :][:3] == bytes([0b01001000, 0b00001000, 0b01000000])


@given(matrices(groups=True))
def test_a_mask_is_never_larger_than_2_of_4(matrix):
    assert MaskedValues.from_dense(matrix).size_bytes <= TwoOfFour.from_dense(matrix).size_bytes


def test_2_of_4_is_two_values_and_their_places_in_two_bits_each():
    stored = TwoOfFour.from_dense(PAIRS)
    assert stored.values.tolist() == [1, 2, 3, 4, 0, 0, 0, 5]
    assert stored.positions.tolist() == [1, 3, 0, 1, 0, 1, 0, 2]
    assert stored.pack()[HEADER.size] == 1 + (3 << 2) + (0 << 4) + (1 << 6)


@pytest.mark.parametrize(("inputs", "width"), [(256, 1), (257, 2), (65536, 2), (65537, 4)])
def test_a_column_has_the_smallest_type_that_holds_it(inputs, width):
    matrix = torch.zeros(1, inputs)
    matrix[0, -1] = 1
    stored = CompressedRows.from_dense(matrix)
    assert stored.columns.itemsize == width
    assert stored.columns.tolist() == [inputs - 1]
    assert torch.equal(CompressedRows.unpack(stored.pack()).to_dense(), matrix)


@pytest.mark.parametrize(("values", "width"), [(255, 1), (256, 2), (65535, 2), (65536, 4)])
def test_a_row_pointer_has_the_smallest_type_that_holds_it(values, width):
    matrix = torch.cat([torch.ones(values), torch.zeros(1)])[None]
    stored = CompressedRows.from_dense(matrix)
    assert stored.row_pointers.itemsize == width
    assert torch.equal(CompressedRows.unpack(stored.pack()).to_dense(), matrix)


@pytest.mark.parametrize("kind", [*ANY_PATTERN, TwoOfFour])
def test_all_zeros_come_back_and_a_negative_zero_is_a_zero(kind):
    zeros = torch.tensor([[0.0, -0.0, 0.0, -0.0]] * 3)
    back = kind.unpack(kind.from_dense(zeros).pack()).to_dense()
    assert torch.equal(back, torch.zeros(3, 4))
    assert not torch.signbit(back).any()


@pytest.mark.parametrize("kind", [*ANY_PATTERN, TwoOfFour])
@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.tensor([[0.0, torch.nan, 0, 0]]), "NaN or infinite"),
        (torch.tensor([[0.0, torch.inf, 0, 0]]), "NaN or infinite"),
        (torch.zeros(2, 4, 3, 3), r"by \.flatten\(1\)"),
        (torch.zeros(2, 4).double(), "float32"),
        (torch.zeros(0, 4), r"shape \(0, 4\)"),
    ],
)
def test_what_is_no_matrix_of_finite_numbers_is_refused(kind, matrix, message):
    with pytest.raises(ValueError, match=message):
        kind.from_dense(matrix)


def test_a_matrix_that_is_not_2_of_4_is_refused_and_the_first_four_that_break_it_are_named():
    matrix = torch.zeros(3, 12)
    matrix[1, 5:8] = 1
    matrix[2, 0:4] = 1
    with pytest.raises(ValueError, match="row 1 has 3 values that are not 0 in columns 4 to 7"):
        TwoOfFour.from_dense(matrix)
    with pytest.raises(ValueError, match="Rows of 9 values do not divide into fours"):
        TwoOfFour.from_dense(torch.zeros(2, 9))


@pytest.mark.parametrize("kind", [*ANY_PATTERN, TwoOfFour])
def test_damaged_bytes_are_refused(kind):
    packed = kind.from_dense(PAIRS).pack()
    for damaged in (b"", packed[:5], packed[:-1], packed + b"\0", b"\xff" * 12 + packed[12:]):
        with pytest.raises(ValueError, match="bytes are no"):
            kind.unpack(damaged)
    index = bytearray(packed)
    index[HEADER.size : -4 * len(kind.from_dense(PAIRS).values)] = bytes(
        len(packed) - HEADER.size - 4 * len(kind.from_dense(PAIRS).values)
    )
    with pytest.raises(ValueError, match="is damaged"):
        kind.unpack(bytes(index))


@given(st.integers(1, 40), st.integers(1, 700))
def test_from_the_break_even_on_csr_is_smaller_than_dense(rows, inputs):
    share = sparse.csr_break_even_sparsity(rows, inputs)
    numbers = rows * inputs
    most = -1 if share is None else round((1 - share) * numbers)
    for values in {max(most, 0), most + 1}:
        matrix = torch.zeros(numbers)
        matrix[:values] = 1
        size = CompressedRows.from_dense(matrix.view(rows, inputs)).size_bytes
        assert (size < 4 * numbers) == (values <= most)


@pytest.mark.parametrize(
    ("rows", "inputs", "share"), [(256, 256, 0.202), (1024, 1024, 0.334), (300, 784, 0.334)]
)
def test_indices_of_one_byte_break_even_at_a_fifth_and_of_two_at_a_third(rows, inputs, share):
    assert sparse.csr_break_even_sparsity(rows, inputs) == pytest.approx(share, abs=2e-3)


def test_a_matrix_so_small_that_the_rows_outweigh_it_has_no_break_even():
    assert sparse.csr_break_even_sparsity(1, 1) is None


@pytest.fixture
def pruned(tiny_resnet):
    """Return the tiny ResNet with its batch norms, 90 % of each layer's weights 0."""
    model = copy.deepcopy(tiny_resnet)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.data = prune(layer.weight, 0.9)
    return model


@pytest.mark.parametrize("choose", ["smallest", "csr", "mask", "dense", {"head": "csr"}])
def test_a_compressed_model_comes_back_to_the_bit(pruned, choose):
    back = sparse.decompress(sparse.compress(pruned, choose))
    state = pruned.state_dict()
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].numpy().tobytes() == tensor.numpy().tobytes()


def test_each_layer_is_in_the_format_that_was_chosen(pruned):
    weights = [name for name, value in pruned.state_dict().items() if value.ndim in (2, 4)]
    for choose in ("csr", "mask"):
        found = sparse.list_formats(sparse.compress(pruned, choose))
        assert found == dict.fromkeys(weights, choose)
    assert sparse.list_formats(sparse.compress(pruned, "dense")) == {}
    only = sparse.list_formats(sparse.compress(pruned, {"block3.conv2": "csr"}))
    assert only == {"block3.conv2.weight": "csr"}


def test_the_smallest_is_not_larger_than_any_other_weight_by_weight(pruned):
    smallest = load(sparse.compress(pruned))
    for choose in ("csr", "mask", "dense"):
        other = load(sparse.compress(pruned, choose))
        assert all(smallest[name].nbytes <= other[name].nbytes for name in other)


def test_without_zeros_the_file_is_that_of_the_weights(tiny_resnet):
    assert sparse.compress(tiny_resnet) == pack_weights(tiny_resnet)
    assert len(sparse.compress(tiny_resnet, "csr")) > len(pack_weights(tiny_resnet))


@pytest.mark.parametrize(("sparsity", "format_"), [(0.5, "mask"), (0.8, "mask"), (0.99, "csr")])
def test_with_few_zeros_a_mask_is_smaller_and_with_very_many_csr(sparsity, format_):
    layer = nn.Linear(784, 300)
    layer.weight.data = prune(layer.weight, sparsity)
    assert sparse.list_formats(sparse.compress(layer)) == {"weight": format_}


def test_two_of_four_leaves_layers_dense_that_do_not_divide_into_fours():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3))
    for layer in model:
        groups = layer.weight.data.flatten()
        groups[1::4] = groups[2::4] = 0
    assert sparse.list_formats(sparse.compress(model, "2:4")) == {"1.weight": "2:4"}
    back = sparse.decompress(sparse.compress(model, "2:4"))
    assert all(torch.equal(back[name], one) for name, one in model.state_dict().items())


def test_a_weight_that_cannot_be_stored_is_named(pruned, tiny_resnet):
    with pytest.raises(ValueError, match=r"Layer 'block1\.conv1'.*not 2:4"):
        sparse.compress(tiny_resnet, "2:4")
    pruned.head.weight.data[0, 0] = torch.nan
    for choose in ("csr", "smallest"):
        with pytest.raises(ValueError, match=r"Layer 'head'.*NaN"):
            sparse.compress(pruned, choose)


@pytest.mark.parametrize("choose", ["zip", {"head": "zip"}])
def test_an_unknown_format_is_refused(pruned, choose):
    with pytest.raises(ValueError, match="There is no format"):
        sparse.compress(pruned, choose)


def test_an_unknown_layer_is_refused(pruned):
    with pytest.raises(ValueError, match=r"no layers \['haed'\]"):
        sparse.compress(pruned, {"haed": "csr"})


def test_zeros_that_are_held_through_training_have_to_be_released(tiny_mlp):
    held = copy.deepcopy(tiny_mlp)
    layer = held.get_submodule("layers.1")
    nn.utils.parametrize.register_parametrization(layer, "weight", nn.Identity())
    with pytest.raises(ValueError, match=r"'layers\.1' holds its zeros.*prune\.release_zeros"):
        sparse.compress(held)


def test_a_file_of_something_else_is_refused(pruned):
    content = sparse.compress(pruned)
    for damaged in (b"", content[:100], content[:-1]):
        with pytest.raises(ValueError, match=r"no file of sparse\.compress"):
            sparse.decompress(damaged)
