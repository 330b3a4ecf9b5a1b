"""WebSocket frames of a server: unmasked and uncompressed, so that one frame serves every subscriber."""

import struct

_medium, _large = struct.Struct("!BBH").pack, struct.Struct("!BBQ").pack


def text_frame(payload: bytes) -> bytes:
    """`payload` (UTF-8) as one unmasked, uncompressed text frame, RFC 6455 section 5.2.

    A server's frame depends on nothing of the connection, so one frame serves every subscriber.
    """
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 1 << 16:
        return _medium(0x81, 126, size) + payload
    return _large(0x81, 127, size) + payload


def frame_size(frames: memoryview, start: int) -> int:
    """How long the frame is that begins at `start` of whole unmasked frames."""
    size = frames[start + 1]
    if size < 126:
        return 2 + size
    extra = 2 if size == 126 else 8
    return 2 + extra + int.from_bytes(frames[start + 2 : start + 2 + extra], "big")


def payload_of(frame: bytes) -> bytes:
    """What `text_frame` made `frame` of."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]
