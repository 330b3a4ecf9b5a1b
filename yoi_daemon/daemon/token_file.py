"""The tokens' records in `<state>/tokens.json`: small, read at start, replaced as a whole."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from yoi_daemon.daemon.statedir import read_private, write_private
from yoi_daemon.model.errors import StorageFailed
from yoi_daemon.model.tokens import TokenRecord


class _Content(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    tokens: tuple[TokenRecord, ...]


class TokenFile:
    """Implements `front.tokens.TokenKeeper`. Both methods block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Sequence[TokenRecord]:
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
        return decoded.tokens

    def save(self, records: Sequence[TokenRecord]) -> None:
        content = _Content(version=1, tokens=tuple(records))
        write_private(self._path, msgspec.json.encode(content).decode() + "\n")
