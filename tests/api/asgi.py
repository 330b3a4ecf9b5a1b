"""Calls an ASGI application in this process, one request at a time, with exact control of its bytes."""

import json
from typing import Any, NamedTuple

import trio


class Answered(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks `app` as a client at `host` with `token` would; either may be None."""

    def __init__(self, app: Any, host: str | None, token: str | None) -> None:
        self._app = app
        self._host = host
        self._token = token

    async def __call__(
        self,
        method: str,
        target: str,
        body: bytes | Any = b"",
        *,
        token: str | None = "",
        **headers: str,
    ) -> Answered:
        path, _, query = target.partition("?")
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers = {"content_type": "application/json"} | headers
        token = self._token if token == "" else token
        lines = {"content-length": str(len(body))}
        if self._host is not None:
            lines["host"] = self._host
        if token is not None:
            lines["authorization"] = f"Bearer {token}"
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode("latin-1"),
            "root_path": "",
            "headers": [(n.encode("latin-1"), v.encode("latin-1")) for n, v in lines.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 7420),
        }
        sent: list[dict[str, Any]] = []
        received = [{"type": "http.request", "body": body, "more_body": False}]
        over = trio.Event()

        async def receive() -> dict[str, Any]:
            if received:
                return received.pop()
            await over.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                over.set()

        with trio.fail_after(10):
            await self._app(scope, receive, send)
        start = sent[0]
        return Answered(
            start["status"],
            {name.decode().lower(): value.decode() for name, value in start["headers"]},
            b"".join(message.get("body", b"") for message in sent[1:]),
        )
