"""What a handler reads of a request, and what is told when it cannot."""

import msgspec
import pytest

from tests.api.asgi import Client
from tests.api.conftest import NAMES
from yoi_daemon.api.app import Application
from yoi_daemon.api.routing import Answer, Lines, Request, Route, _number
from yoi_daemon.model.errors import Refused


class Body(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    number: int = 0


def app_of(daemon, handler) -> Client:
    route = Route("POST", "/x", "public", handler)
    return Client(Application(daemon, NAMES, [route]), "127.0.0.1:7420", None)


@pytest.fixture
def read_body(daemon) -> Client:
    async def handler(request: Request) -> Answer:
        return Answer(await request.json(Body))

    return app_of(daemon, handler)


async def test_a_body_is_read_as_its_type(read_body):
    answer = await read_body("POST", "/x", {"text": "é", "number": 3})
    assert (answer.status, answer.json) == (200, {"text": "é", "number": 3})


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"text": 1}', b'{"text": "a", "other": 1}', b'{"text": "\xff"}', b'"\xff',
     b'{"text": "\\ud800"}', b"[" * 100_000, b'{"number": 1}'],
)  # fmt: skip
async def test_a_body_that_does_not_fit_is_refused(read_body, body):
    answer = await read_body("POST", "/x", body, content_type="application/json")
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_body_must_say_that_it_is_json(read_body, kind):
    answer = await read_body("POST", "/x", b'{"text": "a"}', content_type=kind)
    assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")
    answer = await read_body("POST", "/x", b"{}")
    assert answer.status == 415


async def test_json_may_name_its_characters(read_body):
    kind = "application/json; charset=utf-8"
    assert (await read_body("POST", "/x", b'{"text": "a"}', content_type=kind)).status == 200


@pytest.fixture
def read_query(daemon) -> Client:
    async def handler(request: Request) -> Answer:
        return Answer(request.query(after=None, limit=100))

    return app_of(daemon, handler)


@pytest.mark.parametrize(
    ("query", "read"),
    [
        ("", {"after": None, "limit": 100}),
        ("?after=x&limit=7", {"after": "x", "limit": 7}),
        ("?after=", {"after": "", "limit": 100}),
        ("?limit=0", {"after": None, "limit": 0}),
    ],
)
async def test_a_query_is_read(read_query, query, read):
    assert (await read_query("POST", f"/x{query}")).json == read


@pytest.mark.parametrize(
    "query",
    ["?limt=1", "?limit=1&limit=2", "?limit=-1", "?limit=1.5", "?limit=", "?limit=%D9%A1",
     "?limit=1000000000", "?limit=1e3", "?limit=+1"],
)  # fmt: skip
async def test_a_query_that_cannot_be_meant_is_refused(read_query, query):
    answer = await read_query("POST", f"/x{query}")
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("text", ["", "x", "１", "1" * 10])
def test_a_number_is_ascii_digits(text):
    with pytest.raises(Refused):
        _number("limit", text)


async def test_headers_have_lower_case_names(daemon):
    async def handler(request: Request) -> Answer:
        return Answer(dict(request.headers))

    answer = await app_of(daemon, handler)("POST", "/x", X_Thing="Kept As It Is")
    assert answer.json["x-thing"] == "Kept As It Is"


async def test_lines_are_read_and_answered_one_by_one(daemon):
    async def handler(request: Request) -> Lines:
        reader = request.line_reader()

        async def following():
            line = await reader.next_line()
            return [] if line is None else [{"line": line.decode()}]

        return Lines(following)

    client = app_of(daemon, handler)
    answer = await client("POST", "/x", b"1\n\n2\r\n3", content_type="application/x-ndjson")
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [msgspec.json.decode(line) for line in answer.body.splitlines()]
    assert [line["line"].strip() for line in lines] == ["1", "2", "3"]
