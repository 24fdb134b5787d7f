"""PyTorch compiled: ``torch.compile`` writes C++ for the whole graph and compiles it here.

The first call with a batch of one size compiles, which takes seconds; later calls run what was
compiled (Ansel et al., 2024, "PyTorch 2", doi 10.1145/3620665.3640366).
"""

import contextlib
import copy
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from course_utils.runtimes.export import quiet
from course_utils.runtimes.runner import Runner
from course_utils.runtimes.torch_eager import (
    check_accepts,
    check_threads,
    pack_weights,
    use_threads,
)

NAME = "PyTorch compiled"


class NoCompilerError(RuntimeError):
    """There is no C++ compiler here that works, so ``torch.compile`` cannot be shown."""


def build_compiled(
    model: nn.Module,
    images: np.ndarray,
    *,
    batches: Sequence[int] = (1,),
    dynamic: bool | None = None,
    fresh: bool = False,
    threads: int = 1,
) -> Runner:
    """Return a runner that runs the model as compiled by PyTorch's Inductor, in float32.

    How long that took stands in the runner's ``first_call_s``, by size of the batch. Another size
    is compiled when it comes: its first call takes seconds too, and is added there. What is
    compiled first in a process takes some seconds more, since the compiler is loaded with it.

    Args:
        model: Takes float32 images and returns logits; it is copied.
        images: A batch (n, ...) of the images that it takes.
        batches: The sizes of batches to compile for now, in this order.
        dynamic: As in ``torch.compile``. None: the first size above 1 gets code of its own, the
            second one code for any size. False: each size gets its own, eight at most.
        fresh: Compile all of it now, as on a machine that never saw this model. Otherwise what
            PyTorch keeps in its cache, in the folder for temporary files, is used again.
        threads: How many threads share one call; the compiled code holds this number.

    Raises:
        ValueError: The model does not accept these images, or is not compiled as one graph.
        NoCompilerError: There is no C++ compiler here, or it does not work; the message says what
            to do.
    """
    check_threads(threads)
    if min(batches, default=0) < 1:
        raise ValueError(f"Give at least one batch, of at least one image, not {tuple(batches)}.")
    model = copy.deepcopy(model).eval()
    with torch.inference_mode():
        check_accepts(lambda batch: model(torch.from_numpy(batch)).numpy(), images)
    compiled = torch.compile(  # type: ignore[call-overload]
        model, fullgraph=True, dynamic=dynamic, isolate_recompiles=True
    )
    first_call_s: dict[int, float] = {}

    def call(batch: np.ndarray) -> np.ndarray:
        with use_threads(threads), torch.inference_mode():
            logits: np.ndarray = compiled(torch.from_numpy(batch)).numpy()
        return logits

    def run(batch: np.ndarray) -> np.ndarray:
        if len(batch) in first_call_s:
            return call(batch)
        with _explained(), _kept_for_this_processor():
            start = time.perf_counter()
            logits = call(batch)
        first_call_s.setdefault(len(batch), time.perf_counter() - start)
        return logits

    with quiet():
        from torch._inductor import compile_fx, utils  # noqa: F401 - loads the compiler

        found_before = _count_found()
        with utils.fresh_cache() if fresh else contextlib.nullcontext():
            for size in batches:
                run(np.resize(images, (size, *images.shape[1:])))
    told = ", ".join(f"{first_call_s[size]:.1f} s for batches of {size}" for size in first_call_s)
    found = " (found in PyTorch's cache)" if _count_found() > found_before else ""
    remark = f"compiled in {told}{found}"
    return Runner(
        run, NAME, "fp32", remark, pack_weights(model), images.shape[1:],
        threads=threads, first_call_s=first_call_s,
    )  # fmt: skip


def _count_found() -> int:
    """Return how many graphs PyTorch has found in its cache, so that they were not compiled."""
    from torch._dynamo.utils import counters

    return int(counters["inductor"]["fxgraph_cache_hit"])


@contextlib.contextmanager
def _kept_for_this_processor() -> Iterator[None]:
    """Let PyTorch's cache tell apart what was compiled for processors of other instructions.

    Its key does not name them: code for AVX-512, found and built for AVX2, gives wrong logits. A
    cache gets there when a container or the disk of a machine moves to another processor.
    """
    config: Any = torch.compiler.config
    instructions = torch.backends.cpu.get_cpu_capability()
    with config.patch(cache_key_tag=f"{config.cache_key_tag} {instructions}".strip()):
        yield


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn the compiler's long stories into what a learner can act on."""
    try:
        yield
    except Exception as error:  # Dynamo and Inductor have many classes of their own
        from torch._inductor import exc

        causes = list(_causes(error))
        if any(isinstance(cause, exc.InvalidCxxCompiler | exc.CppCompileError) for cause in causes):
            raise NoCompilerError(_why_no_compiler(causes)) from None
        raise ValueError(
            "torch.compile cannot make one graph of this model. Does its forward branch on the"
            " values of tensors, or were batches of too many sizes compiled? It says:"
            f" {_first_line(str(error))}."
        ) from None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what lies behind it; Inductor keeps that in ``inner_exception``."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = getattr(seen, "inner_exception", None) or seen.__cause__


def _why_no_compiler(causes: list[BaseException]) -> str:
    stories = [str(cause) for cause in causes]
    lines = [line.strip() for story in stories for line in story.splitlines() if "error:" in line]
    return (
        "torch.compile writes C++ and needs a compiler for it, which this machine does not have,"
        " or which does not work. Install one, then restart this kernel: `sudo apt install g++"
        " python3-dev` (Debian, Ubuntu), `xcode-select --install` (macOS), the Build Tools of"
        f" Visual Studio (Windows). PyTorch says: {(lines or [_first_line(stories[-1])])[0][:300]}"
    )


def _first_line(story: str) -> str:
    return next((line.strip(" .") for line in story.splitlines() if line.strip()), "no more")
