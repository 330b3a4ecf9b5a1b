"""Tens of thousands of connections of every kind leave nothing behind: no memory, no descriptor."""

import random
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from tests.e2e.conftest import start_daemon as start_daemon
from tests.hostile.daemon import Target, answer_of, at_once, configure
from tests.hostile.heads import HEADS
from tests.hostile.raw import (
    PING,
    TEXT,
    connect,
    connecting_over_tls,
    frame,
    read_all,
    read_head,
    reset,
    send_quietly,
)
from tests.hostile.tls_clients import HELLO

pytestmark = pytest.mark.prove

LEAKED_BYTES = 5 * 1024 * 1024
Act = Callable[[], None]


def _acts(target: Target, *, tls: bool) -> list[tuple[int, Act]]:
    """What connections do, each with its share of the mix."""
    within = connecting_over_tls if tls else nullcontext
    heads = [payload for payload, _ in HEADS.values() if len(payload) < 100_000]
    good = target.request("GET", "/api/plugins")
    event = target.post_json("/api/plugins/target/ingress/take", b'{"a": [1, 2, {"b": "c"}]}')
    bad = target.post_json("/api/plugins/target/ingress/take", b'{"a": 1, "a": 2}')

    def says(port: int, payload: bytes) -> None:
        with within(), connect(port, timeout=20) as opened:
            send_quietly(opened, payload)
            received = read_all(opened)
            status = answer_of(received).status
            assert status < 500 or status == 501, received[:200]

    def resets(port: int, payload: bytes) -> None:
        with within():
            opened = connect(port, timeout=20)
        send_quietly(opened, payload)
        reset(opened)

    def follows() -> None:
        with within(), connect(target.observe, timeout=20) as opened:
            opened.sendall(target.upgrade())
            assert read_head(opened).startswith(b"HTTP/1.1 101 ")
            opened.sendall(frame(TEXT, b"hi") + frame(PING, b"well?"))
            received = b""
            while b"well?" not in received:
                part = opened.recv(65536)
                assert part, "the stream was ended"
                received += part

    def breaks_frames() -> None:
        with within(), connect(target.observe, timeout=20) as opened:
            opened.sendall(target.upgrade() + frame(3, b"x", rsv=5))
            read_all(opened)

    def hello() -> None:
        opened = connect(target.api)
        send_quietly(opened, HELLO[: random.randrange(1, len(HELLO))])
        reset(opened)

    acts: list[tuple[int, Act]] = [
        (20, lambda: says(random.choice((target.api, target.observe)), random.choice(heads))),
        (10, lambda: says(target.api, good)),
        (10, lambda: says(target.api, event)),
        (10, lambda: says(target.api, bad)),
        (10, lambda: resets(target.api, good)),
        (5, lambda: resets(target.api, event[: random.randrange(len(event))])),
        (5, lambda: resets(target.observe, target.upgrade())),
        (5, lambda: resets(random.choice((target.api, target.observe)), b"")),
        (5, lambda: says(target.observe, target.upgrade(token=False))),
        (10, follows),
        (5, breaks_frames),
    ]
    return [*acts, (5, hello)] if tls else acts


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_nothing_is_left_behind(start_daemon, tmp_path, full, tls) -> None:
    configure(tmp_path / "config", tmp_path / "state", tls=tls)
    target = Target(start_daemon(tmp_path / "config", recorded=False))
    shares, acts = zip(*_acts(target, tls=tls), strict=True)
    descriptors = target.descriptors()

    def run(count: int) -> None:
        at_once(random.choices(acts, shares, k=count), threads=16)
        assert target.settled_descriptors(descriptors) <= descriptors

    run(3000)  # until the log's window is full and the allocator has its arenas
    before = target.resident_bytes()
    run(30_000 if full else 3000)
    grown = target.resident_bytes() - before
    print(f"{'tls' if tls else 'plain'}: {grown / 1024:.0f} KiB more, of {before / 1024:.0f}")
    assert grown < LEAKED_BYTES
    assert target.daemon.stop() == 0
    assert not [line for line in target.daemon.lines if "Traceback" in line]
