"""Routing to workers is typed: each way to fail has a code of its own, and none is taken for another."""

import json
from collections.abc import AsyncGenerator

import pytest
import trio

from tests.api.asgi import Client
from tests.api.conftest import NAMES, TOKEN
from tests.runtime.engines import HangingEngine
from yoi_daemon.api.app import Application
from yoi_daemon.daemon import opening
from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.settings import LocalCompatSettings, MemoryStoreSettings, Settings
from yoi_daemon.model.workers import BUILTIN_ECHO
from yoi_daemon.registry.local_compat import LocalCompatRuntime
from yoi_daemon.runtime.profiles import Profiles

EMBEDDED = "/api/runtimes/backend-internal/workers"
RECORD = {"state": "idle", "created_at": "2026-01-01T00:00:00Z", "label": "theirs"}


@pytest.fixture
async def daemon(tmp_path, wall_clock, monkeypatch) -> AsyncGenerator[Daemon]:
    """One with a runtime of each fate; its embedded workers stay at their turns until they are told to end."""
    monkeypatch.setattr(
        opening, "make_profiles", lambda _: Profiles({BUILTIN_ECHO: HangingEngine()})
    )
    for name in ("recorded", "hung"):
        (tmp_path / name).mkdir()
    (tmp_path / "recorded" / "bad.json").write_text("{")
    (tmp_path / "recorded" / "good.json").write_text(json.dumps(RECORD))
    runtimes = {
        name: LocalCompatSettings(directory=str(tmp_path / name))
        for name in ("recorded", "hung", "gone")
    }
    directories = Directories(tmp_path / "config", tmp_path / "state", tmp_path / "secrets")
    directories.state.mkdir()
    async with open_daemon(
        directories,
        Settings(runtimes=runtimes, store=MemoryStoreSettings()),
        Tokens(TOKEN),
        environ={},
        wall_clock=wall_clock,
    ) as one:
        hung = one.registry.runtime("hung")
        assert isinstance(hung, LocalCompatRuntime)
        # As a network's file system that hangs: its thread is held.
        hung._deadline_s = 0.01
        await hung._threads.acquire_on_behalf_of("the hanging one")
        yield one


@pytest.fixture
def client(daemon: Daemon) -> Client:
    return Client(Application(daemon, NAMES), "127.0.0.1:7420", TOKEN)


@pytest.fixture
async def busy(client, daemon) -> str:
    made = await client("POST", EMBEDDED, {"input": "x"})
    worker_id = made.json["worker"]["worker_id"]
    with trio.fail_after(10):
        while not any(
            one.kind == "worker.turn.started" for one in daemon.event_log.read(0, 1 << 40)
        ):
            await daemon.event_log.wait_beyond(daemon.event_log.head)
    return worker_id


async def test_each_way_to_fail_has_its_own_code(client, busy):
    made = await client("POST", EMBEDDED, {})
    ended = made.json["worker"]["worker_id"]
    await client("POST", f"{EMBEDDED}/{ended}/stop")
    told: dict[str, int] = {}
    for runtime_id, worker_id, code, status in (
        ("nope", busy, "runtime_not_found", 404),
        ("backend-internal", "nope", "worker_not_found", 404),
        ("backend-internal", busy, "worker_busy", 409),
        ("backend-internal", ended, "worker_gone", 410),
        ("recorded", "good", "unsupported_operation", 501),
    ):
        path = f"/api/runtimes/{runtime_id}/workers/{worker_id}/input"
        answer = await client("POST", path, {"text": "x"})
        assert (answer.json["code"], answer.status) == (code, status), answer.body
        told[code] = status
    for runtime_id, worker_id, code, status in (
        ("recorded", "nope", "worker_not_found", 404),
        ("recorded", busy, "worker_not_found", 404),  # it is another runtime's
        ("backend-internal", "good", "worker_not_found", 404),
        ("recorded", "bad", "runtime_error", 502),
        ("gone", "good", "runtime_unavailable", 503),
        ("hung", "good", "runtime_timeout", 504),
    ):
        for path in ("", "/transcript"):
            answer = await client("GET", f"/api/runtimes/{runtime_id}/workers/{worker_id}{path}")
            assert (answer.json["code"], answer.status) == (code, status), answer.body
        told[code] = status
    assert len(told) == 8


async def test_all_workers_are_listed_beside_runtimes_that_do_not_answer(client, busy):
    listed = (await client("GET", "/api/workers")).json
    assert [
        (one["runtime_id"], one["worker_id"], one["implementation_kind"]) for one in listed["items"]
    ] == [
        ("backend-internal", busy, "embedded"),
        ("recorded", "good", "local_compat"),
    ]
    codes = [one["code"] for one in listed["diagnostics"]]
    assert codes == ["runtime_unavailable", "runtime_timeout"]


async def test_control_is_by_the_runtimes_address_alone(client, busy):
    for method, path in (("POST", "/api/workers"), ("POST", f"/api/workers/{busy}/stop")):
        answer = await client(method, path, {})
        assert answer.json["code"] in ("route_not_found", "method_not_allowed")
    assert (await client("GET", f"{EMBEDDED}/{busy}")).json["state"] == "running"


async def test_the_same_id_in_another_runtime_is_another_worker(client, busy, tmp_path):
    (tmp_path / "recorded" / f"{busy}.json").write_text(json.dumps(RECORD))
    theirs = f"/api/runtimes/recorded/workers/{busy}"
    assert (await client("GET", theirs)).json["label"] == "theirs"
    assert (await client("GET", f"{theirs}/transcript")).json["items"] == []
    for command, body in (("input", {"text": "x"}), ("cancel", b""), ("stop", {})):
        answer = await client("POST", f"{theirs}/{command}", body, idempotency_key="k")
        assert answer.json["code"] == "unsupported_operation"
    mine = (await client("GET", f"{EMBEDDED}/{busy}")).json
    assert (mine["state"], mine["generation"], mine["label"]) == ("running", 1, "")
    # A key is of one address: the same one stops the worker it was not sent to before.
    stopped = await client("POST", f"{EMBEDDED}/{busy}/stop", {}, idempotency_key="k")
    assert stopped.json["worker"]["state"] == "stopped"


async def test_a_runtime_is_looked_at_before_anything_is_asked_of_it(client):
    shown = (await client("GET", "/api/runtimes")).json["items"]
    assert {one["runtime_id"]: one["status"] for one in shown} == {
        "backend-internal": "available",
        "recorded": "available",
        "hung": "available",
        "gone": "unavailable",
    }
    told = {one["runtime_id"]: [found["code"] for found in one["diagnostics"]] for one in shown}
    assert (told["recorded"], told["gone"]) == (["malformed_record"], ["runtime_unavailable"])
    assert all(found["since"] for one in shown for found in one["diagnostics"])
