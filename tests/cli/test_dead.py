import base64
import io
import json
import sys
from typing import Any

import httpx2
import pytest
import trio

from yoi_daemon.cli.dead import PATIENCE_S, Many
from yoi_daemon.cli.requests import Progress
from yoi_daemon.client.locate import Location
from yoi_daemon.client.rest import DaemonClient, open_daemon_client
from yoi_daemon.model.errors import Refused

LETTERS = "/api/plugins/gen/dead-letters"
ATTEMPT = {
    "attempt": 2,
    "outcome": "handler_failed",
    "started_at": "t",
    "duration_ms": 1.5,
    "code": "handler_failed",
    "message": "ValueError: no\x1b[2J",
    "where": "plugins/gen.py:3",
}
LETTER = {
    "event_id": "evt_1",
    "ingress": "push",
    "source": "api",
    "died_at": "2026-01-01T00:00:00Z",
    "attempts": [{**ATTEMPT, "attempt": 1}, ATTEMPT],
}
NOT_FOUND = (404, {"code": "event_not_found", "detail": "there is no dead letter nope"})


@pytest.fixture
def dead(run: Any, daemon: Any) -> Any:
    def dead(verb: str, *more: str) -> Any:
        return run("dead", verb, "gen", *more, "--state", str(daemon.state))

    return dead


def test_the_list_has_every_page(dead: Any, daemon: Any) -> None:
    daemon.answers[f"GET {LETTERS}"] = (200, {"items": [LETTER], "next": "evt_1"})
    daemon.answers[f"GET {LETTERS}?after=evt_1"] = (200, {"items": [{"event_id": "evt_2"}]})
    first, second = dead("list").out.splitlines()[1:]
    assert first.split() == [
        "evt_1",
        "push",
        "2026-01-01T00:00:00Z",
        "2",
        "handler_failed",
        "ValueError:",
        "no\\x1b[2J",
        "plugins/gen.py:3",
    ]
    assert second.startswith("evt_2")
    assert dead("list", "--json").json == {"items": [LETTER, {"event_id": "evt_2"}]}

    daemon.answers[f"GET {LETTERS}"] = (200, {"items": []})
    assert dead("list").out == "no dead letters\n"


def detail(payload: bytes) -> dict[str, Any]:
    return {
        **LETTER,
        "payload": None,
        "payload_base64": base64.b64encode(payload).decode(),
        "headers": {"x-event": "push"},
    }


def test_a_letter_shows_every_attempt_and_the_exact_payload(dead: Any, daemon: Any) -> None:
    told = detail('{"n":1.10,"s":"\x9b\u202e"}'.encode())
    daemon.answers[f"GET {LETTERS}/evt_1"] = (200, told)
    record, attempts, payload = dead("show", "evt_1").out.split("\n\n")
    assert record.splitlines()[-1] == 'headers   {"x-event":"push"}'
    assert [line.split()[0] for line in attempts.splitlines()] == ["ATTEMPT", "1", "2"]
    assert attempts.endswith("ValueError: no\\x1b[2J  plugins/gen.py:3")
    assert payload == '{\n  "n": 1.10,\n  "s": "\\u009b\\u202e"\n}\n'
    assert dead("show", "evt_1", "--json").json == told


@pytest.mark.parametrize("payload", [b"\x80\x1b[2J", b"", b"{"])
def test_a_payload_that_is_no_json_is_not_written(dead: Any, daemon: Any, payload: bytes) -> None:
    daemon.answers[f"GET {LETTERS}/evt_1"] = (200, detail(payload))
    assert f"no JSON, {len(payload)} B" in dead("show", "evt_1").out


def test_redelivery_goes_past_what_is_not_there(dead: Any, daemon: Any) -> None:
    receipt = {"event_id": "evt_2", "cursor": "c"}
    daemon.answers[f"POST {LETTERS}/evt_2/redeliver"] = (202, receipt)
    daemon.answers[f"POST {LETTERS}/nope/redeliver"] = NOT_FOUND
    outcome = dead("redeliver", "nope", "evt_2")
    assert outcome == (
        1,
        "evt_2  redelivered\n",
        "yoi-daemon: event_not_found: there is no dead letter nope\n",
    )
    told = dead("redeliver", "nope", "evt_2", "--json").json
    assert told["redelivered"] == [receipt]
    assert [(one["event_id"], one["code"]) for one in told["refused"]] == [
        ("nope", "event_not_found")
    ]


def test_all_are_those_there_are_now(dead: Any, daemon: Any) -> None:
    daemon.answers[f"GET {LETTERS}"] = (200, {"items": [LETTER]})
    daemon.answers[f"POST {LETTERS}/evt_1/redeliver"] = (202, {"event_id": "evt_1"})
    assert dead("redeliver", "--all") == (0, "evt_1  redelivered\n", "")
    daemon.answers[f"GET {LETTERS}"] = (200, {"items": []})
    assert dead("redeliver", "--all") == (0, "no dead letters\n", "")


def test_another_refusal_ends_it_and_what_is_done_is_told(dead: Any, daemon: Any) -> None:
    daemon.answers[f"POST {LETTERS}/evt_1/redeliver"] = (202, {"event_id": "evt_1"})
    problem = {"code": "service_unavailable", "detail": "the service is stopped"}
    daemon.answers[f"POST {LETTERS}/evt_2/redeliver"] = (503, problem)
    outcome = dead("redeliver", "evt_1", "evt_2", "evt_3")
    assert (outcome.code, outcome.out) == (1, "evt_1  redelivered\n")
    assert "the service is stopped" in outcome.err
    assert len(daemon.requests) == 2


def test_discarding_wants_to_be_meant(
    dead: Any, daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.answers[f"DELETE {LETTERS}/evt_1"] = (200, {"event_id": "evt_1", "cursor": "c"})
    outcome = dead("discard", "evt_1")
    assert outcome.code == 2
    assert "--yes" in outcome.err
    assert daemon.requests == []

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("n\ny\n"))
    outcome = dead("discard", "evt_1")
    assert (outcome.code, outcome.out) == (1, "")
    assert "Discard 1 event of gen for good?" in outcome.err
    assert daemon.requests == []
    assert dead("discard", "evt_1").code == 0
    assert dead("discard", "evt_1", "--yes") == (0, "evt_1  discarded\n", "")
    assert [r.method for r in daemon.requests] == ["DELETE"] * 2


async def redeliver(*answers: httpx2.Response) -> Many:
    told = iter(answers)
    transport = httpx2.MockTransport(lambda request: next(told))

    async def post(daemon: DaemonClient, event_id: str) -> dict[str, Any]:
        return await daemon.post("/api/x", dict[str, Any])

    many = Many("redelivered", post)
    location = Location(api="http://daemon", token="tok", source="test")
    async with open_daemon_client(location, transport=transport) as daemon:
        await many.run(daemon, ["evt_1", "evt_2"], Progress())
    return many


def refusal(code: str, status: int, retry_after_s: float) -> httpx2.Response:
    body = {"code": code, "detail": "x", "retry_after_s": retry_after_s}
    return httpx2.Response(status, stream=httpx2.ByteStream(json.dumps(body).encode()))


def accepted() -> httpx2.Response:
    return httpx2.Response(202, stream=httpx2.ByteStream(b'{"event_id":"evt"}'))


async def test_the_daemons_pace_is_kept(autojump_clock: object) -> None:
    began = trio.current_time()
    many = await redeliver(
        refusal("rate_limited", 429, 2.5),
        accepted(),
        refusal("queue_full", 429, 4),
        refusal("queue_full", 429, 4),
        accepted(),
    )
    assert len(many.answers) == 2
    assert trio.current_time() - began == pytest.approx(2.5 + 4 + 4, abs=0.1)


async def test_its_turn_is_not_waited_for_without_end(autojump_clock: object) -> None:
    began = trio.current_time()
    with pytest.raises(Refused) as caught:
        await redeliver(*(refusal("rate_limited", 429, 7) for _ in range(100)))
    assert caught.value.code == "rate_limited"
    assert trio.current_time() - began <= PATIENCE_S
    with pytest.raises(Refused):  # and another refusal not at all
        await redeliver(refusal("service_failed", 503, 1))
