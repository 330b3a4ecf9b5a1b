"""The dashboard and the alert rules ask for metrics that exist, by labels that they have."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.core import Metric

import yoi_daemon
from tests.api.conftest import daemon as daemon
from yoi_daemon.monitoring.metrics import LANE_OUTCOMES, PLUGIN_COUNTERS

REPO = Path(__file__).parents[2]
DASHBOARD = json.loads((REPO / "config/grafana/yoi-daemon.json").read_text("utf-8"))
RULES = yaml.safe_load((REPO / "config/prometheus/yoi-daemon.rules.yml").read_text("utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
OF_PROMETHEUS = {"up"}
LABELS_OF_PROMETHEUS = {"job", "instance", "le"}

IDENTIFIER = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
WORDS = {
    "and", "or", "unless", "by", "without", "on", "ignoring", "bool", "offset",
    "sum", "min", "max", "avg", "count", "rate", "increase", "histogram_quantile", "vector", "label_values",
}  # fmt: skip


def asked_for(query: str) -> tuple[set[str], set[str]]:
    """The names of metrics and of labels in a PromQL expression."""
    labels: set[str] = set()
    text = re.sub(r'"[^"]*"', "", query)
    for selector in re.findall(r"\{([^}]*)\}", text):
        labels.update(IDENTIFIER.findall(selector))
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", text)
    for listed in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", text):
        labels.update(IDENTIFIER.findall(listed))
    text = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", "", text)
    if (variable := re.fullmatch(r"label_values\((\w+), (\w+)\)", query)) is not None:
        return {variable[1]}, {variable[2]}
    return set(IDENTIFIER.findall(text)) - WORDS, labels


def queries(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def names_of(families: list[Metric]) -> set[str]:
    return {
        family.name + suffix for family in families for suffix in SUFFIXES.get(family.type, ("",))
    }


@pytest.fixture
async def families(daemon) -> list[Metric]:
    return list(daemon.metrics.collect())


QUERIES = [*queries(DASHBOARD), *(rule["expr"] for rule in ALERTS)]


def wrong(query: str, families: list[Metric]) -> bool:
    metrics, labels = asked_for(query)
    has = {label for family in families for label in getattr(family, "_labelnames", ())}
    return not (
        metrics
        and metrics <= names_of(families) | OF_PROMETHEUS
        and labels <= has | LABELS_OF_PROMETHEUS
        and query.count("(") == query.count(")")
    )


async def test_what_is_asked_for_exists(families):
    assert len(QUERIES) > 60
    assert [query for query in QUERIES if wrong(query, families)] == []


@pytest.mark.parametrize(
    "query",
    ["yoi_redy == 0", "yoi_ready{plugin=~'x'}", "rate(yoi_log_commits[5m])", "sum(yoi_ready"],
)
async def test_the_control_what_does_not_exist_is_found(families, query):
    assert wrong(query, families)


@pytest.mark.parametrize(
    ("query", "metrics", "labels"),
    [
        ("yoi_redy == 0", {"yoi_redy"}, set()),
        ('sum by (a, le) (rate(x_bucket{b=~"c d"}[5m])) > 1', {"x_bucket"}, {"a", "b", "le"}),
        ("label_values(m, l)", {"m"}, {"l"}),
        ("max(a) or vector(0)", {"a"}, set()),
    ],
)
def test_every_name_is_seen(query, metrics, labels):
    assert asked_for(query) == (metrics, labels)


async def test_nothing_of_ours_is_left_unwatched(families):
    """Each family is on the dashboard or in a rule; these say the same as another, or tell no state."""
    told_otherwise = {
        "yoi_build_info", "yoi_uptime_seconds", "yoi_log_head_seq", "yoi_log_floor_seq",
        "yoi_log_pending_bytes", "yoi_log_retained_events", "yoi_store_durable",
    }  # fmt: skip
    asked = set().union(*(asked_for(query)[0] for query in QUERIES))
    unwatched = {
        family.name
        for family in families
        if family.name.startswith("yoi_") and not names_of([family]) & asked
    }
    assert unwatched == told_otherwise


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_what_and_what_to_do(rule):
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"].keys() == {"summary", "action"}
    used = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    assert used <= {"instance", "plugin_id", "runtime_id"}


def test_alerts_and_panels_have_names_of_their_own():
    for names in (
        [rule["alert"] for rule in ALERTS],
        [panel["id"] for panel in DASHBOARD["panels"]],
        [panel["title"] for panel in DASHBOARD["panels"]],
    ):
        assert len(set(names)) == len(names)


def test_every_counter_of_a_plugin_is_told():
    """By the names in the source: a new one must be given its place."""
    counted = {
        name
        for file in Path(yoi_daemon.__file__).parent.rglob("*.py")
        for name in re.findall(r'counters\["([a-z_]+)"\] \+?=', file.read_text("utf-8"))
    }
    assert len(counted) >= 10
    assert counted <= {*LANE_OUTCOMES, *PLUGIN_COUNTERS}
