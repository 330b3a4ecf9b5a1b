"""Every route of the live tables, HTTP and WebSocket: no handler is entered without its authorisation.

What finds an unguarded route is itself held against routes that are.
"""

import re
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.api.asgi import Client
from tests.clocks import ManualClock
from yoi_daemon.api.app import ROUTES, Application
from yoi_daemon.api.routing import Answer, Request, Route
from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.front.access import names_of
from yoi_daemon.front.failed_attempts import FailedAttempts
from yoi_daemon.front.principal import ADMIN
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.addresses import TcpAddress
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.settings import ApiSettings, MemoryStoreSettings, Settings
from yoi_daemon.model.tokens import PER_PLUGIN, PERMISSIONS, Permission
from yoi_daemon.monitoring.metrics import register_metrics

ADMIN_TOKEN = "yoi_admin"
HOST = "127.0.0.1:7420"
NAMES = names_of([TcpAddress("127.0.0.1", 7420)], [], [])
PLUGIN = "gen"

WITHOUT_TOKEN = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("POST", "/hooks/<plugin_id>/<ingress>"),
}
"""All that may be asked without a token. A webhook's signature is tested with the plugins."""


class Credentials(NamedTuple):
    """`bad` by what is wrong with it; `lacking` has all but one permission, `elsewhere` that for another plugin."""

    bad: dict[str, str | None]
    lacking: dict[Permission, str]
    elsewhere: dict[Permission, str]
    only: dict[str, str]


@pytest.fixture
async def daemon(tmp_path, wall_clock) -> AsyncGenerator[Daemon]:
    directories = Directories(tmp_path / "config", tmp_path / "state", tmp_path / "secrets")
    directories.state.mkdir()
    tokens = Tokens(
        ADMIN_TOKEN,
        failures=FailedAttempts(per_s=10_000, total_per_s=10_000),
        wall_clock=wall_clock,
    )
    settings = Settings(api=ApiSettings(commands_per_s=10_000), store=MemoryStoreSettings())
    async with open_daemon(directories, settings, tokens, environ={}, wall_clock=wall_clock) as one:
        register_metrics(one)
        yield one


@pytest.fixture
async def credentials(daemon: Daemon, wall_clock: ManualClock) -> Credentials:
    async def make(*scopes: str, expires_in_s: float | None = None) -> tuple[str, str]:
        secret, info = await daemon.tokens.create(ADMIN, scopes=scopes, expires_in_s=expires_in_s)
        return secret, info.token_id

    expired, _ = await make(*PERMISSIONS, expires_in_s=1)
    revoked, revoked_id = await make(*PERMISSIONS)
    await daemon.tokens.revoke(revoked_id)
    wall_clock.advance(1)
    lacking = {one: (await make(*(PERMISSIONS - {one})))[0] for one in PERMISSIONS}
    elsewhere = {one: (await make(*(PERMISSIONS - {one}), f"{one}:other"))[0] for one in PER_PLUGIN}
    only = {one: (await make(one))[0] for one in PERMISSIONS}
    only |= {one: (await make(f"{one}:{PLUGIN}"))[0] for one in PER_PLUGIN}
    bad = {
        "no token": None,
        "an empty one": "",
        "a wrong one": "yoi_" + "x" * 43,
        "another's case": ADMIN_TOKEN.upper(),
        "a longer one": ADMIN_TOKEN + "x",
        "an expired one": expired,
        "a revoked one": revoked,
    }
    return Credentials(bad, lacking, elsewhere, only)


class Watched:
    """The application over handlers that only note that they were entered."""

    def __init__(self, daemon: Daemon, kind: type[Application] = Application, *more: Route) -> None:
        self.entered: list[str] = []
        self.routes = {(one.method, one.rule): one for one in (*ROUTES, *more)}
        self.app = kind(daemon, NAMES, [self._noting(one) for one in self.routes.values()])
        self.client = Client(self.app, HOST, None)

    def _noting(self, route: Route) -> Route:
        async def handler(request: Request) -> Answer:
            self.entered.append(f"{route.method} {route.rule}")
            return Answer({})

        return msgspec.structs.replace(route, handler=handler)

    async def ask(self, method: str, rule: str, token: str | None):
        return await self.client(method, path_of(rule), token=token)

    async def unguarded(self, credentials: Credentials) -> list[str]:
        """Routes that were entered, or answered otherwise than 401 and 403, by whom they should not."""
        found: dict[str, None] = {}
        for method, rule in self.app.table():
            if (method, rule) in WITHOUT_TOKEN:
                continue
            name = f"{method} {rule}"
            route = self.routes.get((method, rule))
            tried = [(token, 401) for token in credentials.bad.values()]
            if route is not None and route.permission is not None:
                tried.append((credentials.lacking[route.permission], 403))
                if route.permission in PER_PLUGIN and "<plugin_id>" in rule:
                    tried.append((credentials.elsewhere[route.permission], 403))
            asked = ["GET", "HEAD"] if method == "GET" else [method]
            for token, status in tried:
                for one in asked:
                    answer = await self.ask(one, rule, token)
                    if answer.status != status or self.entered:
                        found[name] = None
                    self.entered.clear()
        return [*found]


def path_of(rule: str) -> str:
    return re.sub("<[^>]+>", "x", rule.replace("<plugin_id>", PLUGIN))


async def test_the_live_table_is_the_one_that_is_described(daemon):
    table = Application(daemon, NAMES).table()
    assert table == sorted((route.method, route.rule) for route in ROUTES)
    without = {(one.method, one.rule) for one in ROUTES if one.permission is None}
    assert without == WITHOUT_TOKEN


async def test_every_route_refuses_who_may_not(daemon, credentials):
    watched = Watched(daemon)
    assert await watched.unguarded(credentials) == []


async def test_every_route_is_entered_by_who_may(daemon, credentials):
    """The control of the test above: the tokens it takes for wrong are, and the right ones work."""
    watched = Watched(daemon)
    for (method, rule), route in watched.routes.items():
        tokens = [ADMIN_TOKEN]
        if route.permission is not None:
            tokens.append(credentials.only[route.permission])
        for token in tokens:
            assert (await watched.ask(method, rule, token)).status == 200, rule
        assert watched.entered == [f"{method} {rule}"] * len(tokens)
        watched.entered.clear()


async def test_a_refusal_says_what_is_lacking_and_is_a_problem(daemon, credentials):
    watched = Watched(daemon)
    answer = await watched.ask("GET", "/api/status", None)
    assert (answer.status, answer.json["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"
    answer = await watched.ask("GET", "/api/status", credentials.lacking["status:read"])
    assert (answer.json["code"], answer.json["scope"]) == ("forbidden", "status:read")


async def leak(request: Request) -> Answer:
    return Answer({})


async def test_a_route_that_is_public_by_mistake_is_found(daemon, credentials):
    watched = Watched(daemon, Application, Route("POST", "/api/leak", "public", leak))
    assert await watched.unguarded(credentials) == ["POST /api/leak"]


async def test_a_dispatcher_that_does_not_authorise_is_found(daemon, credentials):
    class Open(Application):
        def _authorise(self, route: Any, params: Any) -> Any:
            return ADMIN

    watched = Watched(daemon, Open)
    assert len(await watched.unguarded(credentials)) == len(ROUTES) - len(WITHOUT_TOKEN)


class ScopeBlind(Application):
    def _authorise(self, route: Any, params: Any) -> Any:
        return super()._authorise(route, {**params, "plugin_id": "other"})


async def test_a_dispatcher_that_looks_at_the_wrong_plugin_is_found(daemon, credentials):
    found = await Watched(daemon, ScopeBlind).unguarded(credentials)
    about = [one for one in ROUTES if one.access in PER_PLUGIN and "<plugin_id>" in one.rule]
    assert found == sorted(f"{one.method} {one.rule}" for one in about)
    assert len(found) == 3


async def test_a_route_made_past_the_table_is_for_nobody(daemon, credentials):
    watched = Watched(daemon)

    async def view() -> str:
        watched.entered.append("GET /api/leak")
        return ""

    watched.app.quart.add_url_rule("/api/leak", view_func=view, methods=["GET"])
    assert ("GET", "/api/leak") in watched.app.table()  # so the first test here fails
    assert (await watched.ask("GET", "/api/leak", ADMIN_TOKEN)).status == 403
    assert watched.entered == []
    # And a handler put in the place of another.
    watched.app.quart.view_functions["GET /api/status"] = view
    assert (await watched.ask("GET", "/api/status", ADMIN_TOKEN)).status == 403
    assert watched.entered == []
    # Without the dispatcher's no, it would be entered, and found.
    watched.app.quart.before_request_funcs.clear()
    assert "GET /api/leak" in await watched.unguarded(credentials)


@pytest.mark.parametrize("access", [None, "", "token", "plugins:read", "ingress:write:gen"])
def test_no_route_is_made_without_an_authorisation_that_there_is(access):
    with pytest.raises(ValueError, match="no route without"):
        Route("GET", "/api/leak", access, leak)


@pytest.mark.parametrize("access", sorted(PER_PLUGIN))
def test_no_route_about_a_plugin_is_made_that_names_none(access):
    with pytest.raises(ValueError, match="is about a plugin"):
        Route("POST", "/api/leak", access, leak)


# The stream.


@pytest.fixture
def observe():
    pytest.importorskip("trio_websocket")
    import yoi_daemon.observe.server as server

    return server


async def unguarded_streams(server: Any, daemon: Daemon, credentials: Credentials) -> list[str]:
    """Streams that were begun, or refused otherwise than with 401 and 403, for whom they should not."""
    from yoi_daemon.front.connection import UpgradeRequest
    from yoi_daemon.stream.protocol import STREAMS

    begun: list[str] = []

    class Noting(server):
        async def _begin(self, target: Any, asked: Any) -> Any:
            begun.append("begun")
            return await super()._begin(target, asked)

    found: dict[str, None] = {}
    watched = Noting(daemon, NAMES)
    for route in STREAMS:
        tried = [(token, 401) for token in credentials.bad.values()]
        tried.append((credentials.lacking[route.access], 403))
        for token, status in tried:
            headers = [("host", HOST)]
            if token is not None:
                headers.append(("authorization", f"Bearer {token}"))
            try:
                await watched.admit(UpgradeRequest(path_of(route.rule), "", headers, "1.2.3.4:5"))
                told = 101
            except Refused as refused:
                told = refused.status
            if told != status or begun:
                found[route.rule] = None
            begun.clear()
    return [*found]


async def test_every_stream_refuses_who_may_not(daemon, credentials, observe):
    assert await unguarded_streams(observe.ObserveServer, daemon, credentials) == []


async def test_a_stream_that_does_not_ask_is_found(daemon, credentials, observe):
    from yoi_daemon.stream.protocol import STREAMS

    class Open(observe.ObserveServer):
        async def admit(self, request: Any) -> Any:
            headers = [("host", HOST), ("authorization", f"Bearer {ADMIN_TOKEN}")]
            return await super().admit(replace(request, headers=headers))

    found = await unguarded_streams(Open, daemon, credentials)
    assert found == [route.rule for route in STREAMS]


async def test_every_stream_is_begun_for_who_may(daemon, credentials, observe):
    from yoi_daemon.front.connection import UpgradeRequest
    from yoi_daemon.stream.protocol import STREAMS

    server = observe.ObserveServer(daemon, NAMES)
    for route in STREAMS:
        for token in (ADMIN_TOKEN, credentials.only[route.access]):
            headers = [("host", HOST), ("authorization", f"Bearer {token}")]
            request = UpgradeRequest(path_of(route.rule), "await=1", headers, "1.2.3.4:5")
            assert callable(await server.admit(request))


@pytest.mark.parametrize("access", [None, "", "public", "signed", "ingress:write:gen"])
def test_no_stream_is_made_without_an_authorisation_that_there_is(observe, access):
    from yoi_daemon.stream.protocol import StreamRoute

    with pytest.raises(ValueError, match="a stream needs a permission"):
        StreamRoute("/v1/leak", access)
