"""State machines, each a table. A transition that is not in its table is a bug and raises."""

from collections.abc import Mapping
from typing import Generic, Literal, TypeVar

from yoi_daemon.model.errors import YoiError

ServiceState = Literal["ready", "starting", "running", "stopping", "stopped", "failed"]
WorkerState = Literal["idle", "running", "stopping", "stopped", "failed"]

State = TypeVar("State")

SERVICE_TRANSITIONS: Mapping[ServiceState, frozenset[ServiceState]] = {
    "ready": frozenset({"starting", "stopped", "failed"}),
    # To starting: `start` is not ready yet, and is called again.
    "starting": frozenset({"running", "starting", "stopping", "failed"}),
    "running": frozenset({"stopping", "failed"}),
    "stopping": frozenset({"stopped", "failed"}),
    "stopped": frozenset({"starting", "ready", "failed"}),
    # To ready: a reload loaded the plugin without a service. To stopped: an operator ends the retries.
    "failed": frozenset({"starting", "ready", "stopped", "failed"}),
}

WORKER_TRANSITIONS: Mapping[WorkerState, frozenset[WorkerState]] = {
    "idle": frozenset({"running", "stopping", "stopped", "failed"}),
    "running": frozenset({"idle", "stopping", "failed"}),
    "stopping": frozenset({"stopped", "failed"}),
    "stopped": frozenset(),
    "failed": frozenset(),
}

WORKER_TERMINAL: frozenset[WorkerState] = frozenset(
    state for state, following in WORKER_TRANSITIONS.items() if not following
)


class UndefinedTransitionError(YoiError):
    """The program attempted a transition that is not in the table."""


def transition(table: Mapping[State, frozenset[State]], before: State, to: State) -> State:
    """Returns `to`, if `table` has the transition. Raises `UndefinedTransitionError`."""
    if to not in table[before]:
        raise UndefinedTransitionError(f"{before} → {to} is not in the table")
    return to


class Machine(Generic[State]):
    """A state that moves only along its table."""

    def __init__(self, table: Mapping[State, frozenset[State]], state: State) -> None:
        self._table = table
        self.state: State = state

    def move(self, to: State) -> State:
        """Goes to `to` and returns the state that was left. Raises `UndefinedTransitionError`."""
        before = self.state
        self.state = transition(self._table, before, to)
        return before
