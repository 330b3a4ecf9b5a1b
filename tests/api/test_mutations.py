"""Every mutation: its cursor joins the stream at its place, and the same key has one effect and one answer."""

import hashlib
import hmac
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import trio

from tests.api.asgi import Answered, Client
from tests.api.conftest import NAMES, TOKEN
from tests.runtime.engines import HangingEngine
from yoi_daemon.api.app import ROUTES, Application
from yoi_daemon.daemon import opening
from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.cursor import decode_cursor
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.settings import MemoryStoreSettings, PluginSettings, Settings
from yoi_daemon.model.workers import BUILTIN_ECHO
from yoi_daemon.runtime.engines.echo import EchoEngine
from yoi_daemon.runtime.profiles import Profiles

WORKERS = "/api/runtimes/backend-internal/workers"
MODULE = """
from yoi_daemon.sdk import Config, Context, IngressEvent, Plugin, Secret

class Settings(Config):
    secret: Secret

plugin = Plugin("p", config=Settings)

@plugin.ingress("ok", verify="github")
async def ok(ctx: Context[Settings], event: IngressEvent) -> None: ...

@plugin.ingress("fail")
async def fail(ctx: Context[Settings], event: IngressEvent) -> None:
    raise ValueError("no good")
"""


@pytest.fixture
async def daemon(tmp_path, wall_clock, monkeypatch) -> AsyncGenerator[Daemon]:
    """A whole daemon with a plugin, and with a profile whose turns last until they are cancelled."""
    (tmp_path / "config" / "plugins").mkdir(parents=True)
    (tmp_path / "secrets").mkdir(mode=0o700)
    (tmp_path / "config" / "plugins" / "p.py").write_text(MODULE)
    (tmp_path / "config" / "yoi-daemon.toml").write_text(
        "[plugins.p]\nattempts = 1\nconfig = {secret = 'it'}\n"
    )
    (tmp_path / "secrets" / "it").write_text("s3cret")
    engines = {BUILTIN_ECHO: EchoEngine(), "hang": HangingEngine()}
    monkeypatch.setattr(opening, "make_profiles", lambda _: Profiles(engines))
    directories = Directories(tmp_path / "config", tmp_path / "state", tmp_path / "secrets")
    settings = Settings(
        plugins={"p": PluginSettings(attempts=1, config={"secret": "it"})},
        store=MemoryStoreSettings(),
    )
    directories.state.mkdir()
    async with open_daemon(
        directories, settings, Tokens(TOKEN), environ={}, wall_clock=wall_clock
    ) as one:
        await reach(one, "plugin.state", state="running")
        yield one


@pytest.fixture
def client(daemon: Daemon) -> Client:
    return Client(Application(daemon, NAMES), "127.0.0.1:7420", TOKEN)


def events(daemon: Daemon, upto: int = 1 << 60) -> list[dict[str, Any]]:
    entries = daemon.event_log.read(0, 1 << 40)
    return [json.loads(entry.message) for entry in entries if entry.seq <= upto]


async def reach(daemon: Daemon, kind: str, **data: str) -> dict[str, Any]:
    """Waits for an event of the kind with these data."""
    with trio.fail_after(10):
        while True:
            for event in events(daemon):
                if event["kind"] == kind and event["data"] | data == event["data"]:
                    return event
            await daemon.event_log.wait_beyond(daemon.event_log.head)


class World(NamedTuple):
    client: Client
    daemon: Daemon

    async def worker(self, **fields: str) -> str:
        """The address of a new worker."""
        made = await self.client("POST", WORKERS, fields)
        return f"{WORKERS}/{made.json['worker']['worker_id']}"

    async def busy(self) -> str:
        address = await self.worker(profile="hang", input="x")
        await reach(self.daemon, "worker.turn.started")
        return address

    async def letter(self) -> str:
        """The address of a dead letter."""
        sent = (await self.client("POST", "/api/plugins/p/ingress/fail", {})).json
        await reach(self.daemon, "plugin.ingress.dead_lettered", event_id=sent["event_id"])
        return f"/api/plugins/p/dead-letters/{sent['event_id']}"


class Asked(NamedTuple):
    """A request, and the event that makes its effect visible: the kind, and some of its data."""

    path: str
    kind: str
    data: Mapping[str, Any] = MappingProxyType({})
    body: Any = b""


async def create(_: World) -> Asked:
    return Asked(WORKERS, "worker.created", {"label": "one"}, {"label": "one"})


async def create_with_input(_: World) -> Asked:
    return Asked(WORKERS, "worker.input_accepted", {"inbox_depth": 1}, {"input": "x"})


async def send(world: World) -> Asked:
    path = f"{await world.worker()}/input"
    return Asked(path, "worker.input_accepted", {"inbox_depth": 1}, {"text": "x"})


async def cancel(world: World) -> Asked:
    return Asked(f"{await world.busy()}/cancel", "worker.state", {"state": "idle", "generation": 1})


async def stop(world: World) -> Asked:
    return Asked(f"{await world.worker()}/stop", "worker.state", {"state": "stopped"}, {})


async def stop_busy(world: World) -> Asked:
    return Asked(f"{await world.busy()}/stop", "worker.state", {"state": "stopped"}, {"grace_s": 1})


async def start_plugin(world: World) -> Asked:
    await world.client("POST", "/api/plugins/p/stop")
    return Asked("/api/plugins/p/start", "plugin.state", {"state": "starting"})


async def stop_plugin(_: World) -> Asked:
    return Asked("/api/plugins/p/stop", "plugin.state", {"state": "stopped"})


async def restart_plugin(_: World) -> Asked:
    return Asked("/api/plugins/p/restart", "plugin.state", {"state": "starting"})


async def reload_plugin(_: World) -> Asked:
    return Asked("/api/plugins/p/reload", "daemon.reloaded")


async def reload_all(_: World) -> Asked:
    return Asked("/api/reload", "daemon.reloaded")


async def ingress(_: World) -> Asked:
    data = {"ingress": "ok", "source": "api"}
    return Asked("/api/plugins/p/ingress/ok", "plugin.ingress.accepted", data, {"n": 1})


async def redeliver(world: World) -> Asked:
    path = await world.letter()
    data = {"redelivery_of": path.rpartition("/")[2]}
    return Asked(f"{path}/redeliver", "plugin.ingress.accepted", data)


async def discard(world: World) -> Asked:
    path = await world.letter()
    return Asked(path, "plugin.ingress.discarded", {"event_id": path.rpartition("/")[2]})


async def create_token(_: World) -> Asked:
    body = {"scopes": ["events:read"]}
    return Asked(
        "/api/tokens", "daemon.token.created", {"scopes": ["events:read"], "by": "admin"}, body
    )


async def revoke_token(world: World) -> Asked:
    made = (await world.client("POST", "/api/tokens", {"scopes": ["events:read"]})).json
    token_id = made["token"]["token_id"]
    return Asked(f"/api/tokens/{token_id}", "daemon.token.revoked", {"token_id": token_id})


Prepare = Callable[[World], Awaitable[Asked]]
MUTATIONS: dict[Prepare, str] = {
    create: f"POST {WORKERS}",
    create_with_input: f"POST {WORKERS}",
    send: f"POST {WORKERS}/<worker_id>/input",
    cancel: f"POST {WORKERS}/<worker_id>/cancel",
    stop: f"POST {WORKERS}/<worker_id>/stop",
    stop_busy: f"POST {WORKERS}/<worker_id>/stop",
    start_plugin: "POST /api/plugins/<plugin_id>/start",
    stop_plugin: "POST /api/plugins/<plugin_id>/stop",
    restart_plugin: "POST /api/plugins/<plugin_id>/restart",
    reload_plugin: "POST /api/plugins/<plugin_id>/reload",
    reload_all: "POST /api/reload",
    ingress: "POST /api/plugins/<plugin_id>/ingress/<ingress>",
    redeliver: "POST /api/plugins/<plugin_id>/dead-letters/<event_id>/redeliver",
    discard: "DELETE /api/plugins/<plugin_id>/dead-letters/<event_id>",
    create_token: "POST /api/tokens",
    revoke_token: "DELETE /api/tokens/<token_id>",
}
every_mutation = pytest.mark.parametrize("prepare", MUTATIONS, ids=lambda one: one.__name__)


def test_every_mutation_is_here():
    routes = {f"{route.method} {route.rule}" for route in ROUTES if route.method != "GET"}
    assert routes - {rule.replace("backend-internal", "<runtime_id>") for rule in MUTATIONS.values()} == {
        "POST /api/plugins/<plugin_id>/ingress",  # below, line by line
        "POST /hooks/<plugin_id>/<ingress>",  # likewise, by the sender's delivery id
        "POST /api/tools/<plugin_id>/<tool>",  # changes nothing of the daemon's
    }  # fmt: skip


def at_its_place(
    daemon: Daemon, answer: dict[str, Any], kind: str, data: Mapping[str, Any]
) -> None:
    """The event at the cursor is the effect; and what the answer shows is the state there, not a later one."""
    seq = decode_cursor(answer["cursor"]).seq
    assert seq <= daemon.event_log.head  # told after its commit
    told = events(daemon, upto=seq)
    event = told[-1]
    assert (event["seq"], event["kind"]) == (seq, kind)
    assert event["data"] | dict(data) == event["data"]
    for name, ident in (("worker", "worker_id"), ("plugin", "plugin_id")):
        if name in answer:
            shown = answer[name]
            assert event[ident] == shown[ident]
            states = [
                one["data"]["state"]
                for one in told
                if one.get(ident) == shown[ident] and "state" in one["data"]
            ]
            assert states[-1] == shown["state"]
    if "event_id" in answer:
        assert event["data"]["event_id"] == answer["event_id"]


async def ask(client: Client, rule: str, asked: Asked, **headers: str) -> Answered:
    return await client(rule.partition(" ")[0], asked.path, asked.body, **headers)


@every_mutation
async def test_its_cursor_joins_the_stream_at_its_place(client, daemon, prepare):
    asked = await prepare(World(client, daemon))
    answer = await ask(client, MUTATIONS[prepare], asked)
    assert answer.status < 300, answer.body
    at_its_place(daemon, answer.json, asked.kind, asked.data)


@every_mutation
async def test_the_same_key_is_one_effect_and_one_answer(client, daemon, prepare):
    asked = await prepare(World(client, daemon))
    rule = MUTATIONS[prepare]
    answer = await ask(client, rule, asked, idempotency_key="k")
    assert answer.status < 300, answer.body
    at_its_place(daemon, answer.json, asked.kind, asked.data)
    effects = count(daemon, asked)
    again = await ask(client, rule, asked, idempotency_key="k")
    # A token's secret is told once, and kept nowhere.
    first = answer.json | ({"secret": None} if prepare is create_token else {})
    assert (again.status, again.json) == (answer.status, first)
    await daemon.event_log.committed(daemon.event_log.appended)
    assert count(daemon, asked) == effects
    # Its control: without the key it is done anew, or refused; a stopped service that is stopped is no change.
    other = await ask(client, rule, asked)
    await daemon.event_log.committed(daemon.event_log.appended)
    if prepare not in (stop_plugin, start_plugin):
        assert count(daemon, asked) > effects or other.status in (404, 409, 410)


def count(daemon: Daemon, asked: Asked) -> int:
    """How many events tell of such an effect."""
    return sum(
        event["kind"] == asked.kind and event["data"] | dict(asked.data) == event["data"]
        for event in events(daemon)
    )


async def test_every_line_of_a_batch_has_its_place_and_its_key(client, daemon):
    lines = [{"ingress": "ok", "payload": n, "key": f"k{n}"} for n in range(3)]
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    kind = "application/x-ndjson"
    answer = await client("POST", "/api/plugins/p/ingress", body, content_type=kind)
    told = [json.loads(line) for line in answer.body.splitlines()]
    assert len({line["event_id"] for line in told}) == 3
    for line in told:
        at_its_place(daemon, line, "plugin.ingress.accepted", {"ingress": "ok", "source": "api"})
    again = await client("POST", "/api/plugins/p/ingress", body, content_type=kind)
    assert again.body == answer.body
    assert sum(event["kind"] == "plugin.ingress.accepted" for event in events(daemon)) == 3


async def test_a_webhook_has_its_place_and_its_delivery_id(client, daemon):
    digest = hmac.new(b"s3cret", b"{}", hashlib.sha256).hexdigest()
    headers = {"x_hub_signature_256": f"sha256={digest}", "x_github_delivery": "d1"}
    answers = [await client("POST", "/hooks/p/ok", b"{}", token=None, **headers) for _ in range(2)]
    assert [one.status for one in answers] == [202, 202]
    assert answers[0].body == answers[1].body
    at_its_place(daemon, answers[0].json, "plugin.ingress.accepted", {"source": "hook"})
    assert sum(event["kind"] == "plugin.ingress.accepted" for event in events(daemon)) == 1


async def test_wrong_signatures_are_limited_as_wrong_tokens_are_and_a_right_one_never_waits(client):
    async def send(secret: bytes) -> Answered:
        digest = hmac.new(secret, b"{}", hashlib.sha256).hexdigest()
        signature = f"sha256={digest}"
        return await client("POST", "/hooks/p/ok", b"{}", token=None, x_hub_signature_256=signature)

    answers = [await send(b"guessed") for _ in range(50)]
    assert {answer.status for answer in answers} == {401, 429}
    assert answers[-1].json["code"] == "rate_limited"
    assert (await send(b"s3cret")).status == 202
