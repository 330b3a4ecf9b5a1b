"""Hostile clients of the REST listener, beyond bad heads."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress

import h2.config
import h2.connection

from tests.hostile.clients import REFUSED, TOO_LARGE, Attack, Client, says
from tests.hostile.raw import (
    MARKER,
    connect,
    read_all,
    read_head,
    request,
    reset,
    send_quietly,
    upgrade,
)

OK = b"HTTP/1.1 200 "
_CHUNKED = b"Transfer-Encoding: chunked"
_LONG = 10 * 1024 * 1024


def _chunked(body: bytes) -> Attack:
    return says(request(b"/echo", _CHUNKED, method=b"POST", body=body))


def _prior_knowledge(method: str, path: str) -> Attack:
    """HTTP/2 without asking, as hypercorn would have it; bad pseudo-headers ended the process."""
    config = h2.config.H2Configuration(
        client_side=True,
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
    )
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    pseudo = [
        (":method", method),
        (":path", path),
        (":scheme", "http"),
        (":authority", "a"),
    ]
    connection.send_headers(1, pseudo, end_stream=True)
    return says(connection.data_to_send())


def _upgrade_to_http2(settings: bytes) -> Attack:
    headers = (
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: " + settings,
    )
    return says(request(b"/ping", *headers), timeout=0.5)


def _reset_after(payload: bytes, *, times: int = 1, pause_s: float = 0) -> Attack:
    def attack(port: int) -> None:
        for _ in range(times):
            opened = connect(port)
            send_quietly(opened, payload)
            time.sleep(pause_s)
            reset(opened)

    return attack


def _half_closed(payload: bytes) -> Attack:
    def attack(port: int) -> None:
        with connect(port, timeout=1) as opened:
            opened.sendall(payload)
            opened.shutdown(socket.SHUT_WR)
            read_all(opened)

    return attack


def _never_reads(payload: bytes, *, connections: int = 1, held_s: float = 1.0) -> Attack:
    """Leaves with everything unread."""

    def attack(port: int) -> None:
        opened = [connect(port, receive_buffer=4096) for _ in range(connections)]
        for one in opened:
            send_quietly(one, payload)
        time.sleep(held_s)
        for one in opened:
            one.close()

    return attack


def _is_cut_off(payload: bytes, *, receive_buffer: int | None = None) -> Attack:
    """The server must end it within 3 s, though this client neither reads nor closes."""

    def attack(port: int) -> None:
        with connect(port, receive_buffer=receive_buffer) as opened:
            opened.sendall(payload)
            time.sleep(2)
            opened.settimeout(1)
            with suppress(ssl.SSLError):  # over TLS a cut is told apart from an end
                while opened.recv(1 << 20):
                    pass

    return attack


def _drips(payload: bytes, *, seconds_apart: float) -> Attack:
    """One byte at a time, until the server has had enough."""

    def attack(port: int) -> bytes:
        with connect(port) as opened:
            for start in range(len(payload)):
                send_quietly(opened, payload[start : start + 1])
                time.sleep(seconds_apart)
            return read_all(opened)

    return attack


def _kept_alive(port: int) -> None:
    """Fifty connections, one request each, then silence: the server must close them."""
    opened = [connect(port) for _ in range(50)]
    for one in opened:
        one.sendall(request())
    for one in opened:
        assert read_all(one).startswith(OK)
        one.close()


def _close_honoured(port: int) -> bytes:
    with connect(port, timeout=1) as opened:
        opened.sendall(request(b"/ping", b"Connection: close"))
        received = b""
        while part := opened.recv(65536):
            received += part
        return received


def _pipelines(count: int) -> Attack:
    def attack(port: int) -> None:
        with connect(port, timeout=5) as opened:
            opened.sendall(request() * count)
            received = b""
            while received.count(OK) < count:
                part = opened.recv(65536)
                assert part, f"ended after {received.count(OK)} answers"
                received += part

    return attack


def _streams_then(end: str) -> Attack:
    def attack(port: int) -> None:
        opened = connect(port)
        opened.sendall(request(b"/stream"))
        read_head(opened)
        if end == "reset":
            reset(opened)
            return
        with opened:
            if end == "half close":
                opened.shutdown(socket.SHUT_WR)
                read_all(opened)
            elif end == "pipelines":
                opened.sendall(request() * 100)
                time.sleep(0.2)

    return attack


def http_clients() -> Iterator[Client]:
    for name, attack, expect in _ANSWERED:
        yield Client(name, "http", attack, expect)
    for name, attack, expect, options in _WITH_OPTIONS:
        yield Client(name, "http", attack, expect, options)


_ANSWERED: list[tuple[str, Attack, bytes]] = [
    ("HTTP/2 by prior knowledge", _prior_knowledge("GET", "/ping"), REFUSED),
    ("HTTP/2 by prior knowledge, bad path", _prior_knowledge("GET", "/\xe9"), REFUSED),
    ("HTTP/2 by prior knowledge, no path", _prior_knowledge("GET", ""), REFUSED),
    ("HTTP/2 by prior knowledge, bad method", _prior_knowledge("G\xc9T", "/ping"), REFUSED),
    ("HTTP/2 by upgrade is ignored", _upgrade_to_http2(b"AAMAAABkAAQAAP__"), OK),
    ("HTTP/2 by upgrade, bad settings", _upgrade_to_http2(b"!!!"), OK),
    ("WebSocket", says(upgrade(b"/ping")), REFUSED),
    (
        "WebSocket with deflate",
        says(upgrade(b"/ping", b"Sec-WebSocket-Extensions: permessage-deflate")),
        REFUSED,
    ),
    ("an IDNA name that is none", says(request(host=b"xn--a.example"), timeout=0.5), OK),
    ("an empty host", says(request(host=b""), timeout=0.5), OK),
    ("HTTP/1.0 without a host", says(request(host=None, version=b"HTTP/1.0")), OK),
    ("a body for GET", says(request(b"/ping", b"Content-Length: 3", body=b"abc"), timeout=0.5), OK),
    ("escapes that are no UTF-8", says(request(b"/%ff%fe%00"), timeout=0.5), b"HTTP/1.1 404 "),
    ("a query that is no UTF-8", says(request(b"/ping?%ff=%fe&[]"), timeout=0.5), OK),
    ("dots upward", says(request(b"/../../etc/passwd"), timeout=0.5), b"HTTP/1.1 404 "),
    ("two slashes", says(request(b"//evil.example/ping"), timeout=0.5), b"HTTP/1.1 "),
    ("a cookie of garbage", says(request(b"/ping", b"Cookie: =;;=\xff"), timeout=0.5), OK),
    (
        "a media type of garbage",
        says(
            request(
                b"/echo", b"Content-Length: 1", b"Content-Type: ;;=\xff", method=b"POST", body=b"x"
            ),
            timeout=0.5,
        ),
        OK,
    ),
    ("chunks of garbage", _chunked(b"zz\r\nabc\r\n"), REFUSED),
    ("a chunk of 2^80 bytes", _chunked(b"1" + b"0" * 20 + b"\r\nabc"), REFUSED),
    ("a chunk of negative size", _chunked(b"-1\r\nabc\r\n"), REFUSED),
    ("a chunk whose end is missing", _chunked(b"3\r\nabcdef\r\n0\r\n\r\n"), REFUSED),
    ("a chunk's extension of 64 KiB", _chunked(b"3;" + b"a" * 65536), TOO_LARGE),
    ("trailers of 64 KiB", _chunked(b"0\r\nX: " + b"a" * 65536), TOO_LARGE),
    ("trailers without end", _chunked(b"0\r\n" + b"X: a\r\n" * 20000), TOO_LARGE),
    (
        "a length beyond the limit",
        says(request(b"/echo", b"Content-Length: 99999999999999999999", method=b"POST", body=b"x")),
        b"HTTP/1.1 413 ",
    ),
    (
        "10 MiB where 64 KiB are allowed",
        says(
            request(
                b"/echo", b"Content-Length: %d" % _LONG, method=b"POST", body=b"x" * _LONG
            )
        ),
        b"HTTP/1.1 413 ",
    ),
    ("10 MiB in chunks", _chunked((b"10000\r\n" + b"x" * 65536 + b"\r\n") * 160), b"HTTP/1.1 413 "),
    (
        "a body that does not come",
        says(request(b"/echo", b"Content-Length: 10", method=b"POST"), timeout=4),
        b"HTTP/1.1 408 ",
    ),
    (
        "leave to continue, then nothing",
        says(
            request(
                b"/echo", b"Content-Length: 10", b"Expect: 100-continue", method=b"POST"
            ),
            timeout=4,
        ),
        b"HTTP/1.1 100 ",
    ),
    ("an expectation of garbage", says(request(b"/ping", b"Expect: all"), timeout=0.5), OK),
    ("HEAD of an endless answer", says(request(b"/flood", method=b"HEAD"), timeout=0.5), OK),
    ("HEAD of a quiet stream", says(request(b"/stream", method=b"HEAD"), timeout=0.5), OK),
    ("a view that raises", says(request(b"/raises"), timeout=0.5), b"HTTP/1.1 500 "),
    ("a body that raises", says(request(b"/broken")), OK),
    ("Connection: close", _close_honoured, OK),
    ("a body cut by a reset", _reset_after(
        request(b"/echo", b"Content-Length: 1000", method=b"POST", body=b"abc"), pause_s=0.1
    ), b""),
    ("a request, then a reset", _reset_after(request()), b""),
    ("1,000 connects and resets", _reset_after(b"", times=1000), b""),
    ("200 requests and resets", _reset_after(request(), times=200), b""),
    ("half a head, then a reset", _reset_after(request()[:20], pause_s=0.05), b""),
    ("half a head, then half closed", _half_closed(request()[:20]), b""),
    ("a request, then half closed", _half_closed(request()), b""),
    ("a stream, then a reset", _streams_then("reset"), b""),
    ("a stream, then half closed", _streams_then("half close"), b""),
    ("a stream, then 100 requests behind it", _streams_then("pipelines"), b""),
    ("1,000 requests at once", _pipelines(1000), b""),
    ("requests without reading answers", _never_reads(request() * 5000), b""),
    ("an endless answer unread", _never_reads(request(b"/flood")), b""),
    ("twenty endless answers unread", _never_reads(request(b"/flood"), connections=20), b""),
    ("an endless answer, then a reset", _reset_after(request(b"/flood"), pause_s=0.2), b""),
    ("a request and garbage behind it", says(request() + b"\0\xff" * 100), OK),
]  # fmt: skip

_WITH_OPTIONS: list[tuple[str, Attack, bytes, dict[str, float]]] = [
    ("silence", says(b"", timeout=3), b"", {"head_s": 0.5}),
    (
        "a head byte by byte",
        _drips(request(b"/ping", b"X: " + MARKER * 3)[:40], seconds_apart=0.03),
        b"HTTP/1.1 408 ",
        {"head_s": 0.5},
    ),
    ("fifty idle connections", _kept_alive, b"", {"idle_s": 0.5}),
    (
        "an endless answer unread is cut",
        _is_cut_off(request(b"/flood"), receive_buffer=4096),
        b"",
        {"stall_s": 0.5},
    ),
    (
        "a second head that never ends",
        _is_cut_off(request() + request()[:20]),
        b"",
        {"head_s": 0.5},
    ),
]
