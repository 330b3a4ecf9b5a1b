import base64
import json

import msgspec
import pytest

from tests.clocks import ManualClock
from yoi_daemon.eventlog.group_commit import GroupCommitLog
from yoi_daemon.eventlog.ring import Ring
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.plugins import AttemptRecord
from yoi_daemon.plugins.delivery import Delivery
from yoi_daemon.plugins.lane.deadletters import DeadLetter, DeadLetters, detail_of, summary_of
from yoi_daemon.plugins.lane.ledger import LaneLedger
from yoi_daemon.store.memory import MemoryStore


def delivery(number: int, payload: bytes = b"{}", **fields) -> Delivery:
    return Delivery(
        **{
            "event_id": f"evt_{number:03}",
            "correlation_id": f"cor_{number}",
            "source": "api",
            "ingress": "push",
            "payload": payload,
            "created_at": "2026-01-01T00:00:00.000000Z",
            "accepted_s": 0.0,
        }
        | fields
    )


def letters(count: int = 0, age_s=float, **bounds) -> DeadLetters:
    store = MemoryStore(clock=float)
    log = GroupCommitLog(
        store, Ring(window_events=9, window_bytes=9, window_age_s=9, clock=float), wall_clock=float
    )
    made = DeadLetters("gen", LaneLedger("gen", log), age_s=age_s, **bounds)
    for number in range(count):
        bury(made, delivery(number), f"t{number}")
    return made


def bury(made: DeadLetters, one: Delivery, died_at: str = "t") -> None:
    with made._ledger.together() as commit:
        made.add(commit, one, "digest", died_at)


def remove(made: DeadLetters, event_id: str) -> DeadLetter:
    with made._ledger.together() as commit:
        return made.remove(commit, event_id)


def ids(made: DeadLetters) -> list[str]:
    return [letter.event_id for letter in made.page(None, 1000)[0]]


def test_a_letter_is_kept_byte_exact():
    made = letters()
    one = delivery(1, b'{"a":  1}', body=b'{"a":  1}\n', headers={"x-github-event": "push"})
    record = AttemptRecord(attempt=1, outcome="handler_failed", started_at="t", duration_ms=1.0)
    one.attempts.append(record)
    bury(made, one, "died")
    detail = detail_of(made.get("evt_001"))
    assert base64.b64decode(detail.payload_base64) == b'{"a":  1}\n'
    shown = json.loads(msgspec.json.encode(detail))
    assert shown["payload"] == {"a": 1}
    assert shown["headers"] == {"x-github-event": "push"}
    assert shown["attempts"] == [msgspec.to_builtins(record)]
    summary = msgspec.to_builtins(summary_of(made.get("evt_001")))
    assert "payload" not in summary
    assert (summary["died_at"], summary["plugin_digest"], summary["bytes"]) == (
        "died",
        "digest",
        one.size,
    )


def test_the_oldest_go_beyond_the_count():
    made = letters(5, max_letters=3)
    assert ids(made) == ["evt_002", "evt_003", "evt_004"]
    assert (len(made), made.evicted) == (3, 2)


def test_the_oldest_go_beyond_the_bytes_but_never_the_last():
    made = letters(max_bytes=100)
    for number, size in enumerate([40, 40, 40, 500, 10]):
        bury(made, delivery(number, b"x" * size))
        assert ids(made) == [["evt_000"], ["evt_000", "evt_001"], ["evt_001", "evt_002"],
                             ["evt_003"], ["evt_004"]][number]  # fmt: skip
    assert made.evicted == 4


def test_the_same_event_buried_again_is_one_letter():
    made = letters(max_bytes=100)
    for _ in range(5):
        bury(made, delivery(1, b"x" * 40))
    bury(made, delivery(2, b"x" * 40))
    assert ids(made) == ["evt_001", "evt_002"]
    assert made.evicted == 0


def test_bytes_come_back_when_a_letter_is_taken_out():
    made = letters(max_bytes=100)
    for number in range(20):
        bury(made, delivery(number, b"x" * 80))
        assert remove(made, f"evt_{number:03}").delivery.event_id == f"evt_{number:03}"
    assert (len(made), made.evicted) == (0, 0)


def test_pages_show_every_letter_once():
    made = letters(7)
    seen, after = [], None
    while True:
        page, after = made.page(after, 3)
        seen += [letter.event_id for letter in page]
        if after is None:
            break
        remove(made, seen[-1])  # a letter that is gone still marks its place
    assert seen == [f"evt_{number:03}" for number in range(7)]
    assert letters(3).page(None, 3)[1] is None


@pytest.mark.parametrize("ask", [DeadLetters.get, remove])
def test_an_unknown_letter_is_refused(ask):
    with pytest.raises(Refused, match="plugin gen has no dead letter evt_x") as caught:
        ask(letters(1), "evt_x")
    assert caught.value.code == "event_not_found"


def test_letters_grow_old_by_the_stores_own_clock():
    clock = ManualClock(0)
    made = letters(3, age_s=clock, max_age_s=60)
    clock.advance(30)
    bury(made, delivery(3), "t3")
    clock.advance(31)
    made.expire()
    assert (ids(made), made.evicted) == (["evt_003"], 3)
