"""Runtimes and their workers: a worker is addressed by `runtime_id + worker_id` alone."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from yoi_daemon.api.routing import Answer, Request, Route
from yoi_daemon.api.shapes import Limit, Listing
from yoi_daemon.model.errors import Code
from yoi_daemon.model.workers import (
    BUILTIN_ECHO,
    DEFAULT_PAGE_ITEMS,
    MAX_GRACE_S,
    MAX_PAGE_BYTES,
    MAX_PAGE_ITEMS,
    MAX_WORKER_LABEL_CHARS,
    Receipt,
    RuntimeSummary,
    TranscriptPage,
    WhenBusy,
    WorkerSummary,
)

MAX_LIST_ITEMS = 256


class CreateWorker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker is made from."""

    profile: str = BUILTIN_ECHO
    label: Annotated[str, Meta(max_length=MAX_WORKER_LABEL_CHARS)] = ""
    input: str | None = None


class SendInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An input, and what to do when the worker runs a turn."""

    text: str
    when_busy: WhenBusy = "reject"


class StopWorker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the engine may take to end, in seconds; `[runtime] cancel_grace_s` unless given."""

    grace_s: Annotated[float, Meta(ge=0, le=MAX_GRACE_S)] | None = None


async def list_runtimes(request: Request) -> Answer:
    """List the runtimes."""
    return Answer({"items": request.daemon.registry.summaries()})


async def show_runtime(request: Request) -> Answer:
    """Show one runtime."""
    return Answer(_runtime(request).summary())


async def list_workers(request: Request) -> Answer:
    """List one runtime's workers, a page at a time."""
    asked = request.query(after=None, limit=100)
    page = await _runtime(request).workers(
        after=asked["after"], limit=min(asked["limit"], MAX_LIST_ITEMS)
    )
    return Answer(_page(page.items, page.next))


async def list_all_workers(request: Request) -> Answer:
    """List the workers of every runtime; one that fails is a diagnostic beside the others."""
    request.query()
    items, diagnostics = await request.daemon.registry.all_workers(MAX_LIST_ITEMS)
    return Answer({"items": items, "diagnostics": diagnostics})


async def create_worker(request: Request) -> Answer:
    """Create a worker; answer 201 after the commit."""
    asked = await request.json(CreateWorker)
    receipt = await _runtime(request).create(
        profile=asked.profile, label=asked.label, input=asked.input
    )
    return Answer(receipt, status=201)


async def show_worker(request: Request) -> Answer:
    """Show one worker."""
    return Answer(await _runtime(request).worker(request.params["worker_id"]))


async def send_input(request: Request) -> Answer:
    """Put an input into a worker's inbox; answer 202 after the commit."""
    asked = await request.json(SendInput)
    receipt = await _runtime(request).send(
        request.params["worker_id"], asked.text, when_busy=asked.when_busy
    )
    return Answer(receipt, status=202)


async def cancel_turn(request: Request) -> Answer:
    """Cancel a worker's turn; answer 200 when it has ended and that is committed."""
    return Answer(await _runtime(request).cancel(request.params["worker_id"]))


async def stop_worker(request: Request) -> Answer:
    """Stop a worker; answer 200 when its state is terminal and that is committed."""
    asked = await request.json_or_none(StopWorker)
    grace_s = None if asked is None else asked.grace_s
    return Answer(await _runtime(request).stop(request.params["worker_id"], grace_s=grace_s))


async def show_transcript(request: Request) -> Answer:
    """Show a bounded page of a transcript."""
    asked = request.query(
        after=None, before=None, limit=DEFAULT_PAGE_ITEMS, max_bytes=MAX_PAGE_BYTES
    )
    return Answer(await _runtime(request).transcript(request.params["worker_id"], **asked))


def _runtime(request: Request):  # of the registry's type, whose room no route names
    return request.daemon.registry.runtime(request.params["runtime_id"])


def _page(items: Any, following: str | None) -> dict[str, Any]:
    return {"items": items} if following is None else {"items": items, "next": following}


_RUNTIME = "/api/runtimes/<runtime_id>"
_WORKERS = f"{_RUNTIME}/workers"
_WORKER = f"{_WORKERS}/<worker_id>"
_OF_RUNTIME: tuple[Code, ...] = (
    "runtime_not_found",
    "runtime_error",
    "runtime_unavailable",
    "runtime_timeout",
)
_OF_WORKER: tuple[Code, ...] = (*_OF_RUNTIME, "worker_not_found")
_OF_COMMAND: tuple[Code, ...] = (*_OF_WORKER, "worker_gone", "unsupported_operation")
_OF_INPUT: tuple[Code, ...] = ("limit_reached", "queue_full", "storage_low")
ROUTES = (
    Route("GET", "/api/runtimes", "workers:read", list_runtimes, gives=Listing[RuntimeSummary]),
    Route(
        "GET",
        _RUNTIME,
        "workers:read",
        show_runtime,
        gives=RuntimeSummary,
        refuses=("runtime_not_found",),
    ),
    Route("GET", "/api/workers", "workers:read", list_all_workers, gives=Listing[WorkerSummary]),
    Route(
        "GET",
        _WORKERS,
        "workers:read",
        list_workers,
        gives=Listing[WorkerSummary],
        refuses=_OF_RUNTIME,
        query={"after": str, "limit": Limit},
    ),
    Route(
        "POST",
        _WORKERS,
        "workers:command",
        create_worker,
        gives=Receipt,
        status=201,
        refuses=(
            *_OF_RUNTIME,
            "unsupported_operation",
            "profile_not_found",
            *_OF_INPUT,
            "draining",
        ),
        takes=CreateWorker,
        is_keyed=True,
    ),
    Route("GET", _WORKER, "workers:read", show_worker, gives=WorkerSummary, refuses=_OF_WORKER),
    Route(
        "POST",
        f"{_WORKER}/input",
        "workers:command",
        send_input,
        gives=Receipt,
        status=202,
        refuses=(*_OF_COMMAND, *_OF_INPUT, "worker_busy"),
        takes=SendInput,
        is_keyed=True,
    ),
    Route(
        "POST",
        f"{_WORKER}/cancel",
        "workers:command",
        cancel_turn,
        gives=Receipt,
        refuses=(*_OF_COMMAND, "invalid_state"),
        is_keyed=True,
    ),
    Route(
        "POST",
        f"{_WORKER}/stop",
        "workers:command",
        stop_worker,
        gives=Receipt,
        refuses=_OF_COMMAND,
        takes=StopWorker | None,
        is_keyed=True,
    ),
    Route(
        "GET",
        f"{_WORKER}/transcript",
        "workers:read",
        show_transcript,
        gives=TranscriptPage,
        # An item id that it does not have is an invalid request, and no schema can say which those are.
        refuses=(*_OF_WORKER, "unsupported_operation", "invalid_request"),
        query={
            "after": str,
            "before": str,
            "limit": Annotated[int, Meta(ge=1, le=MAX_PAGE_ITEMS)],
            "max_bytes": Annotated[int, Meta(ge=1, le=MAX_PAGE_BYTES)],
        },
    ),
)
