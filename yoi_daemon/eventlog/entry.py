"""One event as the log keeps it: as the store does, so that nothing is made of it on the way."""

from yoi_daemon.store.tables import LogEvent

Entry = LogEvent
