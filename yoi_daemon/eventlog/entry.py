"""One event of the log, in the form the store keeps: a read converts nothing."""

from yoi_daemon.store.tables import LogEvent

Entry = LogEvent
