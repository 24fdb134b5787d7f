"""A digest of everything that a measurement depends on, so that a cache knows when it is stale."""

import dataclasses
import hashlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from course_utils import verified
from course_utils.datasets import Dataset

PACKAGE = Path(__file__).parent
DOES_NOT_MEASURE = ("lab", "checks")


def of(*values: Any) -> str:
    """Return a digest (16 hexadecimal digits) of the values' content.

    A function counts with its code and with all that it refers to; a model with its structure
    and weights; this package with the source of what computes and measures.

    Raises:
        TypeError: A value, or something that a function refers to, has no content to digest.
    """
    digest = hashlib.sha256()
    _add(digest, values, set())
    return digest.hexdigest()[:16]


def _add(digest: Any, value: Any, seen: set[int]) -> None:
    digest.update(type(value).__name__.encode())
    if value is None or isinstance(value, str | int | float | bool | bytes | Path):
        digest.update(repr(value).encode())
    elif isinstance(value, list | tuple | set | frozenset):
        for item in sorted(value, key=repr) if isinstance(value, set | frozenset) else value:
            _add(digest, item, seen)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _add(digest, (key, item), seen)
    elif isinstance(value, np.ndarray | np.generic):
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, torch.Tensor):
        _add(digest, value.detach().cpu().numpy(), seen)
    elif isinstance(value, nn.Module):
        digest.update(f"{value}{getattr(value, 'code', '')}".encode())
        _add(digest, dict(value.state_dict()), seen)
        _add_class(digest, type(value))
    elif isinstance(value, Dataset):
        _add(digest, (value.name, verified.published_digests()), seen)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _add(digest, {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, seen)
    elif isinstance(value, ModuleType):
        _add_module(digest, value)
    elif isinstance(value, type):
        _add_class(digest, value)
    elif isinstance(value, FunctionType):
        if id(value) not in seen:  # a function may refer to itself
            seen.add(id(value))
            _add_function(digest, value, seen)
    elif callable(value) and getattr(value, "__module__", None):
        digest.update(f"{value.__module__}.{getattr(value, '__qualname__', '')}".encode())
    else:
        raise TypeError(
            f"A {type(value).__name__} cannot be part of a cached measurement: its content is not"
            " known. Build it inside the function that you measure instead."
        )


def _add_function(digest: Any, function: FunctionType, seen: set[int]) -> None:
    if function.__module__.split(".")[0] == PACKAGE.name:
        digest.update(function.__qualname__.encode() + package_digest().encode())
        return
    _add_code(digest, function.__code__)
    _add(digest, function.__defaults__, seen)
    if Path(function.__code__.co_filename).is_relative_to(sys.prefix):
        return  # a library's function: its version is part of the machine's description
    used = inspect.getclosurevars(function)
    _add(digest, {**used.nonlocals, **used.globals}, seen)


def _add_code(digest: Any, code: CodeType) -> None:
    digest.update(code.co_code + repr(code.co_names).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _add_code(digest, constant)
        else:
            digest.update(repr(constant).encode())


def _add_class(digest: Any, cls: type) -> None:
    digest.update(f"{cls.__module__}.{cls.__qualname__}".encode())
    if cls.__module__ == "__main__":  # written in the notebook: its methods may change
        for name, member in sorted(vars(cls).items()):
            if isinstance(member, FunctionType):
                digest.update(name.encode())
                _add_code(digest, member.__code__)


def _add_module(digest: Any, module: ModuleType) -> None:
    digest.update(module.__name__.encode())
    if module.__name__.split(".")[0] == PACKAGE.name:
        digest.update(package_digest().encode())


def package_digest() -> str:
    """Return a digest of the package's source, without what only shows or checks."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] not in DOES_NOT_MEASURE:
            digest.update(path.read_bytes())
    return digest.hexdigest()
