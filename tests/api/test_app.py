"""What stands before and around every route; who may use which is in contracts/test_guarded.py."""

import pytest

from tests.api.asgi import Client
from tests.api.conftest import NAMES, TOKEN
from yoi_daemon.api.app import ROUTES, Application
from yoi_daemon.api.routing import MAX_BODY_BYTES, Answer, Request, Route
from yoi_daemon.model.errors import Refused, StorageFailed

PROBLEM = "application/problem+json"


def entered_routes(daemon, routes=ROUTES) -> tuple[Client, list[str]]:
    """The real table, with handlers that only note that they were entered."""
    entered: list[str] = []

    def noting(route: Route) -> Route:
        async def handler(request: Request) -> Answer:
            entered.append(f"{route.method} {route.rule}")
            return Answer({})

        return Route(route.method, route.rule, route.access, handler)

    app = Application(daemon, NAMES, [noting(route) for route in routes])
    return Client(app, "127.0.0.1:7420", TOKEN), entered


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "evil.example"}, "host_not_allowed"),
        ({"host": "127.0.0.1:7421"}, "host_not_allowed"),
        ({"origin": "https://evil.example"}, "origin_not_allowed"),
        ({"sec_fetch_site": "cross-site"}, "origin_not_allowed"),
    ],
)
async def test_the_name_and_the_page_are_checked_before_anything_is_routed(daemon, headers, code):
    client, entered = entered_routes(daemon)
    for path in ("/healthz", "/api/status", "/nowhere"):
        answer = await client("GET", path, **headers)
        assert (answer.status, answer.json["code"]) == (403, code)
        assert answer.headers["content-type"] == PROBLEM
    answer = await client("POST", "/hooks/x/x", **headers)
    assert answer.status == 403
    assert entered == []


async def test_no_host_at_all_is_refused(daemon):
    client = Client(Application(daemon, NAMES), None, TOKEN)
    assert (await client("GET", "/healthz")).status == 403


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "route_not_found"),
        ("GET", "/api/status/", 404, "route_not_found"),
        ("GET", "/api//status", 404, "route_not_found"),
        ("GET", "/api/plugins/%2e%2e", 404, "plugin_not_found"),
        ("DELETE", "/api/status", 405, "method_not_allowed"),
        ("OPTIONS", "/api/status", 405, "method_not_allowed"),
        ("GET", "/api/plugins/nope", 404, "plugin_not_found"),
        ("GET", "/api/runtimes/nope", 404, "runtime_not_found"),
        ("GET", "/api/runtimes/backend-internal/workers/nope", 404, "worker_not_found"),
        ("POST", "/hooks/nope/push", 404, "ingress_not_found"),
    ],
)
async def test_what_is_not_there_is_a_problem(client, method, path, status, code):
    answer = await client(method, path)
    assert (answer.status, answer.headers["content-type"]) == (status, PROBLEM)
    assert answer.json["code"] == code
    assert answer.json["request_id"] == answer.headers["x-request-id"]
    assert answer.json["type"] == f"urn:yoi-daemon:error:{code}"


async def test_head_answers_as_get_without_a_body(client):
    answer = await client("HEAD", "/healthz")
    assert answer.status == 200


def app_of(daemon, handler, access="public", method="POST") -> Client:
    route = Route(method, "/x", access, handler)
    return Client(Application(daemon, NAMES, [route]), "127.0.0.1:7420", TOKEN)


async def test_a_fault_of_a_handler_is_told_by_its_id_alone(daemon, logged_errors):
    async def handler(request: Request) -> Answer:
        raise KeyError("the secret inside")

    answer = await app_of(daemon, handler)("POST", "/x")
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert "secret" not in answer.body.decode()
    (logged,) = logged_errors.expect("request failed")
    assert answer.json["request_id"] in logged


async def test_of_a_request_that_failed_no_header_is_logged_but_the_listed_ones(
    daemon, logged_errors
):
    async def handler(request: Request) -> Answer:
        raise KeyError(*request.headers.values())

    await app_of(daemon, handler)("POST", "/x", x_canary="canary", user_agent="a-program/1")
    (logged,) = logged_errors.expect("request failed")
    assert "canary" not in logged
    assert TOKEN not in logged
    assert "'user-agent': 'a-program/1'" in logged
    assert "KeyError" in logged
    assert "test_app.py" in logged


async def test_a_failed_store_is_a_fault_of_ours(daemon, logged_errors):
    async def handler(request: Request) -> Answer:
        raise StorageFailed("the event log is closed")

    answer = await app_of(daemon, handler)("POST", "/x")
    assert (answer.status, answer.json["code"]) == (500, "internal")
    logged_errors.expect("the event log is closed")


async def test_a_refusal_is_answered_with_its_fields(daemon):
    async def handler(request: Request) -> Answer:
        raise Refused("queue_full", "wait", retry_after_s=0.2, queue_depth=256)

    answer = await app_of(daemon, handler)("POST", "/x")
    assert answer.status == 429
    assert answer.headers["retry-after"] == "1"
    assert (answer.json["retry_after_s"], answer.json["queue_depth"]) == (0.2, 256)
    assert answer.json["retryable"] is True


async def test_a_workers_life_over_rest(client):
    workers = "/api/runtimes/backend-internal/workers"
    made = await client("POST", workers, {"label": "one", "input": "hello"})
    assert made.status == 201
    worker_id = made.json["worker"]["worker_id"]
    sent = await client(
        "POST", f"{workers}/{worker_id}/input", {"text": "more", "when_busy": "queue"}
    )
    assert sent.status == 202
    assert set(sent.json) == {"worker", "cursor"}
    assert (await client("GET", f"{workers}/{worker_id}")).json["label"] == "one"
    assert len((await client("GET", f"{workers}?limit=1")).json["items"]) == 1
    page = await client("GET", f"{workers}/{worker_id}/transcript?limit=1&max_bytes=3")
    assert len(page.json["items"]) <= 1
    assert "as_of" in page.json
    listed = (await client("GET", "/api/workers")).json
    assert [worker["worker_id"] for worker in listed["items"]] == [worker_id]


async def test_status_and_health(client, daemon):
    assert (await client("GET", "/healthz", token=None)).json == {"ok": True}
    answer = await client("GET", "/readyz", token=None)
    assert (answer.status, answer.json) == (503, {"ready": False, "codes": ["starting"]})
    await daemon.note_ready()
    assert (await client("GET", "/readyz", token=None)).json == {"ready": True, "codes": []}
    status = (await client("GET", "/api/status")).json
    assert status["ready"] is True
    assert (status["store"]["kind"], status["store"]["durable"]) == ("memory", False)
    assert status["store"]["note"]
    daemon.begin_draining()
    answer = await client("GET", "/readyz", token=None)
    assert (answer.status, answer.json["codes"]) == (503, ["draining"])


async def test_a_body_that_is_too_large_is_refused(client):
    answer = await client(
        "POST",
        "/api/runtimes/backend-internal/workers",
        b"x" * (MAX_BODY_BYTES + 1),
        content_type="application/json",
    )
    assert (answer.status, answer.json["code"]) == (413, "payload_too_large")


async def test_a_stranger_learns_no_plugin_from_the_hooks(client):
    """No token is asked for there, so nothing is told of what there is."""
    bodies = [(await client("POST", path)).json for path in ("/hooks/nope/a", "/hooks/none/b")]
    assert {body["detail"] for body in bodies} == {"there is no webhook here"}
