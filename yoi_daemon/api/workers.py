"""Runtimes and their workers: a worker is addressed by `runtime_id + worker_id` alone."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from yoi_daemon.api.routing import Answer, Call, Route
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
from yoi_daemon.runtime.interface import Runtime

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


async def list_runtimes(call: Call) -> Answer:
    """Every runtime."""
    return Answer({"items": call.daemon.registry.summaries()})


async def show_runtime(call: Call) -> Answer:
    """One runtime."""
    return Answer(_runtime(call).summary())


async def list_workers(call: Call) -> Answer:
    """A page of one runtime's workers."""
    asked = call.query(after=None, limit=100)
    page = await _runtime(call).workers(
        after=asked["after"], limit=min(asked["limit"], MAX_LIST_ITEMS)
    )
    return Answer(_page(page.items, page.next))


async def list_all_workers(call: Call) -> Answer:
    """Every runtime's workers in one list; a runtime that fails is a diagnostic, the rest is listed."""
    call.query()
    items, diagnostics = await call.daemon.registry.all_workers(MAX_LIST_ITEMS)
    return Answer({"items": items, "diagnostics": diagnostics})


async def create_worker(call: Call) -> Answer:
    """Makes a worker; 201 when that is committed."""
    asked = await call.json(CreateWorker)
    receipt = await _runtime(call).create(
        profile=asked.profile, label=asked.label, input=asked.input
    )
    return Answer(receipt, status=201)


async def show_worker(call: Call) -> Answer:
    """One worker."""
    return Answer(await _runtime(call).worker(call.params["worker_id"]))


async def send_input(call: Call) -> Answer:
    """Puts an input into the worker's inbox; 202 when that is committed."""
    asked = await call.json(SendInput)
    receipt = await _runtime(call).send(
        call.params["worker_id"], asked.text, when_busy=asked.when_busy
    )
    return Answer(receipt, status=202)


async def cancel_turn(call: Call) -> Answer:
    """Ends the worker's turn; 200 when it is over, and that is committed."""
    return Answer(await _runtime(call).cancel(call.params["worker_id"]))


async def stop_worker(call: Call) -> Answer:
    """Ends the worker; 200 when it is in a terminal state, and that is committed."""
    asked = await call.json_or_none(StopWorker)
    grace_s = None if asked is None else asked.grace_s
    return Answer(await _runtime(call).stop(call.params["worker_id"], grace_s=grace_s))


async def show_transcript(call: Call) -> Answer:
    """A bounded page of the transcript."""
    asked = call.query(after=None, before=None, limit=DEFAULT_PAGE_ITEMS, max_bytes=MAX_PAGE_BYTES)
    return Answer(await _runtime(call).transcript(call.params["worker_id"], **asked))


def _runtime(call: Call) -> Runtime:
    return call.daemon.registry.runtime(call.params["runtime_id"])


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
