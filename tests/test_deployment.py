"""Updates of a model on a device: whole or not at all, whatever happens."""

import json
import os
import threading

import pytest
from filelock import FileLock

from course_utils import deployment, runtimes
from course_utils.deployment import (
    DamagedModelError,
    ModelFolder,
    UpdateRefusedError,
    digest_of,
    expect_answers,
)

NOTES = ("manifest.json", "current")
OLD, NEW = b"a model that works: old", b"a model that works: new, and longer"


def works(content):
    return content.startswith(b"a model that works")


class PowerLossError(BaseException):
    """No code runs after this: neither an ``except Exception`` nor a clean-up of errors."""


@pytest.fixture
def folder(tmp_path):
    return ModelFolder(tmp_path / "models", works)


@pytest.fixture
def installed(folder):
    install(folder, "1.0", OLD)
    return folder


def install(folder, version, content):
    folder.install(version, content, digest_of(content))


def reopen(folder):
    """Return the folder as it is found after the device has started again."""
    return ModelFolder(folder.folder, works)


# What it is for


def test_nothing_runs_before_the_first_is_installed(folder):
    assert folder.current is None
    assert folder.versions == []
    with pytest.raises(LookupError, match="install one first"):
        folder.read()
    with pytest.raises(LookupError, match="no whole version before"):
        folder.rollback()


def test_an_update_and_the_way_back(installed):
    install(installed, "1.1", NEW)
    assert installed.read() == deployment.Deployed("1.1", NEW)
    assert installed.versions == ["1.0", "1.1"]
    assert installed.rollback() == "1.0"
    assert reopen(installed).read() == deployment.Deployed("1.0", OLD)
    assert installed.versions == ["1.0", "1.1"]  # it is still there


def test_what_was_rolled_back_can_be_installed_again(installed):
    install(installed, "1.1", NEW)
    installed.rollback()
    install(installed, "1.1", NEW)
    assert installed.current == "1.1"
    assert installed.rollback() == "1.0"


def test_the_same_version_again_changes_nothing(installed):
    install(installed, "1.0", OLD)
    assert installed.versions == ["1.0"]
    assert installed.current == "1.0"
    with pytest.raises(LookupError):
        installed.rollback()


def test_a_rollback_passes_over_a_damaged_version(installed):
    install(installed, "1.1", NEW)
    install(installed, "1.2", NEW + b"!")
    (installed.folder / "1.1.onnx").write_bytes(b"rotten")
    assert installed.rollback() == "1.0"
    assert installed.read().content == OLD


def test_what_does_not_run_can_be_forgotten(installed):
    install(installed, "1.1", NEW)
    with pytest.raises(ValueError, match=r"1\.1"):
        installed.forget("1.1")
    installed.forget("1.0")
    assert installed.versions == ["1.1"]
    assert not (installed.folder / "1.0.onnx").exists()
    with pytest.raises(LookupError):
        installed.rollback()
    with pytest.raises(ValueError, match=r"0\.9"):
        installed.forget("0.9")


def test_the_folder_shows_itself(installed):
    install(installed, "1.1", NEW)
    (installed.folder / "1.0.onnx").write_bytes(b"rotten")
    assert [row[0::3] for row in installed.table().rows] == [["1.0", "damaged"], ["1.1", "runs"]]
    assert digest_of(NEW)[:12] in repr(installed)
    assert "<table>" in installed._repr_html_()


# What is refused


@pytest.mark.parametrize(
    ("came", "why"),
    [
        (NEW[:-1], "damaged or not complete"),
        (b"", "damaged or not complete"),
        (NEW.replace(b"new", b"nev"), "Download it again"),
        (NEW + b"\n", "Download it again"),
    ],
)
def test_a_damaged_download_never_runs(installed, came, why):
    with pytest.raises(UpdateRefusedError, match=why) as refused:
        installed.install("1.1", came, digest_of(NEW))
    assert "1.0 runs" in str(refused.value)
    assert installed.current == "1.0"
    assert installed.versions == ["1.0"]
    assert not list(installed.folder.glob("*.part"))


def test_a_whole_file_that_does_not_work_never_runs(installed):
    with pytest.raises(UpdateRefusedError, match="does not pass the check"):
        install(installed, "1.1", b"a model that fails")
    assert installed.read().content == OLD


def test_a_check_that_raises_is_a_no(tmp_path):
    folder = ModelFolder(tmp_path, lambda content: 1 / 0)
    with pytest.raises(UpdateRefusedError, match="ZeroDivisionError") as refused:
        install(folder, "1.0", OLD)
    assert "nothing runs" in str(refused.value)


def test_a_version_never_changes(installed):
    with pytest.raises(UpdateRefusedError, match="another name"):
        install(installed, "1.0", NEW)
    assert installed.read().content == OLD


@pytest.mark.parametrize("name", ["", "..", "../1.0", "a/b", ".hidden", "1 0", "1.0\n"])
def test_names_that_leave_the_folder_are_refused(folder, name):
    with pytest.raises(UpdateRefusedError, match="no name of a version"):
        install(folder, name, OLD)


@pytest.mark.parametrize("digest", ["", "abc", digest_of(OLD)[:-1], digest_of(OLD).upper()])
def test_what_is_no_digest_is_refused(folder, digest):
    with pytest.raises(UpdateRefusedError, match="no sha256"):
        folder.install("1.0", OLD, digest)


def test_a_full_disk_refuses_the_update(installed, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deployment.os, "fsync", full)
    with pytest.raises(UpdateRefusedError, match="Is the disk full"):
        install(installed, "1.1", NEW)
    assert installed.read().content == OLD
    assert not list(installed.folder.glob("*.part"))


def test_two_updates_at_once_are_refused(installed, monkeypatch):
    monkeypatch.setattr(deployment, "PATIENCE_S", 0.05)
    with FileLock(installed.folder / "lock"), pytest.raises(UpdateRefusedError, match="try again"):
        install(installed, "1.1", NEW)
    install(installed, "1.1", NEW)


# What is damaged later


@pytest.mark.parametrize("content", [b"", OLD[:-1], b"\0" + OLD[1:]])
def test_a_file_that_was_damaged_later_is_named(installed, content):
    (installed.folder / "1.0.onnx").write_bytes(content)
    with pytest.raises(DamagedModelError, match=r"not what was installed as 1\.0.*rollback"):
        installed.read()


def test_a_file_that_is_gone_is_named(installed):
    (installed.folder / "1.0.onnx").unlink()
    with pytest.raises(DamagedModelError, match="missing"):
        installed.read()
    install(installed, "1.0", OLD)  # puts it back
    assert installed.read().content == OLD


@pytest.mark.parametrize("name", NOTES)
@pytest.mark.parametrize("content", ["", "{", "7", '"text"'])
def test_a_damaged_note_is_named(installed, name, content):
    (installed.folder / name).write_text(content)
    with pytest.raises(DamagedModelError, match=f"{name} is damaged"):
        installed.read()


# Loss of power


def cut_at(monkeypatch, number):
    """Let the power fail at the n-th thing that touches the disk; half of a write is done."""
    touched, true_replace = 0, os.replace

    def fails():
        nonlocal touched
        touched += 1
        return touched == number

    def write(path, content):
        if fails():
            path.write_bytes(content[: len(content) // 2])
            raise PowerLossError
        path.write_bytes(content)
        if fails():
            raise PowerLossError

    def replace(source, target):
        if fails():
            raise PowerLossError
        true_replace(source, target)
        if fails():
            raise PowerLossError

    monkeypatch.setattr(deployment, "_write", write)
    monkeypatch.setattr(deployment.os, "replace", replace)
    return lambda: touched


def test_an_update_touches_the_disk_twelve_times(installed, monkeypatch):
    touched = cut_at(monkeypatch, 0)
    install(installed, "1.1", NEW)
    assert touched() == 3 * 4  # before and after each of three writes and three replacements


@pytest.mark.parametrize("number", range(1, 13))
def test_after_a_loss_of_power_the_old_or_the_new_version_runs(installed, monkeypatch, number):
    with monkeypatch.context() as patch:
        cut_at(patch, number)
        with pytest.raises(PowerLossError):
            install(installed, "1.1", NEW)
    found = reopen(installed)
    expected = ("1.1", NEW) if number == 12 else ("1.0", OLD)  # after the very last replacement
    assert found.read() == deployment.Deployed(*expected)
    install(found, "1.1", NEW)  # the update can be made again, and leaves nothing behind
    assert found.read().content == NEW
    assert found.rollback() == "1.0"
    assert sorted(file.name for file in found.folder.iterdir()) == [
        "1.0.onnx", "1.1.onnx", "current", "lock", "manifest.json",
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(1, 13))
def test_the_very_first_installation_can_be_cut_too(folder, monkeypatch, number):
    with monkeypatch.context() as patch:
        cut_at(patch, number)
        with pytest.raises(PowerLossError):
            install(folder, "1.0", OLD)
    found = reopen(folder)
    assert found.current == ("1.0" if number == 12 else None)
    install(found, "1.0", OLD)
    assert found.read().content == OLD


@pytest.mark.parametrize("number", range(1, 5))
def test_a_rollback_that_is_cut_leaves_one_of_both(installed, monkeypatch, number):
    install(installed, "1.1", NEW)
    with monkeypatch.context() as patch:
        cut_at(patch, number)
        with pytest.raises(PowerLossError):
            installed.rollback()
    assert reopen(installed).current == ("1.0" if number == 4 else "1.1")
    assert reopen(installed).read().content in (OLD, NEW)


@pytest.mark.parametrize("number", range(1, 9))
def test_forgetting_that_is_cut_hurts_nobody(installed, monkeypatch, number):
    install(installed, "1.1", NEW)
    with monkeypatch.context() as patch:
        cut_at(patch, number)
        with pytest.raises(PowerLossError):
            installed.forget("1.0")
    assert reopen(installed).read().content == NEW


def test_a_file_is_on_the_disk_before_its_name_is(installed, monkeypatch):
    order = []
    true = {name: getattr(os, name) for name in ("fsync", "replace")}

    def note(name):
        def noted(*arguments):
            order.append(name)
            return true[name](*arguments)

        return noted

    for name in true:
        monkeypatch.setattr(deployment.os, name, note(name))
    install(installed, "1.1", NEW)
    assert order == ["fsync", "replace", "fsync"] * 3  # the file, its name, the folder


# Readers meanwhile


def test_readers_get_the_old_or_the_new_version(installed):
    contents = {f"1.{number}": OLD + bytes(str(number), "ascii") * 5000 for number in range(1, 13)}
    read, stop = [], threading.Event()

    def keep_reading():
        while not stop.is_set():
            read.append(installed.read())

    reader = threading.Thread(target=keep_reading)
    reader.start()
    try:
        for version, content in contents.items():
            install(installed, version, content)
            if version != "1.1":
                installed.forget(installed.versions[0])
    finally:
        stop.set()
        reader.join()
    assert read
    assert all(one.content == ({"1.0": OLD} | contents)[one.version] for one in read)
    order = [one.version for one in read]
    assert order == sorted(order, key=["1.0", *contents].index)  # never back to an older one


def test_a_reader_whose_version_was_forgotten_meanwhile_gets_the_next(installed, monkeypatch):
    true = ModelFolder._read_model

    def read_late(self, version):
        if version == "1.0":
            install(installed, "1.1", NEW)
            with monkeypatch.context() as patch:
                patch.setattr(ModelFolder, "_read_model", true)
                installed.forget("1.0")
        return true(self, version)

    monkeypatch.setattr(ModelFolder, "_read_model", read_late)
    assert installed.read() == deployment.Deployed("1.1", NEW)


# With a network


def test_a_check_wants_the_right_answers(tmp_path, trained_mlp, pictures):
    images, labels = pictures.images[600:620], pictures.labels[600:620]
    content = runtimes.build(trained_mlp, images).artefact
    folder = ModelFolder(tmp_path, expect_answers(images, labels, at_least=0.5))
    install(folder, "1.0", content)
    assert runtimes.load(folder.read().content)(images).shape == (20, 10)
    wrong = ModelFolder(tmp_path / "other", expect_answers(images, labels + 1, at_least=0.5))
    with pytest.raises(UpdateRefusedError, match="does not pass the check"):
        install(wrong, "1.0", content)
    with pytest.raises(UpdateRefusedError, match="no ONNX file"):
        install(folder, "1.1", content[: len(content) // 2])
    smaller = ModelFolder(tmp_path / "small", expect_answers(images[..., 1:], labels, at_least=0))
    with pytest.raises(UpdateRefusedError, match="takes float32 images"):
        install(smaller, "1.0", content)


def test_notes_on_the_disk_can_be_read_by_people(installed):
    notes = {name: json.loads((installed.folder / name).read_text()) for name in NOTES}
    assert notes["current"] == ["1.0"]
    assert notes["manifest.json"] == {"1.0": {"sha256": digest_of(OLD), "bytes": len(OLD)}}
    assert {file.name for file in installed.folder.iterdir()} <= {*NOTES, "1.0.onnx", "lock"}
