"""The way in for events: the API's, and the webhooks'."""

from typing import Any

import msgspec

from yoi_daemon.api.routing import Answer, Call, Lines, Route
from yoi_daemon.model.errors import Code, Refused
from yoi_daemon.model.plugins import IngressReceipt
from yoi_daemon.model.strict_json import check_json
from yoi_daemon.plugins.supervision.service import Service


async def post_ingress(call: Call) -> Answer:
    """Accepts any JSON for a service; 202 after the commit."""
    payload = await call.json_bytes()
    key = call.idempotency_key()
    receipt = await call.daemon.plugins.admission.accept(
        call.daemon.plugins.service(call.params["plugin_id"]),
        call.params["ingress"],
        payload,
        key=None if key is None else call.own_key(key),
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


SHARED_LINES = 64
"""So many lines of a batch share a commit; the next wait for it, so that the lane gets its turn."""
MAX_SHARED_LINES = 256
"""So many while the queue is less than half full: what fits shall not be refused for coming at once."""


async def post_batch(call: Call) -> Lines[dict[str, Any]]:
    """Accepts NDJSON; answers one line for each, in order, when it is committed or refused.

    Lines that came together share a commit.
    """
    service = call.daemon.plugins.service(call.params["plugin_id"])

    reader = call.line_reader()
    is_over = False
    malformed = 0

    async def following() -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []
        committed = 0
        while not answers or (reader.has_line and may_share(len(answers))):
            answer, seq = await next_answer()
            if answer is None:
                break
            answers.append(answer)
            committed = max(committed, seq)
        await call.daemon.event_log.committed(committed)
        return answers

    def may_share(lines: int) -> bool:
        if lines < SHARED_LINES:
            return True
        lane = service.lane
        return lines < MAX_SHARED_LINES and 2 * lane.depth < lane.limits.queue_events

    async def next_answer() -> tuple[dict[str, Any] | None, int]:
        nonlocal is_over, malformed
        try:
            line = None if is_over else await reader.next_line()
            if line is not None:  # a body may take as long as its token lives
                call.daemon.tokens.require_valid(call.principal)
            if malformed >= MAX_MALFORMED_LINES:
                raise Refused(
                    "invalid_request", f"{malformed} lines make no sense; the rest was not read"
                )
        except Refused as refused:  # of the body as a whole: nothing after it was read
            is_over, malformed = True, 0
            return _refused_line(refused), 0
        if line is None:
            return None, 0
        answer, seq = await _accept_line(call, service, line)
        malformed += answer.get("code") == "invalid_request"
        return answer, seq

    return Lines(following)


async def _accept_line(call: Call, service: Service, line: bytes) -> tuple[dict[str, Any], int]:
    """The answer to a line, and the number that is to be committed before it is given."""
    try:
        try:
            check_json(line)
            event = _line.decode(line)
        except (msgspec.ValidationError, ValueError) as error:
            raise Refused("invalid_request", f"the line does not fit: {error}") from error
        key = None if event.key is None else call.own_key(event.key)
        receipt, seq = await call.daemon.plugins.admission.admit(
            service, event.ingress, bytes(event.payload), key=key, is_checked=True
        )
    except Refused as refused:
        return _refused_line(refused), 0
    return {"status": 202, **msgspec.structs.asdict(receipt)}, seq


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


async def post_hook(call: Call) -> Answer:
    """Accepts a webhook with the declared signature; 202 after the commit."""
    body = await call.body()
    try:
        service = call.daemon.plugins.service(call.params["plugin_id"])
        receipt = await call.daemon.plugins.admission.accept_hook(
            service, call.params["ingress"], body, call.headers
        )
    except Refused as refused:
        if refused.code == "unauthenticated":
            raise call.daemon.tokens.failures.refusal(call.address, refused) from None
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
