"""One run of a service, from `start` to the closing of its resources."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from math import inf

import msgspec
import trio

from yoi_daemon.cancellation import reraise_cancellation
from yoi_daemon.model.settings import PluginSettings
from yoi_daemon.plugins.boots import Boots
from yoi_daemon.plugins.delivery import Attempt, Failure, Fault, PluginCall
from yoi_daemon.plugins.execution.context import CallContext, CallServices, StartContext
from yoi_daemon.plugins.execution.inline import InlineExecutor, call_function, failure_of
from yoi_daemon.plugins.lane.dispatcher import Lane
from yoi_daemon.plugins.loading.loader import LoadedPlugin


class GenerationEnd(Fault, frozen=True, kw_only=True):
    """How a generation ended. `failed` is False for a stop that was asked for."""

    failed: bool


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
        drain_s=0.35 * budget_s,
        cancel_s=0.1 * budget_s,
        hook_s=0.15 * budget_s,
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
        services: CallServices,
        *,
        clock: Callable[[], float],
        boots: Boots,
        may_dispatch: trio.Event,
        on_running: Callable[[], None],
        on_ending: Callable[[], None],
        timers: Callable[[], Awaitable[None]],
    ) -> None:
        self.loaded = loaded
        self.services = services
        self._settings = settings
        self._lane = lane
        self._clock = clock
        self._boots = boots
        self._may_dispatch = may_dispatch
        self._on_running = on_running
        self._on_ending = on_ending
        self._timers = timers
        self.life = PluginCall(
            clock(),
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

    def ask_to_stop(self, times: StopTimes) -> None:
        """Begins the end; a start that is under way is cancelled. Asked again, other times hold."""
        self._times = times
        self._stop_asked.set()
        self._stir.set()
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
                nursery.start_soon(self._live, nursery, name=f"service {self.services.plugin_id}")
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
                self._on_running()
                nursery.start_soon(self._end_dispatch)
                nursery.start_soon(self._timers)
                try:
                    with self._dispatch:
                        if not self._may_dispatch.is_set():
                            await self._may_dispatch.wait()
                        await self._lane.run(self._executor(), self._interruption)
                finally:
                    # Also when a resource's own task failed: what closes now has a deadline too.
                    self._dispatched.set()
                    self._stir.set()
                    self._on_ending()
                    self.life.due = self._clock() + self._times.hook_s + self._times.close_s
                await self._call_stop_hook()
        self._note_end()
        nursery.cancel_scope.cancel()

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
        function = self.loaded.plugin.on_start
        if function is None:
            return
        context = StartContext(self.services, stack, self.life.check)
        plugin_id = self.services.plugin_id
        try:
            await self._boots.enter_start(plugin_id, self.loaded.edition)
            await call_function(function, context)
        except BaseException as error:  # noqa: ASYNC103, BLE001 (a plugin ends itself, not the daemon)
            reraise_cancellation(error)
            failure = failure_of(error, self.loaded)
            self.end = GenerationEnd(
                failed=True,
                code="start_failed",
                message=failure.message,
                where=failure.where,
                traceback=failure.traceback,
            )
            raise _StartFailed from None  # noqa: ASYNC104 (a cancellation was raised above)
        finally:
            self._boots.leave(plugin_id)
        context.end()
        if self.life.scope.cancel_called:
            await trio.lowlevel.checkpoint_if_cancelled()
            raise _StartFailed  # given up, and came back after all
        if context.left_behind():
            self.end = GenerationEnd(
                failed=True,
                code="start_left_task",
                message="start returned and left a nursery open; enter it with ctx.enter",
            )
            raise _StartFailed

    async def _end_dispatch(self) -> None:
        await self._stop_asked.wait()
        due = self._clock() + self._times.drain_s
        while not self._dispatched.is_set() and self._clock() < due:
            times, self._stir = self._times, trio.Event()
            if times.drains:
                self._lane.drain()
            else:
                self._lane.halt()
            with trio.move_on_after(due - self._clock()):
                await self._stir.wait()
            if self._times is not times:
                due = min(due, self._clock() + self._times.drain_s)
        if (attempt := self._lane.current) is not None:
            # One step: its effects are refused, it is cancelled, and it is wedged sooner than its own
            # deadline would say.
            attempt.is_open = False
            attempt.hasten(self._clock() + self._times.cancel_s, self._times.cancel_s)
        self._dispatch.cancel()

    async def _call_stop_hook(self) -> None:
        function = self.loaded.plugin.on_stop
        if function is None:
            return
        context = CallContext(self.services, self.life.check)
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
        services = self.services

        def context_for(attempt: Attempt) -> CallContext:
            delivery = attempt.delivery
            return CallContext(services, attempt.check, delivery.correlation_id, delivery.event_id)

        return InlineExecutor(self.loaded, context_for)
