"""`/openapi.json`: OpenAPI 3.1, made from the table of routes and the types it names."""

import re
import types
from collections.abc import Sequence
from functools import cache
from typing import Any, Union, get_args, get_origin

import msgspec

from yoi_daemon.api.idempotency import HEADER
from yoi_daemon.api.routing import KEY_PATTERN, Answer, Call, Lines, Route, Text
from yoi_daemon.api.shapes import ProblemBody
from yoi_daemon.daemon.daemon import version
from yoi_daemon.model.problem import CONTENT_TYPE

JSON = "application/json"
NDJSON = "application/x-ndjson"
PLAIN = "text/plain"
_PARAMETER = re.compile(r"<([a-z_]+)>")


def route(described: Sequence[Route]) -> Route:
    """The route that describes these routes, and itself."""

    async def show(call: Call) -> Answer:
        """The API as OpenAPI 3.1."""
        return Answer(page())

    @cache
    def page() -> dict[str, Any]:
        return openapi((*described, own))

    own = Route("GET", "/openapi.json", "status:read", show, gives=dict[str, Any])
    return own


def openapi(routes: Sequence[Route]) -> dict[str, Any]:
    """The page that describes `routes`."""
    wanted = [kind for one in routes for kind in _types(one)]
    schemas, components = msgspec.json.schema_components(
        [*wanted, ProblemBody], ref_template="#/components/schemas/{name}"
    )
    found = iter(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for one in routes:
        of = [next(found) for _ in _types(one)]
        path = _PARAMETER.sub(r"{\1}", one.rule)
        paths.setdefault(path, {})[one.method.lower()] = _operation(one, of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Yoi Daemon", "version": version()},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Problem": {
                    "description": "A refusal; `code` says which.",
                    "content": {CONTENT_TYPE: {"schema": next(found)}},
                }
            },
        },
    }


def _types(one: Route) -> list[Any]:
    """The types whose schemas the route needs, in the order `_operation` takes them."""
    takes, _ = _body_type(one.takes)
    given = [] if one.gives in (Lines, Text) else [one.gives]
    taken = [] if takes in (None, bytes, Lines) else [takes]
    return [*given, *taken, *one.query.values()]


def _operation(one: Route, schemas: list[dict[str, Any]]) -> dict[str, Any]:
    left = iter(schemas)
    plain = {Lines: NDJSON, Text: PLAIN}.get(one.gives)
    gives = {} if plain is not None else next(left)
    answer = None if plain is None else {plain: {"schema": {"type": "string"}}}
    responses: dict[str, Any] = {
        str(one.status): {
            "description": "Done.",
            "content": answer or {JSON: {"schema": gives}},
        },
        "default": {"$ref": "#/components/responses/Problem"},
    }
    if one.rule == "/readyz":  # its no is an answer, not a problem
        responses["503"] = {"description": "Not ready.", "content": {JSON: {"schema": gives}}}
    operation: dict[str, Any] = {
        "operationId": one.handler.__name__,
        "summary": (one.handler.__doc__ or "").strip().partition("\n")[0],
        "responses": responses,
    }
    takes, required = _body_type(one.takes)
    if takes is bytes:
        operation["requestBody"] = {"content": {"application/octet-stream": {}}}
    elif takes is Lines:
        schema = {"schema": {"type": "string"}}
        operation["requestBody"] = {"required": True, "content": {NDJSON: schema}}
    elif takes is not None:
        content = {JSON: {"schema": next(left)}}
        operation["requestBody"] = {"required": required, "content": content}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(one.rule)
    ]
    parameters += [{"name": name, "in": "query", "schema": next(left)} for name in one.query]
    if one.is_keyed or (one.takes is Any and one.rule.endswith("/<ingress>")):
        key = {"type": "string", "pattern": f"^{KEY_PATTERN}$"}
        parameters.append({"name": HEADER.title(), "in": "header", "schema": key})
    if parameters:
        operation["parameters"] = parameters
    if one.access not in ("public", "signed"):
        operation["security"] = [{"token": []}]
        operation["description"] = f"Needs the scope `{one.access}`."
    return operation


def _body_type(takes: Any) -> tuple[Any, bool]:
    """The body's type, and whether there must be one."""
    if get_origin(takes) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(takes) if kind is not types.NoneType]
        if len(kinds) < len(get_args(takes)):
            return Union[tuple(kinds)], False  # noqa: UP007 (of what is computed)
    return takes, True
