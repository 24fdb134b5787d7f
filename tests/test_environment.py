"""The three lists of dependencies agree: pyproject.toml, environment.yml, constraints.txt."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def by_name(lines: list[str]) -> dict[str, Requirement]:
    requirements = [Requirement(line) for line in lines]
    names = [canonicalize_name(requirement.name) for requirement in requirements]
    assert len(set(names)) == len(names), f"listed twice: {sorted(names)}"
    return dict(zip(names, requirements, strict=True))


CORE = by_name(PROJECT["dependencies"])
DECLARED = CORE | {
    name: requirement
    for lines in PROJECT["optional-dependencies"].values()
    for name, requirement in by_name(lines).items()
}


def conda_lines() -> list[str]:
    """Return the items under `dependencies:`, those of its pip section among them."""
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    return re.findall(r"^ +- (?!pip:)(.+)$", text.split("\ndependencies:\n")[1], re.MULTILINE)


def pinned() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return by_name([line for line in lines if line and not line.startswith("#")])


def test_environment_yml_has_the_bounds_of_pyproject():
    python, pip, *packages, course = conda_lines()
    assert python.startswith("python=")
    supported = SpecifierSet(PROJECT["requires-python"])
    assert Version(python.removeprefix("python=")) in supported
    assert (pip, course) == ("pip", "-e .[test]")
    here = {name: requirement.specifier for name, requirement in by_name(packages).items()}
    assert here == {name: requirement.specifier for name, requirement in CORE.items()}


@pytest.mark.parametrize("name", DECLARED)
def test_a_dependency_has_an_upper_bound_and_a_tested_version_inside(name):
    bounds = DECLARED[name].specifier
    assert any(bound.operator == "<" for bound in bounds), "no upper bound"
    assert name in pinned(), "constraints.txt does not pin it"
    (pin,) = pinned()[name].specifier
    assert pin.operator == "=="
    assert Version(pin.version) in bounds


def test_constraints_are_plain_pins():
    for name, requirement in pinned().items():
        (pin,) = requirement.specifier
        assert pin.operator == "==", f"{name} is not pinned"
        assert Version(pin.version).local is None, f"{name}: {pin} exists on one system only"
