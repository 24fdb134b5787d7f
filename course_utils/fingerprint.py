"""A digest of everything that a measurement depends on, so that a cache knows when it is stale."""

import dataclasses
import dis
import functools
import hashlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from course_utils import verified
from course_utils.datasets import Dataset

PACKAGE = Path(__file__).parent
DOES_NOT_MEASURE = ("lab", "checks")
TORCHS_OWN = set(vars(nn.Module()))
PLAIN = str | int | float | complex | bool | bytes | Path | None


def of(*values: Any) -> str:
    """Return a digest (16 hexadecimal digits) of the values' content.

    A function counts with its code and with all that it refers to; a model with its structure,
    attributes and weights; this package with the source of what computes and measures. Of other
    libraries only the names count: their versions are part of the machine's description.

    Raises:
        TypeError: A value, or something that a function refers to, has no content to digest.
    """
    digest = _Digest()
    digest.add(values)
    return digest.sha256.hexdigest()[:16]


@functools.cache
def package_digest() -> str:
    """Return a digest of the package's source, without what only shows or checks."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] not in DOES_NOT_MEASURE:
            digest.update(path.read_bytes())
    return digest.hexdigest()


class _Digest:
    """Walks through a value and feeds its content, unambiguously, to SHA-256."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self._seen: dict[int, tuple[int, Any]] = {}  # kept alive, so that no id is used twice

    def text(self, text: str) -> None:
        self.sha256.update(f"{len(text)}:{text}".encode())

    def add(self, value: Any) -> None:
        self.text(type(value).__name__)
        if isinstance(value, PLAIN):
            self.text(repr(value))
        elif isinstance(value, list | tuple):
            self.text(str(len(value)))
            for item in value:
                self.add(item)
        elif isinstance(value, set | frozenset):
            self.add(sorted(map(of, value)))
        elif isinstance(value, Mapping):
            self.text(str(len(value)))
            for key, item in value.items():
                self.add((key, item))
        elif isinstance(value, np.ndarray | np.generic):
            self.text(f"{value.dtype}{value.shape}")
            self.sha256.update(value.tobytes())
        elif isinstance(value, torch.Tensor):
            self.text(f"{value.dtype}{tuple(value.shape)}")
            flat = value.detach().cpu().contiguous().reshape(-1)
            self.sha256.update(flat.view(torch.uint8).numpy().tobytes())
        elif isinstance(value, ModuleType):
            self._library(value.__name__)
        elif isinstance(value, Dataset):
            self.add((value.name, verified.published_digests()))
        elif id(value) in self._seen:  # functions and objects may refer to each other
            self.text(f"number {self._seen[id(value)][0]}")
        else:
            self._seen[id(value)] = len(self._seen), value
            self._object(value)

    def _object(self, value: Any) -> None:
        if isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, functools.partial):
            self.add((value.func, value.args, value.keywords))
        elif isinstance(value, MethodType):
            self.add((value.__func__, value.__self__))
        elif isinstance(value, property | staticmethod | classmethod):
            self.add([getattr(value, part, None) for part in ("__func__", "fget", "fset", "fdel")])
        elif hasattr(value, "__wrapped__"):  # functools.cache and its kind
            self.add(value.__wrapped__)
        elif isinstance(value, nn.Module):
            self._model(value)
        elif isinstance(value, type):
            self._class(value)
        elif dataclasses.is_dataclass(value):
            fields = [getattr(value, field.name) for field in dataclasses.fields(value)]
            self.add((type(value), fields))
        elif isinstance(value, BuiltinFunctionType | np.ufunc):
            self.text(value.__name__)
        elif hasattr(value, "__dict__"):
            self.add((type(value), vars(value)))
        else:
            raise TypeError(
                f"A {type(value).__name__} cannot be part of a cached measurement: its content is"
                " not known. Build it inside the function that you measure instead."
            )

    def _library(self, module: str) -> bool:
        """Note the name of a module; return whether it is this package's, noted with its source."""
        self.text(module)
        if module.split(".")[0] == PACKAGE.name:
            self.text(package_digest())
        return module.split(".")[0] == PACKAGE.name

    def _function(self, function: FunctionType) -> None:
        self._code(function.__code__)
        self.add((function.__defaults__, function.__kwdefaults__))
        is_ours = self._library(function.__module__ or "")
        file = Path(function.__code__.co_filename)
        if any(file.is_relative_to(prefix) for prefix in (sys.prefix, sys.base_prefix)):
            return
        self.add([cell.cell_contents for cell in function.__closure__ or ()])
        if is_ours:
            return
        for name in sorted(set(_names(function.__code__))):
            if name in function.__globals__:
                self.add((name, function.__globals__[name]))

    def _code(self, code: CodeType) -> None:
        self.sha256.update(code.co_code)
        self.add((code.co_names, code.co_varnames))
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._code(constant)
            else:
                self.add(constant)

    def _class(self, cls: type) -> None:
        self.text(cls.__qualname__)
        if self._library(cls.__module__) or cls.__module__ != "__main__":
            return
        self.add(cls.__bases__)  # written in the notebook: all of it may change
        for name, member in sorted(vars(cls).items()):
            if isinstance(member, FunctionType) or not name.startswith("__"):
                self.add((name, member))

    def _model(self, model: nn.Module) -> None:
        is_traced = hasattr(model, "code")
        self.text(getattr(model, "code", ""))  # the whole forward of a traced model
        for name, layer in model.named_modules():
            self.add((name, None if is_traced and not name else type(layer)))
            hooks = (layer._forward_pre_hooks, layer._forward_hooks)
            self.add([list(hook.values()) for hook in hooks])
            own = {key: v for key, v in vars(layer).items() if key not in TORCHS_OWN}
            self.add({key: v for key, v in own.items() if not (is_traced and key[0] == "_")})
        self.add((dict(model.named_parameters()), dict(model.named_buffers())))


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that a function's code, or code inside it, looks up."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):  # not those of attributes
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
