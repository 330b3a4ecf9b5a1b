"""Tokens over REST: made once, shown once, listed without their secret, revoked with what is open by them."""

import json

import pytest
import trio

from tests.api.asgi import Client
from tests.api.conftest import NAMES, TOKEN
from yoi_daemon.api.app import Application
from yoi_daemon.api.routing import Answer, Route
from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.front.failed_attempts import FailedAttempts
from yoi_daemon.front.principal import ADMIN
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.cursor import decode_cursor
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.settings import ApiSettings, MemoryStoreSettings, Settings
from yoi_daemon.plugins.batch import EventBatch

TOKENS = "/api/tokens"
MEMORY = Settings(store=MemoryStoreSettings())


async def make(client: Client, *scopes: str, **fields) -> tuple[str, str]:
    answer = await client("POST", TOKENS, {"scopes": scopes, **fields})
    assert answer.status == 201, answer.body
    return answer.json["secret"], answer.json["token"]["token_id"]


async def test_a_token_is_made_listed_used_and_revoked(client, daemon):
    made = await client("POST", TOKENS, {"scopes": ["status:read"], "label": "panel"})
    secret, token = made.json["secret"], made.json["token"]
    assert (token["label"], token["scopes"], token["expires_at"]) == (
        "panel",
        ["status:read"],
        None,
    )
    assert (await client("GET", "/api/status", token=secret)).status == 200
    assert (await client("GET", "/api/workers", token=secret)).json["code"] == "forbidden"
    listed = await client("GET", TOKENS)
    assert [one["token_id"] for one in listed.json["items"]] == [token["token_id"]]
    assert listed.json["items"][0]["last_used_at"] is not None
    assert secret not in listed.body.decode()
    gone = await client("DELETE", f"{TOKENS}/{token['token_id']}")
    assert gone.json["token"]["token_id"] == token["token_id"]
    assert (await client("GET", "/api/status", token=secret)).status == 401
    assert (await client("GET", TOKENS)).json == {"items": []}
    again = await client("DELETE", f"{TOKENS}/{token['token_id']}")
    assert (again.status, again.json["code"]) == (404, "token_not_found")
    kinds = {}
    for answer in (made, gone):
        seq = decode_cursor(answer.json["cursor"]).seq
        (entry,) = [one for one in daemon.event_log.read(seq - 1, 1) if one.seq == seq]
        kinds[entry.kind] = entry.message
    assert list(kinds) == ["daemon.token.created", "daemon.token.revoked"]
    assert all(
        b'"by":"admin"' in message and secret.encode() not in message for message in kinds.values()
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ({"scopes": []}, "invalid_request"),
        ({"scopes": ["everything"]}, "invalid_request"),
        ({"scopes": ["events:read"] * 33}, "invalid_request"),
        ({"scopes": ["events:read"], "expires_in_s": 0}, "invalid_request"),
        ({"scopes": ["events:read"], "expires_in_s": 1e300}, "invalid_request"),
        ({"scopes": ["events:read"], "label": "x" * 101}, "invalid_request"),
        ({"scopes": ["events:read"], "secret": "mine"}, "invalid_request"),
    ],
)
async def test_a_token_that_makes_no_sense_is_refused(client, body, code):
    answer = await client("POST", TOKENS, body)
    assert (answer.status, answer.json["code"]) == (400, code)
    assert (await client("GET", TOKENS)).json == {"items": []}


async def test_a_token_gives_no_more_than_it_has(client):
    secret, _ = await make(client, "tokens:admin", "events:read")
    answer = await client("POST", TOKENS, {"scopes": ["plugins:admin"]}, token=secret)
    assert (answer.status, answer.json["code"]) == (403, "forbidden")
    assert (await client("POST", TOKENS, {"scopes": ["events:read"]}, token=secret)).status == 201


async def test_a_repetition_makes_no_second_token_and_has_no_secret(client, daemon):
    body = {"scopes": ["events:read"]}
    first = await client("POST", TOKENS, body, idempotency_key="k")
    again = await client("POST", TOKENS, body, idempotency_key="k")
    assert again.status == 201
    assert again.json == {**first.json, "secret": None}
    assert len(daemon.tokens.infos()) == 1


async def test_two_tokens_with_one_key_do_not_meet(client, daemon):
    """Neither over the API's mutations nor over an ingress."""
    from yoi_daemon.api.routing import Request

    seen: list[str] = []

    async def handler(request: Request) -> Answer:
        key = request.idempotency_key()
        assert key is not None
        seen.append(request.own_key(key))
        return Answer({"caller": request.principal.token_id})

    routes = [
        Route("POST", "/x/<plugin_id>", "ingress:write", handler),
        Route("POST", "/y", "workers:command", handler, is_keyed=True),
    ]
    other, _ = await make(client, "ingress:write", "workers:command")
    asking = Client(Application(daemon, NAMES, routes), "127.0.0.1:7420", TOKEN)
    for path in ("/x/gen", "/y"):
        answers = [
            (await asking("POST", path, idempotency_key="k", token=token)).json["caller"]
            for token in (TOKEN, other, TOKEN)
        ]
        assert len(set(answers)) == 2
        assert answers[0] == answers[2] == "admin"
    assert len(set(seen)) == 2


PLUGIN = """
from yoi_daemon.sdk import Config, Context, IngressEvent, Plugin

class Settings(Config):
    pass

plugin = Plugin("gen", config=Settings)

@plugin.ingress("push")
async def push(ctx: Context[Settings], event: IngressEvent) -> None:
    pass
"""


async def test_a_batch_stops_at_the_line_where_its_token_ended(tmp_path, monkeypatch):
    directories = Directories(tmp_path / "config", tmp_path / "state", tmp_path / "secrets")
    directories.state.mkdir()
    directories.plugins.mkdir(parents=True)
    (directories.plugins / "gen.py").write_text(PLUGIN)
    async with open_daemon(directories, MEMORY, Tokens(TOKEN), environ={}) as daemon:
        with trio.fail_after(10):
            await daemon.plugins.wait_loaded()
        client = Client(Application(daemon, NAMES), "127.0.0.1:7420", TOKEN)
        secret, token_id = await make(client, "ingress:write:gen")
        admit, receipts = EventBatch.admit, []

        async def admit_and_revoke(*args, **options):
            receipts.append(await admit(*args, **options))
            if len(receipts) == 2:
                await daemon.tokens.revoke(token_id)
            return receipts[-1]

        monkeypatch.setattr(EventBatch, "admit", admit_and_revoke)
        lines = b'{"ingress": "push", "payload": 1}\n' * 5
        kind = "application/x-ndjson"
        told = await client(
            "POST", "/api/plugins/gen/ingress", lines, token=secret, content_type=kind
        )
        statuses = [json.loads(line)["status"] for line in told.body.splitlines()]
        assert statuses == [202, 202, 401]
        late = await client(
            "POST", "/api/plugins/gen/ingress", lines, token=secret, content_type=kind
        )
        assert late.status == 401


class TestRates:
    """Of commands by one token, and of wrong tokens."""

    @pytest.fixture
    async def daemon(self, tmp_path, wall_clock):
        directories = Directories(tmp_path / "config", tmp_path / "state", tmp_path / "secrets")
        directories.state.mkdir()
        failures = FailedAttempts(per_s=3, total_per_s=100, clock=wall_clock)
        tokens = Tokens(TOKEN, failures=failures, wall_clock=wall_clock)
        settings = Settings(api=ApiSettings(commands_per_s=4), store=MemoryStoreSettings())
        async with open_daemon(
            directories, settings, tokens, environ={}, wall_clock=wall_clock
        ) as one:
            yield one

    async def test_commands_are_limited_for_each_token_and_reading_is_not(
        self, daemon, autojump_clock
    ):
        entered: list[str] = []

        async def handler(request) -> Answer:
            entered.append(request.principal.token_id)
            return Answer({})

        routes = [
            Route("POST", "/command", "workers:command", handler),
            Route("GET", "/read", "workers:read", handler),
            Route("POST", "/feed/<plugin_id>", "ingress:write", handler),
        ]
        other, _ = await daemon.tokens.create(ADMIN, scopes=["workers:command"])
        ask = Client(Application(daemon, NAMES, routes), "127.0.0.1:7420", TOKEN)
        answers = [await ask("POST", "/command") for _ in range(6)]
        assert [answer.status for answer in answers] == [200] * 4 + [429] * 2
        assert answers[-1].json["code"] == "rate_limited"
        assert answers[-1].json["retry_after_s"] == 0.25
        assert answers[-1].headers["retry-after"] == "1"
        assert len(entered) == 4
        assert (await ask("POST", "/command", token=other)).status == 200
        for path, method in (("/read", "GET"), ("/feed/gen", "POST")):
            assert [(await ask(method, path)).status for _ in range(9)] == [200] * 9
        await trio.sleep(0.25)
        assert [(await ask("POST", "/command")).status for _ in range(2)] == [200, 429]

    async def test_wrong_tokens_are_limited_and_right_ones_never_wait(self, daemon, wall_clock):
        client = Client(Application(daemon, NAMES), "127.0.0.1:7420", TOKEN)
        answers = [await client("GET", "/api/status", token="yoi_no") for _ in range(5)]
        assert [answer.status for answer in answers] == [401] * 3 + [429] * 2
        assert answers[-1].json["code"] == "rate_limited"
        assert answers[-1].json["retry_after_s"] > 0
        for _ in range(20):
            assert (await client("GET", "/api/status")).status == 200
        wall_clock.advance(1)
        assert (await client("GET", "/api/status", token=None)).status == 401
