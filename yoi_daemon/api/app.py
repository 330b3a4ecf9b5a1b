"""The REST application: the table of routes, and what stands before every one of them."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import structlog
from quart import Response
from quart import request as quart_request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from yoi_daemon.api import (
    deadletters,
    health,
    ingress,
    openapi,
    plugins,
    status,
    tools,
    workers,
)
from yoi_daemon.api.idempotency import Replies
from yoi_daemon.api.routing import (
    BODY_TIMEOUT_S,
    MAX_BODY_BYTES,
    Answer,
    Call,
    Lines,
    Route,
    answer_json,
    answer_lines,
    answer_problem,
    refusal_of,
)
from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.front.access import Names, Principal, refuse_token_in_query
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.problem import internal_problem, problem
from yoi_daemon.plugins.idempotency import DeliveryKeys

DESCRIBED: tuple[Route, ...] = (
    *health.ROUTES,
    *status.ROUTES,
    *plugins.ROUTES,
    *ingress.ROUTES,
    *deadletters.ROUTES,
    *tools.ROUTES,
    *workers.ROUTES,
)
ROUTES = (*DESCRIBED, openapi.route(DESCRIBED))

Asgi = Callable[
    [Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]


def make_app(daemon: Daemon, names: Names, routes: Sequence[Route] = ROUTES) -> Asgi:
    """The ASGI application of one daemon. Host and Origin are checked before anything is routed."""
    app = QuartTrio("yoi_daemon.api", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["BODY_TIMEOUT"] = BODY_TIMEOUT_S
    app.config["RESPONSE_TIMEOUT"] = None
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = True
    keys = DeliveryKeys("", Answer, daemon.event_log.record, age_s=daemon.store.age_s)
    keys.restore(daemon.kept_keys)
    replies = Replies(keys, daemon.event_log, daemon.draining)
    for route in routes:
        app.add_url_rule(
            route.rule,
            endpoint=f"{route.method} {route.rule}",
            view_func=_view(daemon, route, replies),
            methods=[route.method],
            provide_automatic_options=False,
        )

    async def refuse(error: HTTPException) -> Response:
        request_id = daemon.ids.new("req")
        if (error.code or 500) >= 500:  # what the framework makes of a fault that no view caught
            return answer_problem(internal_problem(request_id), request_id)
        response = answer_problem(problem(refusal_of(error), request_id), request_id)
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return response

    app.register_error_handler(HTTPException, refuse)
    return _guarded(app, daemon, names)


def _view(daemon: Daemon, route: Route, replies: Replies) -> Callable[..., Awaitable[Response]]:
    async def view(**params: str) -> Response:
        request_id = daemon.ids.new("req")
        try:
            principal = _authorise(daemon, route)
            call = Call(daemon, params, principal)
            if route.is_keyed:
                address = f"{route.method} {quart_request.path}"
                answer = await replies.answer(call, address, route.handler)
            else:
                answer = await route.handler(call)
        except Refused as refused:
            return answer_problem(problem(refused, request_id), request_id)
        except HTTPException:
            raise
        except Exception as error:  # noqa: BLE001 (told to the client by its id, and logged)
            structlog.get_logger("api").error(
                "request failed",
                request_id=request_id,
                route=route.rule,
                error=f"{type(error).__name__}: {error}",
                exc_info=error,
            )
            return answer_problem(internal_problem(request_id), request_id)
        if isinstance(answer, Lines):
            return answer_lines(answer, request_id)
        return answer_json(answer, request_id)

    return view


def _authorise(daemon: Daemon, route: Route) -> Principal | None:
    if route.access in ("public", "signed"):
        return None  # a signed route's handler checks the signature, which is over the body
    refuse_token_in_query(quart_request.query_string.decode("latin-1"))
    principal = daemon.tokens.authenticate(quart_request.headers.get("authorization"))
    principal.require(route.access)
    return principal


def _guarded(app: QuartTrio, daemon: Daemon, names: Names) -> Asgi:
    async def guarded(
        scope: Any,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        try:
            names.check(headers.get("host"), headers.get("origin"), headers.get("sec-fetch-site"))
        except Refused as refused:
            await _send_problem(problem(refused, daemon.ids.new("req")), send)
            return
        await app(scope, receive, send)

    return guarded


async def _send_problem(body: dict[str, Any], send: Callable[[Any], Awaitable[None]]) -> None:
    content = msgspec.json.encode(body)
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(content)).encode()),
        (b"x-request-id", body["request_id"].encode()),
    ]
    await send({"type": "http.response.start", "status": body["status"], "headers": headers})
    await send({"type": "http.response.body", "body": content})
