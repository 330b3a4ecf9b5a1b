from typing import Any

import pytest

RUNNING = {"plugin_id": "gen", "state": "running", "restarts": 0}
BROKEN = {
    "plugin_id": "bad",
    "state": "failed",
    "reason": {"code": "syntax_error", "message": "plugins/bad.py:1"},
}
NOT_FOUND = (404, {"code": "plugin_not_found", "detail": "there is no such plugin"})


@pytest.fixture
def reload(run: Any, daemon: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("yoi_daemon.cli.service.FIRST_LOOK_S", 0.001)
    daemon.answers["GET /api/plugins"] = (200, {"items": [RUNNING, BROKEN]})
    daemon.answers["GET /api/plugins/gen"] = [(200, {**RUNNING, "state": "starting"})] * 2 + [
        (200, RUNNING)
    ]
    daemon.answers["GET /api/plugins/bad"] = (200, BROKEN)
    daemon.answers["GET /api/plugins/gone"] = NOT_FOUND

    def reload(*names: str, to: str = "/api/reload", **told: Any) -> Any:
        answer = {"plugins": [], "needs_restart": [], "cursor": "c", **told}
        daemon.answers[f"POST {to}"] = (200, answer)
        return run(*names, "--state", str(daemon.state))

    return reload


def test_what_changed_is_followed_until_it_runs(reload: Any) -> None:
    outcome = reload("reload", plugins=["gone", "gen"], needs_restart=["api"])
    assert outcome.code == 0
    assert outcome.out.splitlines()[1:] == ["gone    removed  -", "gen     running  -"]
    assert outcome.err.splitlines() == [
        "yoi-daemon: [api] has changed: it is read when the daemon starts, so restart it",
        "yoi-daemon: bad is failed as before (syntax_error: plugins/bad.py:1)",
    ]


def test_one_that_fails_is_named_beside_those_that_run(reload: Any) -> None:
    outcome = reload("reload", plugins=["bad", "gen"])
    assert outcome.code == 1
    assert [line.split()[1] for line in outcome.out.splitlines()] == ["STATE", "failed", "running"]
    assert outcome.err == (
        "yoi-daemon: service_failed: bad failed: syntax_error: plugins/bad.py:1\n"
    )


def test_nothing_has_changed(reload: Any) -> None:
    assert reload("reload").out == "no plugin has changed\n"


def test_json_has_the_records(reload: Any) -> None:
    assert reload("reload", "--json", plugins=["gone", "gen"]).json == {
        "plugins": ["gone", "gen"],
        "needs_restart": [],
        "cursor": "c",
        "items": [RUNNING],
    }


def test_it_need_not_be_waited_for(reload: Any) -> None:
    assert "gen     starting" in reload("reload", "--no-wait", plugins=["gen"]).out


def test_one_plugin_that_is_as_bad_as_before_is_no_success(reload: Any) -> None:
    to = "/api/plugins/bad/reload"
    outcome = reload("plugin", "reload", "bad", to=to)
    assert outcome.code == 1
    assert outcome.err.startswith("yoi-daemon: service_failed: bad failed: syntax_error")
    to = "/api/plugins/gen/reload"
    assert reload("plugin", "reload", "gen", to=to, plugins=["gen"]).code == 0


def test_a_plugin_that_never_was_is_not_removed(reload: Any) -> None:
    to = "/api/plugins/gone/reload"
    outcome = reload("plugin", "reload", "gone", to=to)
    assert outcome.code == 1
    assert outcome.err.startswith("yoi-daemon: plugin_not_found")
    assert "removed" in reload("plugin", "reload", "gone", to=to, plugins=["gone"]).out


def test_a_refusal_names_every_fault(run: Any, daemon: Any) -> None:
    problem = {"code": "invalid_state", "detail": "Not taken.", "faults": ["a.py:1: x", "b: y"]}
    daemon.answers["POST /api/reload"] = (409, problem)
    outcome = run("reload", "--state", str(daemon.state))
    assert outcome.code == 1
    assert outcome.err == "yoi-daemon: invalid_state: Not taken.\n  a.py:1: x\n  b: y\n"
