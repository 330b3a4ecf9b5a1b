from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoi_daemon.model.events import CATALOGUE, format_time, is_volume, matches_kind, retentions_of


@pytest.mark.parametrize(
    ("kind", "prefix", "matches"),
    [
        ("worker.state", "worker.", True),
        ("worker.state", "worker", True),
        ("worker.state", "worker.state", True),
        ("worker.turn.started", "worker.turn", True),
        ("workerx.state", "worker", False),
        ("workerx.state", "worker.", False),
        ("worker", "worker.", False),
        ("worker", "worker", True),
        ("worker.states", "worker.state", False),
        ("plugin.state", "worker", False),
    ],
)
def test_a_prefix_ends_at_a_boundary(kind, prefix, matches):
    assert matches_kind(kind, prefix) is matches


def test_a_time_has_microseconds_and_ends_in_z():
    assert format_time(1767323045.000006) == "2026-01-02T03:04:05.000006Z"
    assert format_time(0) == "1970-01-01T00:00:00.000000Z"


@given(st.integers(0, 4 * 10**15))
def test_a_time_can_be_read_back(microseconds):
    text = format_time(microseconds / 1e6)
    assert len(text) == 27
    assert abs(datetime.fromisoformat(text).timestamp() * 1e6 - microseconds) <= 1


def test_lanes_follow_the_catalogue():
    assert [kind for kind in CATALOGUE if is_volume(kind)] == ["worker.item", "worker.delta"]
    assert is_volume("gen.tick")
    assert not is_volume("worker.items")


@pytest.mark.parametrize(
    "prefix",
    ["", "worker", "worker.", "worker.item", "worker.state", "gen", "daemon", "plugin.", "w"],
)
def test_a_prefixs_lanes_hold_every_kind_below_it(prefix):
    kinds = [*CATALOGUE, "gen.tick", "gen", "w.x", "worker.delta", "worker.item.x"]
    found = {
        "volume" if is_volume(kind) else "lifecycle"
        for kind in kinds
        if not prefix or matches_kind(kind, prefix)
    }
    assert found == set(retentions_of(prefix))
