"""Byte streams to the observe listener, and what trio-websocket needs of them."""

import ssl
from urllib.parse import urlsplit

import trio


async def open_stream(url: str) -> trio.abc.Stream:
    """A byte stream to the listener at `url`. Raises `OSError`, which `ssl.SSLError` is too."""
    if url.startswith("unix:"):
        return await trio.open_unix_socket(url.removeprefix("unix:"))
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme in {"wss", "https"}:
        return await trio.open_ssl_over_tcp_stream(
            host, parts.port or 443, ssl_context=ssl.create_default_context()
        )
    return await trio.open_tcp_stream(host, parts.port or 80)


class OpeningStream(trio.abc.Stream):
    """A stream whose end, while the WebSocket is being opened, is an error.

    trio-websocket waits for the handshake to succeed and never looks whether the peer has gone, so
    that a daemon which closes instead of answering would cost the whole of `CONNECT_S`.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.opened = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError as error:
            if self.opened:
                raise
            raise ConnectionResetError("it was closed during the handshake") from error
        if not data and not self.opened:
            raise ConnectionResetError("it was closed during the handshake")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
