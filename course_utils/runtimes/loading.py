"""How a program of its own opens what a runtime ships, and calls it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LoadingCode:
    """Python code by stage, for ``measure.measure_loading`` and ``measure.measure_memory``.

    The stages share their variables. They run on one thread, in a folder that holds the files.

    Attributes:
        imports: Imports the runtime, and nothing that it does not need to run.
        load: Opens the files, so that calls can follow.
        call: Computes the logits of ``images``, (n, *image_shape) float32.
        unpack: Turns a runner's artefact into the files: content by name.
    """

    imports: str
    load: str
    call: str
    unpack: Callable[[bytes], Mapping[str, bytes]]
