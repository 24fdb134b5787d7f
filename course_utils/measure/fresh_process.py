"""Cold start: what the first answer costs where nothing is warm, in a fresh Python process.

A notebook has its libraries loaded, its allocators filled and its kernels chosen; a program that
has just been started has not. So the code runs stage by stage in an interpreter of its own. Only
the files are warm: they come from the system's page cache. After a reboot the disk adds to it.
"""

import inspect
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from course_utils.measure.load import LoadMeter
from course_utils.measure.measurement import Measurement, Provenance, measured_now
from course_utils.measure.timing_lock import timing_lock
from course_utils.tables import Table

START = "Python starts"
PROC = "/proc/self"  # where Linux tells a process what it is
SINCE_START = "the peak since Python started: this system does not let it be reset"


@dataclass(frozen=True)
class Stage:
    """What one stage took; each number is the median over the processes, with least and most.

    Attributes:
        name: As it was given; "Python starts" for the first.
        time: Milliseconds.
        resident: Bytes of main memory that the process holds after the stage.
        peak: Most bytes that it held during the stage; the note says if it is since the start.
    """

    name: str
    time: Measurement
    resident: Measurement
    peak: Measurement


@dataclass(frozen=True)
class Stages:
    """The stages in their order; one is found by its name."""

    stages: tuple[Stage, ...]

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)

    def __len__(self) -> int:
        return len(self.stages)

    def __getitem__(self, name: str) -> Stage:
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = [stage.name for stage in self.stages]
        raise ValueError(f"There is no stage {name!r}; there are {names}.")

    def table(self) -> Table:
        """Return all of it as a table."""
        rows = []
        for stage in self.stages:
            low, high = stage.time.low, stage.time.high
            spread = f"{low:.{_digits(low)}f}–{high:.{_digits(high)}f}"
            took = f"{stage.time.value:.{_digits(stage.time.value)}f} ms"
            held = [f"{found.value / 2**20:.1f} MiB" for found in (stage.resident, stage.peak)]
            rows.append([stage.name, took, spread, *held])
        first = self.stages[0]
        notes = [f"Peaks: {first.peak.note}."] if first.peak.note else []
        notes.append(f"{first.time.count} fresh processes; {first.time.provenance}")
        return Table(["", "time", "least–most", "resident after", "peak during"], rows, notes)

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def _digits(milliseconds: float) -> int:
    return 3 if milliseconds < 1 else 2 if milliseconds < 10 else 1


def run_stages(
    stages: Mapping[str, str],
    *,
    files: Mapping[str, bytes] | None = None,
    repeats: int = 3,
    limit_s: float = 60.0,
) -> Stages:
    """Run pieces of Python code one after the other in a fresh interpreter, and measure each.

    They share their variables, but nothing with the notebook: only the environment is the same.
    What they print is thrown away. The first stage is added: the start of Python itself.

    Args:
        stages: Code by name, e.g. {"import": "import torch", "load": "model = ..."}.
        files: Content by name; the code opens them by that name, in its working directory.
        repeats: How many fresh processes, one after the other.
        limit_s: Seconds that one process may take.

    Raises:
        ValueError: There is nothing to run, or a stage is no Python, or raises.
        TimeoutError: A stage had not ended at the time limit; its process was killed. Or other
            measurements kept the machine for ten minutes.
    """
    if not stages or START in stages or repeats < 1 or not limit_s > 0:
        raise ValueError(
            f"Give at least one stage, none of them called {START!r}, at least one repeat and a"
            f" limit above 0; these are {list(stages)}, {repeats} and {limit_s}."
        )
    codes = {name: textwrap.dedent(code) for name, code in stages.items()}
    for name, code in codes.items():
        try:
            compile(code, f"<{name}>", "exec")
        except SyntaxError as error:
            raise ValueError(f"Stage {name!r} is no Python: {error}.") from None
    for name in files or {}:
        if Path(name).name != name or name in ("", ".."):
            raise ValueError(f"{name!r} is no plain file name; give one without a folder.")
    with timing_lock():
        meter = LoadMeter()
        found = [_run_once(codes, files or {}, limit_s) for _ in range(repeats)]
        provenance = measured_now(meter.describe())
    can_reset = bool(found[0][0][3])
    measured = []
    for name, rows in zip([START, *codes], zip(*found, strict=True), strict=True):
        nanoseconds, resident, peak, _ = np.array(rows, float).T
        measured.append(
            Stage(
                name,
                _summarize(nanoseconds / 1e6, "ms", provenance),
                _summarize(resident, "bytes", provenance),
                _summarize(peak, "bytes", provenance, "" if can_reset else SINCE_START),
            )
        )
    return Stages(tuple(measured))


def _summarize(
    values: np.ndarray, unit: str, provenance: Provenance, note: str = ""
) -> Measurement:
    low, median, high = (float(function(values)) for function in (np.min, np.median, np.max))
    return Measurement(median, unit, low, high, len(values), provenance, fastest=low, note=note)


def _run_once(
    codes: Mapping[str, str], files: Mapping[str, bytes], limit_s: float
) -> list[list[int]]:
    """Return for each stage, the start first, what ``_run_here`` reports."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script, report, errors = folder / "script", folder / "report", folder / "errors"
        (folder / "files").mkdir()
        for file, content in files.items():
            (folder / "files" / file).write_bytes(content)
        report.touch()
        script.write_text(
            "import time\nat_first_line_ns = time.time_ns()\n\n"
            + inspect.getsource(_run_here)
            + f"_run_here({dict(codes)!r}, {str(report)!r}, {PROC!r}, at_first_line_ns)\n",
            encoding="utf-8",
        )
        with script.open() as code, errors.open("w") as said:
            before_ns = time.time_ns()
            child = subprocess.Popen(
                [sys.executable, "-"],
                stdin=code,
                stdout=subprocess.DEVNULL,
                stderr=said,
                cwd=folder / "files",
            )
            is_late = False
            try:
                child.wait(limit_s)
            except subprocess.TimeoutExpired:
                is_late = True
            finally:  # of Ctrl-C too
                child.kill()
                child.wait()
        lines = report.read_text(encoding="utf-8").splitlines()
        last_words = errors.read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
    raised = lines.pop() if lines and lines[-1].startswith("raised ") else ""
    if len(lines) <= len(codes):
        stage = [START, *codes][len(lines)]
        if is_late:
            raise TimeoutError(
                f"Stage {stage!r} had not ended when the process had run for {limit_s:g} s; the"
                " process was killed. Does it end? If so, give a longer limit."
            )
        said_last = f": {last_words[0]}" if last_words else ""
        how = raised or f"ended its process with exit code {child.returncode}{said_last}"
        raise ValueError(f"Stage {stage!r} {how}")
    (at_first_line_ns, *start), *others = ([int(cell) for cell in line.split()] for line in lines)
    return [[at_first_line_ns - before_ns, *start], *others]


def _run_here(codes: dict[str, str], report: str, proc: str, at_first_line_ns: int) -> None:
    """Run the stages; its source is what the fresh process runs, so it stands for itself.

    It writes a line for each stage as soon as it has ended: nanoseconds (for the start: the time
    of day), resident bytes, peak bytes, whether the peak is that of the stage alone.
    """
    import sys
    import time

    def reset_peak() -> bool:
        try:
            with open(f"{proc}/clear_refs", "w") as file:
                file.write("5")  # proc_pid_clear_refs(5): "reset the peak resident set size"
        except OSError:
            return False
        return True

    def memory() -> tuple[int, int]:
        try:
            with open(f"{proc}/status") as file:
                fields = dict(line.split(":", 1) for line in file)
            resident, peak = (1024 * int(fields[key].split()[0]) for key in ("VmRSS", "VmHWM"))
            return resident, peak
        except (OSError, KeyError):  # this is no Linux
            import psutil

            held = psutil.Process().memory_info()
            if hasattr(held, "peak_wset"):  # Windows
                return held.rss, held.peak_wset
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return held.rss, peak if sys.platform == "darwin" else 1024 * peak

    with open(report, "w", 1, "utf-8", "backslashreplace") as lines:
        compiled = [compile(code, f"<{name}>", "exec") for name, code in codes.items()]
        variables = {"__name__": "__main__"}
        resident, peak = memory()
        print(at_first_line_ns, resident, peak, int(reset_peak()), file=lines)
        for code in compiled:
            can_reset = reset_peak()
            start = time.perf_counter_ns()
            try:
                exec(code, variables)
            except BaseException as error:
                said = (str(error).splitlines() or [""])[-1]
                print(f"raised {type(error).__name__}: {said}", file=lines)
                return
            took = time.perf_counter_ns() - start
            print(took, *memory(), int(can_reset), file=lines)
