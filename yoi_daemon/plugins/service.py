"""A plugin under the host's care: its service is started, run, stopped and started again."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

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
from yoi_daemon.model.plugins import IngressInfo, PluginRecord
from yoi_daemon.model.settings import PluginSettings
from yoi_daemon.plugins.calls import Calls, Returned
from yoi_daemon.plugins.context import CallContext, Surroundings, WorkersFor
from yoi_daemon.plugins.deadletters import DeadLetters
from yoi_daemon.plugins.delivery import Attempt, Call, Delivery, Fault, LaneLimits
from yoi_daemon.plugins.executor import frame_in
from yoi_daemon.plugins.generation import End, Generation, StopTimes
from yoi_daemon.plugins.idempotency import DeliveryKeys
from yoi_daemon.plugins.lane import Lane
from yoi_daemon.plugins.lifecycle import Lifecycle
from yoi_daemon.plugins.loading import LoadedPlugin, LoadFailed, forget_module
from yoi_daemon.plugins.restart import RestartPolicy
from yoi_daemon.plugins.settlement import Settlement
from yoi_daemon.plugins.state import PluginState

STATUS_CALL = "status"
MAX_DETAIL_BYTES = 16_384
"""What `@plugin.status` may answer, encoded."""
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
        self.delivery_keys = DeliveryKeys(clock=parts.clock)
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
        self._policy = RestartPolicy(settings, parts.uniform)
        self._wanted = True
        self._changed = trio.Event()
        self._generation: Generation | None = None
        self._calls: Calls | None = None
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
        calls = () if self._calls is None else self._calls.under_way()
        return self.is_wedged or any(call.is_wedged for call in calls)

    @property
    def is_unhealthy(self) -> bool:
        """Whether a critical plugin keeps the daemon from being ready."""
        return self.settings.critical and self.lifecycle.state in ("failed", "starting", "ready")

    async def record(self) -> PluginRecord:
        """The plugin as the API shows it; asks `@plugin.status` with a deadline."""
        detail = await self._ask_status()
        return self.record_with(detail)

    def record_with(self, detail: Any = None) -> PluginRecord:
        """The plugin as the API shows it, with this `detail`."""
        lane = self.lane.statistics()
        life = self.lifecycle
        specs = () if self.loaded is None else self.loaded.plugin.ingresses.values()
        return PluginRecord(
            plugin_id=self.plugin_id,
            state=life.state,
            since=life.since,
            reason=life.reason,
            restarts=self._policy.restarts,
            retry_at=life.retry_at,
            queue_depth=lane.depth,
            queue_capacity=lane.capacity,
            queue_bytes=lane.bytes,
            queue_bytes_capacity=lane.bytes_capacity,
            oldest_waiting_s=lane.oldest_waiting_s,
            counters=dict(self.settlement.counters),
            dispatch=self.settlement.dispatch_times(),
            detail=detail,
            last_error=self.settlement.last_error,
            isolation=self.settings.isolation,
            critical=self.settings.critical,
            tools=() if self.loaded is None else tuple(self.loaded.plugin.tools),
            ingresses=tuple(
                IngressInfo(name=spec.name, verify=spec.verify, every_s=spec.period_s)
                for spec in specs
            ),
        )

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
        self._policy.clear()
        changed = self.lifecycle.changed
        self._want(True)
        await changed.wait()  # the supervisor needs one turn of the loop, and nothing else

    async def stop(self, *, budget_s: float | None = None) -> None:
        """Stops the service and waits for the end.

        Without a budget the queue is drained first, in the plugin's own times. Within `budget_s` only
        the handler in hand may finish, and what is queued stays. Cancelling the wait does not undo the stop.
        """
        self._want(False)
        await self._stop_service(budget_s)
        if budget_s is not None and self._calls is not None:
            self._calls.cancel(grace_s=0.1 * budget_s)
            await self._calls.wait_over()

    async def _stop_service(self, budget_s: float | None) -> None:
        generation = self._generation
        if generation is None or self.is_wedged:
            if self.lifecycle.state in ("ready", "failed") and not self.is_wedged:
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
        await self.stop()
        before = self.loaded
        self._take(loaded, settings)
        if before is not None and before.module != loaded.module:
            forget_module(before)
        if not was_stopped:
            self._policy.clear()
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
        await self.stop()
        self.report_unfinished()
        self._is_retired = True
        self._want(False)

    # -- the task

    async def supervise(self) -> None:
        """Loads the plugin, where `adopt` did not, and keeps its service as wanted.

        Until cancelled, or until it is retired.
        """
        async with trio.open_nursery() as calls:
            self._calls = Calls(calls, self._parts.clock)
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
        surroundings = self._surroundings(loaded)
        generation = self._generation = Generation(
            loaded,
            self.settings,
            self.lane,
            surroundings,
            clock=parts.clock,
            on_running=self._note_running,
            timers=lambda: parts.timers(self, loaded),
        )
        self.lifecycle.restarts = self._policy.restarts
        self.lifecycle.move("starting", "starting", "start was called")
        try:
            self._settle(generation, await generation.run())
        finally:
            self._generation = None
            if self._calls is not None:
                self._calls.cancel()
            generation.is_over.set()

    def _surroundings(self, loaded: LoadedPlugin) -> Surroundings:
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
        following = self._policy.next_restart(self._parts.clock())
        self.lifecycle.restarts = self._policy.restarts
        self.lifecycle.is_quarantined = following.gave_up
        self.lifecycle.move("failed", end.code, end.message, retry_in_s=following.delay_s)
        if following.gave_up:
            self.settlement.counters["gave_up"] += 1
            data = PluginGaveUp(
                restarts=self._policy.restarts,
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
        if self._generation is not None:
            yield self._generation.life
        if self._calls is not None:
            yield from self._calls.under_way()

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
        generation = self._generation
        if generation is None or not (isinstance(call, Attempt) or call is generation.life):
            # A tool or a status: it takes one of its calls with it, not the lane.
            if self._calls is not None:
                self._calls.note_wedged(call)
            return
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
        if healthy and (self._policy.restarts or self._policy.is_quarantined):
            self._policy.clear()
            self.lifecycle.restarts = 0

    # -- calls beside the lane

    async def call_tool(self, name: str, arguments: bytes) -> bytes:
        """Runs a tool at once and gives its result as JSON. Cancelled, the tool is cancelled.

        Raises `Refused`: `tool_not_found`, `service_unavailable`, `invalid_request`, `limit_reached`,
        `tool_timeout`, `tool_failed`.
        """
        calls, loaded = self._calls, self.loaded
        spec = None if loaded is None else loaded.plugin.tools.get(name)
        if spec is None or loaded is None or calls is None:
            raise Refused("tool_not_found", f"plugin {self.plugin_id} has no tool {name}")
        generation = self._generation
        if (
            loaded.plugin.has_service
            and spec.needs_service
            and (generation is None or self.lifecycle.state != "running")
        ):
            state = self.lifecycle.state
            raise Refused(
                "service_unavailable",
                f"tool {name} needs its plugin's service, which is {state}; start it, or wait",
                state=state,
            )
        limit = self.settings.tool_concurrency
        if calls.count(name) >= limit:
            raise Refused(
                "limit_reached", f"{limit} calls of {name} run already", retry_after_s=1.0
            )
        try:
            decoded = spec.decoder.decode(arguments)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Refused("invalid_request", f"the arguments do not fit: {error}") from error
        surroundings = self._surroundings(loaded) if generation is None else generation.surroundings
        outcome = await calls.run(
            name,
            spec.function,
            loaded,
            lambda check: CallContext(surroundings, check),
            decoded,
            timeout_s=self.settings.tool_timeout_s,
            grace_s=self.settings.dispatch_grace_s,
        )
        if isinstance(outcome, Returned):
            self.settlement.counters["tool_calls"] += 1
            return outcome.encoded
        self.settlement.counters["tool_failures"] += 1
        self.settlement.note_error(msgspec.structs.replace(outcome, code=f"tool_{outcome.code}"))
        raise Refused(
            "tool_timeout" if outcome.outcome == "dispatch_timeout" else "tool_failed",
            outcome.message,
            where=outcome.where,
        )

    async def _ask_status(self) -> Any:
        generation, calls = self._generation, self._calls
        if generation is None or calls is None or not generation.is_running:
            return None
        function = generation.loaded.plugin.on_status
        if function is None:
            return None
        if calls.count(STATUS_CALL):
            return _diagnostic("status_hangs", "an earlier call of status has not returned")
        outcome = await calls.run(
            STATUS_CALL,
            function,
            generation.loaded,
            lambda check: CallContext(generation.surroundings, check),
            timeout_s=self.settings.status_timeout_s,
            grace_s=self.settings.dispatch_grace_s,
        )
        if not isinstance(outcome, Returned):
            return _diagnostic(f"status_{outcome.code}", outcome.message, outcome.where)
        if len(outcome.encoded) > MAX_DETAIL_BYTES:
            size = len(outcome.encoded)
            return _diagnostic(
                "status_too_large",
                f"status answered {size} bytes; at most {MAX_DETAIL_BYTES} are shown",
            )
        return msgspec.Raw(outcome.encoded)

    def _append(self, kind: str, data: Data) -> None:
        self._parts.event_log.append(Draft(kind=kind, plugin_id=self.plugin_id, data=data))


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


def lane_limits(settings: PluginSettings) -> LaneLimits:
    """The lane's part of a plugin's settings."""
    return LaneLimits(
        queue_events=settings.queue_events,
        queue_bytes=settings.queue_bytes,
        dispatch_timeout_s=settings.dispatch_timeout_s,
        dispatch_warn_s=settings.dispatch_warn_s,
        dispatch_grace_s=settings.dispatch_grace_s,
    )


def _diagnostic(code: str, message: str, where: str | None = None) -> dict[str, Any]:
    return {"diagnostic": {"code": code, "message": message, "where": where}}
