"""Hostile heads: each is sent to both listeners, and refused by both before anything else runs."""

from collections.abc import Iterator

from tests.hostile.clients import REFUSED, TOO_LARGE, Client, says
from tests.hostile.raw import KEY, request, upgrade

_NOT_ASCII = b"caf\xc3\xa9\xff"
_SENSITIVE = (
    "Connection", "Upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Extensions", "Origin", "Authorization", "Content-Length",
    "Expect",
)  # fmt: skip
_LF = request().replace(b"\r\n", b"\n")

HEADS: dict[str, tuple[bytes, bytes]] = {
    **{
        f"bytes beyond ASCII in {name}": (
            request(b"/ping", name.encode() + b": " + _NOT_ASCII),
            REFUSED,
        )
        for name in _SENSITIVE
    },
    **{
        f"upgrade with bytes beyond ASCII in {name}": (
            upgrade(b"/", name.encode() + b": " + _NOT_ASCII),
            REFUSED,
        )
        for name in ("Connection", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Origin")
    },
    "bytes beyond ASCII in Transfer-Encoding": (
        request(b"/ping", b"Transfer-Encoding: " + _NOT_ASCII),
        b"HTTP/1.1 501 ",
    ),
    "bytes beyond ASCII in Host": (request(host=_NOT_ASCII), REFUSED),
    "upgrade with bytes beyond ASCII in Host": (upgrade(host=_NOT_ASCII), REFUSED),
    "bytes beyond ASCII in a header's name": (request(b"/ping", b"X-\xff: 1"), REFUSED),
    "bytes beyond ASCII in the target": (request(b"/p\xffing"), REFUSED),
    "bytes beyond ASCII in the method": (request(method=b"G\xffT"), REFUSED),
    "a host of brackets": (request(host=b"[[["), REFUSED),
    "a host with a user": (request(host=b"user@127.0.0.1"), REFUSED),
    "a host with a path": (request(host=b"127.0.0.1/x"), REFUSED),
    "a port of letters": (request(host=b"127.0.0.1:http"), REFUSED),
    "a host of empty labels": (request(host=b"a..b"), REFUSED),
    "a host label of 200 letters": (request(host=b"a" * 200), REFUSED),
    "no host": (request(host=None), REFUSED),
    "two hosts": (request(b"/ping", b"Host: other"), REFUSED),
    "two origins": (request(b"/ping", b"Origin: http://a", b"Origin: http://b"), REFUSED),
    "two authorizations": (request(b"/ping", b"Authorization: a", b"Authorization: b"), REFUSED),
    "NUL in a value": (request(b"/ping", b"X-Y: a\0b"), REFUSED),
    "NUL in the target": (request(b"/pi\0ng"), REFUSED),
    "NULs only": (b"\0" * 4096, REFUSED),
    "a control character in a value": (request(b"/ping", b"X-Y: a\x01b"), REFUSED),
    "DEL in a value": (request(b"/ping", b"X-Y: a\x7fb"), REFUSED),
    "bare LF": (_LF, REFUSED),
    "one bare LF": (request(b"/ping", b"X-Y: a\nX-Z: b"), REFUSED),
    "bare CR": (request(b"/ping", b"X-Y: a\rX-Z: b"), REFUSED),
    "LF LF for the end": (b"GET /ping HTTP/1.1\r\nHost: a\n\n", REFUSED),
    "a space before the colon": (request(b"/ping", b"X-Y : a"), REFUSED),
    "a header without a colon": (request(b"/ping", b"nonsense"), REFUSED),
    "a header without a name": (request(b"/ping", b": a"), REFUSED),
    "a folded first header": (b"GET / HTTP/1.1\r\n X: a\r\nHost: a\r\n\r\n", REFUSED),
    "blank lines": (b"\r\n\r\n\r\n\r\n", REFUSED),
    "absolute form": (request(b"http://127.0.0.1/ping"), REFUSED),
    "absolute form, other host": (request(b"http://evil.example/ping"), REFUSED),
    "absolute form without a host": (request(b"http://"), REFUSED),
    "authority form": (request(b"127.0.0.1:80"), REFUSED),
    "asterisk form": (request(b"*", method=b"OPTIONS"), REFUSED),
    "CONNECT": (request(b"evil.example:443", method=b"CONNECT"), b"HTTP/1.1 405 "),
    "CONNECT with a path": (request(b"/ping", method=b"CONNECT"), b"HTTP/1.1 405 "),
    "HTTP/0.9": (b"GET /\r\n\r\n", REFUSED),
    "HTTP/2.0 by name": (request(version=b"HTTP/2.0"), REFUSED),
    "HTTP/9.9": (request(version=b"HTTP/9.9"), REFUSED),
    "two spaces": (b"GET  /ping HTTP/1.1\r\nHost: a\r\n\r\n", REFUSED),
    "64 KiB of header at once": (request(b"/ping", b"X-Y: " + b"a" * 65536), TOO_LARGE),
    "17 KiB of header at once": (request(b"/ping", b"X-Y: " + b"a" * 17408), TOO_LARGE),
    "3,000 headers": (request(b"/ping", *(b"X-%d: a" % n for n in range(3000))), TOO_LARGE),
    "a target of 1 MiB": (request(b"/" + b"a" * (1 << 20)), TOO_LARGE),
    "a method of 1 MiB": (b"A" * (1 << 20), TOO_LARGE),
    "a header that never ends": (b"GET / HTTP/1.1\r\nX: " + b"a" * 20000, TOO_LARGE),
    "Content-Length and Transfer-Encoding": (
        request(
            b"/echo", b"Content-Length: 4", b"Transfer-Encoding: chunked",
            method=b"POST", body=b"0\r\n\r\n",
        ),
        REFUSED,
    ),
    "Transfer-Encoding in HTTP/1.0": (
        request(
            b"/echo", b"Transfer-Encoding: chunked",
            method=b"POST", version=b"HTTP/1.0", body=b"0\r\n\r\n",
        ),
        REFUSED,
    ),
    "another transfer coding": (
        request(b"/echo", b"Transfer-Encoding: gzip, chunked", method=b"POST"),
        b"HTTP/1.1 501 ",
    ),
    "two lengths": (
        request(b"/echo", b"Content-Length: 1", b"Content-Length: 2", method=b"POST"),
        REFUSED,
    ),
    "a negative length": (request(b"/echo", b"Content-Length: -1", method=b"POST"), REFUSED),
    "a length with a sign": (request(b"/echo", b"Content-Length: +1", method=b"POST"), REFUSED),
    "a length in hexadecimal": (request(b"/echo", b"Content-Length: 0x1", method=b"POST"), REFUSED),
    "a length of 5,000 digits": (
        request(b"/echo", b"Content-Length: " + b"9" * 5000, method=b"POST"),
        REFUSED,
    ),
    "TLS hello": (
        bytes.fromhex("16030100c8010000c40303") + bytes(range(256)) * 2 + KEY,
        REFUSED,
    ),
    "an SSH banner": (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", REFUSED),
    "SOCKS 5": (b"\x05\x02\x00\x02" + b"\r\n\r\n", REFUSED),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", REFUSED),
}  # fmt: skip


def heads() -> Iterator[Client]:
    for name, (payload, expect) in HEADS.items():
        yield Client(name, "both", says(payload), expect)
