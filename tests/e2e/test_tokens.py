"""Tokens of the real daemon, made and revoked by the real command: what they open, and what ends with them."""

import json
import stat
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

pytest.importorskip("trio_websocket")

WITHIN_S = 1.0
"""The promise: of a revocation, and of an expiry."""


def command(daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "yoi_daemon", "token", *arguments, "--state", daemon.state]
    return subprocess.run(program, capture_output=True, text=True, timeout=30, check=False)


def make(daemon, *scopes: str, **fields) -> tuple[str, str]:
    status, made = daemon.request("POST", "/api/tokens", {"scopes": scopes, **fields})
    assert status == 201
    return made["secret"], made["token"]["token_id"]


def ask(daemon, token: str, method: str, path: str, body=None) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    return daemon.request(method, path, body, headers, token=False)[0]


@contextmanager
def follow(daemon, token: str):
    headers = {"Authorization": f"Bearer {token}"}
    with connect(f"{daemon.observe}/v1/events", additional_headers=headers) as stream:
        assert json.loads(stream.recv(timeout=10))["type"] == "hello"
        assert json.loads(stream.recv(timeout=10))["reason"] == "live"
        yield stream


def read_to_the_close(stream) -> tuple[int, list[dict]]:
    messages = [json.loads(message) for message in messages_of(stream)]
    assert stream.protocol.close_code is not None
    return stream.protocol.close_code, messages


def messages_of(stream):
    with suppress(ConnectionClosed):
        while True:
            yield stream.recv(timeout=10)


def test_a_token_by_the_command_outlives_a_restart_and_ends_by_the_command(start_daemon, config):
    daemon = start_daemon(config)
    made = command(daemon, "create", "--scope", "status:read", "--label", "panel")
    assert made.returncode == 0, made.stderr
    token = made.stdout.strip()
    assert ask(daemon, token, "GET", "/api/status") == 200
    assert ask(daemon, token, "POST", "/api/reload") == 403
    file = daemon.state / "tokens.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert token not in file.read_text()
    daemon.process.kill()
    daemon.wait()
    daemon = start_daemon(config)
    assert ask(daemon, token, "GET", "/api/status") == 200
    (listed,) = json.loads(command(daemon, "list", "--json").stdout)["items"]
    assert listed["label"] == "panel"
    assert command(daemon, "revoke", listed["token_id"]).returncode == 0
    assert ask(daemon, token, "GET", "/api/status") == 401
    assert daemon.stop() == 0
    daemon = start_daemon(config)
    assert ask(daemon, token, "GET", "/api/status") == 401
    assert token not in "".join(daemon.lines)


def test_no_secret_is_anywhere_on_disk_not_even_with_the_answer_that_is_kept(start_daemon, config):
    daemon = start_daemon(config)
    body, key = {"scopes": ["events:read"]}, {"Idempotency-Key": "k"}
    _, first = daemon.request("POST", "/api/tokens", body, key)
    daemon.process.kill()
    daemon.wait()
    held = {path.name: path.read_bytes() for path in daemon.state.iterdir() if path.is_file()}
    assert [name for name, content in held.items() if first["secret"].encode() in content] == []
    # Its control: what is kept of it is there, and is told again.
    assert any(first["token"]["token_id"].encode() in content for content in held.values())
    daemon = start_daemon(config)
    assert daemon.request("POST", "/api/tokens", body, key) == (201, {**first, "secret": None})


def test_a_revoked_token_ends_its_streams_within_a_second(start_daemon, config):
    daemon = start_daemon(config)
    secret, token_id = make(daemon, "events:read")
    with ExitStack() as streams:
        theirs = [streams.enter_context(follow(daemon, secret)) for _ in range(5)]
        ours = streams.enter_context(follow(daemon, daemon.token))
        begun = time.monotonic()
        status, _ = daemon.request("DELETE", f"/api/tokens/{token_id}")
        assert status == 200
        for stream in theirs:
            code, messages = read_to_the_close(stream)
            assert code == 4401
            assert messages[-1]["reason"] == "token_ended"
            # What came after the revocation is not for them.
            assert "daemon.token.revoked" not in [one.get("kind") for one in messages]
        assert time.monotonic() - begun < WITHIN_S
        assert json.loads(ours.recv(timeout=10))["kind"] == "daemon.token.revoked"
    with pytest.raises(InvalidStatus) as refused, follow(daemon, secret):
        pass
    assert refused.value.response.status_code == 401


def test_an_expired_token_ends_its_streams_within_a_second(start_daemon, config):
    daemon = start_daemon(config)
    secret, _ = make(daemon, "events:read", expires_in_s=1.5)
    until = time.monotonic() + 1.5
    with follow(daemon, secret) as stream:
        code, _ = read_to_the_close(stream)
    assert code == 4401
    assert time.monotonic() - until < WITHIN_S
    assert ask(daemon, secret, "GET", "/api/status") == 401


def test_a_token_file_that_others_can_read_is_told_and_ends_77(start_daemon, config, tmp_path):
    daemon = start_daemon(config)
    assert daemon.stop() == 0
    (daemon.state / "admin.token").chmod(0o644)
    daemon = start_daemon(config, ready=False)
    assert daemon.wait() == 77
    told = "".join(daemon.lines)
    assert "admin.token is open to others (mode 0644)" in told
    assert "chmod 600" in told
    assert "Traceback" not in told
    assert (daemon.state / "admin.token").read_text().strip() not in told


def test_a_valid_token_never_waits_for_those_who_guess(start_daemon, config):
    daemon = start_daemon(config)
    codes = [ask(daemon, "yoi_wrong", "GET", "/api/status") for _ in range(40)]
    assert set(codes) == {401, 429}
    assert [ask(daemon, daemon.token, "GET", "/api/status") for _ in range(20)] == [200] * 20
    with follow(daemon, daemon.token):
        pass
