"""Memory: what an inference needs, measured; what a training step holds, counted to the byte.

An inference needs its model and, for a moment, the activations that are still to be read.
Training keeps nearly all of them for the backward pass, and a gradient and the optimizer's
state for each parameter.
"""

import copy
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from course_utils import calibrate
from course_utils.measure.fresh_process import Stages
from course_utils.measure.loading import check_loads, load_in_fresh_processes
from course_utils.measure.measurement import Measurement
from course_utils.runtimes.runner import Runner


@dataclass(frozen=True)
class InferenceMemory:
    """What an inference adds to a process, in bytes.

    Attributes:
        model: What the loaded model holds, with what its runtime needs to have it open.
        first_call: The peak of the first call above that.
        later_calls: The peak of later calls above that. It can be twice as much: ONNX Runtime
            learns in the first call how to place all activations in one block, asks for that
            block in the second, and keeps what it has.
    """

    model: Measurement
    first_call: Measurement
    later_calls: Measurement


def measure_memory(runner: Runner, images: np.ndarray, repeats: int = 1) -> InferenceMemory:
    """Measure how much memory a runner's model needs for a batch, in fresh processes.

    They have only NumPy and the runtime, on one thread. The images themselves are not counted.
    Some 0.5 MiB of a call are the kernels' own code, which is read from disk when it first runs.
    Where the system's allocator is not glibc's, memory freed while loading serves the call: a
    small batch seems to need less than it does. Pages of a file that a runtime maps into memory
    count once they are read.

    Args:
        runner: Of a runtime in ``loading.LOADING``; its artefact is what is loaded.
        images: The batch (n, *image_shape) float32.
        repeats: How many processes; each takes about 0.4 s, of ExecuTorch 2 s.

    Raises:
        ValueError: The runner belongs to another runtime, or does not take these images.
    """
    check_loads(runner, images, repeats)
    runs = [load_in_fresh_processes(runner, images, 1) for _ in range(repeats)]

    def summarize(grown: Callable[[Stages], float]) -> Measurement:
        low, median, high = map(float, np.percentile([grown(run) for run in runs], [0, 50, 100]))
        last = runs[-1]["first call"].peak
        return Measurement(median, "bytes", low, high, repeats, last.provenance, note=last.note)

    def above_model(run: Stages, stage: str) -> float:
        return run[stage].peak.value - run["give back"].resident.value

    return InferenceMemory(
        summarize(lambda run: run["give back"].resident.value - run["images"].resident.value),
        summarize(lambda run: above_model(run, "first call")),
        summarize(lambda run: above_model(run, "later calls")),
    )


def count_training_bytes(
    model: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
) -> dict[str, int]:
    """Count the bytes of all tensors that one step of training has to keep, on a copy.

    Not counted is what an operation needs only while it runs, and so the gradients of
    activations during the backward pass.

    Args:
        model: Returns logits; it is copied and put into training mode.
        images: (n, ...) float32.
        labels: (n,) integers.
        make_optimizer: Makes one for parameters, e.g. ``torch.optim.Adam``.

    Returns:
        Bytes of parameters, buffers, gradients, optimizer state, and of what is saved for the
        backward pass: activations, images, labels and the batch norms' statistics. Tensors that
        share memory are counted once.

    Raises:
        ValueError: The model does not take these images and labels, or has nothing to train.
    """
    model = copy.deepcopy(model).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("No parameter of this model is trained: none requires a gradient.")
    saved: list[Tensor] = []

    def save(tensor: Tensor) -> Tensor:
        saved.append(tensor.detach())  # the tensor itself would hold on to its own graph
        return saved[-1]

    optimizer = make_optimizer(trained)
    with torch.random.fork_rng(devices=[]):  # dropout draws
        try:
            with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
                logits = model(torch.from_numpy(images))
                loss = F.cross_entropy(logits, torch.from_numpy(labels).long())
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(
                f"The model cannot be trained on images of shape {images.shape} with labels of"
                f" shape {labels.shape}: {error}"
            ) from None
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    state = tree_leaves(list(optimizer.state.values()))
    return {
        **_count_model_bytes(model),
        "gradients": _count_bytes(value.grad for value in trained if value.grad is not None),
        "optimizer state": _count_bytes(value for value in state if isinstance(value, Tensor)),
        "saved for backward": _count_bytes(saved, without=_tensors_of(model)),
    }


def count_inference_bytes(model: nn.Module, images: np.ndarray) -> dict[str, int]:
    """Count the bytes of all tensors alive at once, at most, while PyTorch runs a batch.

    Not counted is the scratch memory that a kernel takes and gives back while it runs.

    Args:
        model: It is copied and put into evaluation mode.
        images: (n, ...) float32; they count as activations, as they do in training.

    Returns:
        Bytes of parameters, buffers, and of the activations at their peak.

    Raises:
        ValueError: The model does not take these images.
    """
    model = copy.deepcopy(model).eval()
    batch = torch.from_numpy(images)
    with torch.no_grad(), _LiveActivations(batch, _tensors_of(model)) as activations:
        try:
            model(batch)
        except RuntimeError as error:
            raise calibrate.refuse_images(images, error) from None
    return {**_count_model_bytes(model), "activations at their peak": activations.peak_bytes}


class _LiveActivations(TorchDispatchMode):
    """Watches every operation: which memory of its results is still in use?"""

    def __init__(self, images: Tensor, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        # The bytes of each storage, until PyTorch frees it.
        self._live: MutableMapping[torch.UntypedStorage, int] = WeakIdKeyDictionary()
        self.peak_bytes = 0
        self._add(images)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        results = operation(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor):
                self._add(result)
        return results

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._live[storage] = storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, sum(self._live.values()))


def _tensors_of(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _count_model_bytes(model: nn.Module) -> dict[str, int]:
    return {
        "parameters": _count_bytes(model.parameters()),
        "buffers": _count_bytes(model.buffers(), without=model.parameters()),
    }


def _count_bytes(tensors: Iterable[Tensor], without: Iterable[Tensor] = ()) -> int:
    """Return the bytes of memory behind tensors, each once, and none that others stand for."""
    counted = {tensor.untyped_storage().data_ptr() for tensor in without}
    total = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in counted:
            counted.add(storage.data_ptr())
            total += storage.nbytes()
    return total
