import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoi_daemon.eventlog.filter import EVERYTHING, Filter
from yoi_daemon.model.cursor import CursorCodec
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import Draft
from yoi_daemon.stream.protocol import (
    CLOSE_CODES,
    MAX_KINDS,
    Loss,
    OnGap,
    Start,
    StreamQuery,
    StreamRefused,
    Target,
    bookmark,
    error,
    filter_of,
    find_start,
    find_target,
    gap,
    hello,
    read_query,
)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v1/events", Target()),
        ("/v1/workers/w1/events", Target(runtime_id="backend-internal", worker_id="w1")),
        ("/v1/runtimes/gpu/workers/w1/events", Target(runtime_id="gpu", worker_id="w1")),
        ("/v1/plugins/gen/events", Target(plugin_id="gen")),
    ],
)
def test_a_path_names_a_stream(path, target):
    assert find_target(path)[1] == target


@pytest.mark.parametrize(
    "path",
    ["", "/", "/v1/events/", "/v2/events", "/v1/workers//events", "/v1/workers/a/b/events", "v1/events",
     "/v1/events\n", "/v1/plugins/gen", "/v1/runtimes/gpu/events"],
)  # fmt: skip
def test_any_other_path_is_refused(path):
    with pytest.raises(Refused, match="route_not_found"):
        find_target(path)


def test_a_query_asks_for_a_cursor_and_kinds():
    assert read_query("") == StreamQuery(cursor="latest", kinds=())
    assert read_query("cursor=earliest&kinds=worker.,plugin.state") == StreamQuery(
        cursor="earliest", kinds=("worker.", "plugin.state")
    )
    assert read_query("kinds=") == StreamQuery()


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("curser=latest", "unknown_parameter"),
        ("cursor=latest&cursor=earliest", "repeated_parameter"),
        ("kinds=Worker", "bad_kinds"),
        ("kinds=worker.,,plugin", "bad_kinds"),
        ("kinds=.", "bad_kinds"),
        ("kinds=worker*", "bad_kinds"),
        ("on_gap=skip", "bad_on_gap"),
        ("snapshot=yes", "bad_snapshot"),
        ("await=true", "bad_await"),
        ("kinds=" + ",".join(["a"] * (MAX_KINDS + 1)), "bad_kinds"),
    ],
)
def test_a_query_that_cannot_be_meant_is_refused(query, reason):
    with pytest.raises(StreamRefused) as caught:
        read_query(query)
    assert (caught.value.code, caught.value.reason) == ("bad_request", reason)


@given(st.text(max_size=40))
def test_any_query_is_read_or_refused(query):
    with suppress(StreamRefused):
        assert isinstance(read_query(query), StreamQuery)


def test_a_filter_is_the_path_and_the_query_together():
    assert filter_of(Target(), StreamQuery()) == Filter()
    assert filter_of(
        find_target("/v1/workers/w/events")[1], StreamQuery(kinds=("worker",))
    ) == Filter(worker=("backend-internal", "w"), kinds=("worker",))
    assert filter_of(Target(plugin_id="gen"), StreamQuery()) == Filter(plugin_id="gen")


EARLIER = "feedfeedfeedfeed"


def begin(cursor: str, log, on_gap: OnGap = "error", wanted: Filter = EVERYTHING) -> Start:
    return find_start(StreamQuery(cursor=cursor, on_gap=on_gap), wanted, log)


@pytest.fixture
async def log(open_log):
    """Positions 4 to 10 resume."""
    async with open_log(window_events=6, earlier_epochs=[EARLIER]) as log:
        for number in range(10):
            await log.committed(log.append(Draft(kind="a.b", data=number)))
        yield log


async def test_positions_by_name(log):
    assert begin("latest", log) == Start(position=10, resume="live")
    assert begin("earliest", log) == Start(position=4, resume="earliest")
    for seq in range(4, 11):
        assert begin(log.cursors.encode(seq), log) == Start(position=seq, resume="exact")


@pytest.mark.parametrize(
    ("cursor", "code", "reason"),
    [
        ("", "cursor_unknown", "malformed"),
        ("nonsense", "cursor_unknown", "malformed"),
        ("5", "cursor_unknown", "malformed"),
        (CursorCodec("0" * 16).encode(5), "cursor_unknown", "foreign_epoch"),
        (CursorCodec(EARLIER).encode(5), "cursor_expired", "epoch_changed"),
        (CursorCodec(EARLIER).encode(500), "cursor_expired", "epoch_changed"),
        (CursorCodec("0" * 16).encode(500), "cursor_unknown", "foreign_epoch"),
        (CursorCodec("00112233aabbccdd").encode(11), "cursor_unknown", "future"),
        (CursorCodec("00112233aabbccdd").encode(3), "cursor_expired", "evicted"),
        (CursorCodec("00112233aabbccdd").encode(0), "cursor_expired", "evicted"),
    ],
)
async def test_refused_cursors(log, cursor, code, reason):
    with pytest.raises(StreamRefused) as caught:
        begin(cursor, log)
    assert (caught.value.code, caught.value.reason) == (code, reason)


async def test_an_event_that_is_not_committed_has_no_position_yet(log):
    seq = log.append(Draft(kind="a.b", data=1))
    assert begin("latest", log).position == seq - 1
    with pytest.raises(StreamRefused, match="future"):
        begin(log.cursors.encode(seq), log)


async def test_messages(log):
    encode = log.cursors.encode
    window = log.window()
    assert json.loads(hello(log, 15.0, "exact", 6)) == {
        "type": "hello",
        "protocol": 1,
        "epoch": "00112233aabbccdd",
        "heartbeat_s": 15.0,
        "window": {"floor": encode(4), "head": encode(10), "events": 6, "bytes": window.bytes},
        "resume": "exact",
        "cursor": encode(6),
    }
    assert json.loads(bookmark(log, 7, "idle", 3)) == {
        "type": "bookmark",
        "cursor": encode(7),
        "reason": "idle",
        "delivered": 3,
    }
    refused = StreamRefused("shutting_down", "draining", "come back", retry_after_s=0.5)
    base = {
        "type": "error",
        "code": "shutting_down",
        "reason": "draining",
        "detail": "come back",
        "floor": encode(4),
        "head": encode(10),
        "retry": {"after_s": 0.5},
    }
    assert json.loads(error(log, refused, None)) == base
    assert json.loads(error(log, refused, 7)) == base | {"cursor": encode(7)}


def test_close_codes_say_whether_to_come_back():
    again = {"shutting_down": 1012, "too_many_subscribers": 1013, "slow_consumer": 4008}
    for code, number in CLOSE_CODES.items():
        assert number == again.get(code, number)
        assert (code in again) == (number in (1012, 1013) or 4000 <= number < 4100)
        assert code in again or 4400 <= number < 4500


@pytest.mark.parametrize(
    ("epoch", "number"),
    [("00112233aabbccdd", 0), ("00112233aabbccdd", 3), (EARLIER, 0), (EARLIER, 3), (EARLIER, 500)],
)
async def test_a_subscriber_may_choose_to_go_on_past_a_hole(log, epoch, number):
    cursor = CursorCodec(epoch).encode(number)
    reason = "epoch_changed" if epoch == EARLIER else "evicted"
    loss = Loss(from_cursor=cursor, reason=reason)
    assert begin(cursor, log, "earliest") == Start(position=4, resume="earliest", loss=loss)
    assert begin(cursor, log, "snapshot") == Start(position=10, resume="snapshot", loss=loss)
    assert json.loads(gap(log, loss, 4)) == {
        "type": "gap",
        "from": cursor,
        "to": log.cursors.encode(4),
        "cursor": log.cursors.encode(4),
        "reason": reason,
    }


@pytest.mark.parametrize("on_gap", ["earliest", "snapshot"])
@pytest.mark.parametrize(
    "cursor",
    ["", "x" * 32, CursorCodec("0" * 16).encode(5), CursorCodec("00112233aabbccdd").encode(11)],
)
async def test_an_unknown_cursor_is_refused_whatever_on_gap_is(log, on_gap, cursor):
    with pytest.raises(StreamRefused, match="cursor_unknown"):
        begin(cursor, log, on_gap)


async def test_a_scope_that_missed_nothing_is_not_called_expired(log):
    await log.committed(
        log.append(Draft(kind="worker.item", data=1, runtime_id="r", worker_id="w"))
    )
    told = log.cursors.encode(11)
    for _ in range(20):
        await log.committed(log.append(Draft(kind="worker.item", data=1)))
    mine = Filter(worker=("r", "w"))
    for number in range(11):
        with pytest.raises(StreamRefused, match="evicted"):
            begin(log.cursors.encode(number), log, wanted=mine)
    assert begin(told, log, wanted=mine).resume == "exact"
    with pytest.raises(StreamRefused, match="evicted"):
        begin(told, log)
    assert begin(told, log, wanted=Filter(worker=("r", "other"))).resume == "exact"
    assert begin(told, log, wanted=Filter(kinds=("plugin.state",))).resume == "exact"
