"""The daemon with one thing wrong, as `weak_daemon.py FAULT run …`: the negative controls of the proofs.

`slow` alone is not wrong: each commit waits 50 ms before it is submitted, as a disk may make it.
"""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from yoi_daemon import serve
from yoi_daemon.cli.main import main
from yoi_daemon.eventlog.group_commit import GroupCommitLog
from yoi_daemon.front import http
from yoi_daemon.observe import server
from yoi_daemon.plugins.lane.ledger import LaneLedger
from yoi_daemon.store.sqlite.store import SqliteStore

COMMIT_S = 0.05


def slow() -> None:
    commit = SqliteStore._commit

    def commit_late(self: SqliteStore, *arguments: Any) -> None:
        time.sleep(COMMIT_S)  # in the writer's thread
        commit(self, *arguments)

    SqliteStore._commit = commit_late  # type: ignore[method-assign]


def early() -> None:
    """Answers before the commit, which is slow."""

    async def answer_at_once(self: GroupCommitLog, seq: int) -> None:
        """What `committed` would be if 202 promised nothing."""

    slow()
    GroupCommitLog.committed = answer_at_once  # type: ignore[method-assign]


def forgetful() -> None:
    """Begins attempts that it has not noted."""

    async def claim(self: LaneLedger, deliveries: object) -> None:
        """What `claim` would be if a crash did not count."""

    LaneLedger.claim = claim  # type: ignore[method-assign]


def wall() -> None:
    """Ages by the clock on the wall."""
    SqliteStore.age_s = lambda self: time.time()  # type: ignore[method-assign]


def crowded() -> None:
    """Takes connections for as long as there are descriptors."""
    serve.connections = server.connections = lambda part, most: most
    http._Listener._make_room = lambda self: None  # type: ignore[method-assign]


FAULTS: Mapping[str, Callable[[], None]] = {
    fault.__name__: fault for fault in (slow, early, forgetful, wall, crowded)
}


if __name__ == "__main__":
    FAULTS[sys.argv.pop(1)]()
    main()
