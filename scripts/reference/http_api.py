"""`http-api`: every route, its scope, and what it takes, answers and refuses."""

from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin

import msgspec

from scripts.reference.text import alternatives, describe, is_struct, sentence
from yoi_daemon.api.app import ROUTES
from yoi_daemon.api.routing import GENERAL, Lines, Route, Text
from yoi_daemon.model.errors import CODES
from yoi_daemon.model.tokens import PER_PLUGIN


def render(routes: Sequence[Route] = ROUTES) -> str:
    return "\n".join(line for route in routes for line in _lines(route))


def _lines(route: Route) -> Iterator[str]:
    path = route.rule.replace("<", "{").replace(">", "}")
    yield f"## `{route.method} {path}`"
    yield ""
    yield sentence((route.handler.__doc__ or "").partition("\n\n")[0], f"{route.method} {path}")
    yield ""
    yield f"- Scope: {_access(route)}."
    for name, kind in route.query.items():
        yield f"- Query `{name}`: {describe(kind)}."
    if route.takes is not None:
        yield f"- Takes {_shape(route.takes)}."
    if route.is_keyed or route.takes_key:
        yield "- Honours `Idempotency-Key`."
    other = f" or {route.other_status}" if route.other_status else ""
    yield f"- Answers {route.status}{other} with {_shape(route.gives)}."
    refused = sorted(set(route.codes()) - set(GENERAL), key=lambda code: (CODES[code].status, code))
    if refused:
        yield "- Refuses with " + ", ".join(f"`{code}`" for code in refused) + "."
    yield ""


def _access(route: Route) -> str:
    if route.permission is None:
        return {"public": "none, no token", "signed": "none, the sender's signature"}[route.access]
    narrowed = f" or `{route.permission}:PLUGIN`" if route.permission in PER_PLUGIN else ""
    return f"`{route.permission}`{narrowed}"


def _shape(kind: Any) -> str:
    """A body in words, its fields named."""
    if kind is bytes:
        return "any bytes"
    if kind is Text:
        return "plain text"
    if get_origin(kind) is Lines:
        return f"NDJSON, each line {_shape(get_args(kind)[0])}"
    members = alternatives(kind)
    if type(None) in members:
        (member,) = (member for member in members if member is not type(None))
        return f"{_shape(member)}; it may be left out"
    origin = get_origin(kind)
    if is_struct(origin or kind):
        fields = ", ".join(
            field.encode_name + ("" if field.required else "?")
            for field in msgspec.structs.fields(origin or kind)
        )
        of = f", `items` each {_shape(get_args(kind)[0])}" if get_args(kind) else ""
        return f"`{{{fields}}}`{of}"
    return describe(kind)
