"""What a web page can do: nothing, unless its origin is configured; and then what it needs."""

import pytest

from tests.api.asgi import Client
from tests.api.conftest import NAMES, TOKEN
from yoi_daemon.api.app import Application
from yoi_daemon.api.routing import Answer, Request, Route
from yoi_daemon.front.access import names_of
from yoi_daemon.model.addresses import TcpAddress

PAGE = "https://app.example"
SECRET = "yoi_" + "x" * 43
PREFLIGHT = {
    "access_control_request_method": "POST",
    "access_control_request_headers": "authorization",
}


class Noted:
    """An application with two routes, and what of it was entered."""

    def __init__(self, daemon, names=NAMES) -> None:
        self.entered: list[str] = []

        async def handler(request: Request) -> Answer:
            self.entered.append(request.params["name"])
            return Answer({})

        routes = [
            Route("POST", "/api/<name>", "workers:command", handler),
            Route("GET", "/api/<name>", "workers:read", handler),
        ]
        self.ask = Client(Application(daemon, names, routes), "127.0.0.1:7420", TOKEN)


@pytest.fixture
def noted(daemon) -> Noted:
    return Noted(daemon)


def cors(answer) -> dict[str, str]:
    return {
        name: value for name, value in answer.headers.items() if name.startswith("access-control")
    }


async def test_a_page_of_a_configured_origin_may_ask_and_read(noted):
    before = await noted.ask("OPTIONS", "/api/x", token=None, origin=PAGE, **PREFLIGHT)
    assert (before.status, before.body) == (204, b"")
    assert before.headers["access-control-allow-origin"] == PAGE
    assert "authorization" in before.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in before.headers
    assert noted.entered == []
    answer = await noted.ask("POST", "/api/x", {}, origin=PAGE, sec_fetch_site="cross-site")
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["vary"] == "origin"
    assert noted.entered == ["x"]


async def test_it_can_read_why_it_was_refused(noted):
    for answer in (
        await noted.ask("GET", "/api/x", token=None, origin=PAGE),
        await noted.ask("GET", "/api/x?token=1", origin=PAGE),
        await noted.ask("GET", "/nowhere", origin=PAGE),
    ):
        assert answer.status in (400, 401, 404)
        assert answer.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "https://app.example.evil", "", "*"]
)
@pytest.mark.parametrize("method", ["OPTIONS", "GET", "POST"])
async def test_a_page_of_another_origin_may_neither_ask_nor_read(noted, origin, method):
    more = PREFLIGHT if method == "OPTIONS" else {}
    answer = await noted.ask(method, "/api/x", origin=origin, **more)
    assert (answer.status, answer.json["code"]) == (403, "origin_not_allowed")
    assert cors(answer) == {}
    assert noted.entered == []


async def test_without_configured_origins_there_is_no_cors_at_all(daemon):
    noted = Noted(daemon, names_of([TcpAddress("127.0.0.1", 7420)], [], []))
    for origin in (PAGE, "http://127.0.0.1:7420", "null"):
        answer = await noted.ask("OPTIONS", "/api/x", origin=origin, **PREFLIGHT)
        assert (answer.status, cors(answer)) == (403, {})
    answer = await noted.ask("POST", "/api/x", {})
    assert (answer.status, cors(answer)) == (200, {})


async def test_a_preflight_under_another_name_is_refused(noted):
    answer = await noted.ask(
        "OPTIONS", "/api/x", origin=PAGE, host="evil.example:7420", **PREFLIGHT
    )
    assert (answer.status, answer.json["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
     "text/plain; application/json", "application/jsonp", ""],
)  # fmt: skip
async def test_what_a_form_can_send_is_refused_before_a_handler(noted, kind):
    """Even with a token, and even where the handler would not look at the body."""
    more = {"content_type": kind} if kind else {}
    answer = await noted.ask("POST", "/api/x", b"{}", **more)
    assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")
    answer = await noted.ask("POST", "/api/x", b"{}", transfer_encoding="chunked", **more)
    assert answer.status == 415
    assert noted.entered == []


async def test_an_empty_form_is_a_form_and_no_body_is_none(noted):
    answer = await noted.ask("POST", "/api/x", b"", content_type="text/plain")
    assert answer.status == 415
    assert (await noted.ask("POST", "/api/x")).status == 200
    for kind in ("application/json", "application/json; charset=utf-8", "Application/JSON"):
        assert (await noted.ask("POST", "/api/x", b"{}", content_type=kind)).status == 200


@pytest.mark.parametrize(
    "query", [f"token={TOKEN}", f"access_token={TOKEN}", f"x={SECRET}", "authorization=1", "TOKEN="]
)
@pytest.mark.parametrize("path", ["/api/x", "/nowhere", "/healthz", "/hooks/a/b"])
async def test_a_token_in_the_url_is_refused_though_it_is_right(noted, path, query):
    answer = await noted.ask("GET", f"{path}?{query}")
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")
    assert TOKEN not in answer.body.decode()
    assert noted.entered == []
