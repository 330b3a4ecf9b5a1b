"""Short calls of an author's functions beside the lane: status and tools, each against a deadline."""

from collections.abc import Awaitable, Callable

import trio

from yoi_daemon.cancellation import GuardedCall
from yoi_daemon.plugins.delivery import Failure, PluginCall
from yoi_daemon.plugins.execution.interface import Returned


class _UnderWay:
    def __init__(self, name: str, *, is_bound: bool) -> None:
        self.name = name
        self.is_bound = is_bound
        self.over = trio.Event()
        self.is_stopped = False
        self.outcome: Returned | Failure | None = None


class Calls:
    """The calls under way of one plugin, in a nursery of their own, so that one that hangs holds nobody.

    The watchdog judges each: cancelled at its deadline, given up after its grace.
    """

    def __init__(self, nursery: trio.Nursery, clock: Callable[[], float]) -> None:
        self._nursery = nursery
        self._clock = clock
        self._under_way: dict[GuardedCall, _UnderWay] = {}

    def under_way(self) -> tuple[GuardedCall, ...]:
        """Returns the calls whose function has not returned, wedged ones too."""
        return tuple(self._under_way)

    def count(self, name: str) -> int:
        """Returns how many calls of `name` have not returned."""
        return sum(running.name == name for running in self._under_way.values())

    def cancel(self, *, grace_s: float | None = None, only_bound: bool = False) -> None:
        """Ends the calls under way, or only those that need the service. Their effects are refused.

        With `grace_s` they are given up that much after.
        """
        for call, under_way in self._under_way.items():
            if only_bound and not under_way.is_bound:
                continue
            under_way.is_stopped = True
            call.cancel(self._clock(), None if grace_s is None else min(call.grace_s, grace_s))

    def note_wedged(self, call: GuardedCall) -> None:
        """The watchdog gave a call up: nobody waits for it any more."""
        self._under_way[call].over.set()

    async def wait_over(self) -> None:
        """Waits until every call under way has ended or was given up."""
        for under_way in tuple(self._under_way.values()):
            await under_way.over.wait()

    async def run(
        self,
        name: str,
        function: Callable[[PluginCall], Awaitable[Returned | Failure]],
        *,
        timeout_s: float,
        grace_s: float,
        is_bound: bool = True,
    ) -> Returned | Failure:
        """Has an executor call a function; returns its outcome, at the latest when the watchdog has given it up.

        Cancelling the wait cancels the call.
        """
        call = PluginCall(self._clock(), timeout_s=timeout_s, grace_s=grace_s)
        under_way = _UnderWay(name, is_bound=is_bound)

        async def run_call() -> None:
            try:
                with call.scope, call.give_up:
                    under_way.outcome = await function(call)
            finally:
                del self._under_way[call]
                call.is_open = False
                under_way.over.set()

        self._under_way[call] = under_way
        self._nursery.start_soon(run_call, name=f"call {name}")
        try:
            # The watchdog looks four times a second: a second more is room for it, not a deadline.
            with trio.move_on_after(timeout_s + 1):
                await under_way.over.wait()
        finally:
            if under_way.outcome is None:
                call.cancel(self._clock())
        outcome = under_way.outcome
        if under_way.is_stopped and not isinstance(outcome, Returned):
            return Failure(
                outcome="interrupted",
                code="stopped",
                message=f"{name} was ended: its service stopped",
            )
        if (call.is_late and not under_way.is_stopped) or outcome is None:
            return Failure(
                outcome="dispatch_timeout",
                code="timeout",
                message=f"{name} did not return within {timeout_s:g} s",
            )
        return outcome
