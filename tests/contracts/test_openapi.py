"""The OpenAPI page is the table of routes, and real answers are what it says."""

import re
from typing import Any, get_origin

import msgspec
import pytest

from tests.api.asgi import Client
from tests.api.conftest import NAMES, TOKEN
from tests.api.conftest import daemon as daemon
from yoi_daemon.api.app import ROUTES, Application
from yoi_daemon.api.openapi import openapi
from yoi_daemon.api.routing import Lines, Route
from yoi_daemon.api.shapes import ProblemBody

WORKERS = "/api/runtimes/backend-internal/workers"


@pytest.fixture
def client(daemon) -> Client:
    return Client(Application(daemon, NAMES), "127.0.0.1:7420", TOKEN)


async def test_every_route_is_on_the_page_and_nothing_else(client):
    page = (await client("GET", "/openapi.json")).json
    assert page["openapi"] == "3.1.0"
    told = {(method, path) for path, methods in page["paths"].items() for method in methods}
    assert told == {
        (route.method.lower(), re.sub(r"<([a-z_]+)>", r"{\1}", route.rule)) for route in ROUTES
    }
    operations = [one for methods in page["paths"].values() for one in methods.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    assert all(one["summary"] for one in operations)


async def test_every_reference_leads_somewhere(client):
    page = (await client("GET", "/openapi.json")).json
    text = msgspec.json.encode(page).decode()
    for reference in re.findall(r'"\$ref":"#/([^"]+)"', text):
        at: Any = page
        for part in reference.split("/"):
            at = at[part]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.rule}")
def test_every_route_says_what_it_gives(route):
    assert route.gives is not None
    if get_origin(route.gives) is Lines:
        assert get_origin(route.takes) is Lines


def fits(value: Any, kind: Any) -> bool:
    """Whether `value` is `kind` and nothing more."""
    converted = msgspec.convert(value, kind)
    told = msgspec.json.decode(msgspec.json.encode(converted))
    return told == value or set(value) <= {*told, "items", "diagnostics"}


async def test_real_answers_are_what_the_page_says(client):
    kinds = {(route.method, route.rule): (route.gives, route.status) for route in ROUTES}
    made = (await client("POST", WORKERS, {"input": "hello"})).json["worker"]["worker_id"]
    rule = "/api/runtimes/<runtime_id>/workers"
    asked = [
        ("GET", "/api/status", "/api/status", None),
        ("GET", "/api/plugins", "/api/plugins", None),
        ("GET", "/api/tools", "/api/tools", None),
        ("GET", "/api/runtimes", "/api/runtimes", None),
        ("GET", "/api/runtimes/<runtime_id>", "/api/runtimes/backend-internal", None),
        ("GET", "/api/workers", "/api/workers", None),
        ("GET", rule, WORKERS, None),
        ("POST", rule, WORKERS, {}),
        ("GET", f"{rule}/<worker_id>", f"{WORKERS}/{made}", None),
        ("GET", f"{rule}/<worker_id>/transcript", f"{WORKERS}/{made}/transcript", None),
        ("POST", f"{rule}/<worker_id>/input", f"{WORKERS}/{made}/input", {"text": "x", "when_busy": "queue"}),
        ("POST", f"{rule}/<worker_id>/stop", f"{WORKERS}/{made}/stop", {"grace_s": 1}),
        ("POST", "/api/reload", "/api/reload", {}),
    ]  # fmt: skip
    for method, of, path, body in asked:
        answer = await client(method, path, b"" if body is None else body)
        kind, status = kinds[method, of]
        assert answer.status == status, (of, answer.body)
        assert fits(answer.json, kind), of
    refused = await client("POST", f"{WORKERS}/{made}/stop")
    assert refused.status == 410
    assert msgspec.convert(refused.json, ProblemBody).code == "worker_gone"


# -- no request can name a path, a module or a program

OF_THE_MACHINE = re.compile(
    "(paths?|files?|filename|folder|dir|directory|root|cwd|modules?|import|package|program|executable"
    "|exec|binary|command|cmd|script|argv|args|env|environ|shell|socket|url|uri|host|port)"
)
"""Words that a member's name would have if it named something of this machine."""


def asked_for(page: dict[str, Any]) -> set[str]:
    """The names of everything a request may carry, its bodies' members at any depth too."""
    names: set[str] = set()

    def walk(schema: Any) -> None:
        if isinstance(schema, list):
            for one in schema:
                walk(one)
        elif isinstance(schema, dict):
            if (reference := schema.get("$ref")) is not None:
                walk(page["components"]["schemas"][reference.rpartition("/")[2]])
            properties = schema.get("properties", {})
            names.update(properties)
            for key, one in schema.items():
                walk(list(one.values()) if key == "properties" else one)

    for methods in page["paths"].values():
        for operation in methods.values():
            names.update(parameter["name"] for parameter in operation.get("parameters", ()))
            walk(operation.get("requestBody", {}))
    return names


def of_the_machine(names: set[str]) -> set[str]:
    words = {name: re.split("[^a-z]+", name.lower()) for name in names}
    return {name for name in names if any(map(OF_THE_MACHINE.fullmatch, words[name]))}


async def test_no_request_can_name_a_path_a_module_or_a_program(client):
    names = asked_for((await client("GET", "/openapi.json")).json)
    assert {"plugin_id", "profile", "text", "Idempotency-Key"} <= names
    assert of_the_machine(names) == set()


async def test_the_control_a_route_that_takes_a_path_is_found(client):
    class Where(msgspec.Struct):
        module_path: str

    class Body(msgspec.Struct):
        where: list[Where] | None

    async def load(call):
        """Loads what the caller names."""

    taking = Route("POST", "/api/load/<file>", "plugins:admin", load, gives=Any, takes=Body)
    names = asked_for(openapi([taking]))
    assert of_the_machine(names) == {"module_path", "file"}
