"""One run of a service, from `start` to the closing of its resources."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from math import inf
from typing import Protocol

import msgspec
import trio

from yoi_daemon.cancellation import reraise_cancellation
from yoi_daemon.model.settings import PluginSettings
from yoi_daemon.plugins.boots import Boots
from yoi_daemon.plugins.delivery import Failure, Fault, PluginCall
from yoi_daemon.plugins.execution.failures import failure_of
from yoi_daemon.plugins.execution.interface import NOT_READY, Executor
from yoi_daemon.plugins.lane.dispatcher import Lane
from yoi_daemon.plugins.loading.loader import LoadedPlugin


class GenerationEnd(Fault, frozen=True, kw_only=True):
    """How a generation ended. `failed` is False for a stop that was asked for, and for a `start` that is not ready.

    `retry_after_s` is set where that `start` named its time.
    """

    failed: bool
    retry_after_s: float | None = None


END_ASKED = GenerationEnd(failed=False, code="stopped", message="stopped by command")
INTERRUPTED = Failure(outcome="interrupted", code="interrupted", message="the service was stopped")
CRASHED = Failure(
    outcome="handler_failed",
    code="service_crashed",
    message="the service crashed while it handled this event",
)


class StopTimes(msgspec.Struct, frozen=True, kw_only=True):
    """How long the parts of a stop may take, in seconds.

    `drain_s` for the queue where it is drained, else for the handler in hand; `cancel_s` for a cancelled
    one to end; `hook_s` for the stop hook; `close_s` for the resources.
    """

    drain_s: float
    cancel_s: float
    hook_s: float
    close_s: float
    drains: bool


def stop_times(settings: PluginSettings, budget_s: float | None = None) -> StopTimes:
    """Returns how long the parts of a stop may take: as configured, or as shares of a budget."""
    if budget_s is None:
        return StopTimes(
            drain_s=settings.drain_s,
            cancel_s=settings.cancel_s,
            hook_s=settings.stop_hook_s,
            close_s=settings.cancel_s,
            drains=True,
        )
    # A handler that ignores its cancellation takes `cancel_s` twice: until late, and until given up.
    return StopTimes(
        drain_s=0.35 * budget_s,
        cancel_s=0.1 * budget_s,
        hook_s=0.15 * budget_s,
        close_s=0.1 * budget_s,
        drains=False,
    )


class _StartFailed(Exception):
    """Ends `start`; the end is noted already."""


class Gate:
    """Lets a generation dispatch while it is open. Shut at first."""

    def __init__(self) -> None:
        self.is_open = False
        self._moved = trio.Event()

    def open(self) -> None:
        """Lets the generation dispatch."""
        self.is_open = True
        self.wake()

    def shut(self) -> None:
        """Holds the generation back."""
        self.is_open = False
        self.wake()

    def wake(self) -> None:
        """Returns from every `wait`."""
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    async def wait(self) -> None:
        """Waits for the next `open`, `shut` or `wake`."""
        await self._moved.wait()


class GenerationParts(msgspec.Struct, frozen=True, kw_only=True):
    """What a generation runs with. `clock` returns monotonic seconds."""

    lane: Lane
    executor: Executor
    clock: Callable[[], float]
    boots: Boots
    run_timers: Callable[[], Awaitable[None]]
    """Runs the plugin's timers until cancelled."""


class GenerationObserver(Protocol):
    """Is called, synchronously, at the turns of a generation's life."""

    def note_running(self, generation: "Generation") -> None:
        """`start` has returned. The gate is still shut."""
        ...

    def note_ending(self, generation: "Generation") -> None:
        """Dispatch is over; the stop hook and the closing of resources follow."""
        ...


class Generation:
    """Runs one plugin's service once. Everything it starts lives in the nursery of `run`.

    It dispatches only while its `gate` is open, so that of two generations one holds the lane.
    `life` is the watchdog's handle on it: `start` has `start_timeout_s`, the closing `stop_hook_s` and
    `cancel_s`, and in between there is no deadline. The deadline is moved on the service's own scope:
    a scope around `start` alone would be torn by a nursery that `ctx.enter` leaves open.
    """

    def __init__(
        self,
        loaded: LoadedPlugin,
        settings: PluginSettings,
        parts: GenerationParts,
        observer: GenerationObserver,
    ) -> None:
        self.loaded = loaded
        self.executor = parts.executor
        self.gate = Gate()
        self._settings = settings
        self._lane = parts.lane
        self._clock = parts.clock
        self._boots = parts.boots
        self._run_timers = parts.run_timers
        self._observer = observer
        self.life = PluginCall(
            parts.clock(),
            timeout_s=settings.start_timeout_s,
            warn_s=settings.start_warn_s,
            grace_s=settings.dispatch_grace_s,
        )
        self.is_running = False
        self.is_over = trio.Event()
        """Ended, or given up for wedged."""
        self.task: trio.lowlevel.Task | None = None
        self.end = END_ASKED
        """How it ended, once it has."""
        self.hook_failure: Failure | None = None
        self._dispatch = trio.CancelScope()
        self._holds_lane = False
        self._dispatched = trio.Event()
        self._stop_asked = trio.Event()
        self._stir = trio.Event()
        """Set when the end of a stop is to be looked at again."""
        self._times = StopTimes(
            drain_s=0,
            cancel_s=settings.cancel_s,
            hook_s=settings.stop_hook_s,
            close_s=settings.cancel_s,
            drains=False,
        )

    def shut_gate(self) -> None:
        """Dispatches nothing more until the gate opens again; the event in hand is finished."""
        self.gate.shut()
        if self._holds_lane:
            self._lane.halt()

    def ask_to_stop(self, times: StopTimes) -> None:
        """Begins the end; a start that is under way is cancelled. Asked again, other times hold."""
        self._times = times
        self._stop_asked.set()
        self._stir.set()
        self.gate.wake()
        due = inf
        if self._dispatched.is_set():
            due = self._clock() + times.hook_s + times.close_s
        elif not self.is_running:
            due = self._clock() + times.cancel_s
            self.life.scope.cancel()
        self.life.hasten(due, times.cancel_s)

    async def run(self) -> None:
        """Runs to the end; `end` says how it came. Raises only a cancellation from outside."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    self._live, nursery, name=f"service {self.executor.manifest.name}"
                )
        except BaseException as error:  # noqa: ASYNC103, BLE001 (a plugin ends itself, not the daemon)
            reraise_cancellation(error)
            if self.end is END_ASKED:
                failure = failure_of(error, self.loaded)
                self.end = GenerationEnd(
                    failed=True,
                    code="service_crashed",
                    message=failure.message,
                    where=failure.where,
                    traceback=failure.traceback,
                )
        finally:
            self.life.is_open = False

    async def _live(self, nursery: trio.Nursery) -> None:
        self.task = trio.lowlevel.current_task()
        with self.life.scope, self.life.give_up:
            # A stop may have come before this task's first turn.
            await trio.lowlevel.checkpoint_if_cancelled()
            async with AsyncExitStack() as stack:
                await self._start(stack)
                self.is_running = True
                self.life.due = self.life.warn_at = float("inf")
                self._observer.note_running(self)
                nursery.start_soon(self._end_dispatch)
                nursery.start_soon(self._run_timers)
                try:
                    with self._dispatch:
                        await self._dispatch_while_open()
                finally:
                    # Also when a resource's own task failed: what closes now has a deadline too.
                    self._dispatched.set()
                    self._stir.set()
                    self._observer.note_ending(self)
                    self.life.due = self._clock() + self._times.hook_s + self._times.close_s
                await self._call_stop_hook()
        self._note_end()
        nursery.cancel_scope.cancel()

    async def _dispatch_while_open(self) -> None:
        """Runs the lane while the gate is open, until a stop is asked for or the lane is sealed."""
        while not self._stop_asked.is_set() and not self._lane.is_sealed:
            if not self.gate.is_open:
                await self.gate.wait()
                continue
            self._holds_lane = True
            try:
                await self._lane.run(self.executor, self._interruption)
            finally:
                self._holds_lane = False

    def _note_end(self) -> None:
        """Says how it ended, where nothing was raised."""
        if self.is_running and self.life.is_late and self.hook_failure is None:
            self.hook_failure = Failure(
                outcome="handler_failed",
                code="close_timeout",
                message="closing the resources took too long, and was cut short",
            )
        if self._stop_asked.is_set():
            return
        if self.is_running:
            self.end = GenerationEnd(
                failed=False, code="service_ended", message="it ended by itself"
            )
        elif self.life.is_late:
            limit_s = self._settings.start_timeout_s
            self.end = GenerationEnd(
                failed=True,
                code="start_timeout",
                message=f"start did not return within {limit_s:g} s",
            )
        else:
            self.end = GenerationEnd(
                failed=True, code="start_failed", message="start cancelled a scope it had entered"
            )

    def _interruption(self) -> Failure:
        """What an attempt came to that was cancelled from outside: by a stop, or by the service's own crash."""
        return INTERRUPTED if self._stop_asked.is_set() else CRASHED

    async def _start(self, stack: AsyncExitStack) -> None:
        manifest = self.executor.manifest
        try:
            if manifest.has_start:
                await self._boots.enter_start(manifest.name, self.loaded.edition)
            failure = await self.executor.start(self.life, stack)
        finally:
            if manifest.has_start:
                self._boots.leave(manifest.name)
        if failure is None and self.life.scope.cancel_called:
            await trio.lowlevel.checkpoint_if_cancelled()
            raise _StartFailed  # given up, and came back after all
        if failure is not None:
            self.end = GenerationEnd(
                failed=failure.code != NOT_READY,
                code=failure.code,
                message=failure.message,
                where=failure.where,
                traceback=failure.traceback,
                retry_after_s=failure.retry_after_s,
            )
            raise _StartFailed

    async def _end_dispatch(self) -> None:
        await self._stop_asked.wait()
        due = self._clock() + self._times.drain_s
        while not self._dispatched.is_set() and self._clock() < due:
            times, self._stir = self._times, trio.Event()
            if self._holds_lane:
                if times.drains:
                    self._lane.drain()
                else:
                    self._lane.halt()
            with trio.move_on_after(due - self._clock()):
                await self._stir.wait()
            if self._times is not times:
                due = min(due, self._clock() + self._times.drain_s)
        if self._holds_lane and (attempt := self._lane.current) is not None:
            # One step: its effects are refused, it is cancelled, and it is wedged sooner than its own
            # deadline would say.
            attempt.is_open = False
            attempt.hasten(self._clock() + self._times.cancel_s, self._times.cancel_s)
        self._dispatch.cancel()

    async def _call_stop_hook(self) -> None:
        with trio.CancelScope(deadline=self._clock() + self._times.hook_s) as scope:
            self.hook_failure = await self.executor.stop(self.life)
        if scope.cancelled_caught:
            self.hook_failure = Failure(
                outcome="handler_failed",
                code="stop_timeout",
                message=f"the stop hook did not return within {self._times.hook_s:g} s",
            )
