import json
from typing import Any

WORKER = {
    "runtime_id": "backend-internal",
    "worker_id": "w1",
    "implementation_kind": "embedded",
    "label": "reviewer",
    "profile": "builtin:echo",
    "state": "idle",
    "generation": 1,
    "created_at": "2026-01-01T00:00:00Z",
}
HOME = "/api/runtimes/backend-internal/workers"


def test_the_list_shows_addresses_the_other_commands_take(run: Any, daemon: Any) -> None:
    daemon.answers["GET /api/workers"] = (200, {"items": [WORKER]})
    daemon.answers["GET /api/runtimes/gpu/workers"] = (200, {"items": []})
    out = run("worker", "list", "--state", str(daemon.state)).out
    assert "backend-internal/w1  idle   builtin:echo  reviewer  1" in out
    out = run("worker", "list", "--runtime", "gpu", "--state", str(daemon.state)).out
    assert out.startswith("no workers")


def test_a_worker_is_of_this_daemon_unless_a_runtime_is_named(run: Any, daemon: Any) -> None:
    daemon.answers[f"GET {HOME}/w1"] = (200, WORKER)
    daemon.answers["GET /api/runtimes/gpu/workers/w1"] = (200, WORKER)
    for address in ("w1", "backend-internal/w1", "gpu/w1"):
        outcome = run("worker", "show", address, "--json", "--state", str(daemon.state))
        assert outcome.json == WORKER
    assert [r.path for r in daemon.requests] == [
        f"{HOME}/w1",
        f"{HOME}/w1",
        "/api/runtimes/gpu/workers/w1",
    ]


def test_create_and_send(run: Any, daemon: Any) -> None:
    daemon.answers[f"POST {HOME}"] = (201, {"worker": WORKER, "cursor": "c1"})
    daemon.answers[f"POST {HOME}/w1/input"] = (202, {"worker": WORKER, "cursor": "c2"})
    state = ("--state", str(daemon.state))
    out = run("worker", "create", "--label", "reviewer", "--input", "hi", "--key", "k", *state).out
    assert "worker_id            w1\n" in out
    assert "cursor               c1\n" in out
    run("worker", "create", *state)
    run("worker", "send", "w1", "two words", *state)
    run("worker", "send", "w1", "--when-busy", "reject", "x", *state)
    assert [json.loads(r.body) for r in daemon.requests] == [
        {"profile": "builtin:echo", "label": "reviewer", "input": "hi"},
        {"profile": "builtin:echo", "label": ""},
        {"text": "two words"},
        {"text": "x", "when_busy": "reject"},
    ]
    assert [r.key for r in daemon.requests] == ["k", None, None, None]


def test_the_transcript_is_readable_and_says_what_was_cut(run: Any, daemon: Any) -> None:
    item = {"item_id": "i", "role": "user", "time": "t", "truncated": False, "full_bytes": 2}
    page = {
        "items": [
            {**item, "text": "two\nlines\x1b[2J"},
            {**item, "role": "assistant", "text": "cu", "truncated": True, "full_bytes": 99},
        ],
        "as_of": "c",
        "before": "i0",
    }
    daemon.answers[f"GET {HOME}/w1/transcript"] = (200, page)
    daemon.answers[f"GET {HOME}/w1/transcript?limit=1&before=i0"] = (
        200,
        {"items": [], "as_of": "c"},
    )
    state = ("--state", str(daemon.state))
    assert run("worker", "transcript", "w1", *state).out.splitlines() == [
        "(earlier items: --before i0)",
        "t user: two",
        "  lines\\x1b[2J",
        "t assistant: cu",
        "  (cut; --json --max-bytes N shows more of 99 bytes)",
    ]
    out = run("worker", "transcript", "w1", "--limit", "1", "--before", "i0", *state).out
    assert out == "no items\n"
    assert run("worker", "transcript", "w1", "--json", *state).json == page


def test_cancel_and_stop(run: Any, daemon: Any) -> None:
    stopped = {**WORKER, "state": "stopped", "reason": {"code": "stopped", "message": "m"}}
    daemon.answers[f"POST {HOME}/w1/cancel"] = (200, {"worker": WORKER, "cursor": "c1"})
    daemon.answers[f"POST {HOME}/w1/stop"] = (200, {"worker": stopped, "cursor": "c2"})
    state = ("--state", str(daemon.state))
    out = run("worker", "cancel", "w1", "--key", "k", *state).out
    assert "state                idle\n" in out
    out = run("worker", "stop", "w1", *state).out
    assert "state                stopped\n" in out
    assert run("worker", "stop", "w1", "--grace", "2.5", "--json", *state).json["cursor"] == "c2"
    assert [json.loads(r.body) for r in daemon.requests] == [None, {}, {"grace_s": 2.5}]
    assert [r.key for r in daemon.requests] == ["k", None, None]
    assert run("worker", "stop", "w1", "--grace", "-1", *state).code == 2


def test_the_transcript_says_what_is_no_longer_kept(run: Any, daemon: Any) -> None:
    daemon.answers[f"GET {HOME}/w1/transcript"] = (200, {"items": [], "as_of": "c", "let_go": 7})
    out = run("worker", "transcript", "w1", "--state", str(daemon.state)).out
    assert out.startswith("(the 7 oldest items are no longer kept)")
