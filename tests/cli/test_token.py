import json
from typing import Any

import pytest

TOKEN = {
    "token_id": "tok_1",
    "label": "panel",
    "scopes": ["events:read", "ingress:write:gen"],
    "created_by": "admin",
    "created_at": "2026-11-21T10:00:00Z",
    "expires_at": "2026-12-21T10:00:00Z",
    "expired": False,
    "last_used_at": None,
}
CREATED = {"token": TOKEN, "secret": "yoi_secret", "cursor": "c"}
REVOKED = {"token": TOKEN, "cursor": "c"}


def test_standard_output_has_the_token_and_nothing_else(run: Any, daemon: Any) -> None:
    daemon.answers["POST /api/tokens"] = (201, CREATED)
    outcome = run(
        "token", "create", "--scope", "events:read", "--scope", "ingress:write:gen",
        "--label", "panel", "--expires-in", "30d", "--state", str(daemon.state),
    )  # fmt: skip
    assert (outcome.code, outcome.out) == (0, "yoi_secret\n")
    assert "tok_1" in outcome.err
    assert "not shown again" in outcome.err
    assert json.loads(daemon.requests[0].body) == {
        "scopes": ["events:read", "ingress:write:gen"],
        "label": "panel",
        "expires_in_s": 30 * 86_400,
    }
    as_json = run(
        "token", "create", "--scope", "events:read", "--json", "--state", str(daemon.state)
    )
    assert as_json.json == CREATED
    assert json.loads(daemon.requests[1].body)["expires_in_s"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--scope", "everything"],
        ["--scope", "events:read:gen"],
        ["--scope", "events:read", "--expires-in", "soon"],
        ["--scope", "events:read", "--expires-in", "0d"],
        ["--scope", "events:read", "--expires-in", "30"],
    ],
)
def test_what_makes_no_sense_is_usage_and_asks_nobody(
    run: Any, daemon: Any, arguments: list[str]
) -> None:
    outcome = run("token", "create", *arguments, "--state", str(daemon.state))
    assert outcome.code == 2
    assert daemon.requests == []


def test_the_list_shows_whose_they_are(run: Any, daemon: Any) -> None:
    old = TOKEN | {"token_id": "tok_2", "label": "", "expired": True, "scopes": ["status:read"]}
    daemon.answers["GET /api/tokens"] = (200, {"items": [TOKEN, old]})
    outcome = run("token", "list", "--state", str(daemon.state))
    rows = [line.split("  ") for line in outcome.out.splitlines()]
    assert rows[0][0] == "TOKEN"
    assert "events:read, ingress:write:gen" in outcome.out
    assert "2026-12-21T10:00:00Z" in outcome.out.splitlines()[1]
    assert "expired" in outcome.out.splitlines()[2]
    daemon.answers["GET /api/tokens"] = (200, {"items": []})
    assert run("token", "list", "--state", str(daemon.state)).out == "no tokens but the admin's\n"


def test_revoking_goes_on_past_one_that_is_not_there(run: Any, daemon: Any) -> None:
    problem = {"code": "token_not_found", "detail": "no such token", "status": 404}
    daemon.answers["DELETE /api/tokens/tok_0"] = (404, problem)
    daemon.answers["DELETE /api/tokens/tok_1"] = (200, REVOKED)
    outcome = run("token", "revoke", "tok_0", "tok_1", "--state", str(daemon.state))
    assert (outcome.code, outcome.out) == (1, "tok_1  revoked\n")
    assert "there is no token tok_0" in outcome.err
    outcome = run("token", "revoke", "tok_1", "--json", "--state", str(daemon.state))
    assert (outcome.code, outcome.json) == (0, {"revoked": [REVOKED], "missing": []})


def test_a_refusal_says_what_was_done_before_it(run: Any, daemon: Any) -> None:
    daemon.answers["DELETE /api/tokens/tok_1"] = (200, REVOKED)
    problem = {"code": "forbidden", "detail": "this token lacks the scope tokens:admin"}
    daemon.answers["DELETE /api/tokens/tok_2"] = (403, problem)
    outcome = run("token", "revoke", "tok_1", "tok_2", "--state", str(daemon.state))
    assert (outcome.code, outcome.out) == (77, "tok_1  revoked\n")
    assert "tokens:admin" in outcome.err
    assert "--token-file" in outcome.err
