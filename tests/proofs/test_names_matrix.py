"""Every form of a name and of a page's origin, on every route, over real sockets: who is let in, and who is not.

The requests carry the admin's token, so that nothing but the name and the page can refuse them. What
finds a hole is held against checks that have one.
"""

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
import pytest
import trio

pytest.importorskip("trio_websocket")

from yoi_daemon.api.app import ROUTES, Application
from yoi_daemon.api.routing import Answer, Request, Route
from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.front.access import Names, names_of
from yoi_daemon.front.http import serve_http
from yoi_daemon.front.sockets import open_sockets
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.front.websocket import serve_websocket
from yoi_daemon.model.addresses import TcpAddress
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.settings import ApiSettings, MemoryStoreSettings, Settings
from yoi_daemon.observe.server import ObserveServer
from yoi_daemon.stream.protocol import STREAMS

pytestmark = pytest.mark.prove

TOKEN = "yoi_admin"
PAGE = "https://app.example"
SAMPLE = 5
"""Of the routes one in so many is asked with each pair of forms, another one with the next pair."""


class HostForm(NamedTuple):
    """`lines` makes the target and the Host lines from the path and the port."""

    name: str
    lines: Callable[[str, int], tuple[str, list[str]]]
    good: bool = False
    version: str = "1.1"


def host(name: str, text: str, good: bool = False) -> HostForm:
    return HostForm(name, lambda path, port: (path, [text.format(port=port)]), good)


HOSTS: Sequence[HostForm] = (
    host("the address", "127.0.0.1:{port}", good=True),
    host("localhost", "localhost:{port}", good=True),
    host("in capitals", "LocalHost:{port}", good=True),
    host("IPv6 loopback", "[::1]:{port}", good=True),
    HostForm("none", lambda path, port: (path, [])),
    HostForm("none, in HTTP/1.0", lambda path, port: (path, []), version="1.0"),
    host("empty", ""),
    host("without the port", "127.0.0.1"),
    host("another port", "127.0.0.1:1"),
    host("a name that points here", "evil.example:{port}"),
    host("ours as a prefix", "127.0.0.1.evil.example:{port}"),
    host("ours behind a dot", "localhost.:{port}"),
    host("another form of the address", "2130706433:{port}"),
    host("a shorter form of it", "127.1:{port}"),
    host("any address", "0.0.0.0:{port}"),
    host("with a user", "127.0.0.1:{port}@evil.example"),
    host("a port with a zero before", "127.0.0.1:0{port}"),
    HostForm("twice", lambda path, port: (path, [f"127.0.0.1:{port}", f"evil.example:{port}"])),
    HostForm(
        "a good one beside an absolute target",
        lambda path, port: (f"http://evil.example:{port}{path}", [f"127.0.0.1:{port}"]),
    ),
    HostForm(
        "an absolute target of ours beside a bad one",
        lambda path, port: (f"http://127.0.0.1:{port}{path}", [f"evil.example:{port}"]),
    ),
)


class OriginForm(NamedTuple):
    """The lines that say which page asks."""

    name: str
    lines: tuple[str, ...]
    good_for_api: bool = False
    good_for_stream: bool = False


ORIGINS: Sequence[OriginForm] = (
    OriginForm("no page", (), True, True),
    OriginForm("a person", ("Sec-Fetch-Site: none",), True, True),
    OriginForm("a configured page", (f"Origin: {PAGE}", "Sec-Fetch-Site: cross-site"), True),
    OriginForm("null", ("Origin: null",)),
    OriginForm("a page elsewhere", ("Origin: https://evil.example", "Sec-Fetch-Site: cross-site")),
    OriginForm(
        "our own address", ("Origin: http://127.0.0.1:{port}", "Sec-Fetch-Site: same-origin")
    ),
    OriginForm("without TLS", ("Origin: http://app.example",)),
    OriginForm("another port", (f"Origin: {PAGE}:444",)),
    OriginForm("ours as a prefix", (f"Origin: {PAGE}.evil.example",)),
    OriginForm("two of them", (f"Origin: {PAGE}", "Origin: https://evil.example")),
    OriginForm("a list", (f"Origin: {PAGE}, https://evil.example",)),
    OriginForm("empty", ("Origin:",)),
    OriginForm("a picture on another site", ("Sec-Fetch-Site: cross-site",)),
    OriginForm("a picture on another port", ("Sec-Fetch-Site: same-site",)),
)


class Served(NamedTuple):
    port: int
    entered: list[str]


class Matrix:
    """Asks, and says what came in that should not have, and what did not that should."""

    def __init__(self, api: Served, stream: Served) -> None:
        self.api, self.stream = api, stream
        self.asked = 0
        self.wrong: list[str] = []

    async def route(self, name: HostForm, page: OriginForm, method: str, rule: str) -> None:
        good = name.good and page.good_for_api
        status = await self._ask(self.api, name, page, method, re.sub("<[^>]+>", "x", rule))
        entered = [f"{method} {rule}"] if good else []
        self._note(self.api, f"{method} {rule}", name, page, status, 200 if good else None, entered)

    async def follow(self, name: HostForm, page: OriginForm, rule: str) -> None:
        good = name.good and page.good_for_stream
        path = re.sub("<[^>]+>", "x", rule) + "?await=1"
        upgrade = (
            "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        )  # fmt: skip
        status = await self._ask(self.stream, name, page, "GET", path, upgrade)
        entered = ["begun"] if good else []
        self._note(self.stream, rule, name, page, status, 101 if good else None, entered)

    async def _ask(
        self,
        served: Served,
        name: HostForm,
        page: OriginForm,
        method: str,
        path: str,
        more: Sequence[str] = ("Connection: close",),
    ) -> int:
        target, hosts = name.lines(path, served.port)
        lines = [
            f"{method} {target} HTTP/{name.version}",
            *(f"Host: {one}" for one in hosts),
            *(one.format(port=served.port) for one in page.lines),
            f"Authorization: Bearer {TOKEN}",
            *more,
        ]
        self.asked += 1
        with trio.fail_after(20):
            async with await trio.open_tcp_stream("127.0.0.1", served.port) as connection:
                await connection.send_all("\r\n".join([*lines, "", ""]).encode())
                answer = await connection.receive_some()
        return int(answer.split()[1])

    def _note(
        self,
        served: Served,
        rule: str,
        name: HostForm,
        page: OriginForm,
        status: int,
        wanted: int | None,
        entered: list[str],
    ) -> None:
        is_right = status in (400, 403) if wanted is None else status == wanted
        if not is_right or served.entered != entered:
            self.wrong.append(f"{rule}, Host {name.name}, {page.name}: {status} {served.entered}")
        served.entered.clear()


@pytest.fixture
async def daemon(tmp_path) -> AsyncGenerator[Daemon]:
    directories = Directories(tmp_path / "config", tmp_path / "state", tmp_path / "secrets")
    directories.state.mkdir()
    settings = Settings(api=ApiSettings(commands_per_s=10_000), store=MemoryStoreSettings())
    async with open_daemon(directories, settings, Tokens(TOKEN), environ={}) as one:
        yield one


@asynccontextmanager
async def serve(daemon: Daemon, make: Callable[[Names], Names]) -> AsyncGenerator[Matrix]:
    """Both listeners on real sockets; handlers only note that they were entered."""
    for_api, for_stream = open_sockets([TcpAddress("127.0.0.1", 0)] * 2)
    assert isinstance(for_api.address, TcpAddress)
    assert isinstance(for_stream.address, TcpAddress)
    api, stream = Served(for_api.address.port, []), Served(for_stream.address.port, [])

    def noting(route: Route) -> Route:
        async def handler(request: Request) -> Answer:
            api.entered.append(f"{route.method} {route.rule}")
            return Answer({})

        return msgspec.structs.replace(route, handler=handler)

    class Opening(ObserveServer):
        async def admit(self, request: Any) -> Any:
            handler = await super().admit(request)
            stream.entered.append("begun")
            return handler

    draining = trio.Event()
    app = Application(
        daemon, make(names_of([for_api.address], [], [PAGE])), [noting(one) for one in ROUTES]
    )
    gate = Opening(daemon, make(names_of([for_stream.address], [], [])))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate._fanout.run)
        nursery.start_soon(
            lambda: serve_http(app, [for_api.socket], draining=draining, graceful_s=1)
        )
        nursery.start_soon(
            lambda: serve_websocket([for_stream.socket], gate.admit, draining=draining)
        )
        yield Matrix(api, stream)
        nursery.cancel_scope.cancel()


async def test_no_handler_is_entered_where_it_should_not_and_each_where_it_should(daemon, full):
    assert len(HOSTS) >= 12
    assert len(ORIGINS) >= 8
    turn = 0
    async with serve(daemon, lambda names: names) as matrix:
        for name in HOSTS:
            for page in ORIGINS:
                turn += 1
                for number, route in enumerate(ROUTES):
                    if full or (number + turn) % SAMPLE == 0:
                        await matrix.route(name, page, route.method, route.rule)
                for number, stream in enumerate(STREAMS):
                    if full or (number + turn) % SAMPLE < 2:
                        await matrix.follow(name, page, stream.rule)
    print(f"{matrix.asked} requests")
    assert matrix.wrong == []


class Broken(Names):
    """The right check, with one fault that others have had."""

    def __init__(self, right: Names) -> None:
        super().__init__(right._hosts, right._origins)


class PortBlind(Broken):
    def check(self, headers) -> None:
        ours = next(iter(self._hosts))
        name = headers.get("host", "").rpartition(":")[0]
        if name in ("127.0.0.1", "localhost"):
            headers = {**headers, "host": ours}
        super().check(headers)


class PrefixOfName(Broken):
    def check(self, headers) -> None:
        if headers.get("host", "").startswith("127.0.0.1"):
            headers = {**headers, "host": next(iter(self._hosts))}
        super().check(headers)


class NoNameNeeded(Broken):
    def check(self, headers) -> None:
        super().check({"host": next(iter(self._hosts)), **headers})


class PrefixOfOrigin(Broken):
    def check(self, headers) -> None:
        if headers.get("origin", "").startswith(PAGE):
            headers = {**headers, "origin": PAGE}
        super().check(headers)


class NullIsNobody(Broken):
    def check(self, headers) -> None:
        given = {name: value for name, value in headers.items() if value != "null"}
        super().check(given)


class OwnAddressIsFine(Broken):
    def check(self, headers) -> None:
        origin = headers.get("origin", "")
        if origin.removeprefix("http://") == headers.get("host"):
            headers = {name: value for name, value in headers.items() if name != "origin"}
        super().check(headers)


class BlindToFetch(Broken):
    def check(self, headers) -> None:
        given = {name: value for name, value in headers.items() if name != "sec-fetch-site"}
        super().check(given)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (PortBlind, "another port, no page"),
        (PrefixOfName, "ours as a prefix, no page"),
        (NoNameNeeded, "Host none, in HTTP/1.0, no page"),
        (PrefixOfOrigin, "Host the address, ours as a prefix"),
        (NullIsNobody, "Host the address, null"),
        (OwnAddressIsFine, "Host the address, our own address"),
        (BlindToFetch, "a picture on another site"),
    ],
)
async def test_a_check_with_a_hole_is_found(daemon, fault, found):
    async with serve(daemon, fault) as matrix:
        for name in HOSTS:
            for page in ORIGINS:
                await matrix.route(name, page, "GET", "/api/status")
                if fault is not PrefixOfOrigin:  # the stream has no origins
                    await matrix.follow(name, page, "/v1/events")
    assert any(found in wrong and "/api/status" in wrong for wrong in matrix.wrong), matrix.wrong
    if fault not in (PrefixOfOrigin, NoNameNeeded):  # nor is a stream opened in HTTP/1.0
        assert any(found in wrong and "/v1/events" in wrong for wrong in matrix.wrong)
