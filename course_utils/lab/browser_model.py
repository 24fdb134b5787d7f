"""The learner's model in the learner's own browser: on test images, and on what they draw.

The page gets the ONNX files, the images and ONNX Runtime as WebAssembly once, through the
connection that the notebook has anyway. From then on it computes by itself. Python hears of the
image picked, the times measured and the classes counted, not of what was drawn.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from course_utils import plots, web_runtime
from course_utils.lab import page
from course_utils.lab.readouts import format_size

if TYPE_CHECKING:  # a widget only shows: it needs the types of what runs, not torch
    from course_utils.datasets import Split
    from course_utils.runtimes import Runner

MOST_MODELS = 2
COLUMNS = 6  # of the static twin


@dataclass(frozen=True)
class Agreement:
    """On how many images the page and Python give the same class.

    Attributes:
        name: Of the model.
        count: How many images were counted in the page; 0 if none yet.
        differing: The numbers of the images on which they differ.
    """

    name: str
    count: int
    differing: tuple[int, ...]

    @property
    def share(self) -> float:
        """The share of equal classes; not a number if nothing was counted."""
        return 1 - len(self.differing) / self.count if self.count else float("nan")

    def __str__(self) -> str:
        if not self.count:
            return f"{self.name}: nothing counted yet; press “Count …” in the page"
        same = self.count - len(self.differing)
        of_all = f"{same} of {self.count} images ({100 * self.share:.1f} %)"
        return f"{self.name}: the same class for {of_all}"


class BrowserModel(anywidget.AnyWidget):
    """One or two networks in the page, beside each other.

    Choose an image from Python with ``choose``; read what Python says with ``answers_of`` and what
    the page measured with ``times`` and ``compare``.
    """

    _esm = page.read("dom.js", "browser_runtime.js", "browser_drawing.js", "browser_model.js")
    _css = page.read("panel.css", "browser_model.css")

    spec = traitlets.Dict().tag(sync=True)  # all words, and the shape of the images
    picture = traitlets.Bytes().tag(sync=True)  # the static twin, for a page that cannot compute
    chosen = traitlets.Int(0).tag(sync=True)  # number of the image picked
    times = traitlets.Dict().tag(sync=True)  # from the page: of each model, in milliseconds
    answers = traitlets.Dict().tag(sync=True)  # from the page: {"run": n, "of": {name: classes}}
    told = traitlets.Dict().tag(sync=True)  # what Python says to these: {"run": n, "text": words}

    def __init__(
        self,
        models: Mapping[str, Runner],
        images: Split,
        classes: Sequence[str],
        *,
        name: str = "Your model in your browser",
        count: int = 500,
        strip: int = 12,
    ) -> None:
        """Show models to a page.

        Args:
            models: One or two by name, whose artefacts are ONNX files.
            images: To pick from and to count on, grey; the first ``count`` of them.
            classes: Name of each label.
            name: Heading of the widget.
            count: How many images the page gets.
            strip: How many of them are shown at once.

        Raises:
            ValueError: There are more models or none, one of them is no ONNX file or takes other
                images or other classes, or the images are none that bytes can hold.
        """
        if not 1 <= len(models) <= MOST_MODELS:
            raise ValueError(f"The page shows one or {MOST_MODELS} models, not {len(models)}.")
        self._models = dict(models)
        self._images = images.first(min(count, len(images)))
        self._bytes = _to_bytes(self._images)
        for key, runner in self._models.items():
            _check_model(key, runner, self._images, len(classes))
        self._files = [_read_onnx(key, runner) for key, runner in self._models.items()]
        self._name, self._classes = name, tuple(classes)
        self._strip = min(strip, len(self._images))
        self._in_python: dict[str, np.ndarray] = {}  # class of each image
        missing = web_runtime.why_missing()
        super().__init__(spec=self._make_spec(missing), picture=self.to_png())
        self.observe(self._tell_agreement, "answers")
        self.on_msg(self._receive)

    def choose(self, number: int) -> None:
        """Show an image of the strip; the first has number 0.

        Raises:
            ValueError: The page has no such image.
        """
        if not 0 <= number < len(self._images):
            raise ValueError(f"The page has images 0 to {len(self._images) - 1}, not {number}.")
        self.chosen = number

    def answers_of(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the probabilities (n, classes) that each model gives in Python."""
        return {name: _softmax(run(images)) for name, run in self._models.items()}

    def compare(self, name: str, runner: Runner | None = None) -> Agreement:
        """Return on how many images the page's model and one in Python give the same class.

        Args:
            name: The model in the page.
            runner: What runs in Python; None: the same file.

        Raises:
            ValueError: There is no such model.
        """
        if name not in self._models:
            raise ValueError(f"There is no model {name!r} in the page; choose {[*self._models]}.")
        in_page = self.answers.get("of", {}).get(name)
        if in_page is None:
            return Agreement(name, 0, ())
        if runner is None and name not in self._in_python:  # computed when it is first needed
            self._in_python[name] = _classify(self._models[name], self._images)
        here = self._in_python[name] if runner is None else _classify(runner, self._images)
        differing = np.flatnonzero(np.asarray(in_page) != here)
        return Agreement(name, len(here), tuple(int(n) for n in differing))

    def to_png(self) -> bytes:
        """Return the static twin: the first images, their labels, and what Python says to them."""
        rows, lines = -(-self._strip // COLUMNS), len(self._models)
        side, step = 1.0, 1.3 + 0.17 * lines  # of an image, and from one row to the next, in inches
        figure = Figure(figsize=(1.5 * COLUMNS, step * rows))
        FigureCanvasAgg(figure)
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        for n in range(self._strip):
            left, top = 1.5 * (n % COLUMNS) + 0.25, step * (n // COLUMNS) + 0.25
            extent = (left, left + side, top + side, top)
            ax.imshow(self._images.images[n, 0], cmap="gray", vmin=0, vmax=1, extent=extent)
            middle = left + side / 2
            label = self._classes[self._images.labels[n]]
            ax.text(middle, top - 0.05, label, ha="center", fontsize=9, fontweight="bold")
            words = [
                f"{key}: {self._top(shares[n])}" for key, shares in self._first_answers.items()
            ]
            ax.text(middle, top + side + 0.04, "\n".join(words), ha="center", va="top", fontsize=8)
        ax.set(xlim=(0, 1.5 * COLUMNS), ylim=(step * rows, 0), aspect="auto")
        return plots.figure_png(figure)

    def alt(self) -> str:
        """Return the widget in one sentence."""
        labels = self._images.labels[: self._strip]
        right = [
            f"{key} names {int((shares.argmax(1) == labels).sum())} of them rightly"
            for key, shares in self._first_answers.items()
        ]
        return f"{self._name}: the first {self._strip} images; {', '.join(right)}, in Python."

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        bundle = super()._repr_mimebundle_(**options)
        if bundle is None:
            return None
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        words = " ".join(filter(None, [self.alt(), self.spec["missing"]]))
        picture = base64.b64encode(self.picture).decode()
        return {**data, "image/png": picture, "text/plain": words}, dict(metadata or {})

    @functools.cached_property
    def _first_answers(self) -> dict[str, np.ndarray]:
        return self.answers_of(self._images.images[: self._strip])

    def _top(self, shares: np.ndarray) -> str:
        return f"{self._classes[shares.argmax()]} {100 * shares.max():.0f} %"

    def _receive(self, _: Any, content: dict[str, Any], __: Any) -> None:
        """Send the files when a page asks: as a message, which no notebook file keeps."""
        if content.get("do") != "load":
            return
        files = [self._bytes, *self._files]
        try:
            if content.get("runtime"):
                files += web_runtime.load()
        except web_runtime.NotInstalledError as error:
            self.send({"do": "files", "error": str(error)})
            return
        self.send({"do": "files", "models": len(self._files)}, buffers=files)

    def _tell_agreement(self, change: dict[str, Any]) -> None:
        try:
            found = [self.compare(name) for name in change["new"].get("of", {})]
            text = f"Compared with Python on the same files: {'; '.join(map(str, found))}."
        except Exception as error:  # a callback's exception would vanish: the page must say it
            text = f"Python could not compare: {error}"
        self.told = {"run": change["new"].get("run"), "text": text}

    def _make_spec(self, missing: str) -> dict[str, Any]:
        _, height, width = self._images.images.shape[1:]
        return {
            "name": self._name,
            "version": web_runtime.VERSION,
            "missing": missing,
            "alt": self.alt(),
            "models": [
                {"name": name, "size": format_size(run.size_bytes)}
                for name, run in self._models.items()
            ],
            "classes": self._classes,
            "labels": self._images.labels.tolist(),
            "height": height,
            "width": width,
            "strip": self._strip,
            "note": f"measured here: ONNX Runtime {web_runtime.VERSION} as WebAssembly, one thread,"
            " one image a call · Python hears which image you pick, how long it took and what was"
            " counted, but not what you draw",
        }


def _to_bytes(images: Split) -> bytes:
    """Return grey images as bytes; the page divides them by 255."""
    shape = images.images.shape
    pixels = np.round(255 * images.images)
    is_held = len(shape) == 4 and shape[1] == 1 and np.isfinite(pixels).all()
    if not is_held or not np.allclose(np.clip(pixels, 0, 255) / 255, images.images, atol=1e-6):
        raise ValueError(
            "The page shows grey images (n, 1, height, width) whose pixels are whole 255ths from 0"
            f" to 1, as a camera gives them; these are {shape}."
        )
    return pixels.astype(np.uint8).tobytes()


def _check_model(name: str, runner: Runner, images: Split, classes: int) -> None:
    """Raise ``ValueError`` if a model does not fit the images and their classes."""
    try:
        logits = runner(images.images[:1])
    except ValueError as error:
        raise ValueError(f"The model {name!r} does not take these images: {error}") from None
    if logits.shape[1] != classes or images.labels.max() >= classes:
        raise ValueError(
            f"The model {name!r} knows {logits.shape[1]} classes, and the labels go up to"
            f" {images.labels.max()}; {classes} names were given."
        )


def _read_onnx(name: str, runner: Runner) -> bytes:
    """Return the ONNX file of a runner, its weights unpacked, as the page can load it."""
    from course_utils.runtimes.export import unpack  # here: whoever shows a panel needs no torch

    try:
        graph = unpack(runner.artefact)
        is_onnx = len(graph.graph.input) == len(graph.graph.output) == 1
    except Exception:  # protobuf has classes of its own
        is_onnx = False
    if not is_onnx:
        raise ValueError(
            f"The artefact of {name!r} ({runner.runtime}) is no ONNX file with one input and one"
            " output, which the page needs: make it with runtimes.build."
        )
    content: bytes = graph.SerializeToString()
    return content


def _classify(runner: Runner, images: Split, batch: int = 50) -> np.ndarray:
    parts = range(0, len(images), batch)
    logits = [runner(images.images[start : start + batch]) for start in parts]
    classes: np.ndarray = np.concatenate(logits).argmax(1)
    return classes


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(1, keepdims=True)
    return shares
