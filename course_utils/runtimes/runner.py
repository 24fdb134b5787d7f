"""What every runtime returns: something that runs, and knows what it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Runner:
    """A model ready to run: call it with images, get logits.

    Attributes:
        run: Images (n, *image_shape) float32 -> logits (n, classes) float32.
        runtime: Who runs it, e.g. "ONNX Runtime".
        kernel: Which arithmetic runs, in a few words, e.g. "int8 (U8S8)".
        remark: What a reader should know about the kernel; may be empty.
        artefact: The bytes that would be shipped to run this model elsewhere.
        image_shape: Shape of one input image.
        operators: How often each operator stands in the graph that really runs, after all of
            the runtime's optimisations on this machine; empty where the runtime does not tell.
        threads: How many threads share one call.
        first_call_s: Seconds that the first call took with each size of batch, where it compiles;
            each new size is added when it comes. Empty where nothing is compiled in a call.
    """

    run: Callable[[np.ndarray], np.ndarray]
    runtime: str
    kernel: str
    remark: str
    artefact: bytes
    image_shape: tuple[int, ...]
    operators: Mapping[str, int] = field(default_factory=dict)
    threads: int = 1
    first_call_s: Mapping[int, float] = field(default_factory=dict)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the logits of a batch.

        Raises:
            ValueError: The images have another shape or type than the model takes.
        """
        if images.shape[1:] != self.image_shape or images.dtype != np.float32:
            wanted = ", ".join(map(str, self.image_shape))
            raise ValueError(
                f"This model takes float32 images of shape (n, {wanted}); it was given"
                f" {images.dtype} of shape {images.shape}."
            )
        return self.run(images)

    @property
    def size_bytes(self) -> int:
        """Length of the artefact."""
        return len(self.artefact)
