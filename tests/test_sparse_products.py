"""Networks that multiply without their zeros: the logits of PyTorch, layer by layer and whole."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_utils import models, sparse
from course_utils.runtimes import sparse_kernel
from course_utils.runtimes.sparse_kernel import build_sparse
from course_utils.sparse import products

BY = ", by MKL" * products.has_mkl()

CONVOLUTIONS = {
    "3×3": ((2, 5, 3), {"padding": 1}),
    "no padding": ((2, 5, 3), {}),
    "stride": ((2, 5, 3), {"stride": 2, "padding": 1}),
    "stride of a pixel by three": ((2, 5, 3), {"stride": (1, 3), "padding": (1, 0)}),
    "1×1": ((3, 4, 1), {}),
    "1×1 with stride": ((3, 4, 1), {"stride": 2}),
    "oblong": ((2, 4, (1, 5)), {"padding": (0, 2)}),
    "dilated": ((2, 4, 3), {"dilation": (2, 3), "padding": 2}),
    "dilated with stride": ((2, 4, 3), {"dilation": 2, "stride": 2, "padding": 1}),
    "same": ((2, 4, (3, 5)), {"padding": "same"}),
    "same, of an even kernel": ((2, 4, (3, 2)), {"padding": "same", "dilation": (1, 2)}),
    "valid": ((2, 4, 3), {"padding": "valid"}),
    "no bias": ((2, 4, 3), {"bias": False}),
    "larger than the image but for the padding": ((2, 4, 13), {"padding": 2}),
}


def set_zeros_(model: nn.Module, sparsity: float, seed: int = 0) -> nn.Module:
    """Set this share, about, of the weights of each layer to 0."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.data[torch.rand(layer.weight.shape, generator=generator) < sparsity] = 0
    return model


def logits_of(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(images)).numpy()


@settings(max_examples=60)
@given(
    st.integers(1, 20), st.integers(1, 60), st.integers(1, 9), st.floats(0, 1), st.booleans(),
    st.booleans(), st.integers(0, 2**32),
)  # fmt: skip
def test_a_product_is_that_of_the_dense_matrices(
    rows, inputs, columns, sparsity, has_bias, is_turned, seed
):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, inputs, generator=generator)
    weight[torch.rand(rows, inputs, generator=generator) < sparsity] = 0
    bias = torch.randn(rows, generator=generator) if has_bias else None
    dense = torch.randn(inputs, columns, generator=generator)
    expected = weight @ dense + (0 if bias is None else bias[:, None])
    given = dense.T.contiguous().T if is_turned else dense
    found = sparse.prepare_product(weight, bias)(given)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("has_mkl", [True, False])
def test_a_processor_without_the_kernel_for_one_column_gets_the_other(monkeypatch, has_mkl):
    monkeypatch.setattr("course_utils.sparse.products.has_mkl", lambda: has_mkl)
    weight, column = torch.eye(4)[[2, 0, 1, 3]], torch.arange(4.0)[:, None]
    assert sparse.prepare_product(weight)(column).flatten().tolist() == [2, 0, 1, 3]


def test_the_indices_are_those_that_the_kernel_takes_without_turning_them():
    csr = sparse.to_torch_csr(torch.eye(5))
    assert csr.crow_indices().dtype == csr.col_indices().dtype == torch.int32
    assert csr.values().tolist() == [1] * 5


@pytest.mark.parametrize("sparsity", [0, 0.6, 1])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_gives_what_torch_gives(name, sparsity):
    sizes, options = CONVOLUTIONS[name]
    torch.manual_seed(0)
    layer = set_zeros_(nn.Conv2d(*sizes, **options), sparsity)
    images = np.random.default_rng(0).standard_normal((3, sizes[0], 9, 11), np.float32)
    found = build_sparse(layer, images)(images)
    np.testing.assert_allclose(found, logits_of(layer, images), rtol=1e-4, atol=1e-5)


def test_images_of_another_size_get_a_plan_of_their_own():
    layer = sparse_kernel.SparseConv2d(conv := nn.Conv2d(2, 3, 3, 2, 1))
    for size in (8, 9, 8, 13):
        images = torch.randn(2, 2, size, size, generator=torch.Generator().manual_seed(size))
        torch.testing.assert_close(layer(images), conv(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("sparsity", [0, 0.5, 0.9, 1])
def test_a_network_gives_the_logits_of_torch(tiny_resnet, tiny_mlp, images, sparsity, batch):
    for network in (tiny_resnet, tiny_mlp):
        model = set_zeros_(copy.deepcopy(network), sparsity)
        runner = build_sparse(model, images)
        expected = logits_of(model, images[:batch])
        np.testing.assert_allclose(runner(images[:batch]), expected, rtol=1e-3, atol=1e-4)


def test_the_runner_says_what_ran_and_ships_the_compressed_weights(tiny_resnet, images):
    model = set_zeros_(copy.deepcopy(tiny_resnet), 0.9)
    runner = build_sparse(model, images, threads=2)
    assert (runner.runtime, runner.threads) == ("PyTorch sparse CSR", 2)
    assert runner.kernel == "fp32, CSR"
    assert runner.remark == "10 of 10 layers ran sparse" + BY
    folded = sparse.decompress(runner.artefact)
    assert not any("running_mean" in name for name in folded)  # the batch norms are folded
    assert set(sparse.list_formats(runner.artefact)) >= {"block3.conv2.weight", "head.weight"}
    assert runner.size_bytes < build_sparse(tiny_resnet, images).size_bytes


def test_layers_with_few_zeros_can_stay_dense(tiny_mlp, images):
    model = copy.deepcopy(tiny_mlp)
    model.get_submodule("layers.1").weight.data[:, ::2] = 0
    runner = build_sparse(model, images, dense_below=0.5)
    assert runner.remark == f"1 of 3 layers ran sparse{BY}, the others dense in PyTorch"
    expected = logits_of(model, images)
    np.testing.assert_allclose(runner(images), expected, rtol=1e-4, atol=1e-5)


def test_the_model_is_not_changed(tiny_resnet, images):
    before = copy.deepcopy(tiny_resnet.state_dict())
    runner = build_sparse(tiny_resnet, images)
    first = runner(images)
    assert all(torch.equal(before[name], one) for name, one in tiny_resnet.state_dict().items())
    assert np.array_equal(runner(images), first)


def test_a_layer_that_is_used_twice_runs_sparse_both_times(images):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x)).flatten(1)

    model = set_zeros_(Twice(), 0.5)
    runner = build_sparse(model, images)
    assert runner.remark == "1 of 1 layers ran sparse" + BY
    np.testing.assert_allclose(runner(images), logits_of(model, images), rtol=1e-4, atol=1e-5)


def test_a_linear_layer_takes_any_number_of_dimensions():
    layer = set_zeros_(nn.Linear(6, 4), 0.5)
    for shape in ((6,), (1, 6), (3, 6), (2, 3, 6)):
        given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        found = sparse_kernel.SparseLinear(layer)(given)
        torch.testing.assert_close(found, layer(given), rtol=1e-4, atol=1e-5)
        assert found.is_contiguous()  # so that what comes next may view it


@pytest.mark.parametrize("options", [{"groups": 2}, {"padding": 1, "padding_mode": "reflect"}])
def test_a_convolution_that_the_kernel_cannot_run_is_named(options):
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3, **options))
    images = np.zeros((2, 2, 9, 9), np.float32)
    with pytest.raises(ValueError, match=r"Layer '1' has .* groups and padding_mode=.*dense_below"):
        build_sparse(model, images)
    assert build_sparse(model, images, dense_below=1).remark.startswith("0 of 2 layers")


def test_what_cannot_be_run_is_refused(tiny_mlp, images):
    with pytest.raises(ValueError, match="threads=0"):
        build_sparse(tiny_mlp, images, threads=0)
    with pytest.raises(ValueError, match="dense_below=2"):
        build_sparse(tiny_mlp, images, dense_below=2)
    with pytest.raises(ValueError, match="no convolution or linear layer"):
        build_sparse(nn.Sequential(nn.Flatten()), images)
    with pytest.raises(ValueError, match="1, 12, 13"):
        build_sparse(tiny_mlp, np.zeros((1, 1, 12, 13), np.float32))
    with pytest.raises(ValueError, match="1, 2, 2"):
        build_sparse(nn.Sequential(nn.Conv2d(1, 2, 5)), np.zeros((1, 1, 2, 2), np.float32))
    runner = build_sparse(tiny_mlp, images)
    with pytest.raises(ValueError, match="takes float32 images"):
        runner(images[:, :, :3])


def test_zeros_that_are_held_through_training_have_to_be_released(tiny_resnet, images):
    held = copy.deepcopy(tiny_resnet)
    nn.utils.parametrize.register_parametrization(held.block1.conv1, "weight", nn.Identity())
    with pytest.raises(ValueError, match=r"'block1\.conv1' holds its zeros.*prune\.release_zeros"):
        build_sparse(held, images)


def test_weights_that_are_not_finite_are_refused(tiny_mlp, images):
    model = copy.deepcopy(tiny_mlp)
    model.get_submodule("layers.2").weight.data[0, 0] = torch.nan
    model.get_submodule("layers.2").weight.data[:, 1:] = 0
    with pytest.raises(ValueError, match=r"Layer 'layers\.2'.*NaN"):
        build_sparse(model, images)


def test_channels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3, 8, 8"):
        build_sparse(models.ResNet8(width=4), np.zeros((1, 3, 8, 8), np.float32))
