"""A plugin under the host's care: its service is started, run, stopped and started again."""

from collections.abc import Awaitable, Callable, Iterable

import msgspec
import structlog
import trio
from structlog.typing import FilteringBoundLogger

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import (
    Data,
    Draft,
    IngressUnfinished,
    PluginGaveUp,
    PluginSlow,
    PluginWedged,
)
from yoi_daemon.model.plugins import IngressReceipt
from yoi_daemon.model.settings import PluginSettings
from yoi_daemon.plugins.calls import Calls
from yoi_daemon.plugins.context import Surroundings, WorkersFor
from yoi_daemon.plugins.deadletters import DeadLetters
from yoi_daemon.plugins.delivery import Attempt, Call, Delivery, Fault
from yoi_daemon.plugins.executor import frame_in
from yoi_daemon.plugins.generation import End, Generation, stop_times
from yoi_daemon.plugins.idempotency import DeliveryKeys
from yoi_daemon.plugins.lane import Lane, lane_limits
from yoi_daemon.plugins.lifecycle import Lifecycle
from yoi_daemon.plugins.loading import LoadedPlugin, LoadFailed, forget_module
from yoi_daemon.plugins.restart import RestartPolicy
from yoi_daemon.plugins.settlement import Settlement
from yoi_daemon.plugins.state import PluginState

LOAD_TIMEOUT_S = 30.0
"""A module's import may take as long as a start."""


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What the host gives every service. Clocks give seconds; `uniform(low, high)` is chance."""

    event_log: EventLog
    workers_for: WorkersFor
    clock: Callable[[], float]
    wall_clock: Callable[[], float]
    uniform: Callable[[float, float], float]
    load: Callable[[str, PluginSettings], LoadedPlugin]
    """Blocking; raises `LoadFailed`."""
    timers: Callable[["Service", LoadedPlugin], Awaitable[None]]
    """Runs a plugin's timers until cancelled."""


class Service:
    """One plugin. `supervise` is its task; the rest are commands and questions.

    The lane, its counters and the delivery keys outlive the service's restarts and reloads.
    """

    def __init__(self, plugin_id: str, settings: PluginSettings, parts: Parts) -> None:
        self.plugin_id = plugin_id
        self.settings = settings
        self.loaded: LoadedPlugin | None = None
        self.is_loaded = trio.Event()
        """The first load has come to an end, good or bad."""
        self._parts = parts
        self._logger: FilteringBoundLogger = structlog.get_logger("plugin").bind(
            plugin_id=plugin_id
        )
        self.lifecycle = Lifecycle(
            plugin_id, parts.event_log, self._logger, clock=parts.clock, wall_clock=parts.wall_clock
        )
        self.dead_letters = DeadLetters(plugin_id)
        self.delivery_keys: DeliveryKeys[IngressReceipt] = DeliveryKeys(clock=parts.clock)
        self._state = PluginState()
        self.settlement = Settlement(
            plugin_id,
            settings,
            parts.event_log,
            self.dead_letters,
            self._logger,
            wall_clock=parts.wall_clock,
            uniform=parts.uniform,
        )
        self.lane = Lane(lane_limits(settings), self.settlement.judge, clock=parts.clock)
        self.policy = RestartPolicy(settings, parts.uniform)
        self._wanted = True
        self._changed = trio.Event()
        self.generation: Generation | None = None
        """The run that is under way."""
        self.side_calls: Calls | None = None
        """Status and tools under way, while it is supervised."""
        self._redeliveries = 0.0
        self._redelivered_s = parts.clock()
        self._is_retired = False
        self.is_wedged = False

    # -- questions

    def refusal(self) -> Refused | None:
        """Why no event is accepted now, if so."""
        return self.lifecycle.refusal()

    @property
    def has_wedged(self) -> bool:
        """Whether something of it runs that cannot be ended."""
        calls = () if self.side_calls is None else self.side_calls.under_way()
        runs = self.is_wedged and self.generation is not None
        return runs or any(call.is_wedged for call in calls)

    @property
    def is_unhealthy(self) -> bool:
        """Whether a critical plugin keeps the daemon from being ready."""
        return self.settings.critical and self.lifecycle.state in ("failed", "starting", "ready")

    # -- commands

    async def start(self) -> None:
        """Starts a service that is not running, and forgets its restarts.

        Returns when it is starting. Raises `Refused` (`invalid_state`).
        """
        self._refuse_wedged()
        if self.loaded is None:
            raise Refused(
                "invalid_state",
                f"the module could not be loaded: {self.lifecycle.reason.message}; correct it, then reload",
            )
        if not self.loaded.plugin.has_service:
            raise Refused("invalid_state", "this plugin has no service to start")
        if self.lifecycle.state in ("starting", "running"):
            return
        if self.lifecycle.state == "stopping":
            raise Refused("invalid_state", "the service is stopping; start it when it has stopped")
        self.policy.clear()
        changed = self.lifecycle.changed
        self._want(True)
        await changed.wait()  # the supervisor needs one turn of the loop, and nothing else

    async def stop(self, *, budget_s: float | None = None) -> None:
        """Stops the service and waits for the end.

        Without a budget the queue is drained first, in the plugin's own times. Within `budget_s` only
        the handler in hand may finish, and what is queued stays. Cancelling the wait does not undo the stop.
        """
        if self.loaded is not None and not self.loaded.plugin.has_service and budget_s is None:
            raise Refused("invalid_state", "this plugin has no service to stop")
        self._want(False)
        await self._stop_service(budget_s)
        if budget_s is not None and self.side_calls is not None:
            self.side_calls.cancel(grace_s=0.1 * budget_s)
            await self.side_calls.wait_over()

    async def _stop_service(self, budget_s: float | None) -> None:
        generation = self.generation
        if generation is None or self.is_wedged:
            has_service = self.loaded is None or self.loaded.plugin.has_service
            if self.lifecycle.state in ("ready", "failed") and not self.is_wedged and has_service:
                self.lifecycle.move("stopped", "stopped", "stopped by command")
            return
        if self.lifecycle.state in ("starting", "running"):
            self.lifecycle.move("stopping", "stopping", "stopped by command")
        generation.ask_to_stop(stop_times(self.settings, budget_s))
        await generation.is_over.wait()

    async def restart(self) -> None:
        """Stops and starts. Raises `Refused` (`invalid_state`)."""
        self._refuse_wedged()
        await self.stop()
        await self.start()

    def redeliver(self, event_id: str) -> Delivery:
        """Takes a dead letter for another delivery, with its room in the queue.

        Raises `Refused`: `event_not_found`, `rate_limited`, `queue_full`, and as `refusal` says.
        """
        letter = self.dead_letters.get(event_id)
        if (refused := self.refusal()) is not None:
            raise refused
        now = self._parts.clock()
        rate = self.settings.redeliver_per_s
        self._redeliveries = max(0.0, self._redeliveries - (now - self._redelivered_s) * rate)
        self._redelivered_s = now
        if self._redeliveries + 1 > max(1.0, rate):
            raise Refused(
                "rate_limited",
                f"this plugin takes {rate:g} redeliveries a second, so that a replay floods nobody",
                retry_after_s=round(1 / rate, 3),
            )
        self.lane.reserve(letter.delivery.size)
        self._redeliveries += 1
        return self.dead_letters.remove(event_id).delivery

    async def replace(self, loaded: LoadedPlugin, settings: PluginSettings) -> None:
        """Goes on with a new module and new settings: stops the old service, starts the new.

        A service that an operator stopped stays so. What is queued stays.
        """
        self._refuse_wedged()
        was_stopped = self.lifecycle.state in ("stopping", "stopped")
        if self.loaded is None or self.loaded.plugin.has_service:
            await self.stop()
        before = self.loaded
        self._take(loaded, settings)
        if before is not None and before.module != loaded.module:
            forget_module(before)
        if not was_stopped:
            self.policy.clear()
            self._want(True)

    def report_unfinished(self) -> int:
        """Says how many accepted events are not handled, as an event and a log line; gives their count."""
        count = self.lane.statistics().depth
        if count:
            durable = self._parts.event_log.durable
            self._append("plugin.ingress.unfinished", IngressUnfinished(count=count, kept=durable))
            self._logger.warning("events not handled", count=count, kept=durable)
        return count

    def adopt(self, loaded: LoadedPlugin) -> None:
        """Begins with a plugin that was loaded already."""
        self._take(loaded, self.settings)
        self.is_loaded.set()

    async def retire(self) -> None:
        """Stops the service for good: its module is gone. What is queued is reported as unfinished."""
        if self.loaded is None or self.loaded.plugin.has_service:
            await self.stop()
        if self.side_calls is not None:
            self.side_calls.cancel()
            await self.side_calls.wait_over()
        self.report_unfinished()
        self._is_retired = True
        self._want(False)

    # -- the task

    async def supervise(self) -> None:
        """Loads the plugin, where `adopt` did not, and keeps its service as wanted.

        Until cancelled, or until it is retired.
        """
        async with trio.open_nursery() as calls:
            self.side_calls = Calls(calls, self._parts.clock)
            if self.loaded is None:
                await self._load_first()
            while not self._is_retired:
                await self._until_start_is_due()
                if not self._is_retired:
                    await self._run_generation()

    async def _load_first(self) -> None:
        try:
            with trio.move_on_after(LOAD_TIMEOUT_S) as limit:
                # Abandoned when late: a thread cannot be killed, and the daemon must come up.
                loaded = await trio.to_thread.run_sync(
                    self._parts.load, self.plugin_id, self.settings, abandon_on_cancel=True
                )
                self._take(loaded, self.settings)
            if limit.cancelled_caught:
                self._fail_load(
                    LoadFailed("import_timeout", f"the import took over {LOAD_TIMEOUT_S:g} s")
                )
        except LoadFailed as failure:
            self._fail_load(failure)
        finally:
            self.is_loaded.set()

    def _take(self, loaded: LoadedPlugin, settings: PluginSettings) -> None:
        self.loaded = loaded
        self.settings = settings
        if self.lifecycle.state in ("failed", "stopped") and not loaded.plugin.has_service:
            self.lifecycle.move("ready", "loaded", "the module is loaded")
        if self.lifecycle.state == "ready":
            self.lifecycle.explain("loaded", "the module is loaded")
        self.settlement.digest = loaded.digest
        self.settlement.settings = settings
        if self.lane.limits != lane_limits(settings):
            self.lane.resize(lane_limits(settings))
        ingresses = loaded.plugin.ingresses
        self.settlement.holds = lambda name: (
            name in ingresses and ingresses[name].on_retry == "hold"
        )

    def _fail_load(self, failure: LoadFailed) -> None:
        # No restart is spent: it waits for a change or a command.
        self._wanted = False
        self.lifecycle.move("failed", failure.code, failure.message)
        self.settlement.note_error(Fault(code=failure.code, message=failure.message))

    async def _until_start_is_due(self) -> None:
        while not self._is_retired:
            changed = self._changed
            retry_at_s = self.lifecycle.retry_at_s
            if self._wanted and self.loaded is not None and self.loaded.plugin.has_service:
                if retry_at_s is None or self._parts.clock() >= retry_at_s:
                    return
                with trio.move_on_after(retry_at_s - self._parts.clock()):
                    await changed.wait()
            else:
                await changed.wait()

    async def _run_generation(self) -> None:
        loaded = self.loaded
        assert loaded is not None
        parts = self._parts
        surroundings = self.surroundings(loaded)
        generation = self.generation = Generation(
            loaded,
            self.settings,
            self.lane,
            surroundings,
            clock=parts.clock,
            on_running=self._note_running,
            timers=lambda: parts.timers(self, loaded),
        )
        self.lifecycle.restarts = self.policy.restarts
        self.lifecycle.move("starting", "starting", "start was called")
        try:
            self._settle(generation, await generation.run())
        finally:
            self.generation = None
            if self.side_calls is not None:
                self.side_calls.cancel()
            generation.is_over.set()

    def surroundings(self, loaded: LoadedPlugin) -> Surroundings:
        """What the contexts of this plugin's calls share."""
        return Surroundings(
            plugin_id=self.plugin_id,
            config=loaded.config,
            grants=self.settings.grants,
            event_log=self._parts.event_log,
            state=self._state,
            logger=self._logger,
            workers_for=self._parts.workers_for,
        )

    def _note_running(self) -> None:
        self.lifecycle.move("running", "running", "start returned")

    def _settle(self, generation: Generation, end: End) -> None:
        """Moves on from a generation's end, and decides whether and when there is another."""
        if self.is_wedged:
            return
        if generation.hook_failure is not None:
            failure = generation.hook_failure
            self.settlement.note_error(failure)
        if self.lifecycle.state == "stopping":
            if end.failed:
                self.settlement.note_error(end)
            hook = generation.hook_failure
            code, message = (
                ("stopped", "stopped by command") if hook is None else (hook.code, hook.message)
            )
            self.lifecycle.move("stopped", code, message)
            return
        if end.failed:
            self.settlement.note_error(end)
        restart = self.settings.restart
        if restart == "temporary" or (restart == "transient" and not end.failed):
            self._wanted = False
            if end.failed:
                self.lifecycle.move("failed", end.code, end.message)
            else:
                self.lifecycle.move("stopping", end.code, end.message)
                self.lifecycle.move("stopped", end.code, end.message)
            return
        following = self.policy.next_restart(self._parts.clock())
        self.lifecycle.restarts = self.policy.restarts
        self.lifecycle.is_quarantined = following.gave_up
        code, message = end.code, end.message
        if following.gave_up:
            code, message = (
                "gave_up",
                f"restarted too often; the last time {end.code}: {end.message}",
            )
        self.lifecycle.move("failed", code, message, retry_in_s=following.delay_s)
        if following.gave_up:
            self.settlement.counters["gave_up"] += 1
            data = PluginGaveUp(
                restarts=self.policy.restarts,
                within_s=self.settings.restart_window_s,
                retry_in_s=following.delay_s,
            )
            self._append("plugin.gave_up", data)

    def _want(self, wanted: bool) -> None:
        self._wanted = wanted
        self.lifecycle.retry_at_s = None
        self.lifecycle.is_quarantined = False
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def _refuse_wedged(self) -> None:
        if self.is_wedged:
            raise Refused(
                "invalid_state",
                f"{self.lifecycle.reason.message}; only a restart of the daemon frees it",
            )

    # -- the watchdog's side

    def calls(self) -> Iterable[Call]:
        """See `Watched`."""
        if self.lane.current is not None:
            yield self.lane.current
        if self.generation is not None:
            yield self.generation.life
        if self.side_calls is not None:
            yield from self.side_calls.under_way()

    def on_slow(self, call: Call, elapsed_s: float) -> None:
        """See `Watched`."""
        event_id = None
        doing, limit_s = "start", self.settings.start_timeout_s
        if isinstance(call, Attempt):
            event_id = call.delivery.event_id
            doing, limit_s = call.delivery.ingress, self.settings.dispatch_timeout_s
        self._logger.warning("slow", doing=doing, elapsed_s=round(elapsed_s, 1), event_id=event_id)
        self._append(
            "plugin.slow",
            PluginSlow(
                doing=doing, elapsed_s=round(elapsed_s, 3), limit_s=limit_s, event_id=event_id
            ),
        )

    def on_wedged(self, call: Call) -> None:
        """See `Watched`. What ignores its cancellation cannot be ended: the lane is sealed."""
        generation = self.generation
        if generation is None or not (isinstance(call, Attempt) or call is generation.life):
            # A tool or a status: it takes one of its calls with it, not the lane.
            if self.side_calls is not None:
                self.side_calls.note_wedged(call)
            return
        if isinstance(call, Attempt):
            self.settlement.judge_wedged(call, self._parts.clock() - call.started_s)
        self.is_wedged = True
        self._wanted = False
        self.lane.is_sealed = True
        task = generation.task
        where = "unknown" if task is None else frame_in(task, generation.loaded) or "unknown"
        doing = call.delivery.ingress if isinstance(call, Attempt) else "start or stop"
        message = f"{doing} ignores its cancellation, at {where}"
        self.lifecycle.move("failed", "wedged", message)
        self.settlement.note_error(Fault(code="wedged", message=message, where=where))
        self._append(
            "plugin.wedged",
            PluginWedged(
                doing=doing,
                where=where,
                event_id=call.delivery.event_id if isinstance(call, Attempt) else None,
            ),
        )
        generation.is_over.set()

    def on_tick(self, now: float) -> None:
        """See `Watched`. A service that was healthy long enough has its restarts forgotten."""
        self.settlement.report_displaced(now)
        healthy = self.lifecycle.state == "running" and (
            now - self.lifecycle.since_s >= self.settings.restart_healthy_s
        )
        if healthy and (self.policy.restarts or self.policy.is_quarantined):
            self.policy.clear()
            self.lifecycle.restarts = 0

    def _append(self, kind: str, data: Data) -> None:
        self._parts.event_log.append(Draft(kind=kind, plugin_id=self.plugin_id, data=data))
