"""One run of a service, from `start` to the closing of its resources."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import msgspec
import trio

from yoi_daemon.model.settings import PluginSettings
from yoi_daemon.plugins.context import CallContext, StartContext, Surroundings
from yoi_daemon.plugins.delivery import Attempt, Call, Failure, Fault
from yoi_daemon.plugins.executor import (
    InlineExecutor,
    call_function,
    failure_of,
    reraise_cancellation,
)
from yoi_daemon.plugins.lane import Lane
from yoi_daemon.plugins.loading import LoadedPlugin


class End(Fault, frozen=True, kw_only=True):
    """How a generation ended. `failed` is False for a stop that was asked for."""

    failed: bool


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


def stop_times(settings: PluginSettings, budget_s: float | None) -> StopTimes:
    """How long the parts of a stop may take: as configured, or as shares of a budget."""
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
        drain_s=0.4 * budget_s,
        cancel_s=0.1 * budget_s,
        hook_s=0.2 * budget_s,
        close_s=0.1 * budget_s,
        drains=False,
    )


class _StartFailed(Exception):
    """Ends `start`; the end is noted already."""


class Generation:
    """Runs one plugin's service once. Everything it starts lives in the nursery of `run`.

    `life` is the watchdog's handle on it: `start` has `start_timeout_s`, the closing `stop_hook_s` and
    `cancel_s`, and in between there is no deadline. The deadline is moved on the service's own scope:
    a scope around `start` alone would be torn by a nursery that `ctx.enter` leaves open.
    """

    def __init__(
        self,
        loaded: LoadedPlugin,
        settings: PluginSettings,
        lane: Lane,
        surroundings: Surroundings,
        *,
        clock: Callable[[], float],
        on_running: Callable[[], None],
        timers: Callable[[], Awaitable[None]],
    ) -> None:
        self.loaded = loaded
        self.surroundings = surroundings
        self._settings = settings
        self._lane = lane
        self._clock = clock
        self._on_running = on_running
        self._timers = timers
        self.life = Call(
            clock(),
            timeout_s=settings.start_timeout_s,
            warn_s=settings.start_warn_s,
            grace_s=settings.dispatch_grace_s,
            scope=trio.CancelScope(),
            give_up=trio.CancelScope(),
        )
        self.is_running = False
        self.is_over = trio.Event()
        """Ended, or given up for wedged."""
        self.task: trio.lowlevel.Task | None = None
        self.end: End | None = None
        self.hook_failure: Failure | None = None
        self._dispatch = trio.CancelScope()
        self._dispatched = trio.Event()
        self._stop_asked = trio.Event()
        self._times = StopTimes(
            drain_s=0,
            cancel_s=settings.cancel_s,
            hook_s=settings.stop_hook_s,
            close_s=settings.cancel_s,
            drains=False,
        )
        self._nursery: trio.Nursery | None = None

    def ask_to_stop(self, times: StopTimes) -> None:
        """Begins the end; a start that is under way is cancelled."""
        self._times = times
        self._stop_asked.set()
        if not self.is_running:
            self.life.scope.cancel()

    async def run(self) -> End:
        """Runs to the end and says how it came. Raises only a cancellation from outside."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(
                    self._live, nursery, name=f"service {self.surroundings.plugin_id}"
                )
        except BaseException as error:  # noqa: ASYNC103, BLE001 (a plugin ends itself, not the daemon)
            reraise_cancellation(error)
            if self.end is None:
                failure = failure_of(error, self.loaded)
                self.end = End(
                    failed=True,
                    code="service_crashed",
                    message=failure.message,
                    where=failure.where,
                    traceback=failure.traceback,
                )
        finally:
            self.life.is_open = False
            self._nursery = None
        return self.end or END_ASKED

    def start_call(self, run: Callable[[], Awaitable[None]]) -> bool:
        """Runs a short call beside the dispatcher, in this generation's nursery; False when it is over."""
        if self._nursery is None or not self.is_running:
            return False
        self._nursery.start_soon(run)
        return True

    async def _live(self, nursery: trio.Nursery) -> None:
        self.task = trio.lowlevel.current_task()
        with self.life.scope, self.life.give_up:
            async with AsyncExitStack() as stack:
                await self._start(stack)
                self.is_running = True
                self.life.due = self.life.warn_at = float("inf")
                self._on_running()
                nursery.start_soon(self._end_dispatch)
                nursery.start_soon(self._timers)
                try:
                    with self._dispatch:
                        await self._lane.run(self._executor())
                finally:
                    # Also when a resource's own task failed: what closes now has a deadline too.
                    self._dispatched.set()
                    self.life.due = self._clock() + self._times.hook_s + self._times.close_s
                await self._call_stop_hook()
                if not self._stop_asked.is_set() and not self._lane.is_sealed:
                    self.end = End(failed=False, code="service_ended", message="it ended by itself")
        if not self.is_running and self.end is None and not self._stop_asked.is_set():
            self.end = End(
                failed=True,
                code="start_timeout",
                message=f"start did not return within {self._settings.start_timeout_s:g} s",
            )
        elif self.is_running and self.end is None and not self._stop_asked.is_set():
            self.end = End(failed=False, code="service_ended", message="it ended by itself")
        nursery.cancel_scope.cancel()

    async def _start(self, stack: AsyncExitStack) -> None:
        function = self.loaded.plugin.on_start
        if function is None:
            return
        context = StartContext(self.surroundings, stack, self.life.check)
        try:
            await call_function(function, context)
        except BaseException as error:  # noqa: ASYNC103, BLE001 (a plugin ends itself, not the daemon)
            reraise_cancellation(error)
            failure = failure_of(error, self.loaded)
            self.end = End(
                failed=True,
                code="start_failed",
                message=failure.message,
                where=failure.where,
                traceback=failure.traceback,
            )
            raise _StartFailed from None  # noqa: ASYNC104 (a cancellation was raised above)
        context.end()
        if self.life.scope.cancel_called:
            await trio.lowlevel.checkpoint_if_cancelled()
        if context.left_behind():
            self.end = End(
                failed=True,
                code="start_left_task",
                message="start returned and left a nursery open; enter it with ctx.enter",
            )
            raise _StartFailed

    async def _end_dispatch(self) -> None:
        await self._stop_asked.wait()
        times = self._times
        if times.drains:
            self._lane.drain()
        else:
            self._lane.halt()
        with trio.move_on_after(times.drain_s):
            await self._dispatched.wait()
        if (attempt := self._lane.current) is not None:
            # One that ignores this is wedged sooner than its own deadline would say.
            attempt.due = min(attempt.due, self._clock() + times.cancel_s)
            attempt.grace_s = min(attempt.grace_s, times.cancel_s)
        self._dispatch.cancel()

    async def _call_stop_hook(self) -> None:
        function = self.loaded.plugin.on_stop
        if function is None:
            return
        context = CallContext(self.surroundings, self.life.check)
        with trio.CancelScope(deadline=self._clock() + self._times.hook_s) as scope:
            try:
                await call_function(function, context)
            except BaseException as error:  # noqa: ASYNC103, BLE001 (a plugin ends itself, not the daemon)
                reraise_cancellation(error)
                failure = failure_of(error, self.loaded)
                self.hook_failure = msgspec.structs.replace(failure, code="stop_failed")
        if scope.cancelled_caught:
            self.hook_failure = Failure(
                outcome="handler_failed",
                code="stop_timeout",
                message=f"the stop hook did not return within {self._times.hook_s:g} s",
            )

    def _executor(self) -> InlineExecutor:
        surroundings = self.surroundings

        def context_for(attempt: Attempt) -> CallContext:
            return CallContext(
                surroundings,
                attempt.check,
                correlation_id=attempt.delivery.correlation_id,
                event_id=attempt.delivery.event_id,
            )

        return InlineExecutor(self.loaded, context_for)


END_ASKED = End(failed=False, code="stopped", message="stopped by command")
