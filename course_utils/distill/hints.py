"""Feature hints: the student's first half learns to say what the teacher's first half says.

After FitNets (Romero et al., 2015, arXiv 1412.6550): a projection turns the student's features into
as many channels as the teacher has there, and their distance is made small. Then the whole student
is trained on from there, with ``train_student``.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.distill.answers import Views, digest_weights, follow_views
from course_utils.training import Recipe, train


def read_features(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Return what a layer of a model makes of images, (batch, channels, height, width).

    Args:
        model: Takes the images.
        layer: The name of a layer or block in ``model.named_modules()``.
        images: (batch, 1, height, width) float32 in [0, 1].

    Raises:
        ValueError: The model has no such layer, or does not call it exactly once, or its output is
            no map of channels.
    """
    layers = dict(model.named_modules())
    if not layer or layer not in layers:
        named = ", ".join(name for name in layers if name and "." not in name)
        raise ValueError(f"The model has no layer {layer!r}; it has {named} and their parts.")
    found: list[Any] = []
    handle = layers[layer].register_forward_hook(lambda _, inputs, output: found.append(output))
    try:
        model(images)
    finally:
        handle.remove()
    if len(found) != 1 or not isinstance(found[0], Tensor) or found[0].ndim != 4:
        raise ValueError(
            f"Layer {layer!r} gives no hint: it was called {len(found)} times and has to be called"
            " once, with an output of shape (batch, channels, height, width)."
        )
    return found[0]


class Hinted(nn.Module):
    """A student up to a layer, and the projection of its features to the teacher's channels.

    Attributes:
        student: Trained in place.
        project: A 1x1 convolution.
    """

    def __init__(self, student: nn.Module, layer: str, like: Tensor, images: Tensor) -> None:
        """Find out the shapes.

        Args:
            student: Whose lower layers shall learn.
            layer: The last of them.
            like: Features of the teacher, (batch, channels, height, width).
            images: Some, (batch, 1, height, width), to see what the student makes of them.
        """
        super().__init__()
        self.student, self.layer = student, layer
        with torch.no_grad():
            channels = read_features(student, layer, images).shape[1]
        self.project = nn.Conv2d(channels, like.shape[1], 1)
        self.rows, self.columns = like.shape[2:]

    def forward(self, images: Tensor) -> Tensor:
        """Return features like the teacher's: (batch, its channels, its height, its width)."""
        features = read_features(self.student, self.layer, images)
        pooled = F.adaptive_avg_pool2d(features, (self.rows, self.columns))
        projected: Tensor = self.project(pooled)
        return projected


def train_hints(
    student: nn.Module,
    layer: str,
    teacher: nn.Module,
    teacher_layer: str,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    views: Views,
    **settings: Any,
) -> nn.Module:
    """Return a copy of the student whose layers up to one say what the teacher's say.

    The teacher runs in each step: its features would fill a disk, other than its answers. Where
    the maps differ in size, the student's are averaged over neighbours.

    Args:
        student: Not trained yet.
        layer: Of the student, e.g. the block in its middle.
        teacher: Trained.
        teacher_layer: Whose output is the hint.
        images: (n, 1, height, width) float32 in [0, 1].
        labels: (n,) int64; only their number counts here.
        recipe: Of this first stage, e.g. with few epochs.
        views: How images are varied, as later in ``train_student``.
        settings: The rest of ``training.train``.

    Raises:
        ValueError: As of ``read_features`` and ``training.train``.
        training.DivergedError: As of ``training.train``; its ``model`` is a ``Hinted``.
    """
    teacher = copy.deepcopy(teacher).eval()
    with torch.no_grad():
        like = read_features(teacher, teacher_layer, images[:1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        hinted = Hinted(copy.deepcopy(student).eval(), layer, like, images[:1])

    def loss_of(outputs: Tensor, epoch: int, rows: Tensor, batch: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = read_features(teacher, teacher_layer, batch).float()
        return F.mse_loss(outputs, wanted)

    aim = f"hints of {digest_weights(teacher)} at {teacher_layer}, to {layer}, {views}"
    teach: dict[str, Any] = {"draw": follow_views(images, views), "loss_of": loss_of, "aim": aim}
    trained = train(hinted, images, labels, recipe, **teach, **settings)
    taught: nn.Module = trained.get_submodule("student")
    return taught
