"""TLS on a listener: its certificate, and the stream between a socket and a server."""

import re
import ssl
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import trio

from yoi_daemon.model.errors import YoiError

LARGEST_FILE_BYTES = 256 * 1024
"""Limit for a chain and for a key; a larger file is something else."""


class BadCertificate(YoiError):
    """`part` (`certificate` or `key`) cannot be used; the message says why and quotes nothing of it."""

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(part, reason)
        self.part = part
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Loaded:
    """A certificate and its key, loaded: the context of new connections, and the certificate as PEM."""

    def __init__(self, context: ssl.SSLContext, pem: str) -> None:
        self.context = context
        self.pem = pem


class Certificate:
    """A listener's certificate: a chain and a key, both PEM, the listener's own certificate first.

    Reading blocks. `load` reads again and changes nothing; `use` takes what it gave, for the
    connections that come. Construction raises as `load` does.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        self._chain = chain
        self._key = key
        self._loaded = self.load()

    @property
    def context(self) -> ssl.SSLContext:
        """Returns the context of the next connection."""
        return self._loaded.context

    @property
    def pem(self) -> str:
        """Returns the listener's own certificate, which is public; a client can pin it."""
        return self._loaded.pem

    def load(self) -> Loaded:
        """Reads both files. Raises `BadCertificate`."""
        chain = _read(self._chain, "certificate")
        _read(self._key, "key")
        context = _server_context()
        try:
            context.load_cert_chain(self._chain, self._key, password=_refuse_password)
        except _Encrypted as error:
            reason = "is encrypted: give one without a password, readable by the daemon only"
            raise BadCertificate("key", reason) from error
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise BadCertificate("key", "is the key of another certificate") from error
            reason = f"makes no PEM chain and private key together ({error.reason or 'unreadable'})"
            raise BadCertificate("certificate", reason) from error
        except OSError as error:
            raise BadCertificate("key", f"cannot be read: {error.strerror}") from error
        first = _PEM.search(chain)
        if first is None or first[1]:
            # OpenSSL reads other headings too, clients that pin the certificate do not.
            reason = "does not begin with a block BEGIN CERTIFICATE: openssl x509 makes one of it"
            raise BadCertificate("certificate", reason)
        return Loaded(context, first[0].decode("ascii") + "\n")

    def use(self, loaded: Loaded) -> None:
        """Replaces the certificate for new connections."""
        self._loaded = loaded


class TlsStream(trio.abc.HalfCloseableStream):
    """The server's side of TLS over an accepted connection.

    `trio.SSLStream`, with the one thing it lacks: `send_eof` says close_notify and ends our half
    alone. What comes after it is received as it is, still encrypted: it is to be dropped.
    """

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext) -> None:
        self.socket = stream.socket
        self.setsockopt = stream.setsockopt
        self._stream = stream
        self._tls = trio.SSLStream(_HalfClosing(stream), context, server_side=True)
        self._ended = False

    async def do_handshake(self) -> None:
        """Raises `trio.BrokenResourceError`, from `ssl.SSLError` if the peer is to blame."""
        await self._tls.do_handshake()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        # `bytes` copies nothing: both return bytes, though neither is typed so.
        return bytes(await (self._stream if self._ended else self._tls).receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._tls.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._tls.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        self._ended = True
        await self._tls.aclose()

    async def aclose(self) -> None:
        await self._stream.aclose()


class _HalfClosing(trio.abc.Stream):
    """The transport of `trio.SSLStream`: closing it ends our half, and no more."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._stream.send_eof()


def spoke_plain_http(error: trio.BrokenResourceError) -> bool:
    """True if a handshake failed because the peer sent HTTP without TLS."""
    return isinstance(error.__cause__, ssl.SSLError) and error.__cause__.reason == "HTTP_REQUEST"


def _server_context() -> ssl.SSLContext:
    # Python's own list of ciphers: forward secrecy and authenticated encryption alone.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A renegotiation costs us a key exchange, and the peer a few bytes.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    # Tickets are sent unasked after the handshake, to a peer that may never read.
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Encrypted(Exception):
    """The key needs a password; OpenSSL would ask for it on the terminal."""


def _refuse_password() -> NoReturn:
    raise _Encrypted


def _read(file: Path, part: str) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST_FILE_BYTES + 1)
    except FileNotFoundError as error:
        reason = "expected the name of a file in the secrets directory; there is none of this name"
        raise BadCertificate(part, reason) from error
    except OSError as error:
        raise BadCertificate(part, f"cannot be read: {error.strerror}") from error
    if len(content) > LARGEST_FILE_BYTES:
        raise BadCertificate(part, f"is larger than {LARGEST_FILE_BYTES} bytes")
    return content


_PEM = re.compile(
    rb"-----BEGIN (TRUSTED |X509 |)CERTIFICATE-----[^-]+-----END (?:TRUSTED |X509 |)CERTIFICATE-----"
)
