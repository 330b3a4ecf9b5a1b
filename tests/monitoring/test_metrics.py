import re
from collections.abc import AsyncGenerator

import pytest
import trio
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.events import Draft
from yoi_daemon.model.settings import MemoryStoreSettings, PluginSettings, Settings
from yoi_daemon.monitoring.metrics import LANE_OUTCOMES, register_metrics

PLUGIN = """
from yoi_daemon.sdk import Plugin
plugin = Plugin("gen")
@plugin.ingress("ok")
async def ok(ctx, event): ...
@plugin.ingress("bad")
async def bad(ctx, event): raise ValueError
"""


@pytest.fixture
def directories(tmp_path) -> Directories:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "plugins" / "gen.py").write_text(PLUGIN)
    return Directories(tmp_path, tmp_path / "state", tmp_path / "secrets")


@pytest.fixture
async def daemon(directories) -> AsyncGenerator[Daemon]:
    settings = Settings(plugins={"gen": PluginSettings(attempts=1)})
    async with open_daemon(directories, settings, Tokens("token"), {}) as one:
        register_metrics(one)
        with trio.fail_after(10):
            while one.plugins.service("gen").lifecycle.state != "running":
                await one.event_log.wait_beyond(one.event_log.head)
        yield one
        await one.plugins.shutdown(budget_s=1)


def told(daemon: Daemon) -> dict[tuple[str, ...], float]:
    """Every sample, by its name and its labels' values."""
    text = generate_latest(daemon.metrics).decode()
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_a_lane_is_told(daemon):
    service = daemon.plugins.service("gen")
    for ingress in ("ok", "ok", "bad"):
        await daemon.plugins.accept("gen", ingress, b"{}")
    with trio.fail_after(10):
        while service.lane.statistics().depth:
            await daemon.event_log.wait_beyond(daemon.event_log.head)
    now = told(daemon)
    assert now["yoi_lane_accepted_events_total", "gen"] == 3
    assert now["yoi_lane_outcomes_total", "handled", "gen"] == 2
    assert now["yoi_lane_outcomes_total", "handler_failed", "gen"] == 1
    assert now["yoi_lane_outcomes_total", "dead_lettered", "gen"] == 1
    assert now["yoi_plugin_dead_letters", "gen"] == 1
    assert now["yoi_lane_depth_events", "gen"] == 0
    assert now["yoi_lane_capacity_events", "gen"] == 256
    assert now["yoi_lane_oldest_waiting_seconds", "gen"] == 0
    assert now["yoi_lane_dispatch_duration_seconds_count", "gen"] == 3
    assert now["yoi_lane_dispatch_duration_seconds_bucket", "+Inf", "gen"] == 3
    assert 0 < now["yoi_lane_dispatch_duration_seconds_sum", "gen"] < 10
    buckets = [
        value
        for name, value in now.items()
        if name[0] == "yoi_lane_dispatch_duration_seconds_bucket"
    ]
    assert buckets == sorted(buckets)
    assert now["yoi_plugin_state", "gen", "running"] == 1
    states = [name for name, value in now.items() if name[0] == "yoi_plugin_state" and value]
    assert len(states) == 1
    assert now["yoi_plugin_give_ups_total", "gen"] == 0


async def test_a_give_up_is_counted(daemon):
    service = daemon.plugins.service("gen")
    service.settlement.counters["gave_up"] += 1
    assert told(daemon)["yoi_plugin_give_ups_total", "gen"] == 1


async def test_the_log_the_runtime_and_the_process_are_told(daemon):
    await daemon.embedded.create(profile="builtin:echo", label="")
    await daemon.event_log.committed(daemon.event_log.appended)
    daemon.observed.subscribers, daemon.observed.slow_consumers = 3, 2
    daemon.observed.lag_events = lambda: 7
    now = told(daemon)
    log = daemon.event_log.statistics()
    assert now["yoi_log_head_seq",] == now["yoi_log_appended_events_total",] == log.appended
    assert now["yoi_log_window_events",] == log.window.events > 0
    assert now["yoi_log_window_limit_events",] == 100_000
    assert now["yoi_log_retained_events", "lifecycle"] > 0
    assert now["yoi_stream_subscribers",] == 3
    assert now["yoi_stream_lag_events",] == 7
    assert now["yoi_stream_cuts_total", "slow_consumer"] == 2
    assert now["yoi_runtime_up", "embedded", "backend-internal"] == 1
    assert now["yoi_runtime_workers", "backend-internal", "idle"] == 1
    assert now["process_open_fds",] > 0
    assert now["yoi_ready",] == 0  # no listener says otherwise
    await daemon.note_ready()
    assert told(daemon)["yoi_ready",] == 1


async def test_a_durable_store_is_told(daemon):
    """Each commit is in the histogram, and its size and the room left are there."""
    await daemon.event_log.committed(daemon.event_log.append(Draft(kind="gen.x", data={})))
    now, store = told(daemon), daemon.store.statistics()
    assert now["yoi_store_durable", "sqlite"] == 1
    assert now["yoi_store_commit_duration_seconds_count",] == store.commits > 0
    assert now["yoi_store_commit_duration_seconds_bucket", "+Inf"] == store.commits
    assert now["yoi_store_bytes",] > 0
    assert now["yoi_store_free_bytes",] > 0
    assert now["yoi_store_low_disk",] == 0


async def test_of_a_store_in_memory_there_is_nothing_to_tell(tmp_path):
    (tmp_path / "other").mkdir()
    other = Directories(tmp_path / "other", tmp_path / "other", tmp_path / "other")
    settings = Settings(store=MemoryStoreSettings())
    async with open_daemon(other, settings, Tokens("token"), {}) as daemon:
        register_metrics(daemon)
        now = told(daemon)
    assert now["yoi_store_durable", "memory"] == 0
    assert not [
        name for name in now if name[0].startswith("yoi_store_") and name[0] != "yoi_store_durable"
    ]


async def test_two_daemons_in_one_process_do_not_see_each_other(daemon, tmp_path):
    (tmp_path / "other").mkdir()
    other = Directories(tmp_path / "other", tmp_path / "other", tmp_path / "other")
    async with open_daemon(other, Settings(), Tokens("token"), {}) as second:
        register_metrics(second)
        assert not [name for name in told(second) if "gen" in name]
        assert [name for name in told(daemon) if "gen" in name]


def suits(family: Metric) -> bool:
    """The conventions: https://prometheus.io/docs/practices/naming/."""
    units = r"(?<!milli)(?<!micro)_(seconds|bytes)|_(events|info|seq|subscribers|limit|state|workers|turns|letters|ready|up|durable|disk|mode|quarantined)"
    if family.type == "histogram":
        return family.name.endswith("_seconds")
    if family.type == "counter":
        return not family.name.endswith(("_total", "_count", "_sum"))  # which the format appends
    return re.search(f"({units})$", family.name) is not None


async def test_names_units_and_texts_suit_prometheus(daemon):
    families = list(daemon.metrics.collect())
    ours = [family for family in families if family.name.startswith("yoi_")]
    assert len({family.name for family in families}) == len(families)
    assert len(ours) > 35
    assert [family.name for family in ours if not suits(family)] == []
    for family in ours:
        assert re.fullmatch(r"yoi_[a-z]+(_[a-z]+)*", family.name)
        assert family.documentation.endswith(".")
    assert suits(Metric("yoi_x_seconds", "", "gauge"))
    assert not suits(Metric("yoi_x_milliseconds", "", "gauge"))
    assert not suits(Metric("yoi_x_ms", "", "gauge"))
    assert not suits(Metric("yoi_x_total", "", "counter"))


async def test_nothing_of_the_machine_or_of_an_event_is_in_it(daemon, tmp_path):
    """Neither a place nor an id: what grows without bound is no label."""
    made = await daemon.embedded.create(profile="builtin:echo", label="")
    text = generate_latest(daemon.metrics).decode()
    assert str(tmp_path) not in text
    assert made.worker.worker_id not in text
    assert not re.search(r"(evt|wrk|cor|req)_", text)
    labels = {
        key for family in daemon.metrics.collect() for one in family.samples for key in one.labels
    }
    ours = labels - {"generation", "implementation", "major", "minor", "patchlevel", "version"}
    assert ours == {
        "plugin_id", "state", "outcome", "retention", "reason", "kind", "runtime_id",
        "implementation_kind", "le",
    }  # fmt: skip


async def test_a_plugin_costs_so_many_series(daemon):
    """Bounded: what a label may hold is in the code, but for the operator's own plugins and runtimes."""
    series = [name for name in told(daemon) if "gen" in name]
    assert len(series) < 60
    assert len([name for name in series if name[0] == "yoi_lane_outcomes_total"]) == len(
        LANE_OUTCOMES
    )
