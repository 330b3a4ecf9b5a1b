import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from yoi_daemon.cli.options import Client
from yoi_daemon.cli.status import write_status
from yoi_daemon.cli.watch import Watch

STATUS = {
    "version": "0.1.0",
    "pid": 7,
    "ready": True,
    "uptime_s": 75,
    "store": {"kind": "memory", "durable": False, "note": "a restart forgets everything"},
    "log": {"epoch": "e1", "floor": 0, "head": 9, "events": 9, "bytes": 2048},
    "observe": {"enabled": True, "port": 7421, "subscribers": 2},
    "plugins": [
        {"plugin_id": "gen", "state": "running", "queue_depth": 0, "queue_capacity": 256},
    ],
    "runtimes": [{"runtime_id": "backend-internal", "status": "available", "later": "field"}],
    "later": "field",
}


@pytest.fixture
def told(run: Any, daemon: Any) -> Any:
    def told(**changes: Any) -> str:
        daemon.answers["GET /api/status"] = (200, {**STATUS, **changes})
        outcome = run("status", "--state", str(daemon.state))
        assert outcome.code == 0
        return str(outcome.out)

    return told


def test_all_is_well(told: Any) -> None:
    out = told()
    assert out.startswith("well\n")
    for part in ("process 7, up 1 min 15 s", "not durable", "2.0 KiB", "2 subscribers", "0/256"):
        assert part in out


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"ready": False}, "the daemon is not ready"),
        (
            {"ready": False, "not_ready": ["starting", "plugin_failed:gen"]},
            "the daemon is not ready (starting, plugin_failed:gen)",
        ),
        (
            {"diagnostics": [{"severity": "warning", "message": "plugins/Bad.py: no plugin id"}]},
            "plugins/Bad.py: no plugin id",
        ),
        (
            {
                "plugins": [
                    {
                        "plugin_id": "bad",
                        "state": "failed",
                        "reason": {"code": "import_error", "message": "line 3"},
                        "retry_at": "soon",
                    }
                ]
            },
            "plugin bad is failed (import_error: line 3), tried again at soon; "
            "see 'yoi-daemon plugin show bad'",
        ),
        (
            {
                "plugins": [
                    {
                        "plugin_id": "slow",
                        "state": "running",
                        "queue_depth": 256,
                        "queue_capacity": 256,
                    }
                ]
            },
            "plugin slow refuses events: its queue is full (256/256); "
            "'yoi-daemon plugin show slow' tells how long its handlers take",
        ),
        (
            {"runtimes": [{"runtime_id": "gpu", "status": "unavailable"}]},
            "runtime gpu is unavailable; see 'yoi-daemon runtime show gpu'",
        ),
    ],
)
def test_who_is_to_blame(told: Any, changes: dict[str, Any], complaint: str) -> None:
    assert told(**changes).splitlines()[0] == f"not well: {complaint}"


@pytest.mark.parametrize(
    ("code", "step"),
    [
        ("wedged", "its lane is sealed until the daemon restarts"),
        ("syntax_error", "mend it, then 'yoi-daemon reload'"),
        ("crashed", "see 'yoi-daemon plugin show p'"),
    ],
)
def test_what_to_do_next(told: Any, code: str, step: str) -> None:
    failed = {"plugin_id": "p", "state": "failed", "reason": {"code": code}}
    assert told(plugins=[failed]).splitlines()[0].endswith(step)


def test_the_plugin_is_named_before_what_it_keeps_from_being_ready(told: Any) -> None:
    failed = {"plugin_id": "p", "state": "failed", "reason": {"code": "wedged"}}
    lines = told(ready=False, not_ready=["plugin_failed:p"], plugins=[failed]).splitlines()
    assert lines[0].startswith("not well: plugin p is failed (wedged)")
    assert lines[1] == "     also: the daemon is not ready (plugin_failed:p)"


def test_a_nearly_full_disk_is_told(told: Any) -> None:
    out = told(store={"kind": "sqlite", "durable": True, "low": True, "free_bytes": 1 << 20})
    assert out.startswith("not well: the disk is nearly full (1.0 MiB free)")


def test_who_held_the_event_loop_is_told_while_it_is_news(told: Any) -> None:
    last = {"plugin_id": "p", "where": "plugins/p.py:7", "blocked_s": 15.1}
    loop = {"count": 2, "longest_s": 15.1, "last": last, "last_ago_s": 72.0}
    assert told(loop=loop).startswith(
        "not well: plugin p held the event loop for 15 s at plugins/p.py:7, 1 min 12 s ago; "
    )
    later = told(loop=loop | {"last_ago_s": 301.0})
    assert later.startswith("well\n")
    assert "loop      stood still 2 times, 15 s at most" in later
    ours = told(loop=loop | {"last": last | {"plugin_id": None, "where": "yoi_daemon/x.py:1"}})
    assert ours.startswith("not well: the daemon itself held")


def test_a_daemon_that_cannot_answer_has_written_down_who_holds_it(
    run: Any, daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yoi_daemon.cli.status.DEADLINE_S", 0.05)
    told = daemon.state / "blocked.json"
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it listens, and does not answer
        daemon.write(api=f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "overloaded or stopped" in run("status", "--state", str(daemon.state)).err
        told.write_text("not json")
        assert "overloaded or stopped" in run("status", "--state", str(daemon.state)).err
        told.write_text(
            '{"since": "now", "plugin_id": "p", "where": "plugins/p.py:7", "blocked_s": 0.7}'
        )
        outcome = run("status", "--state", str(daemon.state))
    assert outcome.code == 69
    assert "stood still since now, held by plugin p, at plugins/p.py:7" in outcome.err


def test_a_plugin_that_was_stopped_is_no_complaint(told: Any) -> None:
    plugins = [{"plugin_id": p, "state": p} for p in ("ready", "stopped", "running")]
    assert told(plugins=plugins).startswith("well\n")


def test_json_is_what_the_daemon_said(run: Any, daemon: Any) -> None:
    daemon.answers["GET /api/status"] = (200, STATUS)
    assert run("status", "--json", "--state", str(daemon.state)).json == STATUS


def test_another_shape_is_said_and_no_traceback(run: Any, daemon: Any) -> None:
    daemon.answers["GET /api/status"] = (200, {"plugins": "many"})
    outcome = run("status", "--state", str(daemon.state))
    assert outcome.code == 69
    assert "another shape" in outcome.err


class Enough(Exception):
    """Ends a watching: it has no end of its own."""


def watched(options: Client, count: int, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What `count` looks show, without waiting between them."""
    shown: list[str] = []

    def write(answer: Any, rates: Any) -> None:
        write_status(answer, rates)
        shown.append(capsys.readouterr().out)
        if len(shown) == count:
            raise Enough

    watch = Watch(options, write, is_screen=False, interval_s=0.001, clock=iter(range(99)).__next__)
    with pytest.raises(Enough):
        trio.run(watch.run)
    return shown


def options_for(daemon: Any) -> Client:
    return Client(config=None, state=str(daemon.state), as_json=False, url=None, token_file=None)


def with_handled(count: int) -> tuple[int, dict[str, Any]]:
    gen = {"plugin_id": "gen", "state": "running", "counters": {"handled": count}}
    return 200, STATUS | {"plugins": [gen]}


def test_watching_shows_what_changes_and_how_fast(daemon: Any, capsys: Any) -> None:
    answers = [with_handled(10), with_handled(45), with_handled(3)]
    daemon.answers["GET /api/status"] = answers
    first, second, third = watched(options_for(daemon), 3, capsys)
    assert "HANDLED/S" not in first
    assert "35.0" in second
    assert "35.0" not in third  # the daemon has begun again


def test_watching_outlives_the_daemon_and_says_so(daemon: Any, capsys: Any) -> None:
    failing = (503, {"code": "draining", "detail": "the daemon stops"})
    daemon.answers["GET /api/status"] = [with_handled(1), failing, failing, with_handled(2)]
    shown: list[str] = []

    def write(answer: Any, rates: Any) -> None:
        captured = capsys.readouterr()
        shown.append(captured.err)
        if len(shown) == 2:
            raise Enough

    watch = Watch(options_for(daemon), write, is_screen=False, interval_s=0.001)
    with pytest.raises(Enough):
        trio.run(watch.run)
    assert shown[0] == ""
    assert shown[1].count("the daemon stops") == 2
    assert "waiting for it" in shown[1]


def test_watching_where_there_is_no_daemon_ends_as_a_look_does(run: Any, tmp_path: Path) -> None:
    outcome = run("status", "--watch", "--state", str(tmp_path / "none"))
    assert outcome.code == 69


def test_ctrl_c_ends_watching_well(run: Any, daemon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.answers["GET /api/status"] = (200, STATUS)

    def interrupt(_s: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trio, "sleep", interrupt)
    outcome = run("status", "--watch", "--json", "--state", str(daemon.state))
    assert outcome.code == 0
    assert outcome.json["version"] == "0.1.0"
