"""The consequence of an attempt: the event is handled, retried, or kept as a dead letter."""

from collections import Counter, deque
from collections.abc import Callable
from math import inf
from statistics import quantiles
from typing import Literal

import msgspec
from structlog.typing import FilteringBoundLogger

from yoi_daemon.eventlog.interface import Commit, EventLog
from yoi_daemon.model.events import (
    AttemptOutcome,
    Draft,
    IngressAttempt,
    IngressDead,
    IngressDiscarded,
    IngressDropped,
    format_time,
)
from yoi_daemon.model.histogram import Histogram
from yoi_daemon.model.plugins import AttemptRecord, DispatchTimes, LastError
from yoi_daemon.model.settings import PluginSettings
from yoi_daemon.plugins.delivery import Attempt, Delivery, Failure, Fault
from yoi_daemon.plugins.lane.deadletters import DeadLetters
from yoi_daemon.plugins.lane.dispatcher import LATE, Lane
from yoi_daemon.plugins.lane.ledger import CLAIMED_ALONE, NOT_CLAIMED, LaneLedger, Restored

TIMES_KEPT = 256
DURATION_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Prometheus's defaults, from a handler that does little to one at the default deadline, 30 s, and beyond."""
MAX_RETRY_AFTER_S = 86_400.0
"""Maximum of `Retry(after_s=…)`: a day."""


Displacement = Literal["dropped", "coalesced"]


DIED = Failure(
    outcome="interrupted",
    code="process_died",
    message="the daemon's process died while this event was in hand",
)


class _Displaced:
    """Displaced events of one ingress that are not reported yet."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.reported_s = -inf


class Settlement:
    """Judges the attempts of one service: counters, events, retries and dead letters in one step each."""

    def __init__(
        self,
        plugin_id: str,
        settings: PluginSettings,
        event_log: EventLog,
        dead_letters: DeadLetters,
        ledger: LaneLedger,
        logger: FilteringBoundLogger,
        *,
        wall_clock: Callable[[], float],
        uniform: Callable[[float, float], float],
    ) -> None:
        self._plugin_id = plugin_id
        self._settings = settings
        self._event_log = event_log
        self._dead_letters = dead_letters
        self._ledger = ledger
        self._logger = logger
        self._wall_clock = wall_clock
        self._uniform = uniform
        self.durations = Histogram(DURATION_BOUNDS_S)
        """Of every attempt since the start."""
        self._times_ms: deque[float] = deque(maxlen=TIMES_KEPT)
        self._displaced: dict[tuple[str, str], _Displaced] = {}
        self.counters: Counter[str] = Counter()
        self.last_error: LastError | None = None
        self._digest = ""
        self._holds: Callable[[str], bool] = lambda _ingress: False

    def judge(
        self, lane: Lane, attempt: Attempt, failure: Failure | None, duration_s: float
    ) -> None:
        """See `dispatcher.Judge`."""
        duration_ms = _milliseconds(duration_s)
        self._times_ms.append(duration_ms)
        self.durations.observe(duration_s)
        if failure is not None:
            self._judge_failure(lane, attempt.delivery, failure, duration_ms, duration_s)
            return
        delivery = attempt.delivery
        self.counters["handled"] += 1
        with self._event_log.together() as commit:
            # Spelled out, not by `_append`: most attempts end here.
            commit.append(
                Draft(
                    kind="plugin.ingress.handled",
                    plugin_id=self._plugin_id,
                    correlation_id=delivery.correlation_id,
                    data=IngressAttempt(
                        event_id=delivery.event_id,
                        ingress=delivery.ingress,
                        attempt=delivery.attempt,
                        duration_ms=duration_ms,
                    ),
                )
            )
            self._ledger.ended(commit, delivery)
        lane.finish(delivery)

    def _judge_failure(
        self,
        lane: Lane,
        delivery: Delivery,
        failure: Failure,
        duration_ms: float,
        duration_s: float,
    ) -> None:
        if failure.outcome == "interrupted":
            self.counters["interrupted"] += 1
            delivery.attempts.append(self._record(delivery, failure, duration_ms, duration_s))
            with self._event_log.together() as commit:
                self._emit(commit, "interrupted", delivery, duration_ms, failure)
                self._ledger.waits(commit, delivery)
            lane.put_back(delivery)
            return
        delivery.failures += 1
        is_last = failure.outcome == "invalid_event" or delivery.failures >= self._settings.attempts
        if is_last and failure.outcome == "retry_scheduled":
            # It asks for a retry, and none is left.
            failure = msgspec.structs.replace(failure, outcome="handler_failed")
        self.counters[failure.outcome] += 1
        delivery.attempts.append(self._record(delivery, failure, duration_ms, duration_s))
        self.note_error(failure, delivery.event_id, delivery.correlation_id)
        if is_last:
            with self._event_log.together() as commit:
                self._emit(commit, failure.outcome, delivery, duration_ms, failure)
                self._bury(commit, delivery, failure.outcome)
            lane.finish(delivery)
            return
        delay_s = self._delay(delivery.failures, failure)
        if failure.outcome != "retry_scheduled":
            self.counters["retry_scheduled"] += 1
        with self._event_log.together() as commit:
            self._emit(commit, failure.outcome, delivery, duration_ms, failure, delay_s)
            self._ledger.waits(commit, delivery)
        (lane.hold if self._holds(delivery.ingress) else lane.park)(delivery, delay_s)

    def judge_wedged(self, attempt: Attempt, duration_s: float) -> None:
        """Judges a handler that was given up. Its event stays unfinished: the lane ends with it."""
        delivery, duration_ms = attempt.delivery, _milliseconds(duration_s)
        self.counters[LATE.outcome] += 1
        delivery.failures += 1
        self.durations.observe(duration_s)
        delivery.attempts.append(self._record(delivery, LATE, duration_ms, duration_s))
        with self._event_log.together() as commit:
            self._emit(commit, LATE.outcome, delivery, duration_ms, LATE)
            self._ledger.waits(commit, delivery)

    def restore(self, lane: Lane, restored: Restored) -> None:
        """Restores what an earlier run left. Before any dispatch.

        An event that was alone in hand when the process died is charged an attempt. One of several
        is not, but is attempted by itself from now on.
        """
        for delivery, letter in restored.dead:
            self._dead_letters.restore(delivery, letter)
        if restored.waiting:
            self.counters["restored"] += len(restored.waiting)
        waiting: list[Delivery] = []
        for delivery, claim in restored.waiting:
            delivery.is_suspect = claim != NOT_CLAIMED
            with self._event_log.together() as commit:
                if claim == CLAIMED_ALONE:
                    delivery.failures += 1
                    delivery.attempts.append(self._record(delivery, DIED, 0, 0))
                    self.counters[DIED.outcome] += 1
                    self._emit(commit, DIED.outcome, delivery, 0, DIED)
                    self._ledger.waits(commit, delivery)
                if delivery.failures < self._settings.attempts:
                    waiting.append(delivery)
                else:
                    last = delivery.attempts[-1] if delivery.attempts else DIED
                    self._bury(commit, delivery, last.outcome)
        lane.restore(waiting)

    def displace(self, lane: Lane, delivery: Delivery, outcome: Displacement) -> None:
        """Ends a waiting event in favour of a newer one. Counts it now and reports it within a second."""
        self.counters[outcome] += 1
        lane.displace(delivery)
        self._displaced.setdefault((outcome, delivery.ingress), _Displaced()).deliveries.append(
            delivery
        )

    def take(self, digest: str, settings: PluginSettings, holds: Callable[[str], bool]) -> None:
        """Takes another version of the plugin. `holds` returns whether an ingress keeps its order on a retry."""
        self._digest = digest
        self._settings = settings
        self._holds = holds

    def report_displaced(self, now: float, *, at_once: bool = False) -> None:
        """Reports how many events were displaced, at most once a second for each ingress and outcome."""
        for (outcome, ingress), waiting in self._displaced.items():
            displaced = waiting.deliveries
            if displaced and (at_once or now - waiting.reported_s >= 1):
                data = IngressDropped(
                    ingress=ingress, count=len(displaced), last_event_id=displaced[-1].event_id
                )
                waiting.deliveries, waiting.reported_s = [], now
                kind = f"plugin.ingress.{outcome}"
                with self._event_log.together() as commit:
                    commit.append(Draft(kind=kind, plugin_id=self._plugin_id, data=data))
                    for delivery in displaced:
                        self._ledger.ended(commit, delivery)

    def note_error(
        self, fault: Fault, event_id: str | None = None, correlation_id: str | None = None
    ) -> None:
        """Keeps the latest failure for the plugin's record and logs it."""
        self.last_error = LastError(
            code=fault.code,
            message=fault.message,
            time=format_time(self._wall_clock()),
            where=fault.where,
            event_id=event_id,
        )
        facts = {
            "where": fault.where,
            "event_id": event_id,
            "correlation_id": correlation_id,
            "exception": fault.traceback,
        }
        known = {name: value for name, value in facts.items() if value is not None}
        self._logger.warning("plugin error", code=fault.code, reason=fault.message, **known)

    def dispatch_times(self) -> DispatchTimes:
        """Returns how long the latest attempts took."""
        times = sorted(self._times_ms)
        if len(times) < 2:
            only = times[0] if times else 0.0
            return DispatchTimes(count=len(times), p50_ms=only, p99_ms=only, max_ms=only)
        cuts = quantiles(times, n=100, method="inclusive")
        return DispatchTimes(count=len(times), p50_ms=cuts[49], p99_ms=cuts[98], max_ms=times[-1])

    def discard(self, event_id: str) -> tuple[Delivery, int]:
        """Deletes a dead letter. Returns its delivery and the number of the event that says so.

        Raises `Refused` (`event_not_found`).
        """
        with self._event_log.together() as commit:
            delivery = self._dead_letters.remove(commit, event_id).delivery
            self.counters["discarded"] += 1
            data = IngressDiscarded(event_id=event_id, ingress=delivery.ingress)
            seq = self._append(commit, "plugin.ingress.discarded", delivery, data)
        return delivery, seq

    def _bury(self, commit: Commit, delivery: Delivery, outcome: AttemptOutcome) -> None:
        self.counters["dead_lettered"] += 1
        self._dead_letters.add(commit, delivery, self._digest, format_time(self._wall_clock()))
        if self._dead_letters.evicted > self.counters["dead_letters_evicted"]:
            self.counters["dead_letters_evicted"] = self._dead_letters.evicted
            self._logger.warning("dead letters evicted", so_far=self._dead_letters.evicted)
        data = IngressDead(
            event_id=delivery.event_id,
            ingress=delivery.ingress,
            attempts=delivery.attempt,
            outcome=outcome,
        )
        self._append(commit, "plugin.ingress.dead_lettered", delivery, data)

    def _delay(self, failures: int, failure: Failure) -> float:
        settings = self._settings
        if failure.retry_after_s is not None:
            return min(MAX_RETRY_AFTER_S, max(0.0, failure.retry_after_s))
        backoff_s = settings.retry_min_s * 2 ** min(failures - 1, 30)
        return min(settings.retry_max_s, backoff_s * self._uniform(0.75, 1.25))

    def _record(
        self, delivery: Delivery, failure: Failure, duration_ms: float, duration_s: float
    ) -> AttemptRecord:
        return AttemptRecord(
            attempt=delivery.attempt,
            outcome=failure.outcome,
            started_at=format_time(self._wall_clock() - duration_s),
            duration_ms=duration_ms,
            code=failure.code,
            message=failure.message,
            where=failure.where,
        )

    def _emit(
        self,
        commit: Commit,
        name: str,
        delivery: Delivery,
        duration_ms: float,
        failure: Failure,
        retry_in_s: float | None = None,
    ) -> None:
        data = IngressAttempt(
            event_id=delivery.event_id,
            ingress=delivery.ingress,
            attempt=delivery.attempt,
            duration_ms=duration_ms,
            code=failure.code,
            message=failure.message,
            where=failure.where,
            retry_in_s=retry_in_s,
        )
        self._append(commit, f"plugin.ingress.{name}", delivery, data)

    def _append(
        self,
        commit: Commit,
        kind: str,
        delivery: Delivery,
        data: IngressAttempt | IngressDead | IngressDiscarded,
    ) -> int:
        return commit.append(
            Draft(
                kind=kind,
                plugin_id=self._plugin_id,
                correlation_id=delivery.correlation_id,
                data=data,
            )
        )


def _milliseconds(seconds: float) -> float:
    """Returns milliseconds, rounded to the microsecond."""
    return round(seconds * 1e6) / 1000
