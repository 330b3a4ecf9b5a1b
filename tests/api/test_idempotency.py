"""The same key, token and address: one effect, the same answer."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.api.asgi import Client
from tests.api.conftest import NAMES, TOKEN
from yoi_daemon.api.app import ROUTES, Application
from yoi_daemon.api.routing import Answer, Route
from yoi_daemon.front.principal import Principal
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.tokens import PERMISSIONS

WORKERS = "/api/runtimes/backend-internal/workers"


async def create(client, **fields):
    return (await client("POST", WORKERS, fields)).json["worker"]["worker_id"]


def seen(daemon, kind: str) -> int:
    return sum(entry.kind == kind for entry in daemon.event_log.read(0, 1 << 40))


async def settled(daemon) -> None:
    await wait_all_tasks_blocked(0.01)
    await daemon.event_log.committed(daemon.event_log.appended)


async def test_another_body_is_a_conflict(client):
    assert (await client("POST", WORKERS, {"label": "a"}, idempotency_key="k")).status == 201
    answer = await client("POST", WORKERS, {"label": "b"}, idempotency_key="k")
    assert (answer.status, answer.json["code"]) == (409, "delivery_id_conflict")


@pytest.mark.parametrize("key", ["", "x" * 201, "two words", "é"])
async def test_a_key_nobody_can_mean_is_refused(client, key):
    answer = await client("POST", WORKERS, {}, idempotency_key=key)
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")


async def test_a_key_belongs_to_its_address_and_its_token(client, daemon, monkeypatch):
    first, second = [await create(client) for _ in range(2)]
    for worker_id in (first, second):
        answer = await client("POST", f"{WORKERS}/{worker_id}/stop", idempotency_key="k")
        assert answer.json["worker"]["worker_id"] == worker_id
    made = await client("POST", WORKERS, {}, idempotency_key="k")
    other = Principal("tok_2", PERMISSIONS)
    monkeypatch.setattr(daemon.tokens, "authenticate", lambda *_: other)
    theirs = await client("POST", WORKERS, {}, idempotency_key="k")
    assert made.json["worker"]["worker_id"] != theirs.json["worker"]["worker_id"]


class Slow:
    """A handler that says when it is entered and waits; it counts what it did."""

    def __init__(self) -> None:
        self.entered, self.may_end, self.done = trio.Event(), trio.Event(), 0

    async def __call__(self, call) -> Answer:
        self.entered.set()
        await self.may_end.wait()
        self.done += 1
        return Answer({"done": self.done})


def slow_client(daemon, slow) -> Client:
    route = Route("POST", "/x", "workers:command", slow, is_keyed=True)
    return Client(Application(daemon, NAMES, [route]), "127.0.0.1:7420", TOKEN)


async def test_two_at_once_are_one(daemon):
    slow, answers = Slow(), []
    client = slow_client(daemon, slow)

    async def ask() -> None:
        answers.append(await client("POST", "/x", idempotency_key="k"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await slow.entered.wait()
        await wait_all_tasks_blocked()
        slow.may_end.set()
    assert [answer.json for answer in answers] == [{"done": 1}] * 2


async def test_a_client_that_is_gone_finds_its_answer_later(daemon):
    slow = Slow()
    client = slow_client(daemon, slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: client("POST", "/x", idempotency_key="k"))
        await slow.entered.wait()
        nursery.cancel_scope.cancel()
        slow.may_end.set()
    assert (await client("POST", "/x", idempotency_key="k")).json == {"done": 1}


async def test_a_client_that_is_gone_does_not_hold_a_daemon_that_drains(daemon):
    slow = Slow()
    client = slow_client(daemon, slow)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client("POST", "/x", idempotency_key="k"))
            await slow.entered.wait()
            nursery.cancel_scope.cancel()
            daemon.begin_draining()
    assert slow.done == 0


async def test_a_refusal_and_a_fault_free_the_key(daemon, logged_errors):
    errors: list[Exception] = [Refused("queue_full", "wait"), KeyError("x")]

    async def handler(call) -> Answer:
        if errors:
            raise errors.pop(0)
        return Answer({"ok": True})

    client = slow_client(daemon, handler)
    statuses = [(await client("POST", "/x", idempotency_key="k")).status for _ in range(4)]
    assert statuses == [429, 500, 200, 200]
    logged_errors.expect("request failed")


def test_every_mutation_is_keyed():
    by_themselves = {"/api/plugins/<plugin_id>/ingress/<ingress>"}  # admission has the keys
    without = {
        route.rule for route in ROUTES if route.method != "GET" and not route.is_keyed
    } - by_themselves
    assert without == {
        "/api/plugins/<plugin_id>/ingress",  # a key for each line
        "/hooks/<plugin_id>/<ingress>",  # the sender's delivery id
        "/api/tools/<plugin_id>/<tool>",  # changes nothing of the daemon's
    }
