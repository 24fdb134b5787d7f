"""The reference answers of a lesson, for the tests of its checks."""

import importlib.util
from pathlib import Path
from types import ModuleType

SOLUTIONS = Path(__file__).parent.parent / "notebooks" / "solutions"


def load_solutions(name: str) -> ModuleType:
    """Return the module of a lesson's solutions; its name is no identifier, so no import works."""
    spec = importlib.util.spec_from_file_location(name, SOLUTIONS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
