"""What is malformed, as data: requests, frames, configurations and plugin directories, and the code of each."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.hostile.daemon import Answer, Target, answer_of, ask
from tests.hostile.raw import (
    CLOSE,
    PING,
    TEXT,
    close_code,
    connect,
    frame,
    read_all,
    read_head,
)

TAKE = "/api/plugins/target/ingress/take"
TOOL = "/api/tools/target/double"
WORKERS = "/api/runtimes/backend-internal/workers"
_JSON = "Content-Type: application/json"


@dataclass(frozen=True)
class Malformed:
    """`expected` is what each try must give."""

    name: str
    expected: Answer
    try_it: Callable[[Target], Answer]


def requests() -> Iterator[Malformed]:
    """Of the REST listener."""
    for name, status, code, make in (*_HEADS, *_ROUTES, *_BODIES):
        yield Malformed(name, Answer(status, code), lambda t, make=make: ask(t.api, make(t)))


def frames() -> Iterator[Malformed]:
    """Of the stream's listener: requests that open none, frames, and subscriptions."""
    for name, status, code, make in _UPGRADES:
        yield Malformed(name, Answer(status, code), lambda t, make=make: ask(t.observe, make(t)))
    for name, close, sent in _FRAMES:
        yield Malformed(name, Answer(101, str(close)), lambda t, sent=sent: _send_frames(t, sent))
    for name, close, path in _SUBSCRIPTIONS:
        yield Malformed(name, Answer(101, str(close)), lambda t, path=path: _open(t, path))


def _send_frames(target: Target, sent: bytes) -> Answer:
    with connect(target.observe, timeout=30) as opened:
        opened.sendall(target.upgrade("/v1/plugins/target/events"))
        status = answer_of(read_head(opened)).status
        with suppress(ConnectionError):
            opened.sendall(sent)
        return Answer(status, str(close_code(read_all(opened))))


def _open(target: Target, path: str) -> Answer:
    with connect(target.observe, timeout=30) as opened:
        opened.sendall(target.upgrade(path))
        status = answer_of(read_head(opened)).status
        received = b""
        while close_code(received) is None:
            part = opened.recv(65536)
            if not part:
                break
            received += part
        return Answer(status, str(close_code(received)))


def _head(method: str, path: str, *headers: str) -> Callable[[Target], bytes]:
    return lambda target: target.request(method, path, None, *headers)


def _without_authorization(method: str, path: str, *headers: str) -> Callable[[Target], bytes]:
    def make(target: Target) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{target.api}", "Connection: close"]
        return "\r\n".join([*lines, *headers, "", ""]).encode()

    return make


def _raw(text: str) -> Callable[[Target], bytes]:
    """With `{host}`, and `{token}`, in it."""

    def make(target: Target) -> bytes:
        host = f"127.0.0.1:{target.api}"
        return text.format(host=host, token=target.daemon.token).encode("latin-1")

    return make


def _json(path: str, body: bytes) -> Callable[[Target], bytes]:
    return lambda target: target.post_json(path, body)


def _lines(body: bytes) -> Callable[[Target], bytes]:
    path = "/api/plugins/target/ingress"
    return lambda target: target.request("POST", path, body, "Content-Type: application/x-ndjson")


_PLUGINS = "GET /api/plugins HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
_Case = tuple[str, int, str, Callable[[Target], bytes]]

_HEADS: list[_Case] = [
    ("a bare LF", 400, "invalid_request", _raw(_PLUGINS + "X: a\nY: b\r\n\r\n")),
    ("a NUL", 400, "invalid_request", _raw(_PLUGINS + "X: a\0b\r\n\r\n")),
    ("two hosts", 400, "invalid_request", _raw(_PLUGINS + "Host: {host}\r\n\r\n")),
    ("no host", 400, "invalid_request", _raw("GET /api/plugins HTTP/1.1\r\n\r\n")),
    ("no HTTP at all", 400, "invalid_request", _raw("hello\r\n\r\n")),
    ("HTTP/2 by name", 400, "invalid_request", _raw("GET / HTTP/2.0\r\nHost: {host}\r\n\r\n")),
    ("a target in absolute form", 400, "invalid_request",
     _raw("GET http://{host}/healthz HTTP/1.1\r\nHost: {host}\r\n\r\n")),
    ("a body of two lengths", 400, "invalid_request",
     _raw(_PLUGINS + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
    ("another transfer coding", 501, "unsupported_operation",
     _raw(_PLUGINS + "Transfer-Encoding: gzip\r\n\r\n")),
    ("17 KiB of headers", 431, "headers_too_large", _raw(_PLUGINS + f"X: {'a' * 17408}\r\n\r\n")),
    ("CONNECT", 405, "method_not_allowed",
     _raw("CONNECT example.org:443 HTTP/1.1\r\nHost: {host}\r\n\r\n")),
    ("a WebSocket on the API", 400, "invalid_request",
     _raw(_PLUGINS + "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n")),
    ("another host", 403, "host_not_allowed",
     _raw("GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")),
    ("another origin", 403, "origin_not_allowed", _head("GET", "/api/plugins", "Origin: http://evil.example")),
    ("the origin null", 403, "origin_not_allowed", _head("GET", "/api/plugins", "Origin: null")),
    ("from another site's page", 403, "origin_not_allowed",
     _head("GET", "/api/plugins", "Sec-Fetch-Site: cross-site")),
]  # fmt: skip

_ROUTES: list[_Case] = [
    ("no token", 401, "unauthenticated", _without_authorization("GET", "/api/plugins")),
    ("a token in the query", 400, "invalid_request", _head("GET", "/api/plugins?token=abc")),
    ("no such route", 404, "route_not_found", _head("GET", "/api/nothing")),
    ("dots upward", 404, "route_not_found", _head("GET", "/api/../../etc/passwd")),
    ("another method", 405, "method_not_allowed", _head("DELETE", "/api/plugins")),
    ("no such plugin", 404, "plugin_not_found", _head("GET", "/api/plugins/nobody")),
    ("no such runtime", 404, "runtime_not_found", _head("GET", "/api/runtimes/nowhere")),
    ("no such worker", 404, "worker_not_found", _head("GET", f"{WORKERS}/wrk_nobody")),
    ("no such parameter", 400, "invalid_request", _head("GET", f"{WORKERS}?colour=red")),
    ("a parameter twice", 400, "invalid_request", _head("GET", f"{WORKERS}?limit=1&limit=2")),
    ("a parameter of letters", 400, "invalid_request", _head("GET", f"{WORKERS}?limit=many")),
    ("no such ingress", 404, "ingress_not_found", _json("/api/plugins/target/ingress/none", b"{}")),
    ("no such tool", 404, "tool_not_found", _json("/api/tools/target/none", b"{}")),
    ("no such webhook", 404, "ingress_not_found",
     lambda t: t.request("POST", "/hooks/target/take", b"{}")),
    ("a key of garbage", 400, "invalid_request",
     lambda t: t.request("POST", TAKE, b"{}", _JSON, "Idempotency-Key: a b")),
]  # fmt: skip

_BODIES: list[_Case] = [
    ("no content type", 415, "unsupported_media_type", lambda t: t.request("POST", TAKE, b"{}")),
    ("a form", 415, "unsupported_media_type",
     lambda t: t.request("POST", TAKE, b"a=b", "Content-Type: application/x-www-form-urlencoded")),
    ("text", 415, "unsupported_media_type",
     lambda t: t.request("POST", TOOL, b"{}", "Content-Type: text/plain")),
    ("an empty body", 422, "invalid_event", _json(TAKE, b"")),
    ("half an object", 422, "invalid_event", _json(TAKE, b'{"a": ')),
    ("NaN", 422, "invalid_event", _json(TAKE, b'{"a": NaN}')),
    ("Infinity", 422, "invalid_event", _json(TAKE, b"[-Infinity]")),
    ("a key twice", 422, "invalid_event", _json(TAKE, b'{"a": 1, "a": 2}')),
    ("a lone surrogate", 422, "invalid_event", _json(TAKE, b'{"a": "\\ud800 "}')),
    ("5,000 digits", 422, "invalid_event", _json(TAKE, b"9" * 5000)),
    ("65 deep", 422, "invalid_event", _json(TAKE, b"[" * 65 + b"]" * 65)),
    ("100,000 deep", 422, "invalid_event", _json(TAKE, b"[" * 100_000)),
    ("not UTF-8", 422, "invalid_event", _json(TAKE, b'"\xff"')),
    ("more than 1 MiB", 413, "payload_too_large", _json(TAKE, b'"' + b"a" * (1 << 20) + b'"')),
    ("chunks of garbage", 400, "invalid_request",
     _raw(f"POST {TAKE} HTTP/1.1\r\nHost: {{host}}\r\nAuthorization: Bearer {{token}}\r\n"
          f"{_JSON}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")),
    ("a tool's arguments of another type", 400, "invalid_request", _json(TOOL, b'{"n": "one"}')),
    ("a tool's argument twice", 400, "invalid_request", _json(TOOL, b'{"n": 1, "n": 2}')),
    ("a tool's argument of 5,000 digits", 400, "invalid_request", _json(TOOL, b'{"n": %b}' % (b"9" * 5000))),
    ("a worker's profile twice", 400, "invalid_request",
     _json(WORKERS, b'{"profile": "builtin:echo", "profile": "builtin:echo"}')),
    ("a worker of no profile", 422, "profile_not_found", _json(WORKERS, b'{"profile": "none"}')),
    ("a worker with a field nobody knows", 400, "invalid_request",
     _json(WORKERS, b'{"profile": "builtin:echo", "path": "/etc"}')),
    ("a worker 65 deep", 400, "invalid_request",
     _json(WORKERS, b'{"profile": %b}' % (b"[" * 65 + b"]" * 65))),
    ("a line with a key twice", 200, "invalid_request",
     _lines(b'{"ingress": "take", "ingress": "take", "payload": 1}\n')),
    ("a line whose payload has a key twice", 200, "invalid_request",
     _lines(b'{"ingress": "take", "payload": {"a": 1, "a": 1}}\n')),
    ("lines of garbage", 200, "invalid_request", _lines(b"x\n" * 200)),
]  # fmt: skip


def _stream_head(path: str, *headers: str, token: bool = True) -> Callable[[Target], bytes]:
    return lambda t: t.upgrade(path, token=token).replace(
        b"\r\n\r\n", "\r\n".join(["", *headers, "", ""]).encode()
    )


_UPGRADES: list[_Case] = [
    ("a stream without a token", 401, "unauthenticated", _stream_head("/v1/events", token=False)),
    ("a stream with the token in its query", 400, "invalid_request", _stream_head("/v1/events?token=abc")),
    ("a stream from a page", 403, "origin_not_allowed",
     _stream_head("/v1/events", "Origin: http://evil.example")),
    ("a stream with two origins", 400, "invalid_request",
     _stream_head("/v1/events", "Origin: http://a", "Origin: http://b")),
    ("a stream of version 8", 400, "invalid_request",
     lambda t: t.upgrade().replace(b"Version: 13", b"Version: 8")),
    ("a stream by POST", 400, "invalid_request", lambda t: t.upgrade().replace(b"GET", b"POST")),
]  # fmt: skip

_FRAMES: list[tuple[str, int, bytes]] = [
    ("an unmasked frame", 1002, frame(TEXT, b"hi", masked=False)),
    ("a reserved bit", 1002, frame(TEXT, b"hi", rsv=4)),
    ("a reserved opcode", 1002, frame(3, b"hi")),
    ("a long ping", 1002, frame(PING, b"a" * 126)),
    ("a ping in fragments", 1002, frame(PING, b"a", fin=False)),
    ("a continuation of nothing", 1002, frame(0, b"a")),
    ("a Close with a code that is none", 1002, frame(CLOSE, b"\x00\x00")),
    ("text that is no UTF-8", 1007, frame(TEXT, b"\xff\xfe")),
    ("a message of 5 KiB", 1009, frame(TEXT, b"a" * 5000)),
    ("300 fragments of nothing", 1009, frame(TEXT, fin=False) + frame(0, fin=False) * 300),
]

_SUBSCRIPTIONS: list[tuple[str, int, str]] = [
    ("a cursor that never was one", 4422, "/v1/events?cursor=garbage"),
    ("a parameter the stream has not", 4400, "/v1/events?colour=red"),
    ("no such worker to follow", 4404, "/v1/workers/wrk_nobody/events"),
    ("no such plugin to follow", 4404, "/v1/plugins/nobody/events"),
]


@dataclass(frozen=True)
class BadSetting:
    """A configuration, and the key of which a fault must tell."""

    name: str
    text: str
    key: str


BAD_SETTINGS = [
    BadSetting("no TOML", "[api\n", "toml"),
    BadSetting("a key twice", "[api]\nlisten = ':1'\nlisten = ':2'\n", "toml"),
    BadSetting("no such section", "[network]\n", "network"),
    BadSetting("no such key", "[api]\nport = 1\n", "api.port"),
    BadSetting("another type", "[observe]\nheartbeat_s = 'often'\n", "observe.heartbeat_s"),
    BadSetting("out of bounds", "[plugins.target]\nqueue_events = 0\n", "plugins.target.queue_events"),
    BadSetting("a name that is no plugin's", "[plugins.Target]\n", "plugins.Target"),
    BadSetting("a host with a path", "[api]\nhosts = ['a/b']\n", "api.hosts"),
    BadSetting("a key without a certificate", "[api]\ntls_key = 'key'\n", "api.tls_certificate"),
    BadSetting("a secret by its path", "[api]\ntls_certificate = '/etc/cert'\ntls_key = 'key'\n", "api.tls_certificate"),
    BadSetting("5,000 digits", f"[api]\nmax_connections = {'9' * 5000}\n", "toml"),
    BadSetting("a thousand brackets", f"[plugins.target.config]\na = {'[' * 1000}\n", "toml"),
]  # fmt: skip


@dataclass(frozen=True)
class BadPlugin:
    """A plugin directory, and a word of the fault that must be told."""

    name: str
    make: Callable[[Path], object]
    says: str


BAD_PLUGINS = [
    BadPlugin("no Python", lambda p: (p / "bad.py").write_text("def"), "syntax_error"),
    BadPlugin("no text", lambda p: (p / "bad.py").write_bytes(b"\xff\0\xfe"), "syntax_error"),
    BadPlugin("no plugin in it", lambda p: (p / "bad.py").write_text("a = 1\n"), "definition_error"),
    BadPlugin("raises", lambda p: (p / "bad.py").write_text("1 / 0\n"), "import_failed"),
    BadPlugin("ends the process", lambda p: (p / "bad.py").write_text("raise SystemExit\n"), "import_failed"),
    BadPlugin("another's name", lambda p: (p / "bad.py").write_text(
        'from yoi_daemon.sdk import Plugin\nplugin = Plugin("good")\n'), "definition_error"),
]  # fmt: skip
