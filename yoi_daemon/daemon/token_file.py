"""The tokens' records in `<state>/tokens.json`: small, read at start, replaced as a whole."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from yoi_daemon.daemon.statedir import read_private, write_private
from yoi_daemon.model.errors import Refused, StorageFailed
from yoi_daemon.model.tokens import TokenRecord


class _Content(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    tokens: tuple[TokenRecord, ...]


class TokenFile:
    """Implements `front.tokens.TokenKeeper`. Both methods block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = self._identity()

    def load(self) -> Sequence[TokenRecord]:
        known = self._identity()  # before it is read: what comes between is not known
        records = self._read()
        self._known = known
        return records

    def save(self, records: Sequence[TokenRecord]) -> None:
        if self._identity() != self._known:
            raise Refused(
                "invalid_state",
                f"{self._path.name} was changed by somebody else: 'yoi-daemon reload' takes it, then try again",
            )
        content = _Content(version=1, tokens=tuple(records))
        write_private(self._path, msgspec.json.encode(content).decode() + "\n")
        self._known = self._identity()

    def _identity(self) -> tuple[int, ...] | None:
        """Identifies the file as it is now; None where there is none."""
        with suppress(OSError):
            found = self._path.lstat()
            return found.st_ino, found.st_mtime_ns, found.st_size
        return None

    def _read(self) -> Sequence[TokenRecord]:
        content = read_private(self._path)
        if content is None:
            return ()
        try:
            decoded = msgspec.json.decode(content, type=_Content)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # Not begun anew: that would revoke every token without a word.
            raise StorageFailed(
                f"{self._path} does not read as tokens; put back a copy, or remove it: "
                "then every token but the admin's is revoked"
            ) from error
        if decoded.version != 1:
            raise StorageFailed(
                f"{self._path} was written by a later version of the daemon; use that one, or remove "
                "it: then every token but the admin's is revoked"
            )
        for names in zip(
            *((record.token_id, record.sha256) for record in decoded.tokens), strict=True
        ):
            if len(set(names)) != len(names):
                raise StorageFailed(
                    f"{self._path} has a token twice; take one of them out, or put back a copy"
                )
        return decoded.tokens
