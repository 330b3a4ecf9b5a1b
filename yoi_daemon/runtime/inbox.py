"""A worker's inbox: accepted inputs that wait for their turns, in memory and in the store."""

from collections import deque
from collections.abc import Sequence

from yoi_daemon.eventlog.interface import Commit
from yoi_daemon.runtime.ledger import WorkerLedger
from yoi_daemon.runtime.turn import Input
from yoi_daemon.store.tables import InboxRow


class Inbox:
    """The inputs of one worker, in the order of their turns."""

    def __init__(self, worker_id: str, ledger: WorkerLedger) -> None:
        self._worker_id = worker_id
        self._ledger = ledger
        self._inputs: deque[Input] = deque()
        # Numbers give the order in the store: an input put first gets one below all others.
        self._first = self._last = 0

    def __len__(self) -> int:
        return len(self._inputs)

    def restore(self, rows: Sequence[InboxRow]) -> None:
        """Restores the inputs of an earlier run, in order."""
        self._inputs.extend(Input(row.item_id, row.text, row.correlation_id) for row in rows)
        if rows:
            self._first, self._last = rows[0].number, rows[-1].number

    def put(self, commit: Commit, accepted: Input, *, first: bool) -> None:
        """Adds an input, ahead of all others or behind them."""
        if first:
            self._inputs.appendleft(accepted)
            self._first = number = self._first - 1
        else:
            self._inputs.append(accepted)
            self._last = number = self._last + 1
        self._ledger.input(commit, self._worker_id, number, accepted)

    def take(self, commit: Commit) -> Input:
        """Removes and returns the next input."""
        taken = self._inputs.popleft()
        self._ledger.drop_inputs(commit, self._worker_id, (taken,))
        return taken

    def clear(self, commit: Commit) -> int:
        """Drops all inputs; returns how many there were."""
        dropped = len(self._inputs)
        self._ledger.drop_inputs(commit, self._worker_id, self._inputs)
        self._inputs.clear()
        return dropped
