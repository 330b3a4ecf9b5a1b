"""A plugin under the host's care: its lane, its counters, its state, and the commands to it."""

from collections.abc import Iterable

import structlog
from structlog.typing import FilteringBoundLogger

from yoi_daemon.cancellation import GuardedCall
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import (
    Data,
    Draft,
    IngressUnfinished,
    PluginSlow,
    PluginWedged,
)
from yoi_daemon.model.plugins import IngressReceipt
from yoi_daemon.model.rates import RateLimit
from yoi_daemon.model.settings import PluginSettings
from yoi_daemon.plugins.delivery import Attempt, Delivery, Fault
from yoi_daemon.plugins.execution.context import CallServices
from yoi_daemon.plugins.execution.failures import frame_in
from yoi_daemon.plugins.execution.inline import InlineExecutor
from yoi_daemon.plugins.execution.interface import Executor
from yoi_daemon.plugins.execution.state import PluginState
from yoi_daemon.plugins.lane.deadletters import DeadLetters
from yoi_daemon.plugins.lane.dispatcher import Lane, lane_limits
from yoi_daemon.plugins.lane.ledger import LaneLedger, Restored
from yoi_daemon.plugins.lane.settlement import Settlement
from yoi_daemon.plugins.loading.loader import LoadedPlugin
from yoi_daemon.plugins.supervision.commands import ServiceCommand
from yoi_daemon.plugins.supervision.installation import Installation, Installed
from yoi_daemon.plugins.supervision.lifecycle import Lifecycle
from yoi_daemon.plugins.supervision.parts import HostServices, Supervised
from yoi_daemon.plugins.supervision.supervisor import Supervisor
from yoi_daemon.store.idempotency import DeliveryKeys


class Service:
    """One plugin: the parts that outlive its restarts and reloads, and the supervisor that has them in its care."""

    def __init__(self, plugin_id: str, settings: PluginSettings, host: HostServices) -> None:
        self.plugin_id = plugin_id
        self._host = host
        self._logger: FilteringBoundLogger = structlog.get_logger("plugin").bind(
            plugin_id=plugin_id
        )
        self.lifecycle = Lifecycle(
            plugin_id, host.event_log, self._logger, clock=host.clock, wall_clock=host.wall_clock
        )
        self.ledger = LaneLedger(plugin_id, host.event_log)
        self.dead_letters = DeadLetters(plugin_id, self.ledger, age_s=host.age_s)
        self.delivery_keys = DeliveryKeys(
            plugin_id, IngressReceipt, host.event_log, age_s=host.age_s
        )
        self.state = PluginState(plugin_id, host.event_log.record)
        self._redeliveries = RateLimit(host.clock())
        self._hooks = RateLimit(host.clock())
        self.settlement = Settlement(
            plugin_id,
            settings,
            host.event_log,
            self.dead_letters,
            self.ledger,
            self._logger,
            wall_clock=host.wall_clock,
            uniform=host.uniform,
        )
        self.lane = Lane(
            lane_limits(settings), self.settlement.judge, self.ledger, clock=host.clock
        )
        subject = Supervised(
            plugin_id=plugin_id,
            lane=self.lane,
            lifecycle=self.lifecycle,
            settlement=self.settlement,
            make_executor=self._make_executor,
            on_retired=self.report_unfinished,
        )
        self.installation = Installation(subject, settings, host)
        self.supervisor = Supervisor(subject, self.installation, host)

    # -- questions

    @property
    def installed(self) -> Installed:
        """Returns the settings and the code that the host has of it now."""
        return self.installation.installed

    @property
    def has_unended(self) -> bool:
        """Returns whether something of it still runs."""
        return bool(self.supervisor.generations or self.supervisor.calls_under_way())

    @property
    def is_unhealthy(self) -> bool:
        """Returns whether a critical plugin keeps the daemon from being ready."""
        installed = self.installed
        may_run = installed.loaded is None or installed.has_service
        ill = ("failed", "starting", "ready") if may_run else ("failed",)
        return installed.settings.critical and self.lifecycle.state in ill

    def refusal(self) -> Refused | None:
        """Returns why no event is accepted now, if so."""
        if self.supervisor.is_retired:
            return self.supervisor.refusal()
        return self.lifecycle.refusal()

    def _make_executor(self, loaded: LoadedPlugin, settings: PluginSettings) -> Executor:
        services = CallServices(
            plugin_id=self.plugin_id,
            config=loaded.config,
            grants=settings.grants,
            event_log=self._host.event_log,
            state=self.state,
            logger=self._logger,
            workers_for=self._host.workers_for,
        )
        return InlineExecutor(loaded, services)

    # -- commands; each is carried out whatever becomes of the caller

    async def start(self) -> None:
        """Starts the service and forgets its restarts; returns when it is starting.

        Raises `Refused` (`invalid_state`).
        """
        await self.supervisor.ask(ServiceCommand("start"))

    async def stop(self) -> None:
        """Drains and stops the service, in the plugin's own times. Raises `Refused` (`invalid_state`)."""
        await self.supervisor.ask(ServiceCommand("stop"))

    async def restart(self) -> None:
        """Stops and starts. Raises `Refused` (`invalid_state`)."""
        await self.supervisor.ask(ServiceCommand("restart"))

    def replace(self, loaded: LoadedPlugin, settings: PluginSettings) -> ServiceCommand:
        """Goes on with a new module and new settings: stops the old service, starts the new.

        A service that an operator stopped stays so. What is queued stays. The command is refused
        (`invalid_state`) where the old one ignores its end.
        """
        replacement = Installed(settings=settings, loaded=loaded)
        return self.supervisor.submit(ServiceCommand("replace", replacement))

    def retire(self) -> ServiceCommand:
        """Stops the service for good: its module is gone. What is queued is reported as unfinished."""
        return self.supervisor.submit(ServiceCommand("retire"))

    async def end(self, budget_s: float) -> None:
        """Ends with the daemon, ahead of all commands: the handler in hand may finish, what is queued stays."""
        await self.supervisor.end(budget_s)

    async def settled(self) -> None:
        """Waits until its load and its first start came to an end, good or bad."""
        await self.installation.is_loaded.wait()
        while (
            self.installed.has_service
            and self.lifecycle.state in ("ready", "starting")
            and self.lifecycle.retry_at_s is None
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
            self._host.clock(),
            self.installed.settings.redeliver_per_s,
            "redeliveries of this plugin",
        )
        self.lane.reserve(letter.delivery)
        self._redeliveries.count()
        return self.dead_letters.take(event_id).delivery

    def count_hook(self) -> None:
        """Counts a webhook whose signature is right. Raises `Refused` (`rate_limited`).

        Only those: a stranger cannot use up what the sender may.
        """
        now, per_s = self._host.clock(), self.installed.settings.hooks_per_s
        self._hooks.take(now, per_s, "webhooks of this plugin")

    def report_unfinished(self) -> int:
        """Says how many accepted events are not handled, as an event and a log line; gives their count."""
        self.settlement.report_displaced(self._host.clock(), at_once=True)
        count = self.lane.statistics().depth
        if count:
            durable = self._host.event_log.durable
            self._append("plugin.ingress.unfinished", IngressUnfinished(count=count, kept=durable))
            self._logger.warning("events not handled", count=count, kept=durable)
        return count

    def restore(self, restored: Restored) -> None:
        """Takes up what an earlier run left in the store. Before `supervise`."""
        self.ledger.restore(restored)
        self.settlement.restore(self.lane, restored)
        self.delivery_keys.restore(restored.keys)
        self.state.restore(restored.values)

    # -- the watchdog's side

    def calls(self) -> Iterable[GuardedCall]:
        """See `Watched`."""
        if self.lane.current is not None:
            yield self.lane.current
        for generation in self.supervisor.generations:
            yield generation.life
        yield from self.supervisor.calls_under_way()

    def on_slow(self, call: GuardedCall, elapsed_s: float) -> None:
        """See `Watched`."""
        event_id = None
        doing, limit_s = "start", self.installed.settings.start_timeout_s
        if isinstance(call, Attempt):
            event_id = call.delivery.event_id
            doing, limit_s = call.delivery.ingress, self.installed.settings.dispatch_timeout_s
        self._logger.warning("slow", doing=doing, elapsed_s=round(elapsed_s, 1), event_id=event_id)
        self._append(
            "plugin.slow",
            PluginSlow(
                doing=doing, elapsed_s=round(elapsed_s, 3), limit_s=limit_s, event_id=event_id
            ),
        )

    def on_wedged(self, call: GuardedCall) -> None:
        """See `Watched`. What ignores its cancellation cannot be ended: the lane is sealed."""
        supervisor = self.supervisor
        generation = supervisor.generation_of(call)
        if generation is None:
            # A tool or a status: it takes one of its calls with it, not the lane.
            supervisor.note_wedged_call(call)
            return
        if generation.executor.kill():
            return  # what ran in it has ended, and its calls return
        if isinstance(call, Attempt):
            self.settlement.judge_wedged(call, self._host.clock() - call.started_s)
        else:
            self._host.boots.leave(self.plugin_id)  # it does not return, and the daemon lives
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
        supervisor.give_up()

    def on_tick(self, now: float) -> None:
        """See `Watched`. A service that was healthy long enough has its restarts forgotten."""
        self.settlement.report_displaced(now)
        self.dead_letters.expire()
        policy = self.supervisor.policy
        healthy = self.lifecycle.state == "running" and (
            now - self.lifecycle.since_s >= self.installed.settings.restart_healthy_s
        )
        if healthy and (policy.restarts or policy.gave_up):
            policy.clear()
            self.lifecycle.restarts = 0

    def _append(self, kind: str, data: Data) -> None:
        self._host.event_log.append(Draft(kind=kind, plugin_id=self.plugin_id, data=data))
