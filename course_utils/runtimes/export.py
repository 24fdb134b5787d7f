"""From a PyTorch model to an ONNX graph, and from there to the bytes that ship."""

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import fx, nn

from course_utils import calibrate, fingerprint, folders, machine
from course_utils.quantize import QuantizedTensor, pack_bits, unpack_bits

# What differs between a layer and one with more channels of the same kind.
WIDTHS = ("in_channels", "out_channels", "in_features", "out_features", "num_features")
Level = Literal["none", "basic", "extended", "all"]  # how far a graph may be changed when it loads
LEVELS: Mapping[Level, onnxruntime.GraphOptimizationLevel] = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_EXPORTED: dict[str, onnx.ModelProto] = {}
MOST_EXPORTED, LARGEST_EXPORTED = 4, 2**25  # how many graphs are kept, and of how many bytes


def export_onnx(model: nn.Module, images: np.ndarray) -> onnx.ModelProto:
    """Return the model as an ONNX graph from "images" to "logits", with any batch size.

    An export takes seconds. A model that ``torch.fx`` can trace is exported once for each structure
    and kept, in memory and in the cache folder; later its weights are put into that graph, be they
    of as many channels or of fewer, and the graph is used if it computes what the model does.

    Args:
        model: Takes float32 images and returns logits.
        images: A batch (n, ...) of the images that it takes; only its shape is used.

    Raises:
        ValueError: The model does not accept these images, or cannot be exported.
    """
    model = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(2, *images.shape[1:], generator=generator)
    try:
        with torch.inference_mode():
            logits = model(example)
    except RuntimeError as error:
        raise calibrate.refuse_images(images, error) from None
    if not isinstance(logits, torch.Tensor) or not torch.isfinite(logits).all():
        raise ValueError("The model does not return one tensor of finite logits.")
    structure = _structure(model, example)
    kept = None if structure is None else _recall(structure)
    if kept is not None:
        graph = _with_weights(kept, model)
        if _computes(graph, example.numpy(), logits.numpy()):
            return graph
    try:
        with quiet():
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    except Exception as error:  # the exporter has many classes of its own, and long stories
        raise ValueError(
            f"The model cannot be exported: {type(error).__name__}. Does its forward branch on the"
            " values of tensors, or use something that ONNX does not have?"
        ) from None
    if program is None:
        raise ValueError("torch.onnx.export returned nothing: the model cannot be exported.")
    graph = without_notes(program.model_proto)
    if not _computes(graph, example.numpy(), logits.numpy()):
        raise ValueError("The exported graph does not compute what the model computes.")
    stored = {initializer.name for initializer in graph.graph.initializer}
    is_whole = stored >= set(model.state_dict())  # no weight was optimised away
    if structure is not None and is_whole and graph.ByteSize() <= LARGEST_EXPORTED:
        _remember(structure, graph)
        _write(structure, graph)
    return graph


def _remember(structure: str, graph: onnx.ModelProto) -> None:
    while len(_EXPORTED) >= MOST_EXPORTED:
        del _EXPORTED[next(iter(_EXPORTED))]  # the oldest
    _EXPORTED[structure] = graph


def _recall(structure: str) -> onnx.ModelProto | None:
    """Return the graph of this structure from memory or from the cache folder, if it is there."""
    if structure not in _EXPORTED:
        try:
            _remember(structure, onnx.load_from_string(_file_of(structure).read_bytes()))
        except Exception:  # it is not there, or it is damaged: the model is exported again
            return None
    return _EXPORTED[structure]


def _write(structure: str, graph: onnx.ModelProto) -> None:
    """Keep the graph in the cache folder, all of it or nothing; a full disk only costs time."""
    with contextlib.suppress(OSError):
        file = _file_of(structure)
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as unfinished:
            unfinished.write(graph.SerializeToString())
        Path(unfinished.name).replace(file)


def _file_of(structure: str) -> Path:
    digest = fingerprint.of(structure, fingerprint.package_digest(), machine.describe().versions)
    return folders.cache_folder() / f"{digest}.onnx"


def without_notes(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without what the exporter noted for debugging: a file ships without it."""
    bare = onnx.ModelProto()
    bare.CopyFrom(graph)
    del bare.graph.value_info[:]
    for item in [bare, bare.graph, *bare.graph.node, *bare.graph.input, *bare.graph.output]:
        del item.metadata_props[:]
        item.ClearField("doc_string")
    return bare


def pack(graph: onnx.ModelProto, weights: Mapping[str, QuantizedTensor]) -> bytes:
    """Return the ONNX file with the given weights packed bit by bit, ready to ship.

    No runtime reads packed weights of, say, five bits, so a loader has to ``unpack`` them.
    Weights of eight bits are stored as they are.

    Args:
        graph: Holds each weight as a float initializer of its name, or as an int8 one of its
            name with "_quantized" behind it (what ``onnxruntime.quantization`` writes), maybe
            times a power of two (see ``quantize.spread_integers``).
        weights: Integers of at most 16 bits by parameter name.

    Raises:
        ValueError: The graph has no such weight.
    """
    packed = onnx.ModelProto()
    packed.CopyFrom(graph)
    found = {initializer.name: initializer for initializer in packed.graph.initializer}
    for name, weight in weights.items():
        stored = found.get(f"{name}_quantized", found.get(name))
        if stored is None:
            raise ValueError(f"The exported graph has no weight {name!r}; it has {sorted(found)}.")
        if weight.bits == 8 and stored.data_type == onnx.TensorProto.INT8:
            continue
        integers = weight.integers.numpy()
        if stored.data_type == onnx.TensorProto.INT8:
            spread = numpy_helper.to_array(stored)
            factor = max(int(np.abs(spread).max() // max(np.abs(integers).max(), 1)), 1)
            if factor > 1:
                stored.metadata_props.add(key="factor", value=str(factor))
        stored.raw_data = pack_bits(integers, weight.bits)
        stored.metadata_props.add(key="bits", value=str(weight.bits))
        if stored.data_type == onnx.TensorProto.FLOAT:
            scale = numpy_helper.from_array(weight.scale.numpy(), f"{name}_scale")
            packed.graph.initializer.append(scale)
    content: bytes = packed.SerializeToString()
    return content


def unpack(content: bytes) -> onnx.ModelProto:
    """Return the ONNX graph that a runtime can load from what ``pack`` wrote."""
    graph = onnx.load_from_string(content)
    found = {initializer.name: initializer for initializer in graph.graph.initializer}
    for name, stored in found.items():
        notes = {note.key: int(note.value) for note in stored.metadata_props}
        bits = notes.get("bits")
        if bits is None:
            continue
        count = int(np.prod(stored.dims))
        integers = unpack_bits(stored.raw_data, bits, count).reshape(stored.dims)
        del stored.metadata_props[:]
        if stored.data_type == onnx.TensorProto.INT8:
            stored.raw_data = (integers * notes.get("factor", 1)).astype(np.int8).tobytes()
        else:
            scale = found[f"{name}_scale"]
            stored.raw_data = (numpy_helper.to_array(scale) * integers.astype(np.float32)).tobytes()
            graph.graph.initializer.remove(scale)
    return graph


def _structure(model: nn.Module, example: torch.Tensor) -> str | None:
    """Return all that determines a model's graph, but for its weights and how many there are."""
    try:
        traced = fx.symbolic_trace(copy.deepcopy(model))
    except Exception:  # a forward that branches on values, for instance: export it each time
        return None
    for layer in traced.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1:
            layer.groups = -1  # depthwise, whatever its width
        vars(layer).update({width: 0 for width in WIDTHS if width in vars(layer)})
    names = [(name, value.ndim) for name, value in model.state_dict().items()]
    return f"{traced.code}{traced}{names}{tuple(example.shape)}"


def _with_weights(graph: onnx.ModelProto, model: nn.Module) -> onnx.ModelProto:
    patched = onnx.ModelProto()
    patched.CopyFrom(graph)
    weights = model.state_dict()
    for initializer in patched.graph.initializer:
        if initializer.name in weights:
            weight = weights[initializer.name].contiguous().numpy()
            initializer.dims[:] = weight.shape
            initializer.raw_data = weight.tobytes()
    for node in patched.graph.node:
        for attribute in node.attribute:
            is_grouped = node.op_type == "Conv" and attribute.name == "group" and attribute.i > 1
            if is_grouped and node.input[1] in weights:
                filters, inputs = weights[node.input[1]].shape[:2]
                if inputs == 1:  # depthwise: as many groups as channels
                    attribute.i = filters
    return patched


def _computes(graph: onnx.ModelProto, images: np.ndarray, logits: np.ndarray) -> bool:
    try:
        computed = open_session(graph).run(None, {"images": images})[0]
    except Exception:  # a kept graph that is damaged, or not one of this model
        return False
    if computed.shape != logits.shape:
        return False
    return np.allclose(computed, logits, rtol=1e-3, atol=1e-3 * float(np.abs(logits).max()))


def open_session(
    graph: onnx.ModelProto | bytes,
    *,
    threads: int = 1,
    optimise: bool | Level = True,
    optimised_file: Path | None = None,
    profile: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Return a session whose threads sleep while they wait, so that they disturb no timing.

    Raises:
        ValueError: There is no such level of ``optimise``.
    """
    level = find_level(optimise)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.graph_optimization_level = LEVELS[level]
    if optimised_file is not None:
        options.optimized_model_filepath = str(optimised_file)
        options.add_session_config_entry(  # its weights are not wanted
            "session.optimized_model_external_initializers_file_name", "weights"
        )
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    content = graph if isinstance(graph, bytes) else graph.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def find_level(optimise: bool | Level) -> Level:
    """Return the level that is meant: True is "all", False is "none".

    Raises:
        ValueError: There is no such level.
    """
    level: Level = ("all" if optimise else "none") if isinstance(optimise, bool) else optimise
    if level not in LEVELS:
        raise ValueError(f"A graph is optimised at one of {list(LEVELS)}, not at {optimise!r}.")
    return level


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' progress lines and advice to their developers off the page."""
    logging.disable(logging.WARNING)
    try:
        said = io.StringIO()
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
