from typing import Any

EMBEDDED = {
    "runtime_id": "backend-internal",
    "display_name": "Embedded",
    "implementation_kind": "embedded",
    "status": "available",
    "capabilities": {"create": True, "input": True, "events": False},
    "diagnostics": [],
}
DOWN = {
    "runtime_id": "recorded",
    "display_name": "Recorded",
    "implementation_kind": "local_compat",
    "status": "unavailable",
    "capabilities": {"create": False, "input": False, "events": False},
    "diagnostics": [{"code": "directory_unreadable", "severity": "error", "message": "no\x1b[2J"}],
}


def test_the_list_says_what_each_can_do_and_what_is_wrong(run: Any, daemon: Any) -> None:
    daemon.answers["GET /api/runtimes"] = (200, {"items": [EMBEDDED, DOWN]})
    outcome = run("runtime", "list", "--state", str(daemon.state))
    assert [line.split() for line in outcome.out.splitlines()] == [
        ["RUNTIME", "KIND", "STATUS", "CAN", "NAME"],
        ["backend-internal", "embedded", "available", "create,", "input", "Embedded"],
        ["recorded", "local_compat", "unavailable", "nothing", "Recorded"],
    ]
    assert outcome.err == "yoi-daemon: error: runtime recorded: no\\x1b[2J\n"
    assert len(run("runtime", "list", "--json", "--state", str(daemon.state)).json["items"]) == 2


def test_one_is_shown(run: Any, daemon: Any) -> None:
    daemon.answers["GET /api/runtimes/recorded"] = (200, DOWN)
    outcome = run("runtime", "show", "recorded", "--state", str(daemon.state))
    assert "capabilities         nothing\n" in outcome.out
    assert "status               unavailable\n" in outcome.out
    assert "error: no" in outcome.err
    assert run("runtime", "show", "recorded", "--json", "--state", str(daemon.state)).json == DOWN


def test_an_unknown_one_is_refused(run: Any, daemon: Any) -> None:
    problem = {"code": "runtime_not_found", "detail": "there is backend-internal", "status": 404}
    daemon.answers["GET /api/runtimes/nope"] = (404, problem)
    outcome = run("runtime", "show", "nope", "--state", str(daemon.state))
    assert outcome.code == 1
    assert "there is backend-internal" in outcome.err
