"""Dead letters: what no attempt could handle."""

from yoi_daemon.api.routing import Answer, Request, Route
from yoi_daemon.api.shapes import Limit, Listing
from yoi_daemon.model.errors import Code
from yoi_daemon.model.plugins import (
    DeadLetterDetail,
    DeadLetterSummary,
    DiscardReceipt,
    IngressReceipt,
)

MAX_PAGE = 256


async def list_dead(request: Request) -> Answer:
    """List one plugin's dead letters, oldest first."""
    asked = request.query(after=None, limit=100)
    limit = max(1, min(asked["limit"], MAX_PAGE))
    items, following = request.daemon.plugins.dead_letters(
        request.params["plugin_id"], after=asked["after"], limit=limit
    )
    page = {"items": items}
    return Answer(page if following is None else {**page, "next": following})


async def show_dead(request: Request) -> Answer:
    """Show one dead letter with its exact payload."""
    return Answer(request.daemon.plugins.dead_letter(**request.params))


async def redeliver(request: Request) -> Answer:
    """Queue a dead letter once more, with the same id; answer 202 after the commit."""
    return Answer(await request.daemon.plugins.redeliver(**request.params), status=202)


async def discard(request: Request) -> Answer:
    """Delete a dead letter."""
    return Answer(await request.daemon.plugins.discard(**request.params))


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
