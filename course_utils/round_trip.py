"""What would the network cost? The same model behind a socket, and links of stated slowness.

The server runs in this process, on 127.0.0.1, and nothing leaves the machine: a round trip over it
is measured, and holds what any server costs. Slower links are *added*: the client waits as long as
such a link would take; what is measured then is loopback + added delay, and is labelled so. Without
encryption, names to look up and lost packets: a real link costs more.
"""

import contextlib
import socket
import socketserver
import struct
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from course_utils.measure import Measurement, measured_now, summarize_latency
from course_utils.measure.load import LoadMeter
from course_utils.measure.timing_lock import timing_lock
from course_utils.measure.turns import Run, no_garbage_collection, warm_up
from course_utils.runtimes.runner import Runner
from course_utils.tables import Table

HEADER = struct.Struct("!I")  # how many bytes of pixels, or of logits, follow
WHITE = 255
LEAST_CALLS = 5
HERE, LOOPBACK = "here", "loopback"


class NoAnswerError(ConnectionError):
    """The server gave no answer in time, or the connection is gone."""


@dataclass(frozen=True)
class Link:
    """A way to a server.

    Attributes:
        name: Of it.
        one_way_ms: From here to there; back takes as long.
        mbit_per_s: In either direction; 0: bytes are not counted.
        source: Where the latency is published; the rate is an example unless it says so.
        date: Of that.
    """

    name: str
    one_way_ms: float = 0.0
    mbit_per_s: float = 0.0
    source: str = ""
    date: str = ""

    def wait_s(self, sent_bytes: int) -> float:
        """Return how long so many bytes take one way, seconds."""
        bits_per_s = self.mbit_per_s * 1e6
        return self.one_way_ms / 1000 + (8 * sent_bytes / bits_per_s if bits_per_s else 0.0)

    def __str__(self) -> str:
        rate = f", {self.mbit_per_s:g} Mbit/s" if self.mbit_per_s else ""
        return f"{self.name}: {self.one_way_ms:g} ms one way{rate}"


LINKS = (
    Link("Wi-Fi", 2.5, 50, "Grigorik, gist 4370730: 3 to 8 ms to his router and back", "2012-12"),
    Link("4G", 27.5, 10, "Catchpoint, calendar.perfplanet.com: a median of 55 ms", "2013"),
    Link("slow 4G", 75, 1.6, "Lighthouse, its preset of that name, with the rate", "2026-11"),
    Link("satellite", 300, 10, "satellites at 36,000 km: 550 to 700 ms (lifirstpower.com)", "2026"),
)


class ModelServer(socketserver.ThreadingTCPServer):
    """Answers images with logits, on this machine alone, until it is closed. Use it in ``with``."""

    daemon_threads, allow_reuse_address = True, True

    def __init__(self, runner: Runner) -> None:
        """Start, in a thread of its own.

        Args:
            runner: Who answers.
        """
        self.runner, self._is_silent = runner, threading.Event()
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Answering)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        address: tuple[str, int] = self.socket.getsockname()
        return address

    def fall_silent(self) -> None:
        """Answer no more, as when a link is gone: nobody is told, one waits."""
        self._is_silent.set()

    def close(self) -> None:
        """Close all connections and stop."""
        self.shutdown()
        for connection in list(self._open):
            connection.close()
        self.server_close()
        self._thread.join()

    def __exit__(self, *about: object) -> None:
        self.close()

    def answer(self, connection: socket.socket) -> None:
        """Wait for a request and answer it."""
        pixels = np.frombuffer(_receive(connection), np.uint8)
        images = pixels.reshape(-1, *self.runner.image_shape).astype(np.float32) / WHITE
        logits = np.ascontiguousarray(self.runner(images), np.float32)
        if not self._is_silent.is_set():
            _send(connection, logits.tobytes())


class _Answering(socketserver.BaseRequestHandler):
    server: ModelServer

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.server._open.add(self.request)
        with contextlib.suppress(OSError, ValueError):  # it has gone, or sends no images
            while True:
                self.server.answer(self.request)
        self.server._open.discard(self.request)


class Remote:
    """A runner that is elsewhere: it is called with images and gets logits over a link."""

    def __init__(self, server: ModelServer, link: Link | None = None, timeout_s: float = 5) -> None:
        """Connect at the first call.

        Args:
            server: Who answers.
            link: What is added to the loopback; None: nothing.
            timeout_s: Longer than this nobody waits for an answer.
        """
        self.link = link or Link(LOOPBACK)
        self.timeout_s, self.image_shape = timeout_s, server.runner.image_shape
        self._address = server.address
        self._connection: socket.socket | None = None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the logits (n, classes) of images (n, ...) whose values are pixels / 255.

        Raises:
            ValueError: The images have another shape than the model takes.
            NoAnswerError: There was none in time.
        """
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"The model takes images {self.image_shape}, not {images.shape[1:]}.")
        until = time.perf_counter() + self.timeout_s
        pixels = np.rint(images * WHITE).astype(np.uint8).tobytes()
        try:
            connection = self._connect(until)
            _wait(self.link.wait_s(HEADER.size + len(pixels)), until)
            _send(connection, pixels)
            connection.settimeout(max(until - time.perf_counter(), 1e-3))
            answer = _receive(connection)
            _wait(self.link.wait_s(HEADER.size + len(answer)), until)
        except OSError as error:
            self.close()
            raise NoAnswerError(
                f"No answer over {self.link.name} within {1000 * self.timeout_s:g} ms"
                f" ({type(error).__name__}: {error})."
            ) from None
        return np.frombuffer(answer, np.float32).reshape(len(images), -1)

    def close(self) -> None:
        """Hang up; the next call connects again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self, until: float) -> socket.socket:
        if self._connection is None:
            _wait(2 * self.link.wait_s(0), until)  # a handshake goes there and back
            left_s = max(until - time.perf_counter(), 1e-3)
            self._connection = socket.create_connection(self._address, timeout=left_s)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        return self._connection


class WithFallback:
    """Asks elsewhere, and answers here if there is no answer in time.

    Attributes:
        answered: How many calls were answered "there" and "here".
    """

    def __init__(self, remote: Remote, local: Run) -> None:
        """Ask one, and fall back on the other."""
        self.remote, self.local, self.answered = remote, local, Counter[str]()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the logits, from there or from here."""
        try:
            logits = self.remote(images)
        except NoAnswerError:
            self.answered[HERE] += 1
            return self.local(images)
        self.answered["there"] += 1
        return logits


def measure_calls(run: Run, images: np.ndarray, note: str, limit_s: float = 1.0) -> Measurement:
    """Return how long calls take, one after the other, the first ones left out.

    Args:
        run: Called with images.
        images: Of every call.
        note: What a reader should know of the number, e.g. which delay was added.
        limit_s: About how long it may go on; five calls are always timed.
    """
    with timing_lock(), no_garbage_collection():
        meter = LoadMeter()
        warm_up(run, images, note)
        times_ms: list[float] = []
        until = time.perf_counter() + limit_s
        while len(times_ms) < LEAST_CALLS or time.perf_counter() < until:
            start = time.perf_counter_ns()
            run(images)
            times_ms.append((time.perf_counter_ns() - start) / 1e6)
        origin = measured_now(f"{note}; {meter.describe()}")
    return replace(summarize_latency(np.array(times_ms)[:, None], origin), note=note)


def measure_links(
    runner: Runner, images: np.ndarray, links: Sequence[Link] = LINKS, limit_s: float = 1.0
) -> dict[str, Measurement]:
    """Measure a call here, over loopback, and over loopback with the delay of each link.

    Args:
        runner: The model; it answers here, and behind a socket.
        images: Of every call.
        links: What is added.
        limit_s: For each of them, about.
    """
    found = {HERE: measure_calls(runner, images, "no network", limit_s)}
    with ModelServer(runner) as server:
        for link in (Link(LOOPBACK), *links):
            added = f"{LOOPBACK} + added delay ({link})" if link.one_way_ms else LOOPBACK
            with contextlib.closing(Remote(server, link)) as remote:
                found[link.name] = measure_calls(remote, images, added, limit_s)
    return found


def tabulate_links(found: dict[str, Measurement], links: Sequence[Link] = LINKS) -> Table:
    """Return what ``measure_links`` found as a table.

    Args:
        found: By link.
        links: Whose sources to name.
    """
    local = found[HERE].value
    rows = [
        [name, f"{one.value:.3g} ms", f"{one.low:.3g}–{one.high:.3g}",
         f"{one.value / local:,.1f}×", str(one.count), one.note] for name, one in found.items()
    ]  # fmt: skip
    head = ["", "median", "half of the calls", f"of {HERE}", "calls", ""]
    sources = [f"{link.name}: {link.source}, {link.date}" for link in links]
    return Table(head, rows, [str(found[HERE].provenance), *sources])


def _wait(seconds: float, until: float) -> None:
    """Wait, but not beyond the time when nobody waits any more.

    Raises:
        TimeoutError: That time has come.
    """
    left_s = until - time.perf_counter()
    if seconds > 0:
        time.sleep(max(min(seconds, left_s), 0))
    if seconds > left_s:
        raise TimeoutError("the link is too slow")


def _send(connection: socket.socket, content: bytes) -> None:
    connection.sendall(HEADER.pack(len(content)) + content)


def _receive(connection: socket.socket) -> bytes:
    (length,) = HEADER.unpack(_read(connection, HEADER.size))
    return _read(connection, length)


def _read(connection: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        part = connection.recv(min(count - len(content), 65536))
        if not part:
            raise ConnectionResetError("the connection was closed")
        content += part
    return content
