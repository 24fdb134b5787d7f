"""The lists of dependencies agree: pyproject.toml, environment.yml, constraints.txt, litert.txt."""

import importlib.metadata
import platform
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from course_utils import fetch, runtimes

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def by_name(lines: list[str]) -> dict[str, Requirement]:
    requirements = [Requirement(line) for line in lines]
    names = [canonicalize_name(requirement.name) for requirement in requirements]
    assert len(set(names)) == len(names), f"listed twice: {sorted(names)}"
    return dict(zip(names, requirements, strict=True))


def lines_of(file: str) -> list[str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


CORE = by_name(PROJECT["dependencies"])
EXTRAS = {name: by_name(lines) for name, lines in PROJECT["optional-dependencies"].items()}
WITHOUT_DEPENDENCIES = by_name(lines_of("litert.txt"))
DECLARED = CORE | {
    name: requirement
    for requirements in (*EXTRAS.values(), WITHOUT_DEPENDENCIES)
    for name, requirement in requirements.items()
}
# What the packages of litert.txt want and do without: the first is here in a newer version.
NOT_NEEDED = {
    "typing-extensions", "fire", "jaxtyping", "kagglehub", "multipledispatch", "transformers",
}  # fmt: skip


def conda_lines() -> list[str]:
    """Return the items under `dependencies:`, those of its pip section among them."""
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    return re.findall(r"^ +- (?!pip:)(.+)$", text.split("\ndependencies:\n")[1], re.MULTILINE)


def pinned() -> dict[str, Requirement]:
    return by_name(lines_of("constraints.txt"))


def test_environment_yml_has_the_bounds_of_pyproject():
    python, pip, *packages, course = conda_lines()
    assert python.startswith("python=")
    supported = SpecifierSet(PROJECT["requires-python"])
    assert Version(python.removeprefix("python=")) in supported
    assert (pip, course) == ("pip", "-e .[test]")
    here = {name: requirement.specifier for name, requirement in by_name(packages).items()}
    node = here.pop("nodejs")  # no package of pip
    assert {bound.operator for bound in node} == {">=", "<"}
    assert here == {name: requirement.specifier for name, requirement in CORE.items()}


def test_environment_yml_names_a_set_up_of_lesson_07_that_exists():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    (environment,) = re.findall(r"^name: (.+)$", text, re.MULTILINE)
    assert re.findall(r"^# +conda activate (.+)$", text, re.MULTILINE) == [environment]
    (name,) = re.findall(r"^# +python -m course_utils\.fetch (.+)$", text, re.MULTILINE)
    assert fetch.SOURCES[name].client == "npm"


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


@pytest.mark.parametrize(
    ("system", "machine", "is_built"),
    [
        ("Linux", "x86_64", True),
        ("Darwin", "arm64", True),
        ("Linux", "aarch64", False),
        ("Windows", "AMD64", False),
    ],
)
def test_litert_is_installed_where_what_converts_for_it_is_built(
    monkeypatch, system, machine, is_built
):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert runtimes.is_built_here("LiteRT") == is_built
    assert runtimes.is_built_here("OpenVINO")
    names = {"Linux": "linux", "Darwin": "darwin", "Windows": "win32"}
    here = {"sys_platform": names[system], "platform_machine": machine}
    others = {"openvino", "nncf", "executorch", "torchao"}
    wanted = {
        name
        for name, requirement in (EXTRAS["edge"] | WITHOUT_DEPENDENCIES).items()
        if requirement.marker is None or requirement.marker.evaluate(here)
    }
    assert wanted >= others
    assert (wanted - others >= set(WITHOUT_DEPENDENCIES)) == is_built
    assert bool(wanted - others) == is_built


def test_what_is_installed_without_its_dependencies_misses_only_what_it_does_not_need():
    here = [
        name
        for name, requirement in WITHOUT_DEPENDENCIES.items()
        if requirement.marker is None or requirement.marker.evaluate()
    ]
    unmet = {
        canonicalize_name(wanted.name)
        for name in here
        for wanted in map(Requirement, importlib.metadata.requires(name) or [])
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if not is_met(wanted)
    }
    assert unmet == (NOT_NEEDED if here else set())


def is_met(wanted: Requirement) -> bool:
    try:
        return importlib.metadata.version(wanted.name) in wanted.specifier
    except importlib.metadata.PackageNotFoundError:
        return False
