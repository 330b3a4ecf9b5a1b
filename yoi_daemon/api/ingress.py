"""The way in for events: the API's, and the webhooks'."""

from typing import Any, Protocol

import msgspec

from yoi_daemon.api.routing import Answer, Lines, Request, Route
from yoi_daemon.model.errors import Code, Refused
from yoi_daemon.model.plugins import IngressReceipt
from yoi_daemon.model.strict_json import check_json


async def post_ingress(request: Request) -> Answer:
    """Accept any JSON for a service; answer 202 after the commit."""
    payload = await request.json_bytes()
    key = request.idempotency_key()
    receipt = await request.daemon.plugins.accept(
        **request.params, payload=payload, key=None if key is None else request.own_key(key)
    )
    return Answer(receipt, status=202)


MAX_MALFORMED_LINES = 100
"""A batch with more lines that are no events is not one; its answers would be many times its size."""


class BatchLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of a batch: an event for an ingress, and its delivery key."""

    ingress: str
    payload: msgspec.Raw
    key: str | None = None


_line = msgspec.json.Decoder(BatchLine)


class BatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One line's answer: the event's receipt, or its refusal, to which codes add members of their own."""

    status: int
    event_id: str | msgspec.UnsetType = msgspec.UNSET
    correlation_id: str | msgspec.UnsetType = msgspec.UNSET
    queue_depth: int | msgspec.UnsetType = msgspec.UNSET
    cursor: str | msgspec.UnsetType = msgspec.UNSET
    code: Code | msgspec.UnsetType = msgspec.UNSET
    detail: str | msgspec.UnsetType = msgspec.UNSET
    retry_after_s: float | msgspec.UnsetType = msgspec.UNSET


async def post_batch(request: Request) -> Lines[dict[str, Any]]:
    """Accept NDJSON; answer one line for each, in order, when it is committed or refused.

    Lines that came together share a commit.
    """
    answers = _BatchAnswers(request, request.daemon.plugins.open_batch(**request.params))
    return Lines(answers.following)


class _Admits(Protocol):
    """A batch of events, as the plugin host opens it."""

    async def admit(self, ingress: str, payload: bytes, *, key: str | None) -> IngressReceipt: ...

    def may_share(self, events: int) -> bool: ...

    async def commit(self) -> None: ...


class _BatchAnswers:
    """Reads the lines of a batch and answers them, as many together as are there and may share a commit."""

    def __init__(self, request: Request, batch: _Admits) -> None:
        self._request = request
        self._batch = batch
        self._reader = request.line_reader()
        self._is_over = False
        self._malformed = 0

    async def following(self) -> list[dict[str, Any]]:
        """Returns the answers that are ready next; none at the end."""
        answers: list[dict[str, Any]] = []
        while not answers or (self._reader.has_line and self._batch.may_share(len(answers))):
            answer = await self._next()
            if answer is None:
                break
            answers.append(answer)
        await self._batch.commit()
        return answers

    async def _next(self) -> dict[str, Any] | None:
        request = self._request
        try:
            line = None if self._is_over else await self._reader.next_line()
            if line is not None:  # a body may take as long as its token lives
                request.daemon.tokens.require_valid(request.principal)
            if self._malformed >= MAX_MALFORMED_LINES:
                raise Refused(
                    "invalid_request",
                    f"{self._malformed} lines are malformed; the rest was not read",
                )
        except Refused as refused:  # of the body as a whole: nothing after it was read
            self._is_over, self._malformed = True, 0
            return _refused_line(refused)
        if line is None:
            return None
        answer = await self._accept(line)
        self._malformed += answer.get("code") == "invalid_request"
        return answer

    async def _accept(self, line: bytes) -> dict[str, Any]:
        try:
            try:
                check_json(line)
                event = _line.decode(line)
            except (msgspec.ValidationError, ValueError) as error:
                raise Refused("invalid_request", f"the line does not fit: {error}") from error
            key = None if event.key is None else self._request.own_key(event.key)
            receipt = await self._batch.admit(event.ingress, bytes(event.payload), key=key)
        except Refused as refused:
            return _refused_line(refused)
        return {"status": 202, **msgspec.structs.asdict(receipt)}


def _refused_line(refused: Refused) -> dict[str, Any]:
    line = {
        "status": refused.status,
        "code": refused.code,
        "detail": refused.detail,
        **refused.fields,
    }
    return (
        line if refused.retry_after_s is None else {**line, "retry_after_s": refused.retry_after_s}
    )


async def post_hook(request: Request) -> Answer:
    """Accept a webhook with the declared signature; answer 202 after the commit."""
    body = await request.body()
    try:
        receipt = await request.daemon.plugins.accept_hook(
            **request.params, body=body, headers=request.headers
        )
    except Refused as refused:
        if refused.code == "unauthenticated":
            raise request.daemon.tokens.failures.refusal(request.address, refused) from None
        if refused.status != 404:
            raise
        # Strangers come here: which plugins and ingresses there are is not for them.
        raise Refused("ingress_not_found", "there is no webhook here") from None
    return Answer(receipt, status=202)


_OF_INGRESS: tuple[Code, ...] = (
    "ingress_not_found",
    "invalid_event",
    "delivery_id_conflict",
    "queue_full",
    "service_unavailable",
    "service_failed",
    "safe_mode",
    "storage_low",
)
ROUTES = (
    Route(
        "POST",
        "/api/plugins/<plugin_id>/ingress/<ingress>",
        "ingress:write",
        post_ingress,
        gives=IngressReceipt,
        status=202,
        refuses=("plugin_not_found", *_OF_INGRESS),
        takes=Any,
        takes_key=True,
    ),
    Route(
        "POST",
        "/api/plugins/<plugin_id>/ingress",
        "ingress:write",
        post_batch,
        gives=Lines[BatchAnswer],
        refuses=("plugin_not_found",),
        takes=Lines[BatchLine],
    ),
    Route(
        "POST",
        "/hooks/<plugin_id>/<ingress>",
        "signed",
        post_hook,
        gives=IngressReceipt,
        status=202,
        refuses=("unauthenticated", "rate_limited", *_OF_INGRESS),
        takes=bytes,
    ),
)
