"""A model behind a socket: the same answers, the delay that was added, and what if it is gone."""

import contextlib
import socket
import struct
import threading
import time

import numpy as np
import pytest

from course_utils import round_trip
from course_utils.round_trip import (
    HERE,
    LINKS,
    LOOPBACK,
    Link,
    ModelServer,
    NoAnswerError,
    Remote,
    WithFallback,
    measure_calls,
    measure_links,
    tabulate_links,
)
from course_utils.runtimes import Runner


def weigh(images):
    """Return logits that tell every pixel of an image apart."""
    flat = images.reshape(len(images), -1)
    return np.stack([flat @ np.arange(4, dtype=np.float32), flat.sum(1)], axis=1)


@pytest.fixture
def runner():
    return Runner(weigh, "planted", "planted", "", b"", (1, 2, 2))


@pytest.fixture
def pixels():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (20, 1, 2, 2)).astype(np.float32) / 255


@pytest.fixture
def server(runner):
    with ModelServer(runner) as server:
        yield server


@pytest.fixture
def remote(server):
    with contextlib.closing(Remote(server, timeout_s=2)) as remote:
        yield remote


# Answers


@pytest.mark.parametrize("count", [1, 2, 20])
def test_the_answer_from_there_is_the_answer_from_here(remote, runner, pixels, count):
    np.testing.assert_array_equal(remote(pixels[:count]), runner(pixels[:count]))
    np.testing.assert_array_equal(remote(pixels[-count:]), runner(pixels[-count:]))


def test_several_may_ask_at_once(server, runner, pixels):
    answers = {}

    def ask(number):
        with contextlib.closing(Remote(server)) as remote:
            answers[number] = [remote(pixels[number : number + 1]) for _ in range(5)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        for answer in answers[number]:
            np.testing.assert_array_equal(answer, runner(pixels[number : number + 1]))


def test_it_listens_on_this_machine_alone(server):
    host, port = server.address
    assert host == "127.0.0.1"
    assert port > 0


@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (1, 2, 2), (4,)])
def test_images_of_another_size_are_refused_before_they_are_sent(remote, shape):
    with pytest.raises(ValueError, match="takes images"):
        remote(np.zeros(shape, np.float32))


@pytest.mark.parametrize("nonsense", [b"GET / HTTP/1.1\r\n\r\n", struct.pack("!I", 3) + b"abc"])
def test_nonsense_closes_its_connection_and_hurts_nobody_else(server, remote, pixels, nonsense):
    with socket.create_connection(server.address, timeout=2) as connection:
        connection.sendall(nonsense)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(10) == b""
    assert remote(pixels).shape == (20, 2)


def test_a_closed_server_leaves_no_thread_and_no_port(runner, pixels):
    before = threading.active_count()
    with ModelServer(runner) as server, contextlib.closing(Remote(server)) as remote:
        remote(pixels)
        address = server.address
        assert threading.active_count() > before
    until = time.perf_counter() + 2
    while threading.active_count() > before and time.perf_counter() < until:
        time.sleep(0.01)
    assert threading.active_count() <= before  # one of an earlier test may have ended too
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=1)


# Delays


@pytest.mark.parametrize(
    ("link", "sent", "seconds"),
    [
        (Link("a"), 1000, 0),
        (Link("a", 20), 1000, 0.02),
        (Link("a", 20, 1), 1000, 0.028),  # 8000 bits at 10⁶ a second
        (Link("a", 0, 8), 10**6, 1),
    ],
)
def test_a_link_takes_its_latency_and_its_bytes(link, sent, seconds):
    assert link.wait_s(sent) == pytest.approx(seconds)


def test_a_call_waits_there_and_back_and_the_first_also_for_the_handshake(
    server, pixels, monkeypatch
):
    waited = []
    monkeypatch.setattr(
        round_trip, "_wait", lambda seconds, until: waited.append(round(seconds * 1000, 6))
    )
    remote = Remote(server, Link("slow", 10, 0.001))  # 1000 bits a second
    remote(pixels[:1])
    assert waited == [20, 10 + 8 * (4 + 4), 10 + 8 * (4 + 2 * 4)]
    waited.clear()
    remote(pixels[:2])
    assert waited == [10 + 8 * (4 + 8), 10 + 8 * (4 + 2 * 2 * 4)]
    remote.close()


def test_the_delay_really_passes(server, pixels):
    with contextlib.closing(Remote(server, Link("slow", 15))) as remote:
        remote(pixels)
        start = time.perf_counter()
        remote(pixels)
        assert time.perf_counter() - start >= 0.030


@pytest.mark.parametrize("link", LINKS, ids=lambda link: link.name)
def test_each_link_has_a_source(link):
    assert link.source
    assert link.date
    assert link.one_way_ms > 0
    assert link.mbit_per_s > 0


def test_links_are_ordered_from_fast_to_slow():
    waits = [link.one_way_ms for link in LINKS]
    assert waits == sorted(waits)


# Gone


def test_a_silent_server_is_not_waited_for_any_longer_than_said(server, pixels):
    remote = Remote(server)
    remote(pixels)
    remote.timeout_s = 0.1
    server.fall_silent()
    start = time.perf_counter()
    with pytest.raises(NoAnswerError, match="loopback within 100 ms"):
        remote(pixels)
    assert time.perf_counter() - start >= 0.09


def test_a_link_slower_than_the_timeout_never_answers(server, pixels):
    remote = Remote(server, Link("moon", 1300), timeout_s=0.05)
    with pytest.raises(NoAnswerError, match=r"moon within 50 ms.*too slow"):
        remote(pixels)


def test_a_server_that_is_gone_is_told_at_once(runner, pixels):
    with ModelServer(runner) as server:
        remote = Remote(server, timeout_s=30)
        remote(pixels)
    for _ in range(2):  # once by the closed connection, once by nobody listening
        with pytest.raises(NoAnswerError):
            remote(pixels)


def test_without_an_answer_the_model_here_answers(server, runner, pixels):
    both = WithFallback(Remote(server), runner)
    from_there = both(pixels)
    both.remote.timeout_s = 0.1
    server.fall_silent()
    from_here = both(pixels)
    np.testing.assert_array_equal(from_there, from_here)
    assert both.answered == {"there": 1, "here": 1}
    both.remote.close()


def test_a_wrong_image_is_no_reason_to_fall_back(server, runner):
    both = WithFallback(Remote(server), runner)
    with pytest.raises(ValueError, match="takes images"):
        both(np.zeros((1, 5, 5), np.float32))
    assert not both.answered


# Measured


def test_calls_are_measured_with_a_label(runner, pixels):
    found = measure_calls(runner, pixels, "no network", limit_s=0.05)
    assert found.unit == "ms"
    assert found.low <= found.value <= found.high
    assert found.count >= 5
    assert found.note == "no network"
    assert found.provenance.kind == "measured"
    assert "no network; others kept" in found.provenance.note


def test_slow_calls_are_timed_a_few_times_whatever_the_limit(pixels):
    calls = []

    def slow(images):
        calls.append(len(images))
        time.sleep(0.005)
        return images.reshape(len(images), -1)

    assert measure_calls(slow, pixels, "slow", limit_s=0).count == 5


def test_links_are_measured_beside_no_network_and_labelled(runner, pixels):
    links = [Link("Wi-Fi", 3, 50, "somebody", "2012")]
    found = measure_links(runner, pixels[:1], links, limit_s=0.05)
    assert list(found) == [HERE, LOOPBACK, "Wi-Fi"]
    assert found["Wi-Fi"].value >= 6
    assert found["Wi-Fi"].fastest >= 6
    assert found["Wi-Fi"].note == "loopback + added delay (Wi-Fi: 3 ms one way, 50 Mbit/s)"
    assert found[LOOPBACK].note == "loopback"
    table = tabulate_links(found, links)
    assert [row[0] for row in table.rows] == [HERE, LOOPBACK, "Wi-Fi"]
    assert table.rows[0][3] == "1.0×"
    assert "Wi-Fi: somebody, 2012" in table.notes
    assert "added delay" in table.rows[2][5]


def test_what_raises_is_not_measured(pixels):
    def broken(images):
        raise NoAnswerError("gone")

    with pytest.raises(ValueError, match="gone"):
        measure_calls(broken, pixels, "broken")
