"""Hostile clients of the observation listener, beyond bad heads."""

import socket
import ssl
import struct
import time
from collections.abc import Iterator

from tests.hostile.clients import REFUSED, Attack, Client, says
from tests.hostile.raw import (
    BINARY,
    CLOSE,
    KEY,
    PING,
    PONG,
    TEXT,
    close_code,
    connect,
    frame,
    open_stream,
    read_all,
    read_head,
    request,
    reset,
    send_quietly,
    upgrade,
)

_SWITCHED = b"HTTP/1.1 101 "
_FAR = b"\x00" * 8


def _sends(*frames: bytes, closes: int | None = None) -> Attack:
    """After the handshake; the server must end the connection, with `closes` if it says why."""

    def attack(port: int) -> None:
        with open_stream(port, timeout=2) as opened:
            send_quietly(opened, b"".join(frames))
            received = bytearray()
            try:
                while part := opened.recv(65536):
                    received += part
            except (ConnectionError, ssl.SSLError):
                return
            if closes is not None:
                assert close_code(bytes(received)) == closes

    return attack


def _tolerated(*frames: bytes) -> Attack:
    """Frames of no harm: afterwards a ping is still answered."""

    def attack(port: int) -> None:
        with open_stream(port, timeout=2) as opened:
            opened.sendall(b"".join(frames) + frame(PING, b"still there?"))
            received = b""
            while b"still there?" not in received:
                part = opened.recv(65536)
                assert part, "the connection was ended"
                received += part

    return attack


def _then(end: str, *, times: int = 1) -> Attack:
    def attack(port: int) -> None:
        for _ in range(times):
            opened = open_stream(port)
            if end == "reset":
                reset(opened)
                continue
            with opened:
                if end == "half close":
                    opened.shutdown(socket.SHUT_WR)
                    read_all(opened)

    return attack


def _head_then_reset(payload: bytes, *, times: int = 1, pause_s: float = 0) -> Attack:
    def attack(port: int) -> None:
        for _ in range(times):
            opened = connect(port)
            send_quietly(opened, payload)
            time.sleep(pause_s)
            reset(opened)

    return attack


def _together(behind: bytes) -> Attack:
    """The upgrade and more in one segment, which a client may not do before the 101."""

    def attack(port: int) -> bytes:
        with connect(port, timeout=0.7) as opened:
            opened.sendall(upgrade() + behind)
            head = read_head(opened)
            read_all(opened)
            return head

    return attack


def _floods(unit: bytes, *, count: int, reads: bool, closes: int | None = None) -> Attack:
    def attack(port: int) -> None:
        with open_stream(port, receive_buffer=4096) as opened:
            opened.settimeout(1)
            send_quietly(opened, unit * count)
            if reads:
                received = read_all(opened)
                if closes is not None:
                    assert close_code(received) in (closes, None)

    return attack


def _never_reads(connections: int, held_s: float) -> Attack:
    def attack(port: int) -> None:
        opened = [open_stream(port, b"/flood", receive_buffer=4096) for _ in range(connections)]
        time.sleep(held_s)
        for one in opened:
            one.close()

    return attack


def _is_cut_off(port: int) -> None:
    """Never reads; the server must end it without being asked."""
    with open_stream(port, b"/flood", receive_buffer=4096) as opened:
        time.sleep(2)
        opened.settimeout(1)
        try:
            while opened.recv(1 << 20):
                pass
        except (ConnectionError, ssl.SSLError):
            pass


def _drips_frame(port: int) -> None:
    with open_stream(port, timeout=1) as opened:
        for byte in frame(TEXT, b"a" * 60):
            opened.sendall(bytes([byte]))
            time.sleep(0.005)


def _handler_raises(port: int) -> None:
    with open_stream(port, b"/raises") as opened:
        assert close_code(read_all(opened)) == 1011


def _endless_fragments(port: int) -> None:
    """Continuations without a byte of payload: of no size, and yet kept by wsproto each."""
    with open_stream(port, timeout=1) as opened:
        opened.sendall(frame(TEXT, b"", fin=False) + frame(0, b"", fin=False) * 1000)
        assert close_code(read_all(opened)) == 1009


def websocket_clients() -> Iterator[Client]:
    for name, attack, expect in _CLIENTS:
        yield Client(name, "websocket", attack, expect)
    yield Client("silence", "websocket", says(b"", timeout=3), b"HTTP/1.1 408 ", {"head_s": 0.5})
    yield Client(
        "half a head", "websocket", says(upgrade()[:40], timeout=3), b"HTTP/1.1 408 ",
        {"head_s": 0.5},
    )  # fmt: skip
    yield Client("events unread are cut", "websocket", _is_cut_off, b"", {"stall_s": 0.5})


def _lacks(*names: bytes) -> Attack:
    return says(upgrade(without=names))


def _unasked(*headers: bytes, without: tuple[bytes, ...] = ()) -> Attack:
    return says(upgrade(b"/", *headers, without=without))


def _claims(size: int) -> bytes:
    return b"\x81\xff" + struct.pack("!Q", size) + b"\1\2\3\4" + b"a" * 100


_CLIENTS: list[tuple[str, Attack, bytes]] = [
    ("plain GET", says(request()), REFUSED),
    ("plain GET, then a reset", _head_then_reset(request()), b""),
    ("200 plain GETs and resets", _head_then_reset(request(), times=200), b""),
    ("1,000 connects and resets", _head_then_reset(b"", times=1000), b""),
    ("upgrade, then a reset", _head_then_reset(upgrade()), b""),
    ("200 upgrades and resets", _head_then_reset(upgrade(), times=200), b""),
    ("half a head, then a reset", _head_then_reset(upgrade()[:40], pause_s=0.05), b""),
    ("reset right after the handshake", _then("reset"), b""),
    ("100 resets right after the handshake", _then("reset", times=100), b""),
    ("closed right after the handshake", _then("close", times=20), b""),
    ("half closed after the handshake", _then("half close"), b""),
    ("POST", says(upgrade(method=b"POST")), REFUSED),
    ("HEAD", says(upgrade(method=b"HEAD")), REFUSED),
    ("HTTP/1.0", says(upgrade(version=b"HTTP/1.0")), REFUSED),
    ("no key", _lacks(b"key"), REFUSED),
    ("no version", _lacks(b"version"), REFUSED),
    ("no Connection", _lacks(b"connection"), REFUSED),
    ("no Upgrade", _lacks(b"upgrade"), REFUSED),
    ("two keys", _unasked(b"Sec-WebSocket-Key: " + KEY), REFUSED),
    ("a short key", _unasked(b"Sec-WebSocket-Key: abc", without=(b"key",)), REFUSED),
    ("an empty key", _unasked(b"Sec-WebSocket-Key:", without=(b"key",)), REFUSED),
    ("version 8", _unasked(b"Sec-WebSocket-Version: 8", without=(b"version",)), REFUSED),
    ("upgrade to h2c", _unasked(b"Upgrade: h2c", without=(b"upgrade",)), REFUSED),
    ("upgrade with a body", says(upgrade(b"/", b"Content-Length: 3") + b"abc"), REFUSED),
    ("upgrade with chunks", _unasked(b"Transfer-Encoding: chunked"), REFUSED),
    (
        "a subprotocol",
        says(upgrade(b"/", b"Sec-WebSocket-Protocol: chat"), timeout=0.5),
        _SWITCHED,
    ),
    ("an IDNA name that is none", says(upgrade(host=b"xn--a.example"), timeout=0.5), _SWITCHED),
    (
        "extensions of every kind",
        says(
            upgrade(
                b"/", b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=99, ;;",
                b"Sec-WebSocket-Protocol: , ,,a,, b c",
            ),
            timeout=0.5,
        ),
        _SWITCHED,
    ),
    ("refused by the gate", says(upgrade(b"/refused")), b"HTTP/1.1 401 "),
    ("a gate that raises", says(upgrade(b"/gate-raises")), b"HTTP/1.1 500 "),
    ("a handler that raises", _handler_raises, b""),
    ("a ping with the upgrade", _together(frame(PING, b"early")), _SWITCHED),
    ("a message with the upgrade", _together(frame(TEXT, b"early")), _SWITCHED),
    ("a Close with the upgrade", _together(frame(CLOSE, b"\x03\xe8")), _SWITCHED),
    ("garbage with the upgrade", _together(b"\xff" * 300), _SWITCHED),
    ("another upgrade behind the first", _together(upgrade()), _SWITCHED),
    ("HTTP after the handshake", _sends(request()), b""),
    ("an unmasked message", _sends(frame(TEXT, b"hi", masked=False)), b""),
    ("an unmasked ping", _sends(frame(PING, b"hi", masked=False)), b""),
    ("reserved bit 1", _sends(frame(TEXT, b"hi", rsv=4)), b""),
    ("reserved bit 2", _sends(frame(TEXT, b"hi", rsv=2)), b""),
    ("reserved bit 3", _sends(frame(TEXT, b"hi", rsv=1)), b""),
    ("opcode 3", _sends(frame(3, b"hi")), b""),
    ("opcode 15", _sends(frame(15, b"hi")), b""),
    ("a ping of 126 bytes", _sends(frame(PING, b"a" * 126)), b""),
    ("a fragmented ping", _sends(frame(PING, b"a", fin=False)), b""),
    ("a fragmented Close", _sends(frame(CLOSE, b"\x03\xe8", fin=False)), b""),
    ("a continuation of nothing", _sends(frame(0, b"a")), b""),
    ("a message within a message", _sends(frame(TEXT, b"a", fin=False), frame(TEXT, b"b")), b""),
    ("a message of 5 KiB", _sends(frame(TEXT, b"a" * 5000), closes=1009), b""),
    ("a message of 1 MiB", _sends(frame(BINARY, b"a" * (1 << 20)), closes=1009), b""),
    (
        "a message of 5 KiB in fragments",
        _sends(frame(TEXT, b"a" * 100, fin=False), frame(0, b"a" * 100, fin=False) * 60,
               closes=1009),
        b"",
    ),
    ("a length of 2^62", _sends(_claims(1 << 62), b"a" * 5000, closes=1009), b""),
    ("a length of 2^63", _sends(_claims(1 << 63)), b""),
    ("a length of 2^64-1", _sends(_claims((1 << 64) - 1)), b""),
    ("a length longer than need be", _sends(b"\x81\xfe\x00\x05\1\2\3\4aaaaa"), b""),
    ("a message that is no UTF-8", _sends(frame(TEXT, b"\xff\xfe\xfd")), b""),
    ("UTF-8 cut by a message's end", _sends(frame(TEXT, "é".encode()[:1])), b""),
    ("a surrogate", _sends(frame(TEXT, b"\xed\xa0\x80")), b""),
    ("Close with 1005", _sends(frame(CLOSE, b"\x03\xed")), b""),
    ("Close with 0", _sends(frame(CLOSE, b"\x00\x00")), b""),
    ("Close with 65535", _sends(frame(CLOSE, b"\xff\xff")), b""),
    ("Close of one byte", _sends(frame(CLOSE, b"\x03")), b""),
    ("Close with a reason that is no UTF-8", _sends(frame(CLOSE, b"\x03\xe8\xff\xff")), b""),
    ("Close without a code", _sends(frame(CLOSE)), b""),
    ("Close twice", _sends(frame(CLOSE, b"\x03\xe8") * 2), b""),
    ("a ping after Close", _sends(frame(CLOSE, b"\x03\xe8"), frame(PING, b"a")), b""),
    ("1 MiB after Close", _sends(frame(CLOSE, b"\x03\xe8"), b"\xff" * (1 << 20)), b""),
    ("50 messages at once", _tolerated(frame(TEXT, b"hi") * 50), b""),
    ("empty messages", _tolerated(frame(TEXT) * 50, frame(BINARY) * 50), b""),
    ("pongs nobody asked for", _tolerated(frame(PONG, b"a") * 1000), b""),
    ("a message byte by byte", _drips_frame, b""),
    ("20,000 pings unread", _floods(frame(PING, b"a" * 125), count=20000, reads=False), b""),
    ("20,000 pings read", _floods(frame(PING, b"a" * 10), count=20000, reads=True), b""),
    ("fragments of nothing, without end", _endless_fragments, b""),
    ("events unread", _never_reads(1, 0.5), b""),
    ("twenty streams of events unread", _never_reads(20, 1.0), b""),
]  # fmt: skip
