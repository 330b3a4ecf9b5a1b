"""What all workers of a runtime share."""

from collections.abc import Callable

import msgspec

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.settings import RuntimeSettings
from yoi_daemon.runtime.ledger import WorkerLedger


class RuntimeServices(msgspec.Struct, frozen=True, kw_only=True):
    """Passed to each worker of a runtime.

    A worker calls `on_ended` with its id when it has ended, and `on_given_up` when it gives up a turn;
    both are synchronous.
    """

    runtime_id: str
    event_log: EventLog
    ledger: WorkerLedger
    ids: IdSource
    settings: RuntimeSettings
    wall_clock: Callable[[], float]
    on_ended: Callable[[str], None]
    on_given_up: Callable[[str], None]
