"""How a route is made: it cannot be, without saying who may use it."""

import re
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, Literal, Self, TypeVar, cast, get_args

import msgspec
import trio
from quart import Request as QuartRequest
from quart import Response
from quart import request as quart_request
from quart.wrappers.response import ResponseBody
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, RequestTimeout
from werkzeug.local import LocalProxy

from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.front.principal import Principal
from yoi_daemon.model.errors import Code, Refused
from yoi_daemon.model.problem import CONTENT_TYPE
from yoi_daemon.model.strict_json import check_json
from yoi_daemon.model.tokens import PER_PLUGIN, PERMISSIONS, Permission

T = TypeVar("T")

WithoutToken = Literal["public", "signed"]
"""`public` tells nothing that matters; `signed` checks a signature, which is over the body."""
Access = Permission | WithoutToken
"""What the token must allow: for the plugin the path names, where the permission is for plugins."""

JSON = "application/json"
NDJSON = "application/x-ndjson"

MAX_KEY_CHARS = 200
KEY_PATTERN = f"[!-~]{{1,{MAX_KEY_CHARS}}}"
"""What an `Idempotency-Key` is."""
_KEY = re.compile(KEY_PATTERN)

MAX_BODY_BYTES = 1_048_576
BODY_TIMEOUT_S = 30


class Answer(msgspec.Struct, frozen=True):
    """A status and a public value, encoded as JSON.

    `kept` is what a repetition with the same `Idempotency-Key` is told, where that is another value:
    a secret is shown once and remembered nowhere.
    """

    value: Any
    status: int = 200
    kept: Any = msgspec.UNSET


class Text(msgspec.Struct, frozen=True):
    """An answer that is no JSON, encoded already."""

    content: bytes
    content_type: str


class Lines(msgspec.Struct, Generic[T], frozen=True):
    """A streamed answer: one JSON `T` a line. `following` gives those that are there next, none at the end."""

    following: Callable[[], Awaitable[Sequence[T]]]


class Request:
    """One authorised request, as handlers see it."""

    def __init__(self, daemon: Daemon, params: Mapping[str, str], caller: Principal | None) -> None:
        self.daemon = daemon
        self.params = params
        self._caller = caller
        # The request itself: a streamed answer outlives the context that the proxy needs.
        self._request: QuartRequest = cast(
            "LocalProxy[QuartRequest]", quart_request
        )._get_current_object()  # pyright: ignore[reportPrivateUsage] (werkzeug documents it)

    @property
    def principal(self) -> Principal:
        """Whose token it is; only of a route that needs one."""
        assert self._caller is not None, "a public route has no principal"
        return self._caller

    @property
    def address(self) -> str:
        """Returns where the request came from, without its port."""
        return address_of_request()

    def own_key(self, key: str) -> str:
        """Returns a delivery key as this token's own: another's with the same words is another key."""
        if not 1 <= len(key) <= MAX_KEY_CHARS:
            raise Refused("invalid_request", f"a delivery key has 1 to {MAX_KEY_CHARS} characters")
        return f"{self.principal.token_id} {key}"

    @property
    def headers(self) -> Mapping[str, str]:
        """Returns the request's headers, names in lower case."""
        return {name.lower(): value for name, value in self._request.headers.items()}

    def idempotency_key(self) -> str | None:
        """Returns the request's `Idempotency-Key`, if it has one. Raises `Refused` (`invalid_request`)."""
        key = self.headers.get("idempotency-key")
        if key is not None and _KEY.fullmatch(key) is None:
            raise Refused(
                "invalid_request", "Idempotency-Key: expected 1 to 200 printable ASCII characters"
            )
        return key

    async def body(self) -> bytes:
        """Returns the exact bytes. Raises `Refused`: `payload_too_large`, `request_timeout`."""
        try:
            data = cast(bytes, await self._request.get_data(as_text=False))
        except RequestEntityTooLarge as error:
            raise Refused(
                "payload_too_large",
                "the body is larger than this daemon takes",
                max_bytes=MAX_BODY_BYTES,
            ) from error
        except RequestTimeout as error:
            raise Refused(
                "request_timeout", f"the body did not arrive within {BODY_TIMEOUT_S} s"
            ) from error
        return data

    def line_reader(self) -> "LineReader":
        """Reads an NDJSON body. Raises `Refused` (`unsupported_media_type`)."""
        if self._request.mimetype != NDJSON:
            raise Refused("unsupported_media_type", f"send Content-Type: {NDJSON}")
        return LineReader(self._request.body)

    async def json_bytes(self) -> bytes:
        """Returns the body of a request that says it is JSON. Raises `Refused` (`unsupported_media_type`)."""
        if self._request.mimetype != JSON:
            raise Refused("unsupported_media_type", f"send Content-Type: {JSON}")
        return await self.body()

    async def json_or_none(self, kind: type[T]) -> T | None:
        """As `json`; None where there is no body, or a `null`."""
        body = await self.body()
        if not body or (body == b"null" and self._request.mimetype == JSON):
            return None
        return await self.json(kind)

    async def json(self, kind: type[T]) -> T:
        """Returns the body as `kind`. Raises `Refused` (`invalid_request`) with the place of the fault."""
        data = await self.json_bytes()
        try:
            check_json(data)
            return msgspec.json.decode(data, type=kind)
        except (msgspec.ValidationError, ValueError) as error:
            raise Refused("invalid_request", f"the body does not fit: {error}") from error

    def query(self, **defaults: Any) -> dict[str, Any]:
        """Returns the query's parameters, integers where the default is one. Raises `Refused` (`invalid_request`)."""
        given = self._request.args
        unknown = set(given) - set(defaults)
        if unknown:
            known = ", ".join(sorted(defaults)) or "none"
            raise Refused("invalid_request", f"unknown parameter; this route has {known}")
        values = dict(defaults)
        for name in given:
            texts = given.getlist(name)
            if len(texts) > 1:
                raise Refused("invalid_request", f"{name} is given twice")
            values[name] = _number(name, texts[0]) if isinstance(defaults[name], int) else texts[0]
        return values


class LineReader:
    """The lines of an NDJSON body as they arrive, empty ones left out."""

    def __init__(self, body: AsyncIterable[bytes]) -> None:
        self._chunks = aiter(body)
        self._deadline = trio.current_time() + BODY_TIMEOUT_S
        self._lines: deque[bytes] = deque()
        self._rest: bytes | None = b""  # None after the end

    @property
    def has_line(self) -> bool:
        """Returns whether the next line is there already."""
        return bool(self._lines)

    async def next_line(self) -> bytes | None:
        """Returns the next line, None at the end. Raises `Refused`: `payload_too_large`, `request_timeout`."""
        while not self._lines and self._rest is not None:
            chunk = await self._next_chunk()
            if chunk is None:
                last, self._rest = [self._rest], None
            else:
                *last, self._rest = (self._rest + chunk).split(b"\n")
            self._lines.extend(line for line in last if line.strip())
        return self._lines.popleft() if self._lines else None

    async def _next_chunk(self) -> bytes | None:
        with trio.move_on_at(self._deadline):
            try:
                return await anext(self._chunks)
            except StopAsyncIteration:
                return None
            except RequestEntityTooLarge as error:
                raise Refused(
                    "payload_too_large",
                    f"a batch is at most {MAX_BODY_BYTES} bytes; send the rest in another",
                    max_bytes=MAX_BODY_BYTES,
                ) from error
        raise Refused("request_timeout", f"the body did not arrive within {BODY_TIMEOUT_S} s")


class _LinesBody(ResponseBody):
    """What Quart sends of `Lines`."""

    def __init__(self, following: Callable[[], Awaitable[Sequence[Any]]]) -> None:
        self._following = following

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        values = await self._following()
        if not values:
            raise StopAsyncIteration
        return msgspec.json.Encoder().encode_lines(values)


Answered = Answer | Lines[Any] | Text
Handler = Callable[[Request], Awaitable[Answered]]


GENERAL: tuple[Code, ...] = (
    "invalid_request",
    "host_not_allowed",
    "origin_not_allowed",
    "internal",
)
"""What any request may be refused with; `Route.codes` adds what those with a token, a body or a key may."""


class Route(msgspec.Struct, frozen=True):
    """One method of one path. `rule` names its parameters in angle brackets.

    Raises `ValueError` without an `access` that is known, and for a permission about plugins whose
    route names none, unless it only reads: what it lists is then narrowed by its handler.
    """

    method: Literal["GET", "POST", "DELETE"]
    rule: str
    access: Access
    handler: Handler
    gives: Any = None
    """The type of a good answer, for the OpenAPI page; `Lines[T]` for one that is streamed, `Text` for plain text."""
    status: int = 200
    other_status: int | None = None
    """A second status of such an answer: readiness says no with one."""
    refuses: tuple[Code, ...] = ()
    """What a well-formed request may be refused with, by the state of things; see also `GENERAL`."""
    takes: Any = None
    """The type of a JSON body; `bytes` for any bytes, `Lines[T]` for NDJSON; with `| None` it may be left out."""
    query: Mapping[str, Any] = {}
    """The query's parameters and their types."""
    is_keyed: bool = False
    """Whether the dispatcher honours `Idempotency-Key`."""
    takes_key: bool = False
    """Whether its handler does so by itself."""

    def codes(self) -> tuple[Code, ...]:
        """Returns every code it may answer with, `refuses` and what any request of its kind is refused with."""
        reads_body = self.takes is not None or self.is_keyed
        says_its_type = self.method != "GET" and self.access != "signed"
        general: list[tuple[bool, tuple[Code, ...]]] = [
            (True, GENERAL),
            (self.permission is not None, ("unauthenticated", "forbidden", "rate_limited")),
            (reads_body, ("payload_too_large", "request_timeout")),
            (says_its_type, ("unsupported_media_type",)),
            (self.is_keyed or self.takes_key, ("delivery_id_conflict",)),
        ]
        codes: list[Code] = [code for holds, those in general if holds for code in those]
        return tuple(dict.fromkeys((*codes, *self.refuses)))

    def __post_init__(self) -> None:
        if self.access not in PERMISSIONS and self.access not in get_args(WithoutToken):
            raise ValueError(f"{self.method} {self.rule}: no route without its authorisation")
        names_plugin = "<plugin_id>" in self.rule
        if self.access in PER_PLUGIN and not names_plugin and self.method != "GET":
            raise ValueError(f"{self.method} {self.rule}: {self.access} is about a plugin")

    @property
    def permission(self) -> Permission | None:
        """Returns what the token must allow; None for a route without one."""
        return None if self.access in ("public", "signed") else self.access

    @property
    def is_command(self) -> bool:
        """Returns whether it is limited by rate; an ingress is bounded by its plugin's queue."""
        return self.method != "GET" and self.permission not in (None, "ingress:write")


def address_of_request() -> str:
    """Returns where the current request came from, without its port; `unix` where there is none."""
    return quart_request.remote_addr or "unix"


def require_json() -> None:
    """Raises `Refused` (`unsupported_media_type`) for a body a web page could send of itself.

    Text and forms go to other sites without asking them first (CORS calls such requests simple).
    """
    length = quart_request.headers.get("content-length", "0")
    has_body = length != "0" or "transfer-encoding" in quart_request.headers
    kind = quart_request.mimetype
    if kind not in (JSON, NDJSON) and (kind or has_body):
        raise Refused("unsupported_media_type", f"send Content-Type: {JSON}")


def answer_json(answer: Answer, request_id: str) -> Response:
    """Returns an answer on the wire."""
    response = Response(msgspec.json.encode(answer.value), status=answer.status, content_type=JSON)
    response.headers["X-Request-Id"] = request_id
    return response


def answer_text(text: Text, request_id: str) -> Response:
    """Text on the wire."""
    response = Response(text.content, content_type=text.content_type)
    response.headers["X-Request-Id"] = request_id
    return response


def answer_lines(lines: Lines[Any], request_id: str) -> Response:
    """Returns a streamed answer on the wire."""
    response = Response(_LinesBody(lines.following), content_type=NDJSON)
    response.headers["X-Request-Id"] = request_id
    return response


def answer_problem(body: dict[str, Any], request_id: str) -> Response:
    """Returns a problem on the wire."""
    response = Response(msgspec.json.encode(body), status=body["status"], content_type=CONTENT_TYPE)
    response.headers["X-Request-Id"] = request_id
    if (after_s := body.get("retry_after_s")) is not None:
        response.headers["Retry-After"] = str(max(1, round(after_s)))
    if body["status"] == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def refusal_of(error: HTTPException) -> Refused:
    """Returns what the web framework refuses by itself, in our words."""
    match error.code:
        case 404:
            return Refused("route_not_found", "there is nothing at this path; see /openapi.json")
        case 405:
            return Refused("method_not_allowed", "this path has other methods")
        case 413:
            return Refused("payload_too_large", "the body is larger than this daemon takes")
        case 408:
            return Refused("request_timeout", "the body did not arrive in time")
        case _:
            return Refused("invalid_request", "the request cannot be read")


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise Refused("invalid_request", f"{name}: expected a whole number")
    return int(text)
