"""A limit that wsproto and trio-websocket lack: on the fragments of one message."""

MOST_FRAGMENTS = 256
"""Limit for one message. Clients may send 4 KiB, which is dropped."""


class TooManyFragments(Exception):
    """The peer sent a message in too many fragments."""


class FragmentCounter:
    """Counts fragments by the headers of one peer's frames (RFC 6455 section 5.2).

    A message's size is limited elsewhere, but empty fragments have no size, and yet cost memory
    each. wsproto checks that frames are valid.
    """

    def __init__(self, most: int = MOST_FRAGMENTS) -> None:
        self._most = most
        self._unfinished = 0
        self._payload_left = 0
        self._partial_header = b""

    def feed(self, data: bytes) -> None:
        """Reads `data`, the next bytes received. Raises `TooManyFragments`."""
        data = self._partial_header + data
        at = min(self._payload_left, len(data))
        self._payload_left -= at
        while len(data) - at >= 2:
            length = data[at + 1] & 0x7F
            extended = {126: 2, 127: 8}.get(length, 0)
            header = 2 + extended + (4 if data[at + 1] & 0x80 else 0)
            if len(data) - at < header:
                break
            if extended:
                length = int.from_bytes(data[at + 2 : at + 2 + extended])
            self._count(data[at])
            payload = min(length, len(data) - at - header)
            self._payload_left = length - payload
            at += header + payload
        self._partial_header = data[at:]

    def _count(self, first: int) -> None:
        if first & 0x0F >= 0x8:
            return  # control frames may stand between fragments
        self._unfinished = 0 if first & 0x80 else self._unfinished + 1
        if self._unfinished > self._most:
            raise TooManyFragments
