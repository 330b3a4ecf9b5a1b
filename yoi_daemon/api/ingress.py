"""The way in for events: the API's, and the webhooks'."""

from typing import Any

import msgspec

from yoi_daemon.api.routing import Answer, Call, Lines, Route
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.plugins import IngressReceipt
from yoi_daemon.plugins.service import Service


async def post_ingress(call: Call) -> Answer:
    """Accepts any JSON for a service; 202 after the commit."""
    payload = await call.json_bytes()
    receipt = await call.daemon.plugins.admission.accept(
        call.daemon.plugins.service(call.params["plugin_id"]),
        call.params["ingress"],
        payload,
        key=call.idempotency_key(),
    )
    return Answer(receipt, status=202)


class BatchLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of a batch: an event for an ingress, and its delivery key."""

    ingress: str
    payload: msgspec.Raw
    key: str | None = None


async def post_batch(call: Call) -> Lines:
    """Accepts NDJSON; answers one line for each, in order, as each is committed or refused."""
    service = call.daemon.plugins.service(call.params["plugin_id"])

    reader = call.line_reader()
    is_over = False

    async def following() -> dict[str, Any] | None:
        nonlocal is_over
        try:
            line = None if is_over else await reader.next_line()
        except Refused as refused:  # of the body as a whole: nothing after it was read
            is_over = True
            return _refused_line(refused)
        return None if line is None else await _accept_line(call, service, line)

    return Lines(following)


async def _accept_line(call: Call, service: Service, line: bytes) -> dict[str, Any]:
    try:
        try:
            event = msgspec.json.decode(line, type=BatchLine)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused("invalid_request", f"the line does not fit: {error}") from error
        receipt = await call.daemon.plugins.admission.accept(
            service, event.ingress, bytes(event.payload), key=event.key
        )
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


async def post_hook(call: Call) -> Answer:
    """Accepts a webhook with the declared signature; 202 after the commit."""
    body = await call.body()
    service = call.daemon.plugins.service(call.params["plugin_id"])
    receipt = await call.daemon.plugins.admission.accept_hook(
        service, call.params["ingress"], body, call.headers
    )
    return Answer(receipt, status=202)


ROUTES = (
    Route(
        "POST",
        "/api/plugins/<plugin_id>/ingress/<ingress>",
        "ingress:write",
        post_ingress,
        gives=IngressReceipt,
        status=202,
        takes=Any,
    ),
    Route(
        "POST",
        "/api/plugins/<plugin_id>/ingress",
        "ingress:write",
        post_batch,
        gives=Lines,
        takes=Lines,
    ),
    Route(
        "POST",
        "/hooks/<plugin_id>/<ingress>",
        "signed",
        post_hook,
        gives=IngressReceipt,
        status=202,
        takes=bytes,
    ),
)
