"""A learner's predictions, attempts and results, kept on this machine and nowhere else.

One SQLite file in the user's data folder. Each write is one transaction: two notebooks may
write at once, and a write that is killed half-way leaves what was there before.
"""

import json
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from course_utils.folders import data_folder

SECONDS_TO_WAIT = 20
COMPUTED = " (computed)"
TABLES = """
create table if not exists guesses (
    id integer primary key, made_at text not null, lab text not null, setting text not null,
    guess text not null, told text not null, found text not null
);
create table if not exists attempts (
    id integer primary key, made_at text not null, exercise text not null, outcome text not null
);
create table if not exists results (
    id integer primary key, made_at text not null, lesson text not null, name text not null,
    accuracy_percent real not null, latency_ms real not null, size_bytes integer not null
);
"""


def progress_file() -> Path:
    """Return where the progress is kept."""
    return data_folder() / "progress.sqlite"


def save_prediction(
    lab: str, setting: str, *, guess: dict[str, float], told: str, found: str
) -> None:
    """Keep a guess, by metric and in words, beside what was then measured or computed.

    Args:
        lab: Its name.
        setting: Of its knobs, in words.
        guess: By metric.
        told: The guess in words.
        found: What came out, in words; "(computed)" at its end if it was not measured.
    """
    _insert(
        "insert into guesses (made_at, lab, setting, guess, told, found) values (?, ?, ?, ?, ?, ?)",
        (lab, setting, json.dumps(guess), told, found),
    )


def last_prediction(lab: str) -> dict[str, float] | None:
    """Return the newest guess in a lab; None if there is none."""
    rows = _select("select guess from guesses where lab = ? order by id desc limit 1", (lab,))
    return json.loads(rows[0][0]) if rows else None


def save_attempt(exercise: str, outcome: str) -> None:
    """Keep what came of an exercise: "solved", or the name of the mistake."""
    _insert(
        "insert into attempts (made_at, exercise, outcome) values (?, ?, ?)", (exercise, outcome)
    )


def save_result(
    lesson: str, name: str, *, accuracy_percent: float, latency_ms: float, size_bytes: int
) -> None:
    """Put a point on the learner's board; one of the same lesson and name is replaced."""
    with _open() as database:
        if database is None:
            return
        database.execute("delete from results where lesson = ? and name = ?", (lesson, name))
        database.execute(
            "insert into results (made_at, lesson, name, accuracy_percent, latency_ms, size_bytes)"
            " values (?, ?, ?, ?, ?, ?)",
            (_now(), lesson, name, accuracy_percent, latency_ms, size_bytes),
        )


def results() -> list[tuple[str, str, float, float, int]]:
    """Return the board: (lesson, name, accuracy in %, latency in ms, size in bytes) each."""
    return _select(
        "select lesson, name, accuracy_percent, latency_ms, size_bytes from results order by id"
    )


def report() -> str:
    """Return the learner's progress in words."""
    predictions = _select("select lab, setting, told, found from guesses order by id")
    attempts = _select(
        "select exercise, count(*), max(outcome = 'solved') from attempts group by exercise"
    )
    if not (predictions or attempts or results()):
        return "Nothing yet: your first prediction will stand here."
    lines = []
    for lab, setting, told, found in predictions:
        how = "computed" if found.endswith(COMPUTED) else "measured"
        found = found.removesuffix(COMPUTED)
        lines.append(f"Predicted in “{lab}” for {setting}: {told}; {how} {found}.")
    for exercise, tries, solved in attempts:
        state = "solved" if solved else "not solved yet"
        lines.append(f"Exercise “{exercise}”: {state}, {tries} {'try' if tries == 1 else 'tries'}.")
    for lesson, name, accuracy, latency, size in results():
        lines.append(
            f"On your board from {lesson}: {name}, {accuracy:.1f} %, {_ms(latency)},"
            f" {size / 1024:.0f} KiB."
        )
    return "\n".join(lines)


def _ms(latency_ms: float) -> str:
    return f"{latency_ms:.2f} ms" if latency_ms >= 0.1 else f"{latency_ms:.3f} ms"


def _now() -> str:
    return datetime.now().isoformat(timespec="seconds")


def _insert(statement: str, values: tuple[str, ...]) -> None:
    with _open() as database:
        if database is not None:
            database.execute(statement, (_now(), *values))


def _select(query: str, values: tuple[str, ...] = ()) -> list[tuple]:  # type: ignore[type-arg]
    rows: list[tuple] = []  # type: ignore[type-arg]
    with _open() as database:
        if database is not None:
            rows = database.execute(query, values).fetchall()
    return rows


@contextmanager
def _open() -> Iterator[sqlite3.Connection | None]:
    """Open the file for one transaction; where that is not possible, warn and give None."""
    path = progress_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        database = _connect(path)
    except (OSError, sqlite3.Error) as error:
        _warn(path, error)
        yield None
        return
    try:
        with database:
            yield database
    except sqlite3.Error as error:
        _warn(path, error)
    finally:
        database.close()


def _connect(path: Path) -> sqlite3.Connection:
    """Return a connection to a sound file; a damaged one is put aside for a new one."""
    database = sqlite3.connect(path, timeout=SECONDS_TO_WAIT)
    try:
        if database.execute("pragma quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("malformed")
        database.executescript(TABLES)
    except sqlite3.DatabaseError as error:
        database.close()
        if "not a database" not in str(error) and "malformed" not in str(error):
            raise
        aside = path.with_suffix(f".damaged-{datetime.now():%Y%m%d%H%M%S}")
        path.replace(aside)
        warnings.warn(
            f"{path.name} was damaged; it is kept as {aside.name} and a new one is begun.",
            stacklevel=6,
        )
        database = sqlite3.connect(path, timeout=SECONDS_TO_WAIT)
        database.executescript(TABLES)
    return database


def _warn(path: Path, error: Exception) -> None:
    warnings.warn(
        f"Your progress cannot be kept in {path.parent} ({error}); the lesson goes on without."
        " To keep it, set INFERENCE_MEASURED_DATA to a folder that can be written to.",
        stacklevel=6,
    )
