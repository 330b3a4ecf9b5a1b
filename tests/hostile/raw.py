"""Sockets without manners: the tools that the hostile clients are made of."""

import base64
import socket
import ssl
import struct
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from contextvars import ContextVar

MARKER = b"hostile-marker"
"""Somewhere in most requests; it must never show in the server's log."""
KEY = base64.b64encode(b"0123456789abcdef")


CONTEXT = ssl.create_default_context()
CONTEXT.check_hostname = False
CONTEXT.verify_mode = ssl.CERT_NONE
_over_tls = ContextVar("over_tls", default=False)


@contextmanager
def connecting_over_tls() -> Generator[None]:
    """Within, `connect` gives a stream of TLS."""
    token = _over_tls.set(True)
    try:
        yield
    finally:
        _over_tls.reset(token)


def connect(port: int, *, receive_buffer: int | None = None, timeout: float = 3) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if receive_buffer is not None:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    # Or each handshake of TLS waits 40 ms for an acknowledgement that the server delays.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.settimeout(timeout)
    try:
        opened.connect(("127.0.0.1", port))
        if _over_tls.get():
            return CONTEXT.wrap_socket(opened, suppress_ragged_eofs=False)
    except BaseException:
        opened.close()
        raise
    return opened


def reset(opened: socket.socket) -> None:
    """Close with RST instead of FIN."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    opened.close()


def read_all(opened: socket.socket) -> bytes:
    """What comes until the end, a reset or the socket's timeout."""
    parts: list[bytes] = []
    with suppress(OSError):
        while part := opened.recv(65536):
            parts.append(part)
    return b"".join(parts)


def read_head(opened: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        part = opened.recv(1)
        if not part:
            raise ConnectionError("ended within the head")
        head += part
    return head


def send_quietly(opened: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        opened.sendall(data)


def request(
    target: bytes = b"/ping",
    *headers: bytes,
    method: bytes = b"GET",
    version: bytes = b"HTTP/1.1",
    host: bytes | None = b"127.0.0.1",
    body: bytes = b"",
) -> bytes:
    lines = [b"%b %b %b" % (method, target, version)]
    if host is not None:
        lines.append(b"Host: " + host)
    return b"\r\n".join([*lines, b"X-Mark: " + MARKER, *headers, b"", b""]) + body


def upgrade(
    target: bytes = b"/v1/events?" + MARKER,
    *headers: bytes,
    host: bytes | None = b"127.0.0.1",
    without: Iterable[bytes] = (),
    method: bytes = b"GET",
    version: bytes = b"HTTP/1.1",
) -> bytes:
    usual = {
        b"upgrade": b"Upgrade: websocket",
        b"connection": b"Connection: Upgrade",
        b"key": b"Sec-WebSocket-Key: " + KEY,
        b"version": b"Sec-WebSocket-Version: 13",
    }
    kept = [line for name, line in usual.items() if name not in without]
    return request(target, *kept, *headers, method=method, version=version, host=host)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
) -> bytes:
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    mask_bit = 0x80 if masked else 0
    if len(payload) < 126:
        head += bytes([mask_bit | len(payload)])
    elif len(payload) < 65536:
        head += struct.pack("!BH", mask_bit | 126, len(payload))
    else:
        head += struct.pack("!BQ", mask_bit | 127, len(payload))
    if not masked:
        return head + payload
    mask = b"\x01\x02\x03\x04"
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def open_stream(port: int, target: bytes = b"/v1/events", **options: int) -> socket.socket:
    """A WebSocket connection past its handshake."""
    opened = connect(port, **options)
    try:
        opened.sendall(upgrade(target))
        if not read_head(opened).startswith(b"HTTP/1.1 101"):
            raise ConnectionError("the stream was refused")
    except BaseException:
        opened.close()
        raise
    return opened


def close_code(received: bytes) -> int | None:
    """The code of the Close frame among whole, unmasked frames, if there is one."""
    while len(received) >= 2:
        size, start = received[1] & 0x7F, 2
        if size == 126:
            (size,), start = struct.unpack("!H", received[2:4]), 4
        elif size == 127:
            (size,), start = struct.unpack("!Q", received[2:10]), 10
        if received[0] & 0x0F == CLOSE:
            return struct.unpack("!H", received[start : start + 2])[0] if size else 1005
        received = received[start + size :]
    return None
