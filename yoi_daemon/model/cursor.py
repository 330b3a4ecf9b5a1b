"""Cursors: opaque to clients, an epoch and a sequence number with a check inside."""

import base64
import binascii
import re
import secrets
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

from yoi_daemon.model.errors import Code, Refused

EPOCH_BYTES = 8
_EPOCH = re.compile(r"[0-9a-f]{16}")
_SEQ_BYTES = 8
_CHECK_BYTES = 8
_TOTAL = EPOCH_BYTES + _SEQ_BYTES + _CHECK_BYTES
_WORD = (1 << 64) - 1
# The check is seq * A + epoch * B + C modulo 2**64, a word that any change of one of them changes: A and
# B are odd. They are the 64-bit constants of SplitMix64 and of xxHash (primes 1 and 2), no secret.
_A, _B, _C = 0x9E3779B97F4A7C15, 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
CURSOR_CHARS = _TOTAL // 3 * 4
"""32: a multiple of three bytes has exactly one unpadded base 64 spelling, so cursors are canonical."""


class Cursor(NamedTuple):
    """A position in one epoch: the number of the last event passed (0 is before the first)."""

    epoch: str
    seq: int


def random_epoch() -> str:
    """Returns a name for a new log."""
    return secrets.token_hex(EPOCH_BYTES)


def is_epoch(text: str) -> bool:
    """True if `text` can name an epoch: 16 lower-case hexadecimal digits."""
    return _EPOCH.fullmatch(text) is not None


class MalformedCursorError(ValueError):
    """The text was never written by `CursorCodec`."""


CursorFault = Literal["malformed", "foreign_epoch", "future", "epoch_changed", "evicted"]

_FAULTS: Mapping[CursorFault, tuple[Code, str]] = {
    "malformed": ("cursor_unknown", "this never was a cursor"),
    "foreign_epoch": ("cursor_unknown", "this cursor is of another log; begin at earliest"),
    "future": ("cursor_unknown", "this cursor is ahead of the log"),
    "epoch_changed": (
        "cursor_expired",
        "the daemon began a new log since this cursor; begin at earliest",
    ),
    "evicted": ("cursor_expired", "events after this cursor are gone; begin at earliest"),
}


class CursorRefused(Refused):
    """A cursor that does not resume; `reason` tells the cases of its `code` apart.

    `cursor_expired` was valid once (`epoch_changed`, `evicted`): a reader may resume after the gap.
    `cursor_unknown` never was (`malformed`, `foreign_epoch`, `future`).
    """

    def __init__(self, reason: CursorFault) -> None:
        code, detail = _FAULTS[reason]
        super().__init__(code, detail)
        self.reason: CursorFault = reason


class CursorCodec:
    """Writes cursors of one epoch; 16 lower-case hexadecimal digits name the epoch."""

    def __init__(self, epoch: str) -> None:
        if not _EPOCH.fullmatch(epoch):
            raise ValueError("an epoch is 16 lower-case hexadecimal digits")
        self.epoch = epoch
        self._epoch_bits = int(epoch, 16) << 128
        self._epoch_check = _epoch_check(int(epoch, 16))

    def encode(self, seq: int) -> str:
        """Returns the cursor after event `seq`."""
        return self.encode_ascii(seq).decode("ascii")

    def encode_ascii(self, seq: int) -> bytes:
        """Returns the same as `encode`, in ASCII."""
        number = self._epoch_bits | seq << 64 | (seq * _A + self._epoch_check & _WORD)
        text = binascii.b2a_base64(number.to_bytes(_TOTAL, "big"), newline=False)
        return text.translate(_URL_SAFE)


def decode_cursor(text: str) -> Cursor:
    """Reads a cursor of any epoch. Raises `MalformedCursorError`."""
    if len(text) != CURSOR_CHARS or not text.isascii():
        raise MalformedCursorError("wrong length")
    try:
        # Strict about the alphabet: the plain decoder drops characters it does not know.
        raw = base64.b64decode(text, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedCursorError("wrong characters") from error
    cursor = Cursor(raw[:EPOCH_BYTES].hex(), int.from_bytes(raw[EPOCH_BYTES:-_CHECK_BYTES], "big"))
    # By writing it again: there is one spelling, and the check is in it.
    if len(raw) != _TOTAL or CursorCodec(cursor.epoch).encode(cursor.seq) != text:
        raise MalformedCursorError("wrong check")
    return cursor


def resolve_cursor(
    text: str, *, epoch: str, earlier_epochs: Collection[str], floor: int, head: int
) -> int:
    """Returns the position of a client's cursor in the log `epoch`, between `floor` and `head`.

    `earlier_epochs` are the logs that this daemon kept before. Raises `CursorRefused`: no event is
    ever replayed or skipped for a cursor that is wrong.
    """
    try:
        cursor = decode_cursor(text)
    except MalformedCursorError as error:
        raise CursorRefused("malformed") from error
    # The epoch before the number: a number of another log means nothing here.
    if cursor.epoch != epoch:
        raise CursorRefused("epoch_changed" if cursor.epoch in earlier_epochs else "foreign_epoch")
    if cursor.seq > head:
        raise CursorRefused("future")
    if cursor.seq < floor:
        raise CursorRefused("evicted")
    return cursor.seq


def _epoch_check(epoch: int) -> int:
    # No secret: the check keeps altered text from being taken for a position, it does not authorise.
    return epoch * _B + _C
