"""Cursors: opaque to clients, inside an epoch and a sequence number that cannot be mistaken."""

import base64
import binascii
import hashlib
import re
import secrets
from typing import NamedTuple

EPOCH_BYTES = 8
_EPOCH = re.compile(r"[0-9a-f]{16}")
_SEQ_BYTES = 8
_CHECK_BYTES = 8
_TOTAL = EPOCH_BYTES + _SEQ_BYTES + _CHECK_BYTES
_CHECK = hashlib.blake2b(digest_size=_CHECK_BYTES, person=b"yoi-cursor")
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
CURSOR_CHARS = _TOTAL // 3 * 4
"""32: a multiple of three bytes has exactly one unpadded base 64 spelling, so cursors are canonical."""


class Cursor(NamedTuple):
    """A position in one epoch: the number of the last event seen (0 is before the first)."""

    epoch: str
    seq: int


def random_epoch() -> str:
    """A name for a new log."""
    return secrets.token_hex(EPOCH_BYTES)


def is_epoch(text: str) -> bool:
    """Whether `text` can name an epoch: 16 lower-case hexadecimal digits."""
    return _EPOCH.fullmatch(text) is not None


class MalformedCursorError(ValueError):
    """The text is no cursor this program made."""


class CursorCodec:
    """Writes cursors of one epoch; 16 lower-case hexadecimal digits name the epoch."""

    def __init__(self, epoch: str) -> None:
        if not _EPOCH.fullmatch(epoch):
            raise ValueError("an epoch is 16 lower-case hexadecimal digits")
        self.epoch = epoch
        self._prefix = bytes.fromhex(epoch)

    def encode(self, seq: int) -> str:
        """The cursor after event `seq`."""
        body = self._prefix + seq.to_bytes(_SEQ_BYTES, "big")
        text = binascii.b2a_base64(body + _check(body), newline=False)
        return text.translate(_URL_SAFE).decode("ascii")


def decode_cursor(text: str) -> Cursor:
    """Reads any epoch's cursor. Raises `MalformedCursorError` for text that never was one."""
    if len(text) != CURSOR_CHARS or not text.isascii():
        raise MalformedCursorError("wrong length")
    try:
        # Strict about the alphabet: the plain decoder drops characters it does not know.
        raw = base64.b64decode(text, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedCursorError("wrong characters") from error
    body, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
    if len(raw) != _TOTAL or check != _check(body):
        raise MalformedCursorError("wrong check")
    return Cursor(body[:EPOCH_BYTES].hex(), int.from_bytes(body[EPOCH_BYTES:], "big"))


def _check(body: bytes) -> bytes:
    # No secret: it keeps altered text from being taken for a position, it does not authorise.
    check = _CHECK.copy()
    check.update(body)
    return check.digest()
