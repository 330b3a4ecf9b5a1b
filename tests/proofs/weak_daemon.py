"""The daemon on a slow disk, and its negative control: `weak_daemon.py honest|early run …`.

Each commit waits 50 ms before it is submitted, as a disk may make it. The `early` one answers
before that: what a log does that waits for nothing.
"""

import sys
import time
from typing import Any

from yoi_daemon.cli.main import main
from yoi_daemon.eventlog.group_commit import GroupCommitLog
from yoi_daemon.store.sqlite import SqliteStore

COMMIT_S = 0.05
commit = SqliteStore._commit


def commit_late(self: SqliteStore, *arguments: Any) -> None:
    time.sleep(COMMIT_S)  # in the writer's thread
    commit(self, *arguments)


async def answer_at_once(self: GroupCommitLog, seq: int) -> None:
    """What `committed` would be if 202 promised nothing."""


SqliteStore._commit = commit_late  # type: ignore[method-assign]
if sys.argv.pop(1) == "early":
    GroupCommitLog.committed = answer_at_once  # type: ignore[method-assign]
main()
