import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from yoi_daemon.client.locate import Location
from yoi_daemon.client.rest import DaemonClient, NoAnswerInTime, open_daemon_client, path_of
from yoi_daemon.model.errors import Refused, Unreachable

PROBLEM = {"code": "queue_full", "detail": "Full.", "retry_after_s": 2, "queue_depth": 256}


class Canned:
    """A listener that notes each request and answers all of them with the same bytes."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.requests: list[bytes] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            request = b""
            while b"\r\n\r\n" not in request:
                received = await stream.receive_some()
                if not received:
                    return
                request += received
            head, _, body = request.partition(b"\r\n\r\n")
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    while len(body) < int(line.split(b":")[1]):
                        body += await stream.receive_some()
            self.requests.append(head + b"\r\n\r\n" + body)
            if self.answer is None:
                await trio.sleep_forever()
            else:
                await stream.send_all(self.answer)


def answer(status: int, body: object, *headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"HTTP/1.1 {status} X",
        f"content-length: {len(content)}",
        "connection: close",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


@asynccontextmanager
async def daemon_that(canned: Canned, **options: Any) -> AsyncGenerator[DaemonClient]:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        await nursery.start(trio.serve_listeners, canned.serve, [listener])
        location = Location(api=f"http://127.0.0.1:{port}", token="tok", source="test")
        async with open_daemon_client(location, **options) as daemon:
            yield daemon
        nursery.cancel_scope.cancel()


async def test_a_request_carries_the_token_and_what_was_asked() -> None:
    canned = Canned(answer(202, {"cursor": "c"}))
    async with daemon_that(canned) as daemon:
        got = await daemon.post("/api/x", dict[str, str], body={"a": 1}, idempotency_key="k")
        assert got == {"cursor": "c"}
        await daemon.get("/api/y", dict[str, str], params={"limit": 2, "after": None})
    post, get = canned.requests
    assert post.startswith(b"POST /api/x HTTP/1.1")
    assert b"authorization: bearer tok" in post.lower()
    assert b"idempotency-key: k" in post.lower()
    assert post.endswith(b'\r\n\r\n{"a":1}')
    assert get.startswith(b"GET /api/y?limit=2 HTTP/1.1")


async def test_a_payload_goes_as_the_bytes_it_was_given_as() -> None:
    canned = Canned(answer(202, {}))
    async with daemon_that(canned) as daemon:
        await daemon.post("/", dict[str, str], content=b'{ "a" :1.10 }')
    assert canned.requests[0].endswith(b'\r\n\r\n{ "a" :1.10 }')


async def test_a_refusal_is_the_daemons_own() -> None:
    async with daemon_that(Canned(answer(429, PROBLEM))) as daemon:
        with pytest.raises(Refused) as caught:
            await daemon.get("/api/x", dict[str, str])
    assert (caught.value.code, caught.value.detail) == ("queue_full", "Full.")
    assert caught.value.retry_after_s == 2
    assert caught.value.fields == {"queue_depth": 256}


@pytest.mark.parametrize(
    "canned",
    [
        answer(404, b"<html>not here</html>"),
        answer(302, b"", "location: http://127.0.0.1:9/"),
        answer(200, b"<html>"),
        answer(200, []),
        b"SSH-2.0-OpenSSH\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
    ],
)
async def test_what_is_no_daemon_is_unreachable(canned: bytes) -> None:
    server = Canned(canned)
    async with daemon_that(server) as daemon:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
            await daemon.get("/api/x", dict[str, str])
    assert len(server.requests) == 1  # no redirect followed, nothing tried twice


async def test_nobody_there_is_unreachable() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    location = Location(api=f"http://127.0.0.1:{port}", token="t", source="test")
    async with open_daemon_client(location) as daemon:
        with pytest.raises(Unreachable, match="nothing listens"):
            await daemon.get("/api/x", dict[str, str])


async def test_silence_is_unreachable_when_the_deadline_passes(autojump_clock: object) -> None:
    async with daemon_that(Canned(None), deadline_s=7) as daemon:
        began = trio.current_time()
        with pytest.raises(Unreachable, match="in time"):
            await daemon.get("/api/x", dict[str, str])
        assert trio.current_time() - began == pytest.approx(7, abs=0.1)


class Dripping(Canned):
    """Answers with one chunk every five seconds, and then with nothing more."""

    def __init__(self, *chunks: bytes) -> None:
        super().__init__(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n")
        self.chunks = chunks

    async def serve(self, stream: trio.SocketStream) -> None:
        assert self.answer is not None
        await stream.receive_some()
        await stream.send_all(self.answer)
        for chunk in self.chunks:
            await trio.sleep(5)
            await stream.send_all(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        await trio.sleep_forever()


async def test_lines_are_given_when_they_arrive_and_each_has_the_deadline(
    autojump_clock: object,
) -> None:
    chunks = (b'{"a":1}\n{"a"', b":2}\n", b'{"a":3}\n', b"\n")
    got: list[tuple[float, bytes]] = []
    async with daemon_that(Dripping(*chunks), deadline_s=7) as daemon:
        began = trio.current_time()
        with pytest.raises(NoAnswerInTime):
            await daemon.post_lines(
                "/x", b"", lambda line: got.append((round(trio.current_time() - began), line))
            )
        assert trio.current_time() - began == pytest.approx(4 * 5 + 7, abs=0.2)
    assert got == [(5, b'{"a":1}'), (10, b'{"a":2}'), (15, b'{"a":3}'), (20, b"")]


async def test_lines_carry_their_kind_and_are_refused_as_a_whole() -> None:
    canned = Canned(answer(200, b'{"a":1}\n{"a":2}'))
    got: list[bytes] = []
    async with daemon_that(canned) as daemon:
        await daemon.post_lines("/x", b"1\n", got.append)
    assert got == [b'{"a":1}', b'{"a":2}']
    assert b"content-type: application/x-ndjson" in canned.requests[0].lower()
    assert canned.requests[0].endswith(b"\r\n\r\n1\n")

    async with daemon_that(Canned(answer(429, PROBLEM))) as daemon:
        with pytest.raises(Refused, match="Full"):
            await daemon.post_lines("/x", b"1\n", got.append)
    assert len(got) == 2


async def test_the_environments_proxies_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with daemon_that(Canned(answer(200, {}))) as daemon:
        assert await daemon.get("/api/x", dict[str, str]) == {}


async def test_a_unix_socket_is_as_good(tmp_path: Path) -> None:
    path = str(tmp_path / "api.sock")
    canned = Canned(answer(200, {"a": "b"}))
    with trio.socket.socket(trio.socket.AF_UNIX) as socket:
        await socket.bind(path)
        socket.listen()
        async with trio.open_nursery() as nursery:
            listener = trio.SocketListener(socket)
            await nursery.start(trio.serve_listeners, canned.serve, [listener])
            location = Location(api=f"unix:{path}", token="t", source="test")
            async with open_daemon_client(location) as daemon:
                assert await daemon.get("/api/x", dict[str, str]) == {"a": "b"}
            nursery.cancel_scope.cancel()


def test_a_name_cannot_lead_to_another_route() -> None:
    assert (
        path_of("plugins", "a/../b?c", "ingress", "ü")
        == "/api/plugins/a%2F..%2Fb%3Fc/ingress/%C3%BC"
    )
    for name in ("", ".", ".."):
        with pytest.raises(Refused, match="is not a name"):
            path_of("plugins", name)
