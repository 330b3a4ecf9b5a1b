"""Byte streams to the observe listener, and what trio-websocket needs of them."""

import ssl
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import trio

from yoi_daemon.client.locate import Location
from yoi_daemon.model.errors import NotAllowed


def client_context(location: Location) -> ssl.SSLContext:
    """Whom a client trusts with its token: the daemon's own certificates where its file told them,
    else what `ca_file` holds, else what this machine trusts. Reading the latter takes 20 ms.

    Raises `NotAllowed` when `ca_file` cannot be used.
    """
    if location.certificates:
        # Found by its file, it is known by its certificate: what name that has is of no account.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=location.certificates)
        context.verify_flags = ssl.VERIFY_X509_PARTIAL_CHAIN
        return context
    try:
        return ssl.create_default_context(cafile=location.ca_file)
    except OSError as error:
        raise NotAllowed(
            f"{location.ca_file} cannot be used: {error.strerror or 'unreadable'}; give a file "
            "of PEM certificates with --ca-file"
        ) from error


def distrust(error: BaseException | None) -> str | None:
    """Returns what is wrong with the peer's certificate, if that is why `error` was raised."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted ({error.verify_message}); name the authority "
                "that issued it with --ca-file"
            )
        error = error.__cause__ or error.__context__
    return None


async def open_stream(url: str, tls: ssl.SSLContext | None = None) -> trio.abc.Stream:
    """Returns a byte stream to the listener at `url`; `tls` says whom to trust, else what this machine does.

    Raises `OSError`, which `ssl.SSLError` is too.
    """
    if url.startswith("unix:"):
        return await trio.open_unix_socket(url.removeprefix("unix:"))
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme in {"wss", "https"}:
        stream = await trio.open_ssl_over_tcp_stream(
            host, parts.port or 443, ssl_context=tls or ssl.create_default_context()
        )
        async with AsyncExitStack() as opened:
            opened.push_async_callback(trio.aclose_forcefully, stream)
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError as error:
                if (untrusted := distrust(error)) is not None:
                    raise ConnectionError(untrusted) from error
                raise
            opened.pop_all()
        return stream
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
