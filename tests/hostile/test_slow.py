"""Hundreds of sockets that send a byte every five seconds, or never read: cut in time, and hardly noticed."""

import select
import socket
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from tests.e2e.conftest import start_daemon as start_daemon
from tests.hostile.daemon import Target, configure, healthy_requests
from tests.hostile.raw import connect, read_head

pytestmark = pytest.mark.prove

DRIP_S = 5.0
HEAD_S, BODY_S, STALL_S = 10.0, 30.0, 10.0
"""The daemon's own deadlines."""
LATE_S = 5.0
"""What a busy machine may add to them."""
HEALTHY_P99_S = 0.2


@dataclass
class Slow:
    """One slow client; `drips` are the bytes it has yet to send, one at a time."""

    opened: socket.socket
    drips: bytes
    deadline_s: float
    began: float
    ended: float | None = None


def _heads(target: Target, count: int) -> list[Slow]:
    head = target.head("GET", "/api/plugins", "X-Long: " + "a" * 100)
    return [_slow(target.api, b"", head, HEAD_S) for _ in range(count)]


def _bodies(target: Target, count: int) -> list[Slow]:
    lines = ("Content-Type: application/json", "Content-Length: 100")
    head = target.head("POST", "/api/plugins/target/ingress/take", *lines) + b"\r\n\r\n"
    return [_slow(target.api, head, b"1" * 99, BODY_S) for _ in range(count)]


def _slow(port: int, at_once: bytes, drips: bytes, deadline_s: float) -> Slow:
    began = time.monotonic()
    opened = connect(port, timeout=20)
    opened.sendall(at_once)
    return Slow(opened, drips, deadline_s, began)


def _unread_answers(target: Target, count: int) -> list[socket.socket]:
    opened = [connect(target.api, receive_buffer=4096, timeout=20) for _ in range(count)]
    for one in opened:
        one.setblocking(False)
        with suppress(BlockingIOError):
            one.send((target.head("GET", "/openapi.json") + b"\r\n\r\n") * 100)
    return opened


def _unread_streams(target: Target, count: int) -> list[socket.socket]:
    opened = [connect(target.observe, receive_buffer=4096, timeout=20) for _ in range(count)]
    for one in opened:
        one.sendall(target.upgrade())
        assert read_head(one).startswith(b"HTTP/1.1 101 ")
    return opened


def _drip_until_cut(slow: list[Slow], seconds: float) -> None:
    """Sends each its byte every `DRIP_S`, and notes when the daemon ended it."""
    by_descriptor = {one.opened.fileno(): one for one in slow}
    poll = select.poll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN | select.POLLRDHUP)
    over = time.monotonic() + seconds
    next_drip = 0.0
    left = set(by_descriptor)
    while left and time.monotonic() < over:
        if time.monotonic() >= next_drip:
            next_drip = time.monotonic() + DRIP_S
            for descriptor in left:
                one = by_descriptor[descriptor]
                with suppress(OSError):
                    one.opened.send(one.drips[:1])
                one.drips = one.drips[1:]
        for descriptor, event in poll.poll(200):
            if event & (select.POLLRDHUP | select.POLLHUP | select.POLLERR):
                by_descriptor[descriptor].ended = time.monotonic()
                poll.unregister(descriptor)
                left.discard(descriptor)
            else:
                with suppress(OSError):
                    by_descriptor[descriptor].opened.recv(65536)


@pytest.fixture
def held() -> Generator[list[socket.socket]]:
    """What is to be closed in the end, however it ends."""
    opened: list[socket.socket] = []
    yield opened
    for one in opened:
        one.close()


def _start(start_daemon, tmp_path) -> Target:
    configure(tmp_path / "config", tmp_path / "state", ticks=2)
    return Target(start_daemon(tmp_path / "config", recorded=False))


def test_they_are_cut_in_time_and_hardly_noticed(start_daemon, tmp_path, full, held) -> None:
    target = _start(start_daemon, tmp_path)
    each = 125 if full else 20
    descriptors = target.descriptors()
    with healthy_requests(target, pause_s=0.02) as healthy:
        began = time.monotonic()
        unread = _unread_answers(target, each) + _unread_streams(target, each)
        slow = _heads(target, each) + (_bodies(target, each) if full else [])
        held += [*unread, *(one.opened for one in slow)]
        opened_s = time.monotonic() - began
        assert target.descriptors() - descriptors > len(slow)
        _drip_until_cut(slow, (BODY_S if full else HEAD_S) + LATE_S)
        for one in slow:
            assert one.ended is not None, "never cut"
            assert one.ended - one.began < one.deadline_s + LATE_S
        # A FIN waits behind what is not read, so whether those were cut is seen at the daemon alone.
        deadline = time.monotonic() + STALL_S + LATE_S
        while target.descriptors() > descriptors + 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert target.descriptors() <= descriptors + 1, "some that never read are still open"
    took = [one.ended - one.began for one in slow if one.ended is not None]
    print(
        f"{len(slow) + len(unread)} sockets opened in {opened_s:.1f} s; slow ones cut after "
        f"{min(took):.1f} to {max(took):.1f} s; healthy p99 {healthy.p99 * 1e3:.0f} ms "
        f"of {len(healthy.seconds)}"
    )
    if full:
        assert healthy.p99 < HEALTHY_P99_S
    assert target.daemon.stop() == 0


def test_a_stop_in_the_middle_keeps_its_budget(start_daemon, tmp_path, full, held) -> None:
    target = _start(start_daemon, tmp_path)
    each = 125 if full else 20
    unread = _unread_answers(target, each) + _unread_streams(target, each)
    slow = [one.opened for one in _heads(target, each) + _bodies(target, each)]
    held += [*unread, *slow]
    time.sleep(2)  # until those that do not read have filled what there is to fill
    began = time.monotonic()
    assert target.daemon.stop() == 0
    took = time.monotonic() - began
    print(f"{len(unread) + len(slow)} sockets: stopped in {took:.1f} s")
    assert took < 10, "stop_timeout_s"
