"""The REST application: the table of routes, and what stands before every one of them."""

import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
import trio
from quart import Response
from quart import request as quart_request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from yoi_daemon.api import (
    deadletters,
    health,
    ingress,
    metrics,
    openapi,
    plugins,
    status,
    tokens,
    tools,
    workers,
)
from yoi_daemon.api.cors import Headers, answer_headers, is_preflight, preflight_headers
from yoi_daemon.api.idempotency import Replies
from yoi_daemon.api.routing import (
    BODY_TIMEOUT_S,
    MAX_BODY_BYTES,
    Answer,
    Lines,
    Request,
    Route,
    Text,
    address_of_request,
    answer_json,
    answer_lines,
    answer_problem,
    answer_text,
    refusal_of,
    require_json,
)
from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.front.access import Names, joined, refuse_token_in_query
from yoi_daemon.front.head import loggable
from yoi_daemon.front.principal import Principal
from yoi_daemon.model.errors import Refused, YoiError
from yoi_daemon.model.problem import CONTENT_TYPE, internal_problem, problem
from yoi_daemon.model.rates import RateLimits
from yoi_daemon.store.idempotency import DeliveryKeys

DESCRIBED: tuple[Route, ...] = (
    *health.ROUTES,
    *status.ROUTES,
    *tokens.ROUTES,
    *metrics.ROUTES,
    *plugins.ROUTES,
    *ingress.ROUTES,
    *deadletters.ROUTES,
    *tools.ROUTES,
    *workers.ROUTES,
)
ROUTES = (*DESCRIBED, openapi.route(DESCRIBED))

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Application:
    """The ASGI application of one daemon.

    In this order: the name we are called by, the page that asks, a token in the URL; then the route,
    its authorisation, its rate, the kind of its body; then its handler.
    """

    def __init__(self, daemon: Daemon, names: Names, routes: Sequence[Route] = ROUTES) -> None:
        self._daemon = daemon
        self._names = names
        keys = DeliveryKeys("", Answer, daemon.event_log, age_s=daemon.store.age_s)
        keys.restore(daemon.kept_keys)
        self._replies = Replies(keys, daemon.draining)
        self._commands = RateLimits()
        app = self.quart = QuartTrio("yoi_daemon.api", static_folder=None)
        app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
        app.config["BODY_TIMEOUT"] = BODY_TIMEOUT_S
        app.config["RESPONSE_TIMEOUT"] = None
        app.url_map.merge_slashes = False
        app.url_map.strict_slashes = True
        self._views = {f"{route.method} {route.rule}": self._view(route) for route in routes}
        for route in routes:
            endpoint = f"{route.method} {route.rule}"
            app.add_url_rule(
                route.rule,
                endpoint=endpoint,
                view_func=self._views[endpoint],
                methods=[route.method],
                provide_automatic_options=False,
            )
        app.before_request(self._deny_unlisted)
        app.register_error_handler(HTTPException, self._refuse)

    def table(self) -> list[tuple[str, str]]:
        """Returns the method and the rule of everything that can be asked, as the dispatcher has it."""
        return sorted(
            (method, rule.rule)
            for rule in self.quart.url_map.iter_rules()
            for method in (rule.methods or ())
            if method != "HEAD"  # werkzeug adds it to GET, by the same view
        )

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        headers = joined(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        )
        try:
            self._names.check(headers)
            if (origin := headers.get("origin")) is not None:
                if is_preflight(scope["method"], headers):
                    await _send_empty(send, preflight_headers(origin))
                    return
                send = _readable_by(origin, send)
            refuse_token_in_query(scope["query_string"].decode("latin-1"))
        except Refused as refused:
            await _send_problem(send, self._daemon.ids.new("req"), refused)
            return
        await self.quart(scope, receive, send)

    async def _deny_unlisted(self) -> Response | None:
        """Before anything is dispatched: what was not made from a `Route` is for nobody."""
        rule = quart_request.url_rule
        if rule is None:  # no such path or method: told by `_refuse`
            return None
        view = self._views.get(rule.endpoint)
        if view is not None and self.quart.view_functions.get(rule.endpoint) is view:
            return None
        request_id = self._daemon.ids.new("req")
        refused = Refused("forbidden", "nobody may use this route: it has no authorisation")
        return answer_problem(problem(refused, request_id), request_id)

    async def _refuse(self, error: HTTPException) -> Response:
        request_id = self._daemon.ids.new("req")
        if (error.code or 500) >= 500:  # what the framework makes of a fault that no view caught
            return answer_problem(internal_problem(request_id), request_id)
        response = answer_problem(problem(refusal_of(error), request_id), request_id)
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return response

    def _view(self, route: Route) -> Callable[..., Awaitable[Response]]:
        async def view(**params: str) -> Response:
            request_id = self._daemon.ids.new("req")
            try:
                answer = await self._answer(route, params)
            except Refused as refused:
                return answer_problem(problem(refused, request_id), request_id)
            except HTTPException:
                raise
            except Exception as error:  # noqa: BLE001 (told to the client by its id, and logged)
                structlog.get_logger("api").error(
                    "request failed",
                    request_id=request_id,
                    route=route.rule,
                    headers=loggable(quart_request.headers.items()),
                    # Where, and the words only of our own errors: others' may quote the request.
                    error=repr(error) if isinstance(error, YoiError) else type(error).__qualname__,
                    stack="".join(traceback.format_tb(error.__traceback__)),
                )
                return answer_problem(internal_problem(request_id), request_id)
            if isinstance(answer, Lines):
                return answer_lines(answer, request_id)
            if isinstance(answer, Text):
                return answer_text(answer, request_id)
            return answer_json(answer, request_id)

        return view

    async def _answer(self, route: Route, params: Mapping[str, str]) -> Answer | Lines[Any] | Text:
        caller = self._authorise(route, params)
        if route.access != "signed":
            require_json()
        request = Request(self._daemon, params, caller)
        if not route.is_keyed:
            return await route.handler(request)
        address = f"{route.method} {quart_request.path}"
        return await self._replies.answer(request, address, route.handler)

    def _authorise(self, route: Route, params: Mapping[str, str]) -> Principal | None:
        if route.permission is None:
            return None  # a signed route's handler checks the signature, which is over the body
        authorization = quart_request.headers.get("authorization")
        principal = self._daemon.tokens.authenticate(authorization, address_of_request())
        principal.require(route.permission, params.get("plugin_id"))
        if route.is_command:
            now, per_s = trio.current_time(), self._daemon.settings.api.commands_per_s
            limit = self._commands.of(principal.token_id, now)
            limit.take(now, per_s, "commands by this token")
        return principal


def _readable_by(origin: str, send: Send) -> Send:
    async def send_readable(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = [*message["headers"], *answer_headers(origin)]
            message = {**message, "headers": headers}
        await send(message)

    return send_readable


async def _send_empty(send: Send, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _send_problem(send: Send, request_id: str, refused: Refused) -> None:
    content = msgspec.json.encode(problem(refused, request_id))
    headers = [
        (b"content-type", CONTENT_TYPE.encode()),
        (b"content-length", str(len(content)).encode()),
        (b"x-request-id", request_id.encode()),
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
