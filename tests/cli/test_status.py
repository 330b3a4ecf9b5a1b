from typing import Any

import pytest

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
            "plugin bad is failed (import_error: line 3), tried again at soon",
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
            "plugin slow refuses events: its queue is full (256/256)",
        ),
        (
            {"runtimes": [{"runtime_id": "gpu", "status": "unavailable"}]},
            "runtime gpu is unavailable",
        ),
    ],
)
def test_who_is_to_blame(told: Any, changes: dict[str, Any], complaint: str) -> None:
    assert told(**changes).splitlines()[:2] == ["not well", f"  {complaint}"]


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
