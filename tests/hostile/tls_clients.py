"""Hostile clients of TLS itself: before, within and after the handshake."""

import shutil
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress

from tests.hostile.clients import REFUSED, Attack, Client, says
from tests.hostile.raw import (
    CONTEXT,
    connect,
    connecting_over_tls,
    read_all,
    read_head,
    request,
    reset,
    send_quietly,
    upgrade,
)


def _hello() -> bytes:
    """A ClientHello."""
    outgoing = ssl.MemoryBIO()
    client = CONTEXT.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


HELLO = _hello()


def _record(kind: int, payload: bytes, *, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return bytes((kind, 3, 3)) + size.to_bytes(2, "big") + payload


def _in_records_of_one_byte() -> bytes:
    return b"".join(_record(22, HELLO[at : at + 1]) for at in range(5, len(HELLO)))


def _ended(payload: bytes, *, within_s: float = 3) -> Attack:
    """The server must end the connection by itself."""

    def attack(port: int) -> None:
        with connect(port, timeout=within_s) as opened:
            send_quietly(opened, payload)
            with suppress(ConnectionError, ssl.SSLError):
                while opened.recv(65536):
                    pass

    return attack


def _drips(payload: bytes, *, seconds_apart: float) -> Attack:
    def attack(port: int) -> None:
        with connect(port) as opened:
            begun = time.monotonic()
            for start in range(len(payload)):
                send_quietly(opened, payload[start : start + 1])
                time.sleep(seconds_apart)
                if time.monotonic() - begun > 1.5:
                    break
            with suppress(ConnectionError, ssl.SSLError):
                while opened.recv(65536):
                    pass

    return attack


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
        with connect(port) as opened:
            opened.sendall(payload)
            opened.shutdown(socket.SHUT_WR)
            read_all(opened)

    return attack


def _shaken(port: int) -> ssl.SSLSocket:
    with connecting_over_tls():
        opened = connect(port)
    assert isinstance(opened, ssl.SSLSocket)
    return opened


def _raw_after_handshake(payload: bytes) -> Attack:
    """`payload` in the place of records; the server must end it."""

    def attack(port: int) -> None:
        shaken = _shaken(port)
        with socket.socket(fileno=shaken.detach()) as opened:
            opened.settimeout(3)
            send_quietly(opened, payload)
            with suppress(ConnectionError, ssl.SSLError):
                while opened.recv(65536):
                    pass

    return attack


def _shakes(times: int, *, then: bytes = b"", ends: str = "reset") -> Attack:
    def attack(port: int) -> None:
        for _ in range(times):
            shaken = _shaken(port)
            send_quietly(shaken, then)
            with socket.socket(fileno=shaken.detach()) as opened:
                opened.settimeout(2)
                if ends == "reset":
                    reset(opened)
                elif ends == "half close":
                    opened.shutdown(socket.SHUT_WR)
                    read_all(opened)

    return attack


def _says_close_notify(then: bytes) -> Attack:
    """A request, close_notify behind it, and no end of the connection: the server must end it."""

    def attack(port: int) -> None:
        with _shaken(port) as shaken:
            shaken.sendall(then)
            with suppress(OSError):
                shaken.unwrap()
            with suppress(OSError):
                assert shaken.recv(65536) == b""

    return attack


def _only(version: ssl.TLSVersion) -> Attack:
    def attack(port: int) -> None:
        context = _trusting_context()
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of the versions, which is the point
            context.minimum_version = context.maximum_version = version
        with connect(port) as opened:
            try:
                context.wrap_socket(opened).close()
            except OSError:
                return
            raise AssertionError(f"{version} was spoken")

    return attack


def _trusting_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _offers_http2(port: int) -> None:
    context = _trusting_context()
    context.set_alpn_protocols(["h2"])
    with connect(port) as opened, suppress(OSError), context.wrap_socket(opened) as shaken:
        assert shaken.selected_alpn_protocol() is None
        shaken.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        assert shaken.recv(65536).startswith(REFUSED)


def _openssl(letters: str, version: str) -> Attack:
    """What only the openssl command does: `R` asks to negotiate again, `K` for new keys."""

    def attack(port: int) -> None:
        arguments = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", f"-{version}"]
        # s_client reads one command for each read of its input.
        with subprocess.Popen(
            arguments,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as client:
            assert client.stdin is not None
            try:
                for letter in letters:
                    with suppress(BrokenPipeError):
                        client.stdin.write(f"{letter}\n".encode())
                    time.sleep(0.005)
            finally:
                client.kill()

    return attack


def _never_reads(target: bytes, *, connections: int) -> Attack:
    def attack(port: int) -> None:
        with connecting_over_tls():
            opened = [connect(port, receive_buffer=4096) for _ in range(connections)]
        for one in opened:
            send_quietly(one, target)
        time.sleep(1)
        for one in opened:
            one.close()

    return attack


def _is_cut_off(payload: bytes) -> Attack:
    """Never reads; the server must end it without being asked."""

    def attack(port: int) -> None:
        with connecting_over_tls():
            opened = connect(port, receive_buffer=4096)
        with opened, suppress(ConnectionError, ssl.SSLError):
            opened.sendall(payload)
            time.sleep(2)
            opened.settimeout(1)
            while opened.recv(1 << 20):
                pass

    return attack


def _head_byte_by_byte(port: int) -> bytes:
    with _shaken(port) as opened:
        for byte in request(b"/ping")[:40]:
            send_quietly(opened, bytes((byte,)))
            time.sleep(0.03)
        with suppress(OSError):
            return read_head(opened)
        return b""


def tls_clients() -> Iterator[Client]:
    for name, attack, expect in _CLIENTS:
        yield Client(name, "both tls", attack, expect)
    for name, attack, options in _WITH_OPTIONS:
        yield Client(name, "both tls", attack, b"", options)
    if shutil.which("openssl") is not None:
        yield Client("negotiating again, 100 times", "both tls", _openssl("R" * 100, "tls1_2"))
        yield Client("new keys, 200 times", "both tls", _openssl("K" * 200, "tls1_3"))
    flood = request(b"/flood")
    yield Client("20 endless answers unread", "https", _never_reads(flood, connections=20))
    yield Client(
        "an endless stream unread", "wss", _never_reads(upgrade(b"/flood"), connections=20)
    )
    yield Client("an unread answer is cut", "https", _is_cut_off(flood), b"", {"stall_s": 0.5})
    yield Client(
        "an unread stream is cut", "wss", _is_cut_off(upgrade(b"/flood")), b"", {"stall_s": 0.5}
    )
    yield Client(
        "a head byte by byte, in TLS",
        "https",
        _head_byte_by_byte,
        b"HTTP/1.1 408 ",
        {"head_s": 0.5},
    )


_BODY = request(b"/echo", b"Content-Length: 1000", method=b"POST", body=b"abc")
_CLIENTS: list[tuple[str, Attack, bytes]] = [
    ("HTTP without TLS", says(request()), REFUSED),
    ("an upgrade without TLS", says(upgrade()), REFUSED),
    ("64 KiB of HTTP without TLS", says(request(b"/ping", b"X: " + b"a" * 65536)), REFUSED),
    ("HTTP without TLS, then reset", _reset_after(request(), times=50), b""),
    ("HTTP/2 preface without TLS", _ended(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), b""),
    ("an SSH banner to TLS", _ended(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), b""),
    ("NULs to TLS", _ended(b"\0" * 65536), b""),
    ("0xFF to TLS", _ended(b"\xff" * 65536), b""),
    ("SSL 2", _ended(bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0") + b"a" * 16), b""),
    ("TLS 1.0", _only(ssl.TLSVersion.TLSv1), b""),
    ("TLS 1.1", _only(ssl.TLSVersion.TLSv1_1), b""),
    ("HTTP/2 by ALPN", _offers_http2, b""),
    ("a record longer than may be", _ended(_record(22, b"a" * 20000, length=65535)), b""),
    ("an empty record", _ended(_record(22, b"") * 1000), b""),
    ("a hello in records of one byte", _reset_after(_in_records_of_one_byte(), pause_s=0.2), b""),
    ("a hello of garbage", _ended(HELLO[:60] + b"\xff" * (len(HELLO) - 60)), b""),
    ("a hello, then garbage", _ended(HELLO + b"\0" * 1000), b""),
    ("two hellos", _ended(HELLO + HELLO), b""),
    ("1,000 alerts", _ended(_record(21, b"\x01\x64") * 1000), b""),
    ("a fatal alert", _ended(_record(21, b"\x02\x28")), b""),
    ("data before the handshake", _ended(_record(23, b"a" * 100)), b""),
    ("a heartbeat", _ended(HELLO + _record(24, b"\x01\x40\x00")), b""),
    ("half a hello, then half closed", _half_closed(HELLO[:100]), b""),
    ("a hello, then half closed", _half_closed(HELLO), b""),
    ("half a hello, then a reset", _reset_after(HELLO[:100], times=50), b""),
    ("200 hellos and resets", _reset_after(HELLO, times=200), b""),
    ("1,000 connects and resets to TLS", _reset_after(b"", times=1000), b""),
    ("50 handshakes and resets", _shakes(50), b""),
    ("50 requests in TLS and resets", _shakes(50, then=request()), b""),
    ("a body in TLS, then a reset", _shakes(1, then=_BODY), b""),
    ("a body in TLS, cut without close_notify", _shakes(1, then=_BODY, ends="half close"), b""),
    ("a request, cut without close_notify", _shakes(1, then=request(), ends="half close"), b""),
    ("an upgrade, cut without close_notify", _shakes(1, then=upgrade(), ends="half close"), b""),
    ("a request and close_notify", _says_close_notify(request()), b""),
    ("an upgrade and close_notify", _says_close_notify(upgrade()), b""),
    ("a body and close_notify", _says_close_notify(_BODY), b""),
    ("plain HTTP after the handshake", _raw_after_handshake(request()), b""),
    ("a record that does not authenticate", _raw_after_handshake(_record(23, b"a" * 100)), b""),
    ("a hello after the handshake", _raw_after_handshake(HELLO), b""),
    ("alerts after the handshake", _raw_after_handshake(_record(21, b"\x01\x64") * 100), b""),
]  # fmt: skip

_WITH_OPTIONS: list[tuple[str, Attack, dict[str, float]]] = [
    ("silence to TLS", _ended(b""), {"head_s": 0.5}),
    ("half a hello", _ended(HELLO[:100]), {"head_s": 0.5}),
    ("a hello, then silence", _ended(HELLO), {"head_s": 0.5}),
    ("a hello byte by byte", _drips(HELLO, seconds_apart=0.02), {"head_s": 0.5}),
    ("a handshake, then silence", _raw_after_handshake(b""), {"head_s": 0.5}),
]
