"""A plugin under the host's care: its lane, its counters, its state, and the commands to it."""

from collections.abc import Awaitable, Callable, Iterable

import msgspec
import structlog
import trio
from structlog.typing import FilteringBoundLogger

from yoi_daemon.cancellation import GuardedCall
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
from yoi_daemon.model.rates import RateLimit
from yoi_daemon.model.settings import PluginSettings
from yoi_daemon.plugins.boots import Boots, Hold
from yoi_daemon.plugins.delivery import Attempt, Delivery, Fault
from yoi_daemon.plugins.execution.calls import Calls
from yoi_daemon.plugins.execution.context import CallServices, WorkersFor
from yoi_daemon.plugins.execution.inline import frame_in
from yoi_daemon.plugins.execution.state import PluginState
from yoi_daemon.plugins.lane.deadletters import DeadLetters
from yoi_daemon.plugins.lane.dispatcher import Lane, lane_limits
from yoi_daemon.plugins.lane.ledger import LaneLedger, Restored
from yoi_daemon.plugins.lane.settlement import Settlement
from yoi_daemon.plugins.loading.loader import LoadedPlugin
from yoi_daemon.plugins.loading.source import LoadFailed
from yoi_daemon.plugins.supervision.generation import Generation
from yoi_daemon.plugins.supervision.lifecycle import Lifecycle
from yoi_daemon.plugins.supervision.restart import RestartPolicy
from yoi_daemon.plugins.supervision.supervisor import Command, Supervisor
from yoi_daemon.store.idempotency import DeliveryKeys

LOAD_TIMEOUT_S = 30.0
"""A module's import may take as long as a start."""


class HostServices(msgspec.Struct, frozen=True, kw_only=True):
    """What the host gives every service. Clocks give seconds; `uniform(low, high)` is chance.

    `age_s` is the store's own clock, which dead letters and keys age by.
    """

    event_log: EventLog
    workers_for: WorkersFor
    clock: Callable[[], float]
    age_s: Callable[[], float]
    wall_clock: Callable[[], float]
    uniform: Callable[[float, float], float]
    load: Callable[[str, PluginSettings], LoadedPlugin]
    """Blocking; raises `LoadFailed`."""
    forget: Callable[[LoadedPlugin], None]
    """Lets go of a module that another version has taken over from."""
    timers: Callable[["Service", LoadedPlugin], Awaitable[None]]
    """Runs a plugin's timers until cancelled."""
    boots: Boots
    may_dispatch: trio.Event
    """Set once handlers may be called."""


class Service:
    """One plugin. `supervise` is its task; the rest are commands and questions.

    The lane, its counters and the delivery keys outlive the service's restarts and reloads.
    """

    def __init__(self, plugin_id: str, settings: PluginSettings, parts: HostServices) -> None:
        self.plugin_id = plugin_id
        self.is_loaded = trio.Event()
        """The first load has come to an end, good or bad."""
        self._parts = parts
        self._logger: FilteringBoundLogger = structlog.get_logger("plugin").bind(
            plugin_id=plugin_id
        )
        self.lifecycle = Lifecycle(
            plugin_id, parts.event_log, self._logger, clock=parts.clock, wall_clock=parts.wall_clock
        )
        self.ledger = LaneLedger(plugin_id, parts.event_log)
        self.dead_letters = DeadLetters(plugin_id, self.ledger, age_s=parts.age_s)
        self.delivery_keys = DeliveryKeys(
            plugin_id, IngressReceipt, parts.event_log.record, age_s=parts.age_s
        )
        self._state = PluginState(plugin_id, parts.event_log.record)
        self._redeliveries = RateLimit(parts.clock())
        self._hooks = RateLimit(parts.clock())
        self.settlement = Settlement(
            plugin_id,
            settings,
            parts.event_log,
            self.dead_letters,
            self.ledger,
            self._logger,
            wall_clock=parts.wall_clock,
            uniform=parts.uniform,
        )
        self.lane = Lane(
            lane_limits(settings), self.settlement.judge, self.ledger, clock=parts.clock
        )
        self._supervisor = Supervisor(
            settings,
            lane=self.lane,
            lifecycle=self.lifecycle,
            settlement=self.settlement,
            clock=parts.clock,
            uniform=parts.uniform,
            load=self._load,
            make_generation=self._make_generation,
            take=self._take,
            on_gave_up=self._note_gave_up,
            on_retired=self.report_unfinished,
        )

    # -- questions

    @property
    def settings(self) -> PluginSettings:
        """The settings it runs with."""
        return self._supervisor.settings

    @property
    def loaded(self) -> LoadedPlugin | None:
        """The plugin's code and configuration; None before the first load, or where it failed."""
        return self._supervisor.loaded

    @property
    def generation(self) -> Generation | None:
        """The run that is under way."""
        return self._supervisor.generation

    @property
    def side_calls(self) -> Calls | None:
        """Status and tools under way, while it is supervised."""
        return self._supervisor.calls

    @property
    def policy(self) -> RestartPolicy:
        """Its restarts."""
        return self._supervisor.policy

    @property
    def is_wedged(self) -> bool:
        """Whether its lane is sealed."""
        return self._supervisor.is_wedged

    @property
    def held(self) -> Hold | None:
        """Why it is not loaded, if something holds it back."""
        return self._supervisor.held

    @property
    def has_unended(self) -> bool:
        """Whether something of it still runs."""
        calls = () if self.side_calls is None else self.side_calls.under_way()
        return self.generation is not None or bool(calls)

    @property
    def is_unhealthy(self) -> bool:
        """Whether a critical plugin keeps the daemon from being ready."""
        has_service = self.loaded is None or self.loaded.manifest.has_service
        ill = ("failed", "starting", "ready") if has_service else ("failed",)
        return self.settings.critical and self.lifecycle.state in ill

    def refusal(self) -> Refused | None:
        """Why no event is accepted now, if so."""
        if self._supervisor.is_retired:
            return Refused("plugin_not_found", "this plugin was removed")
        return self.lifecycle.refusal()

    def services(self, loaded: LoadedPlugin) -> CallServices:
        """What the contexts of this plugin's calls share."""
        return CallServices(
            plugin_id=self.plugin_id,
            config=loaded.config,
            grants=self.settings.grants,
            event_log=self._parts.event_log,
            state=self._state,
            logger=self._logger,
            workers_for=self._parts.workers_for,
        )

    # -- commands; each is carried out whatever becomes of the caller

    async def start(self) -> None:
        """Starts the service and forgets its restarts; returns when it is starting.

        Raises `Refused` (`invalid_state`).
        """
        await self._supervisor.ask(Command("start"))

    async def stop(self) -> None:
        """Drains and stops the service, in the plugin's own times. Raises `Refused` (`invalid_state`)."""
        await self._supervisor.ask(Command("stop"))

    async def restart(self) -> None:
        """Stops and starts. Raises `Refused` (`invalid_state`)."""
        await self._supervisor.ask(Command("restart"))

    def replace(self, loaded: LoadedPlugin, settings: PluginSettings) -> Command:
        """Goes on with a new module and new settings: stops the old service, starts the new.

        A service that an operator stopped stays so. What is queued stays. The command is refused
        (`invalid_state`) where the old one ignores its end.
        """
        return self._supervisor.submit(Command("replace", loaded, settings))

    def retire(self) -> Command:
        """Stops the service for good: its module is gone. What is queued is reported as unfinished."""
        return self._supervisor.submit(Command("retire"))

    async def end(self, budget_s: float) -> None:
        """Ends with the daemon, ahead of all commands: the handler in hand may finish, what is queued stays."""
        await self._supervisor.end(budget_s)

    def adopt(self, loaded: LoadedPlugin) -> None:
        """Begins with a plugin that was loaded already."""
        self._take(loaded, self.settings)
        self.is_loaded.set()

    def hold(self, hold: Hold) -> None:
        """Is not loaded by itself. What is queued stays. Before `supervise`."""
        if hold.code == "quarantined":
            self.fail_load(LoadFailed(hold.code, hold.message))
        else:
            self.lifecycle.move("stopped", hold.code, hold.message)
        self._supervisor.held = hold
        self.is_loaded.set()

    async def settled(self) -> None:
        """Waits until its load and its first start came to an end, good or bad."""
        await self.is_loaded.wait()
        while (
            self.loaded is not None
            and self.loaded.manifest.has_service
            and self.lifecycle.state in ("ready", "starting")
        ):
            await self.lifecycle.changed.wait()

    def redeliver(self, event_id: str) -> Delivery:
        """Takes a dead letter for another delivery, with its room in the queue.

        Raises `Refused`: `event_not_found`, `rate_limited`, `queue_full`, and as `refusal` says.
        """
        letter = self.dead_letters.get(event_id)
        if (refused := self.refusal()) is not None:
            raise refused
        self._redeliveries.check(
            self._parts.clock(), self.settings.redeliver_per_s, "redeliveries of this plugin"
        )
        self.lane.reserve(letter.delivery.size)
        self._redeliveries.count()
        return self.dead_letters.take(event_id).delivery

    def count_hook(self) -> None:
        """Counts a webhook whose signature is right. Raises `Refused` (`rate_limited`).

        Only those: a stranger cannot use up what the sender may.
        """
        now, per_s = self._parts.clock(), self.settings.hooks_per_s
        self._hooks.take(now, per_s, "webhooks of this plugin")

    def report_unfinished(self) -> int:
        """Says how many accepted events are not handled, as an event and a log line; gives their count."""
        self.settlement.report_displaced(self._parts.clock(), at_once=True)
        count = self.lane.statistics().depth
        if count:
            durable = self._parts.event_log.durable
            self._append("plugin.ingress.unfinished", IngressUnfinished(count=count, kept=durable))
            self._logger.warning("events not handled", count=count, kept=durable)
        return count

    def restore(self, restored: Restored) -> None:
        """Takes up what an earlier run left in the store. Before `supervise`."""
        self.ledger.restore(restored)
        self.settlement.restore(self.lane, restored)
        self.delivery_keys.restore(restored.keys)
        self._state.restore(restored.values)

    # -- the task

    async def supervise(self) -> None:
        """Loads the plugin, where `adopt` did not, and keeps its service as wanted, until cancelled."""
        await self._supervisor.run()

    async def _load(self) -> None:
        try:
            with trio.move_on_after(LOAD_TIMEOUT_S) as limit:
                # Abandoned when late: a thread cannot be killed, and the daemon must come up.
                loaded = await trio.to_thread.run_sync(
                    self._parts.load, self.plugin_id, self.settings, abandon_on_cancel=True
                )
                self._take(loaded, self.settings)
            if limit.cancelled_caught:
                self.fail_load(
                    LoadFailed("import_timeout", f"the import took over {LOAD_TIMEOUT_S:g} s")
                )
        except LoadFailed as failure:
            self.fail_load(failure)
        finally:
            self.is_loaded.set()

    def fail_load(self, failure: LoadFailed) -> None:
        """Notes that the module cannot be loaded. No restart is spent: it waits for a change or a command."""
        self._supervisor.held = None
        self.lifecycle.move("failed", failure.code, failure.message)
        self.settlement.note_error(Fault(code=failure.code, message=failure.message))

    def _take(self, loaded: LoadedPlugin, settings: PluginSettings) -> None:
        supervisor = self._supervisor
        before = supervisor.loaded
        supervisor.loaded, supervisor.settings = loaded, settings
        supervisor.policy.settings = settings
        supervisor.held = None
        if before is not None and before.module != loaded.module:
            self._parts.forget(before)
        if not loaded.manifest.has_service:
            self._parts.boots.came_up(self.plugin_id, loaded.edition)
        if self.lifecycle.state in ("failed", "stopped") and not loaded.manifest.has_service:
            self.lifecycle.move("ready", "loaded", "the module is loaded")
        if self.lifecycle.state == "ready":
            self.lifecycle.explain("loaded", "the module is loaded")
        ingresses = loaded.manifest.ingresses
        self.settlement.take(
            loaded.digest,
            settings,
            holds=lambda name: name in ingresses and ingresses[name].on_retry == "hold",
        )
        if self.lane.limits != lane_limits(settings):
            self.lane.resize(lane_limits(settings))

    def _make_generation(self) -> Generation:
        loaded = self.loaded
        assert loaded is not None
        return Generation(
            loaded,
            self.settings,
            self.lane,
            self.services(loaded),
            clock=self._parts.clock,
            boots=self._parts.boots,
            may_dispatch=self._parts.may_dispatch,
            on_running=lambda: self._note_running(loaded),
            on_ending=self._end_bound_calls,
            timers=lambda: self._parts.timers(self, loaded),
        )

    def _note_running(self, loaded: LoadedPlugin) -> None:
        self.lifecycle.move("running", "running", "start returned")
        self._parts.boots.came_up(self.plugin_id, loaded.edition)

    def _end_bound_calls(self) -> None:
        if self.side_calls is not None:
            self.side_calls.cancel(only_bound=True)

    def _note_gave_up(self, retry_in_s: float) -> None:
        self.settlement.counters["gave_up"] += 1
        data = PluginGaveUp(
            restarts=self.settings.restart_attempts,
            within_s=self.settings.restart_window_s,
            retry_in_s=retry_in_s,
        )
        self._append("plugin.gave_up", data)

    # -- the watchdog's side

    def calls(self) -> Iterable[GuardedCall]:
        """See `Watched`."""
        if self.lane.current is not None:
            yield self.lane.current
        if self.generation is not None:
            yield self.generation.life
        if self.side_calls is not None:
            yield from self.side_calls.under_way()

    def on_slow(self, call: GuardedCall, elapsed_s: float) -> None:
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

    def on_wedged(self, call: GuardedCall) -> None:
        """See `Watched`. What ignores its cancellation cannot be ended: the lane is sealed."""
        generation = self.generation
        if generation is not None and call is generation.life:
            self._parts.boots.leave(self.plugin_id)  # it does not return, and the daemon lives
        if generation is None or not (isinstance(call, Attempt) or call is generation.life):
            # A tool or a status: it takes one of its calls with it, not the lane.
            if self.side_calls is not None:
                self.side_calls.note_wedged(call)
            return
        if isinstance(call, Attempt):
            self.settlement.judge_wedged(call, self._parts.clock() - call.started_s)
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
        self._supervisor.give_up()

    def on_tick(self, now: float) -> None:
        """See `Watched`. A service that was healthy long enough has its restarts forgotten."""
        self.settlement.report_displaced(now)
        self.dead_letters.expire()
        healthy = self.lifecycle.state == "running" and (
            now - self.lifecycle.since_s >= self.settings.restart_healthy_s
        )
        if healthy and (self.policy.restarts or self.policy.gave_up):
            self.policy.clear()
            self.lifecycle.restarts = 0

    def _append(self, kind: str, data: Data) -> None:
        self._parts.event_log.append(Draft(kind=kind, plugin_id=self.plugin_id, data=data))
