"""A bound that wsproto and trio-websocket lack: on the number of fragments of one message."""

MOST_FRAGMENTS = 256
"""Of one message. What a client may send at all is 4 KiB, and it is dropped."""


class TooManyFragments(Exception):
    """The peer sends a message in more fragments than anyone needs."""


class FragmentCounter:
    """Follows the frames of one peer by their headers alone (RFC 6455 section 5.2).

    A message's size is bounded elsewhere, but fragments may be empty: without end they cost no
    size, and yet a place in memory each. Whether frames are valid is left to wsproto.
    """

    def __init__(self, most: int = MOST_FRAGMENTS) -> None:
        self._most = most
        self._unfinished = 0
        self._payload_left = 0
        self._partial_header = b""

    def feed(self, data: bytes) -> None:
        """Follow `data`, the next bytes received. Raises `TooManyFragments`."""
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
