"""WebSocket frames of a server: unmasked and uncompressed, so that one frame serves every subscriber."""

import struct


def text_frame(payload: bytes) -> bytes:
    """`payload` (UTF-8) as one unmasked, uncompressed text frame, RFC 6455 section 5.2.

    A server's frame depends on nothing of the connection, so one frame serves every subscriber.
    """
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", 0x81, 126, size) + payload
    return struct.pack("!BBQ", 0x81, 127, size) + payload


def payload_of(frame: bytes) -> bytes:
    """What `text_frame` made `frame` of."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]
