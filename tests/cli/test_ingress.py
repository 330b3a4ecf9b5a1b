import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from yoi_daemon.cli.ingress import BATCH_BYTES

RECEIPT = {"event_id": "evt_1", "correlation_id": "cor_1", "queue_depth": 1, "cursor": "c1"}


@pytest.fixture
def feed(run: Any, daemon: Any) -> Any:
    daemon.answers["POST /api/plugins/gen/ingress/tick"] = (202, RECEIPT)

    def feed(*more: str) -> Any:
        return run("ingress", "gen", "tick", "--state", str(daemon.state), *more)

    return feed


def test_the_receipt(feed: Any) -> None:
    assert feed("--json").json == RECEIPT
    assert feed().out.splitlines()[0] == "event_id        evt_1"


def test_payloads_arrive_as_the_bytes_they_were(
    feed: Any, daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "payload.json"
    file.write_bytes(b'{"n": 1.10}\n')
    stdin = io.TextIOWrapper(io.BytesIO(b' ["stdin"] '))
    monkeypatch.setattr(sys, "stdin", stdin)
    for arguments in ((), ("--data", '"ü"'), ("--data", f"@{file}"), ("--data", "-")):
        assert feed(*arguments).code == 0
    assert [r.body for r in daemon.requests] == [
        b"{}",
        '"ü"'.encode(),
        b'{"n": 1.10}\n',
        b' ["stdin"] ',
    ]


def test_the_key(feed: Any, daemon: Any) -> None:
    feed()
    feed("--key", "k1")
    assert [r.key for r in daemon.requests] == [None, "k1"]


def test_a_payload_that_is_no_json_is_not_sent(feed: Any, daemon: Any) -> None:
    outcome = feed("--data", "hello")
    assert outcome.code == 2
    assert "--data" in outcome.err
    assert "is not JSON" in outcome.err
    assert daemon.requests == []


def test_a_full_queue_says_when_to_try_again(feed: Any, daemon: Any) -> None:
    problem = {"code": "queue_full", "detail": "256 of 256 wait.", "retry_after_s": 1.5}
    daemon.answers["POST /api/plugins/gen/ingress/tick"] = (429, problem)
    outcome = feed()
    assert outcome.code == 1
    assert outcome.err == "yoi-daemon: queue_full: 256 of 256 wait.\n  try again in 1.5 s\n"


def test_names_are_quoted(run: Any, daemon: Any) -> None:
    run("ingress", "../x", "a?b", "--state", str(daemon.state))
    assert daemon.requests[0].path == "/api/plugins/..%2Fx/ingress/a%3Fb"


GOOD = {"status": 202, **RECEIPT}
BAD = {"status": 422, "code": "invalid_event", "detail": "no\x1b[2J"}


def ndjson(*lines: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@pytest.fixture
def batch(run: Any, daemon: Any, tmp_path: Path) -> Any:
    def batch(content: bytes, *answers: tuple[int, Any], more: tuple[str, ...] = ()) -> Any:
        daemon.answers["POST /api/plugins/gen/ingress"] = list(answers)
        file = tmp_path / "batch.ndjson"
        file.write_bytes(content)
        return run("ingress", "gen", "--batch", f"@{file}", "--state", str(daemon.state), *more)

    return batch


def test_a_batch_has_one_answer_for_each_line(batch: Any, daemon: Any) -> None:
    content = ndjson({"ingress": "tick", "payload": 1}) + b"\n \n" + b'{"ingress":"tick"}'
    answers = [(200, ndjson(GOOD)), (200, ndjson(BAD))]
    outcome = batch(content, *answers)
    assert outcome.code == 1
    assert outcome.out.splitlines() == [
        "1  accepted  evt_1",
        "2  refused  invalid_event: no\\x1b[2J",
    ]
    assert outcome.err == "yoi-daemon: 1 of 2 events were refused\n"
    assert b"".join(r.body for r in daemon.requests) == content

    outcome = batch(content, *answers, more=("--json",))
    assert [json.loads(line) for line in outcome.out.splitlines()] == [GOOD, BAD]
    assert batch(content, (200, ndjson(GOOD))).code == 0


def test_a_batch_of_any_size_goes_in_parts_of_whole_lines(batch: Any, daemon: Any) -> None:
    long = ndjson({"ingress": "tick", "payload": "x" * 2 * BATCH_BYTES})
    short = ndjson(*({"ingress": "tick", "payload": n} for n in range(4000)))
    content = short + long

    class Echo(dict[str, Any]):
        """One receipt for each line that came."""

        def get(self, key: str, default: Any = None) -> Any:
            return 200, ndjson(*[GOOD] * daemon.requests[-1].body.count(b"\n"))

    daemon.answers = Echo()
    outcome = batch(content)
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) == 4001
    bodies = [r.body for r in daemon.requests]
    assert len(bodies) > 2
    assert all(body.endswith(b"\n") for body in bodies)
    assert b"".join(bodies) == content


def test_lines_without_an_answer_are_said(batch: Any) -> None:
    content = ndjson(*[{"ingress": "tick", "payload": 1}] * 3)
    outcome = batch(content, (200, ndjson(GOOD)))
    assert outcome.code == 69
    assert "2 lines were not answered, from line 2 on" in outcome.err
    assert "none that this version understands" in batch(content, (200, b"<html>\n")).err


def test_an_empty_batch_asks_nothing(batch: Any, daemon: Any) -> None:
    assert batch(b"\n") == (0, "", "")
    assert daemon.requests == []


def test_a_batch_that_is_refused_whole(batch: Any) -> None:
    problem = {"code": "plugin_not_found", "detail": "there is no plugin gen"}
    outcome = batch(ndjson(1), (404, problem))
    assert outcome.code == 1
    assert "plugin_not_found" in outcome.err


def test_a_batch_from_standard_input(
    run: Any, daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.answers["POST /api/plugins/gen/ingress"] = (200, ndjson(GOOD))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ndjson(1))))
    outcome = run("ingress", "gen", "--batch", "-", "--state", str(daemon.state))
    assert outcome == (0, "1  accepted  evt_1\n", "")
