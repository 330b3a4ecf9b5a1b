"""Dead letters: what no attempt could handle."""

from yoi_daemon.api.routing import Answer, Call, Route
from yoi_daemon.api.shapes import Limit, Listing
from yoi_daemon.model.errors import Code
from yoi_daemon.model.events import Draft, IngressDiscarded
from yoi_daemon.model.plugins import (
    DeadLetterDetail,
    DeadLetterSummary,
    DiscardReceipt,
    IngressReceipt,
)
from yoi_daemon.plugins.lane.deadletters import detail_of
from yoi_daemon.plugins.supervision.service import Service

MAX_PAGE = 256


async def list_dead(call: Call) -> Answer:
    """A page of one plugin's dead letters, oldest first."""
    asked = call.query(after=None, limit=100)
    limit = max(1, min(asked["limit"], MAX_PAGE))
    items, following = _service(call).dead_letters.page(asked["after"], limit)
    page = {"items": items}
    return Answer(page if following is None else {**page, "next": following})


async def show_dead(call: Call) -> Answer:
    """One dead letter, with its exact payload."""
    return Answer(detail_of(_service(call).dead_letters.get(call.params["event_id"])))


async def redeliver(call: Call) -> Answer:
    """Queues a dead letter once more, with the same id; 202 after the commit."""
    receipt = await call.daemon.plugins.admission.redeliver(_service(call), call.params["event_id"])
    return Answer(receipt, status=202)


async def discard(call: Call) -> Answer:
    """Lets go of a dead letter for good."""
    service, log = _service(call), call.daemon.event_log
    delivery = service.dead_letters.remove(call.params["event_id"]).delivery
    service.settlement.counters["discarded"] += 1
    data = IngressDiscarded(event_id=delivery.event_id, ingress=delivery.ingress)
    seq = log.append(
        Draft(
            kind="plugin.ingress.discarded",
            plugin_id=service.plugin_id,
            correlation_id=delivery.correlation_id,
            data=data,
        )
    )
    await log.committed(seq)
    return Answer({"event_id": delivery.event_id, "cursor": log.cursors.encode(seq)})


def _service(call: Call) -> Service:
    return call.daemon.plugins.service(call.params["plugin_id"])


_LETTERS = "/api/plugins/<plugin_id>/dead-letters"
_OF_LETTER: tuple[Code, ...] = ("plugin_not_found", "event_not_found")
ROUTES = (
    Route(
        "GET",
        _LETTERS,
        "plugins:admin",
        list_dead,
        gives=Listing[DeadLetterSummary],
        refuses=("plugin_not_found",),
        query={"after": str, "limit": Limit},
    ),
    Route(
        "GET",
        f"{_LETTERS}/<event_id>",
        "plugins:admin",
        show_dead,
        gives=DeadLetterDetail,
        refuses=_OF_LETTER,
    ),
    Route(
        "POST",
        f"{_LETTERS}/<event_id>/redeliver",
        "plugins:admin",
        redeliver,
        gives=IngressReceipt,
        status=202,
        refuses=(
            *_OF_LETTER,
            "rate_limited",
            "queue_full",
            "service_unavailable",
            "service_failed",
            "safe_mode",
        ),
        is_keyed=True,
    ),
    Route(
        "DELETE",
        f"{_LETTERS}/<event_id>",
        "plugins:admin",
        discard,
        gives=DiscardReceipt,
        refuses=_OF_LETTER,
        is_keyed=True,
    ),
)
