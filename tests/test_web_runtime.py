"""ONNX Runtime for the browser: what set-up keeps of npm's package, and what is refused."""

import gzip
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from course_utils import fetch, folders, web_runtime
from course_utils.web_runtime import COMMAND, NAME, SCRIPT, WASM

PUBLISHED = {SCRIPT: b"export const ort = 1;" * 50, WASM: b"\0asm" + bytes(range(256)) * 20}


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """Return the folder to install into, for files of a few bytes."""
    monkeypatch.setenv("INFERENCE_MEASURED_INSTALLED", str(tmp_path / "installed"))
    for file, content in PUBLISHED.items():
        monkeypatch.setitem(web_runtime.SHA256, file, hashlib.sha256(content).hexdigest())
    return tmp_path / "installed" / NAME


def mirror(contents: dict[str, bytes], links: dict[str, str] | None = None):
    """Return a stand-in for npm that makes a package of these members."""

    def download(package: str, folder: Path) -> Path:
        assert package == f"{NAME}@{web_runtime.VERSION}"
        with tarfile.open(folder / "onnxruntime-web.tgz", "w:gz") as archive:
            for name, content in contents.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            for name, target in (links or {}).items():
                member = tarfile.TarInfo(name)
                member.type, member.linkname = tarfile.SYMTYPE, target
                archive.addfile(member)
        return folder / "onnxruntime-web.tgz"

    return download


def members(contents: dict[str, bytes]) -> dict[str, bytes]:
    return {web_runtime.MEMBERS[file]: content for file, content in contents.items()}


def refuse(package: str, folder: Path) -> Path:
    raise fetch.FetchError("no network")


@pytest.fixture
def fetched(installed) -> Path:
    assert fetch.fetch(NAME, mirror({**members(PUBLISHED), "package/other.js": b"x"})) == installed
    return installed


# What is kept


def test_only_the_two_files_are_kept_gzipped(fetched):
    assert {path.name for path in fetched.iterdir()} == {f"{SCRIPT}.gz", f"{WASM}.gz"}
    script, packed_wasm = web_runtime.load()
    assert script == PUBLISHED[SCRIPT]
    assert packed_wasm == (fetched / f"{WASM}.gz").read_bytes()
    assert gzip.decompress(packed_wasm) == PUBLISHED[WASM] == fetch.read(NAME, WASM)
    assert web_runtime.why_missing() == ""


def test_what_is_here_is_not_downloaded_again(fetched):
    assert fetch.fetch(NAME, refuse) == fetched


def test_folders_of_measurements_and_progress_do_not_move_it(monkeypatch, tmp_path):
    monkeypatch.delenv("INFERENCE_MEASURED_INSTALLED", raising=False)
    before = web_runtime.folder()
    monkeypatch.setenv("INFERENCE_MEASURED_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("INFERENCE_MEASURED_DATA", str(tmp_path / "other"))
    assert web_runtime.folder() == before
    assert folders.NAME in before.parts


# What is refused

BAD: dict[str, Callable[[str, Path], Path]] = {
    "another script": mirror(members({**PUBLISHED, SCRIPT: b"evil"})),
    "another wasm": mirror(members({**PUBLISHED, WASM: PUBLISHED[WASM][:-1]})),
    "no wasm": mirror(members({SCRIPT: PUBLISHED[SCRIPT]})),
    "a link out": mirror(
        members({SCRIPT: PUBLISHED[SCRIPT]}), {web_runtime.MEMBERS[WASM]: "/etc/hostname"}
    ),
}


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("another script", "not the published file"),
        ("another wasm", "not the published file"),
        ("no wasm", "not the package expected"),
        ("a link out", "not the package expected"),
    ],
)
def test_of_another_package_nothing_is_kept(installed, what, said):
    with pytest.raises(fetch.FetchError, match=said):
        fetch.fetch(NAME, BAD[what])
    assert not installed.exists()


@pytest.mark.parametrize("end", [0, 10, 200])
def test_a_broken_package_is_refused(installed, end):
    def download(package: str, folder: Path) -> Path:
        file = mirror(members(PUBLISHED))(package, folder)
        file.write_bytes(file.read_bytes()[:end] if end else b"<html>please log in</html>")
        return file

    with pytest.raises(fetch.FetchError, match="not the package expected"):
        fetch.fetch(NAME, download)
    assert not installed.exists()


DAMAGE = {
    "cut off": lambda packed: packed[:-20],
    "no gzip": lambda packed: b"<html>",
    "broken inside": lambda packed: packed[:40] + bytes(8) + packed[48:],
    "another file": lambda packed: gzip.compress(b"another"),
    "empty": lambda packed: b"",
}


@pytest.mark.parametrize("file", [SCRIPT, WASM])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_and_mended(fetched, file, damage):
    path = fetched / f"{file}.gz"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(web_runtime.NotInstalledError, match=rf"is damaged \({path.name}\)"):
        web_runtime.load()
    assert COMMAND in web_runtime.why_missing()
    fetch.fetch(NAME, mirror(members(PUBLISHED)))
    assert web_runtime.why_missing() == ""


def test_without_it_the_sentence_says_what_to_do(installed):
    assert web_runtime.why_missing() == (
        "ONNX Runtime for the browser is not on this machine. Install it with:  python -m"
        " course_utils.fetch onnxruntime-web  (once, 33 MB; it needs npm, which comes with Node.js,"
        " and a network). Then run this cell again. Everything else works without it."
    )
    assert not fetch.is_here(NAME)


# npm


def test_npm_gets_the_package_but_installs_and_runs_nothing(monkeypatch, tmp_path):
    commands = []

    def run(command, **named):
        commands.append((command, named))
        (named["cwd"] / "onnxruntime-web-1.tgz").touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(shutil, "which", lambda name: f"/somewhere/{name}.cmd")
    monkeypatch.setattr(subprocess, "run", run)
    package = f"{NAME}@{web_runtime.VERSION}"
    assert fetch.download_with_npm(package, tmp_path) == tmp_path / "onnxruntime-web-1.tgz"
    ((command, named),) = commands
    assert command[:3] == ["/somewhere/npm.cmd", "pack", package]
    assert "--ignore-scripts" in command
    assert named["cwd"] == tmp_path  # not in a folder whose settings it would read
    assert named["timeout"] > 0


def fail(command, **named):
    said = "npm warn old\nnpm error code ENOTFOUND\nnpm error network request failed\n"
    return subprocess.CompletedProcess(command, 1, "", said)


def hang(command, **named):
    raise subprocess.TimeoutExpired(command, named["timeout"])


def give_nothing(command, **named):
    return subprocess.CompletedProcess(command, 0, "", "all is well")


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (fail, r"npm error code ENOTFOUND npm error network request failed"),
        (hang, r"no answer in 300 s"),
        (give_nothing, r"all is well"),
    ],
)
def test_what_npm_says_is_told(monkeypatch, tmp_path, run, said):
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(fetch.FetchError, match=rf"{said}\nIs there a network.*{COMMAND}"):
        fetch.download_with_npm("x@1", tmp_path)


def test_without_npm_the_command_line_says_what_to_install(installed, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["fetch", NAME])
    with pytest.raises(SystemExit) as ended:
        fetch.main()
    assert ended.value.code == 1
    assert "install Node.js" in capsys.readouterr().err
    assert not installed.exists()
