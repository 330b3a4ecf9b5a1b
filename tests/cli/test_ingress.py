import io
import sys
from pathlib import Path
from typing import Any

import pytest

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
