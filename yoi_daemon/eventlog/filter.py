"""Filters of events, and the retention classes that can hold a match."""

from functools import lru_cache

import msgspec

from yoi_daemon.eventlog.entry import Entry
from yoi_daemon.model.events import Retention, is_volume, matches_kind, retentions_of

Scope = tuple[str, str] | str | None
"""An index of the log: a worker (its runtime's id and its own), a plugin's id, or everything."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects events of one worker, of one plugin, or all; of these some kinds, or all."""

    worker: tuple[str, str] | None = None
    plugin_id: str | None = None
    kinds: tuple[str, ...] = ()

    @property
    def scope(self) -> Scope:
        """Returns the index that holds every match."""
        return self.plugin_id if self.worker is None else self.worker

    @property
    def retentions(self) -> tuple[Retention, ...]:
        """Returns the retention classes that can hold a match."""
        return _retentions(self.kinds)

    def matches(self, entry: Entry) -> bool:
        """True if the entry passes."""
        if self.worker is not None and entry.worker != self.worker:
            return False
        if self.plugin_id is not None and entry.plugin_id != self.plugin_id:
            return False
        return not self.kinds or _matches_kind(entry.kind, self.kinds)


EVERYTHING = Filter()


def retention_of(entry: Entry) -> Retention:
    """Returns the retention class of an entry."""
    return "volume" if is_volume(entry.kind) else "lifecycle"


@lru_cache(maxsize=4096)
def _matches_kind(kind: str, prefixes: tuple[str, ...]) -> bool:
    return any(matches_kind(kind, prefix) for prefix in prefixes)


@lru_cache(maxsize=1024)
def _retentions(prefixes: tuple[str, ...]) -> tuple[Retention, ...]:
    found: dict[Retention, None] = {}
    for prefix in prefixes or ("",):
        found.update(dict.fromkeys(retentions_of(prefix)))
    return tuple(found)
