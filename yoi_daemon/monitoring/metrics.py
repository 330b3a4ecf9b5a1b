"""The metrics of `/metrics`, read from each part's `statistics()` when they are scraped.

Names and units follow Prometheus: a counter ends in `_total`, a time is in seconds, a size in bytes.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.model.events import AttemptOutcome
from yoi_daemon.model.histogram import HistogramSnapshot
from yoi_daemon.model.states import ServiceState, WorkerState
from yoi_daemon.plugins.supervision.service import Service

LANE_OUTCOMES: tuple[str, ...] = (
    *get_args(AttemptOutcome),
    "dead_lettered",
    "dropped",
    "coalesced",
    "skipped",
    "redelivered",
    "discarded",
)
"""Outcomes of events and of attempts: an attempt that failed and is retried counts as both."""

PLUGIN_COUNTERS: Mapping[str, tuple[str, str]] = {
    "accepted": ("yoi_lane_accepted_events", "Events accepted into the lane."),
    "restored": (
        "yoi_lane_restored_events",
        "Events taken up again after a restart of the daemon.",
    ),
    "restarted": (
        "yoi_plugin_restarts",
        "Restarts after a failure; the tries after giving up are not among them.",
    ),
    "gave_up": (
        "yoi_plugin_give_ups",
        "Times the host gave a service up, after too many restarts.",
    ),
    "dead_letters_evicted": (
        "yoi_plugin_dead_letters_evicted",
        "Dead letters that were deleted because a bound on them was reached.",
    ),
    "tool_calls": ("yoi_plugin_tool_calls", "Calls of tools that returned."),
    "tool_failures": ("yoi_plugin_tool_failures", "Calls of tools that failed."),
}
"""A plugin's other counters, each a metric of its own."""


def register_metrics(daemon: Daemon) -> None:
    """Registers the daemon's metrics in its own registry: two daemons in one process stay apart."""
    registry = daemon.metrics
    registry.register(DaemonCollector(daemon))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)


class DaemonCollector(Collector):
    """One daemon's metrics. Synchronous, so that all figures of a scrape are of one moment."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def collect(self) -> Iterator[Metric]:
        """Yields every family, including those without a sample yet."""
        services = tuple(self._daemon.plugins.services.values())
        yield from self._process()
        yield from _plugins(services)
        yield from _lanes(services)
        yield from self._log()
        yield from self._stream()
        yield from self._store()
        yield from self._runtimes()

    def _process(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "yoi_build_info", "Always 1; the version is its label.", labels=["version"]
        )
        info.add_metric([self._daemon.version], 1)
        yield info
        ready = not self._daemon.not_ready()
        yield GaugeMetricFamily("yoi_ready", "1 if /readyz answers 200.", value=ready)
        yield GaugeMetricFamily(
            "yoi_safe_mode",
            "1 if the daemon runs in safe mode, without plugins.",
            value=self._daemon.plugins.safe_mode is not None,
        )
        yield GaugeMetricFamily(
            "yoi_uptime_seconds", "Since the daemon was opened.", value=self._daemon.uptime_s
        )
        stalls = CounterMetricFamily(
            "yoi_loop_stalls",
            "Times the event loop stood still, by the plugin that held it; empty for the daemon itself.",
            labels=["plugin_id"],
        )
        stalled = CounterMetricFamily(
            "yoi_loop_stalled_seconds", "How long, in all.", labels=["plugin_id"]
        )
        figures = self._daemon.loop
        for plugin_id in (None, *self._daemon.plugins.services):
            stalls.add_metric([plugin_id or ""], figures.counts[plugin_id])
            stalled.add_metric([plugin_id or ""], figures.seconds[plugin_id])
        yield from (stalls, stalled)

    def _log(self) -> Iterator[Metric]:
        log = self._daemon.event_log.statistics()
        limits = self._daemon.settings.observe
        for name, text, value in (
            ("window_events", "Events that can be resumed from.", log.window.events),
            ("window_limit_events", "Maximum number.", limits.window_events),
            ("window_bytes", "Their size as frames.", log.window.bytes),
            ("window_limit_bytes", "Maximum number.", limits.window_bytes),
            ("head_seq", "Number of the last committed event.", log.window.head),
            ("floor_seq", "Lowest position that resumes for every filter.", log.window.floor),
            ("pending_events", "Events numbered and not yet committed.", log.pending),
            ("pending_bytes", "Their size as frames.", log.pending_bytes),
        ):
            yield GaugeMetricFamily(f"yoi_log_{name}", text, value=value)
        yield CounterMetricFamily(
            "yoi_log_appended_events", "Events appended to the log.", value=log.appended
        )
        yield CounterMetricFamily("yoi_log_commits", "Commits, of a batch each.", value=log.commits)
        events = GaugeMetricFamily(
            "yoi_log_retained_events", "Events kept, by retention class.", labels=["retention"]
        )
        size = GaugeMetricFamily(
            "yoi_log_retained_bytes", "Their size as frames.", labels=["retention"]
        )
        evicted = CounterMetricFamily(
            "yoi_log_evicted_events", "Events the window evicted.", labels=["retention"]
        )
        for name, kept in log.retentions.items():
            events.add_metric([name], kept.events)
            size.add_metric([name], kept.bytes)
            evicted.add_metric([name], kept.evicted)
        yield from (events, size, evicted)

    def _stream(self) -> Iterator[Metric]:
        observed = self._daemon.observed
        yield GaugeMetricFamily(
            "yoi_stream_subscribers", "Subscribers of the stream.", value=observed.subscribers
        )
        yield GaugeMetricFamily(
            "yoi_stream_subscribers_limit",
            "Maximum number.",
            value=self._daemon.settings.observe.max_subscribers,
        )
        yield GaugeMetricFamily(
            "yoi_stream_lag_events",
            "Committed events that the slowest subscriber has not read yet.",
            value=observed.lag_events(),
        )
        cuts = CounterMetricFamily(
            "yoi_stream_cuts", "Subscribers the daemon cut off.", labels=["reason"]
        )
        cuts.add_metric(["slow_consumer"], observed.slow_consumers)
        yield cuts

    def _store(self) -> Iterator[Metric]:
        store = self._daemon.store
        durable = GaugeMetricFamily(
            "yoi_store_durable", "1 if accepted events survive a power cut.", labels=["kind"]
        )
        durable.add_metric([store.kind], store.durable)
        yield durable
        size = GaugeMetricFamily("yoi_store_bytes", "Size of the store on disk.")
        free = GaugeMetricFamily("yoi_store_free_bytes", "Free space on its disk.")
        low = GaugeMetricFamily("yoi_store_low_disk", "1 if events are refused for lack of space.")
        commits = HistogramMetricFamily(
            "yoi_store_commit_duration_seconds", "Duration of a commit, with its fsync."
        )
        if store.durable:
            statistics = store.statistics()
            size.add_metric([], statistics.bytes)
            free.add_metric([], statistics.free_bytes)
            low.add_metric([], statistics.low)
            _add_histogram(commits, [], statistics.commit_times)
        yield from (size, free, low, commits)

    def _runtimes(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "yoi_runtime_up",
            "1 if the runtime is available.",
            labels=["runtime_id", "implementation_kind"],
        )
        for runtime in self._daemon.registry.summaries():
            up.add_metric(
                [runtime.runtime_id, runtime.implementation_kind], runtime.status == "available"
            )
        yield up
        workers = GaugeMetricFamily(
            "yoi_runtime_workers",
            "Workers of the embedded runtime, including ended ones that are retained.",
            labels=["runtime_id", "state"],
        )
        embedded = self._daemon.embedded.statistics()
        for state in get_args(WorkerState):
            workers.add_metric([embedded.runtime_id, state], embedded.workers.get(state, 0))
        yield workers
        wedged = GaugeMetricFamily(
            "yoi_runtime_wedged_turns",
            "Turns that ignored their cancellation and were given up.",
            labels=["runtime_id"],
        )
        wedged.add_metric([embedded.runtime_id], embedded.wedged)
        yield wedged


def _plugins(services: Iterable[Service]) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "yoi_plugin_state", "1 for the state the plugin is in.", labels=["plugin_id", "state"]
    )
    quarantined = GaugeMetricFamily(
        "yoi_plugin_quarantined",
        "1 if the plugin is held because starts of the daemon died on it.",
        labels=["plugin_id"],
    )
    letters = GaugeMetricFamily(
        "yoi_plugin_dead_letters",
        "Events that every attempt failed to handle.",
        labels=["plugin_id"],
    )
    counters = {
        key: CounterMetricFamily(name, text, labels=["plugin_id"])
        for key, (name, text) in PLUGIN_COUNTERS.items()
    }
    for service in services:
        for state in get_args(ServiceState):
            states.add_metric([service.plugin_id, state], state == service.lifecycle.state)
        held = service.installed.held
        is_held = held is not None and held.code == "quarantined"
        quarantined.add_metric([service.plugin_id], is_held)
        letters.add_metric([service.plugin_id], len(service.dead_letters))
        for key, counter in counters.items():
            counter.add_metric([service.plugin_id], service.settlement.counters[key])
    yield from (states, quarantined, letters, *counters.values())


def _lanes(services: Iterable[Service]) -> Iterator[Metric]:
    def gauge(name: str, text: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"yoi_lane_{name}", text, labels=["plugin_id"])

    depth = gauge("depth_events", "Accepted events without an outcome yet.")
    capacity = gauge("capacity_events", "Maximum number.")
    size = gauge("depth_bytes", "Their size.")
    size_capacity = gauge("capacity_bytes", "Maximum size.")
    parked = gauge("parked_events", "Events waiting for a retry.")
    oldest = gauge(
        "oldest_waiting_seconds", "Age of the oldest event without an outcome; 0 if there is none."
    )
    outcomes = CounterMetricFamily(
        "yoi_lane_outcomes",
        "Outcomes of events and attempts; an attempt that failed and is retried counts as both.",
        labels=["plugin_id", "outcome"],
    )
    times = HistogramMetricFamily(
        "yoi_lane_dispatch_duration_seconds", "Duration of handler calls.", labels=["plugin_id"]
    )
    for service in services:
        labels = [service.plugin_id]
        lane = service.lane.statistics()
        depth.add_metric(labels, lane.depth)
        capacity.add_metric(labels, lane.capacity)
        size.add_metric(labels, lane.bytes)
        size_capacity.add_metric(labels, lane.bytes_capacity)
        parked.add_metric(labels, lane.parked)
        oldest.add_metric(labels, lane.oldest_waiting_s or 0)
        for outcome in LANE_OUTCOMES:
            outcomes.add_metric([*labels, outcome], service.settlement.counters[outcome])
        _add_histogram(times, labels, service.settlement.durations.snapshot())
    yield from (depth, capacity, size, size_capacity, parked, oldest, outcomes, times)


def _add_histogram(
    family: HistogramMetricFamily, labels: list[str], snapshot: HistogramSnapshot
) -> None:
    so_far = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, snapshot.bounds_s), "+Inf"), snapshot.counts, strict=True):
        so_far += count
        buckets.append((bound, so_far))
    family.add_metric(labels, buckets, snapshot.sum_s)
