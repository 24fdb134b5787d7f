"""Progress: what a learner did is kept, whatever breaks, and never stops a lesson."""

import os
import random
import re
import sqlite3
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from course_utils import progress


def save_some_result(name: str = "int8", accuracy: float = 90.0) -> None:
    progress.save_result(
        "02_quantization", name, accuracy_percent=accuracy, latency_ms=1.5, size_bytes=2048
    )


# What is kept


def test_at_first_there_is_nothing():
    assert progress.last_prediction("Bits per weight") is None
    assert progress.results() == []
    assert progress.report() == "Nothing yet: your first prediction will stand here."


def test_the_newest_prediction_of_a_lab_is_found():
    for lab, accuracy in (("Bits", 80.0), ("Bits", 85.0), ("Pruning", 50.0)):
        guess = {"accuracy": accuracy, "latency": 1.0}
        progress.save_prediction(lab, "4 bits", guess=guess, told="told", found="found")
    assert progress.last_prediction("Bits") == {"accuracy": 85.0, "latency": 1.0}
    assert progress.last_prediction("Pruning") == {"accuracy": 50.0, "latency": 1.0}
    assert progress.last_prediction("Distillation") is None


def test_the_board_holds_results_in_their_order():
    save_some_result("fp32", accuracy=92.5)
    save_some_result("int8", accuracy=92.0)
    assert progress.results() == [
        ("02_quantization", "fp32", 92.5, 1.5, 2048),
        ("02_quantization", "int8", 92.0, 1.5, 2048),
    ]


def test_a_result_of_the_same_name_is_replaced():
    save_some_result("int8", accuracy=50.0)
    save_some_result("fp32")
    save_some_result("int8", accuracy=92.0)
    progress.save_result("03_other", "int8", accuracy_percent=1.0, latency_ms=1.5, size_bytes=2048)
    assert [(lesson, name, accuracy) for lesson, name, accuracy, *_ in progress.results()] == [
        ("02_quantization", "fp32", 90.0),
        ("02_quantization", "int8", 92.0),
        ("03_other", "int8", 1.0),
    ]


def test_the_report_names_everything():
    progress.save_prediction(
        "Bits",
        "4 bits",
        guess={"accuracy": 80.0, "latency": 1.0},
        told="80.0 % and 1.00 ms",
        found="91.3 % and 0.46 ms",
    )
    progress.save_attempt("Affine quantization", "symmetric")
    progress.save_attempt("Affine quantization", "solved")
    progress.save_attempt("Affine quantization", "wrong scale")
    progress.save_attempt("Another", "wrong scale")
    save_some_result()
    predicted, solved, open_, board = progress.report().splitlines()
    assert all(
        word in predicted for word in ("Bits", "4 bits", "80.0 % and 1.00 ms", "91.3 % and 0.46 ms")
    )
    assert "Affine quantization" in solved
    assert ": solved, 3 tries" in solved
    assert "Another" in open_
    assert "not solved yet" in open_
    assert re.search(r"02_quantization: int8, 90\.0 %, 1\.50 ms, 2 KiB", board)


@pytest.mark.parametrize(
    "guess",
    [{"accuracy": 80.0}, {"latency": 1.0}, {"images a second": 1234.5, "p99": 0.001}, {}],
    ids=lambda guess: " and ".join(guess),
)
def test_a_prediction_is_told_in_the_words_it_was_kept_in(guess):
    progress.save_prediction("Bits", "4 bits", guess=guess, told="80.0 %", found="91.3 % “ü” 🙂")
    assert progress.last_prediction("Bits") == guess
    assert progress.report() == ("Predicted in “Bits” for 4 bits: 80.0 %; measured 91.3 % “ü” 🙂.")


def test_what_a_formula_gave_is_not_called_measured():
    progress.save_prediction("Roofs", "8", guess={}, told="3 ms", found="2 ms and 5 (computed)")
    assert progress.report() == "Predicted in “Roofs” for 8: 3 ms; computed 2 ms and 5."


def test_predictions_are_told_in_their_order():
    for n in range(3):
        progress.save_prediction("Bits", f"{n} bits", guess={}, told=f"{n}0 %", found="90 %")
    told = progress.report().splitlines()
    assert told == [f"Predicted in “Bits” for {n} bits: {n}0 %; measured 90 %." for n in range(3)]


def report_of_latency(latency_ms: float) -> str:
    progress.save_result("02", "int8", accuracy_percent=1, latency_ms=latency_ms, size_bytes=1)
    return progress.report()


@pytest.mark.parametrize(
    ("latency_ms", "said"),
    [(0.0123, "0.012 ms"), (0.456, "0.46 ms"), (1.04, "1.04 ms"), (17.6, "17.60 ms")],
)
def test_latencies_are_told_in_two_or_three_decimals(latency_ms, said):
    assert report_of_latency(latency_ms).count(f" {said}") == 1


@pytest.mark.parametrize("latency_ms", [99.9, 154.0, 2500.0])
def test_long_latencies_are_told_without_powers_of_ten(latency_ms):
    assert "e+" not in report_of_latency(latency_ms)


def test_one_try_is_not_called_tries():
    progress.save_attempt("Affine quantization", "symmetric")
    assert re.search(r"\b1 try\b", progress.report())


def test_any_text_is_kept_as_it_is():
    name = "'; drop table results; -- “ü” 🙂\n"
    save_some_result(name)
    assert [kept for _, kept, *_ in progress.results()] == [name]


def test_progress_is_kept_in_the_folder_that_the_environment_names(tmp_path, monkeypatch):
    monkeypatch.setenv("INFERENCE_MEASURED_DATA", str(tmp_path / "elsewhere" / "deeper"))
    save_some_result()
    assert progress.progress_file().parent == tmp_path / "elsewhere" / "deeper"
    assert progress.progress_file().is_file()


# Several processes


SAVING = """
import itertools, sys, warnings
from course_utils import progress
warnings.simplefilter("error")
writer, count = sys.argv[1], int(sys.argv[2])
for n in range(count):
    progress.save_result(writer, str(n), accuracy_percent=n, latency_ms=1.0, size_bytes=n)
    print(n, flush=True)
"""


def start_saving(writer: str, count: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SAVING, writer, str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUTF8": "1"},
    )


def test_two_processes_that_write_at_once_lose_nothing():
    writers = [start_saving(name, 50) for name in ("first", "second")]
    for writer in writers:
        _, complaints = writer.communicate()
        assert writer.returncode == 0, complaints
    for name in ("first", "second"):
        kept = [result for lesson, result, *_ in progress.results() if lesson == name]
        assert kept == [str(n) for n in range(50)]


@pytest.mark.parametrize("after", [1, 5, 20])
def test_a_process_that_is_killed_leaves_all_that_it_had_written(after):
    writer = start_saving("killed", 100_000)
    reported = [writer.stdout.readline().strip() for _ in range(after)]
    writer.kill()
    rest, complaints = writer.communicate()
    reported += rest.split("\n")[:-1]  # the last line may have been cut off
    assert reported[0] == "0", complaints
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = [result for _, result, *_ in progress.results()]
        assert kept[: len(reported)] == reported
        assert len(kept) <= len(reported) + 1  # one may have been written and not reported
        save_some_result("later")
    assert progress.results()[-1][1] == "later"


# Damage


def fill_several_pages() -> None:
    """Write so much that the rows lie on other pages of the file than its table of contents."""
    for n in range(10):
        save_some_result(f"result number {n} " + "with a long name " * 200)
    assert progress.progress_file().stat().st_size > 8 * 4096


def overwrite(start: int, length: int):
    def damage(content: bytes) -> bytes:
        noise = random.Random(0).randbytes(length)
        return content[:start] + noise + content[start + length :]

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"no database at all" * 100, id="another kind of file"),
        pytest.param(lambda content: b"short", id="a few bytes"),
        pytest.param(overwrite(0, 100), id="header overwritten"),
        pytest.param(overwrite(100, 3000), id="table of contents overwritten"),
        pytest.param(lambda content: content[: len(content) // 2], id="second half missing"),
        pytest.param(lambda content: content[:4096] + overwrite(0, len(content))(content)[4096:],
                     id="all rows overwritten"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_kept_aside_and_a_new_one_begun(damage):
    fill_several_pages()
    file = progress.progress_file()
    damaged = damage(file.read_bytes())
    file.write_bytes(damaged)
    with pytest.warns(UserWarning, match="was damaged; it is kept as .* and a new one is begun"):
        save_some_result("new")
    assert [name for _, name, *_ in progress.results()] == ["new"]
    (aside,) = file.parent.glob("progress.damaged*")
    assert aside.read_bytes() == damaged


@pytest.mark.parametrize(
    "read", [progress.results, progress.report, lambda: progress.last_prediction("Bits")]
)
def test_a_damaged_file_does_not_stop_who_only_reads(read):
    fill_several_pages()
    file = progress.progress_file()
    file.write_bytes(file.read_bytes()[:4096] + b"\xff" * 50_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not read() or "Nothing yet" in read()


# A folder that cannot be written


def assert_only_warns(save) -> None:
    with pytest.warns(UserWarning, match="cannot be kept in .*set INFERENCE_MEASURED_DATA to"):
        save()


SAVES = [
    pytest.param(save_some_result, id="result"),
    pytest.param(lambda: progress.save_attempt("Affine", "solved"), id="attempt"),
    pytest.param(
        lambda: progress.save_prediction("Bits", "4 bits", guess={}, told="", found=""),
        id="prediction",
    ),
]


@pytest.mark.parametrize("save", SAVES)
def test_a_file_in_place_of_the_folder(save, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("not a folder")
    monkeypatch.setenv("INFERENCE_MEASURED_DATA", str(tmp_path / "a file"))
    assert_only_warns(save)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert progress.results() == []
    assert (tmp_path / "a file").read_text() == "not a folder"


@pytest.mark.parametrize("save", SAVES)
def test_a_folder_in_place_of_the_file(save, tmp_path):
    progress.progress_file().mkdir(parents=True)
    assert_only_warns(save)


@pytest.mark.parametrize("save", SAVES)
def test_a_folder_that_cannot_be_made(save, monkeypatch):
    def refuse(path, *options, **named):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert_only_warns(save)


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("lock", ["begin immediate", "begin exclusive"])
def test_a_file_that_another_process_does_not_let_go(save, lock, monkeypatch):
    save_some_result("before")
    monkeypatch.setattr(progress, "SECONDS_TO_WAIT", 0.05)
    other = sqlite3.connect(progress.progress_file(), isolation_level=None)
    try:
        other.execute(lock)
        assert_only_warns(save)
    finally:
        other.close()
    assert [name for _, name, *_ in progress.results()] == ["before"]


@pytest.mark.parametrize("save", [save_some_result, lambda text: progress.save_attempt(text, text)])
def test_a_disk_that_is_full(save, monkeypatch):
    """SQLite lets the file grow no further than its pages, as on a full disk."""
    save_some_result("before")
    really_connect = sqlite3.connect

    def connect_to_full_disk(*arguments, **options):
        database = really_connect(*arguments, **options)
        database.execute("pragma max_page_count = 1")  # or as many as there are now
        return database

    with monkeypatch.context() as patch:
        patch.setattr(progress.sqlite3, "connect", connect_to_full_disk)
        assert_only_warns(lambda: save("a long text " * 10_000))
    assert [name for _, name, *_ in progress.results()] == ["before"]
    assert "a long text" not in progress.report()
