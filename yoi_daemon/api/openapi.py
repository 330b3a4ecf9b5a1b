"""`/openapi.json`: OpenAPI 3.1, made from the table of routes and the types it names."""

import re
import types
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Union, get_args, get_origin

import msgspec

from yoi_daemon.api.idempotency import HEADER
from yoi_daemon.api.routing import JSON, KEY_PATTERN, NDJSON, Answer, Lines, Request, Route, Text
from yoi_daemon.api.shapes import ProblemBody
from yoi_daemon.daemon.daemon import version
from yoi_daemon.model.errors import CODES, Code
from yoi_daemon.model.problem import CONTENT_TYPE
from yoi_daemon.model.tokens import PER_PLUGIN

PLAIN = "text/plain"
ABOUT = (
    "What is no well-formed HTTP/1.1 request is refused before it is an operation's: "
    "400, 405, 408, 431 and 501, each with a Problem too."
)
_PARAMETER = re.compile(r"<([a-z_]+)>")
_REQUEST_ID = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}


def route(described: Sequence[Route]) -> Route:
    """Returns the route that describes these routes, and itself."""

    async def show(request: Request) -> Answer:
        """Describe the API as OpenAPI 3.1."""
        return Answer(page())

    @cache
    def page() -> dict[str, Any]:
        return openapi((*described, own))

    own = Route("GET", "/openapi.json", "status:read", show, gives=dict[str, Any])
    return own


def openapi(routes: Sequence[Route]) -> dict[str, Any]:
    """Returns the page that describes `routes`."""
    wanted = [kind for route in routes for kind in _types(route)]
    schemas, components = msgspec.json.schema_components(
        [*wanted, ProblemBody], ref_template="#/components/schemas/{name}"
    )
    found = iter(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        of = [next(found) for _ in _types(route)]
        path = _PARAMETER.sub(r"{\1}", route.rule)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, of)
    problem = next(found)
    refusals = {_name(codes): codes for route in routes for codes in _refusals(route).values()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Yoi Daemon", "version": version(), "description": ABOUT},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "headers": {
                "RequestId": {
                    "description": "The request's id in the daemon's log.",
                    "required": True,
                    "schema": {"type": "string"},
                },
                "RetryAfter": {
                    "description": "Seconds after which the same request may succeed.",
                    "schema": {"type": "integer", "minimum": 1},
                },
            },
            "responses": {
                name: _refusal(codes, problem) for name, codes in sorted(refusals.items())
            },
        },
    }


def _types(route: Route) -> list[Any]:
    """Returns the types whose schemas the route needs, in the order `_operation` takes them."""
    takes, _ = _body_type(route.takes)
    bodies = [kind for kind in (route.gives, takes) if kind not in (None, bytes, Text)]
    return [*(_line_type(kind) or kind for kind in bodies), *route.query.values()]


def _operation(route: Route, schemas: list[dict[str, Any]]) -> dict[str, Any]:
    left = iter(schemas)
    answer = {"content": _content(route.gives, left), "headers": _REQUEST_ID}
    responses: dict[str, Any] = {str(route.status): {"description": "Done.", **answer}}
    if route.other_status is not None:
        responses[str(route.other_status)] = {"description": "Not so.", **answer}
    responses |= {
        str(status): {"$ref": f"#/components/responses/{_name(codes)}"}
        for status, codes in _refusals(route).items()
    }
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": (route.handler.__doc__ or "").strip().partition("\n")[0],
        "responses": responses,
    }
    takes, required = _body_type(route.takes)
    if takes is not None:
        operation["requestBody"] = {"required": required, "content": _content(takes, left)}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(route.rule)
    ]
    parameters += [{"name": name, "in": "query", "schema": next(left)} for name in route.query]
    if route.is_keyed or route.takes_key:
        key = {"type": "string", "pattern": f"^{KEY_PATTERN}$"}
        parameters.append({"name": HEADER.title(), "in": "header", "schema": key})
    if parameters:
        operation["parameters"] = parameters
    if route.permission is not None:
        narrowed = f", or `{route.permission}:PLUGIN`" if route.permission in PER_PLUGIN else ""
        operation["security"] = [{"token": []}]
        operation["description"] = f"Needs the scope `{route.permission}`{narrowed}."
    return operation


def _content(kind: Any, schemas: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """A body's media type and schema. OpenAPI 3.2 gives the lines of NDJSON as an array's items, and so does this."""
    if kind is bytes:
        return {"application/octet-stream": {}}
    if kind is Text:
        return {PLAIN: {"schema": {"type": "string"}}}
    if _line_type(kind) is not None:
        return {NDJSON: {"schema": {"type": "array", "items": next(schemas)}}}
    return {JSON: {"schema": next(schemas)}}


def _refusals(route: Route) -> dict[int, tuple[Code, ...]]:
    """Its codes by status."""
    by_status: dict[int, tuple[Code, ...]] = {}
    for code in route.codes():
        status = CODES[code].status
        by_status[status] = (*by_status.get(status, ()), code)
    return dict(sorted(by_status.items()))


def _name(codes: Sequence[Code]) -> str:
    return "-".join(sorted(codes))


def _refusal(codes: Sequence[Code], problem: dict[str, Any]) -> dict[str, Any]:
    schema = {"allOf": [problem, {"properties": {"code": {"enum": sorted(codes)}}}]}
    headers = dict(_REQUEST_ID)
    if any(CODES[code].retryable for code in codes):
        headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    return {
        "description": " or ".join(f"`{code}`" for code in sorted(codes)),
        "headers": headers,
        "content": {CONTENT_TYPE: {"schema": schema}},
    }


def _line_type(kind: Any) -> Any:
    """`T` of `Lines[T]`; None of anything else."""
    return get_args(kind)[0] if get_origin(kind) is Lines else None


def _body_type(takes: Any) -> tuple[Any, bool]:
    """Returns the body's type, and whether there must be one."""
    if get_origin(takes) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(takes) if kind is not types.NoneType]
        if len(kinds) < len(get_args(takes)):
            return Union[tuple(kinds)], False  # noqa: UP007 (of what is computed)
    return takes, True
