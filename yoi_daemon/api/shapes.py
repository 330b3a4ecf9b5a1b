"""Shapes of answers that no other room has: lists, receipts of the API's own, and problems."""

from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from yoi_daemon.model.errors import Code
from yoi_daemon.model.workers import Diagnostic

T = TypeVar("T")

Limit = Annotated[int, Meta(ge=0, le=999_999_999)]
"""How many items at most; a page has 1 to 256 whatever is asked."""


class Listing(msgspec.Struct, Generic[T], frozen=True, kw_only=True, omit_defaults=True):
    """A list, or a page of one: `next` is given as `after` for the page that follows."""

    items: tuple[T, ...]
    next: str | None = None
    diagnostics: tuple[Diagnostic, ...] = ()


class Alive(msgspec.Struct, frozen=True):
    """The process answers."""

    ok: bool


class Readiness(msgspec.Struct, frozen=True):
    """Whether the daemon serves as configured, and codes of what keeps it from that."""

    ready: bool
    codes: tuple[str, ...]


class ToolResult(msgspec.Struct, frozen=True):
    """What a tool returned."""

    result: Any


class ProblemBody(msgspec.Struct, frozen=True, kw_only=True, rename={"type_": "type"}):
    """Every error: RFC 9457. Codes add members of their own."""

    type_: str
    title: str
    status: int
    detail: str
    code: Code
    retryable: bool
    request_id: str
    retry_after_s: float | msgspec.UnsetType = msgspec.UNSET
