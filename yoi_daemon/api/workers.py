"""Runtimes and their workers: a worker is addressed by `runtime_id + worker_id` alone."""

from typing import Any

import msgspec

from yoi_daemon.api.routing import Answer, Call, Route
from yoi_daemon.model.workers import Diagnostic, WhenBusy, WorkerSummary
from yoi_daemon.runtime.interface import DEFAULT_PAGE_ITEMS, MAX_PAGE_BYTES, Runtime
from yoi_daemon.runtime.profiles import BUILTIN_ECHO

MAX_LIST_ITEMS = 256


class CreateWorker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker is made from."""

    profile: str = BUILTIN_ECHO
    label: str = ""
    input: str | None = None


class SendInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An input, and what to do when the worker runs a turn."""

    text: str
    when_busy: WhenBusy = "reject"


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
    items: list[WorkerSummary] = []
    diagnostics: list[Diagnostic] = []
    for runtime in call.daemon.registry.runtimes.values():
        page = await runtime.workers(limit=MAX_LIST_ITEMS)
        items.extend(page.items)
        if page.next is not None:
            diagnostics.append(
                Diagnostic(
                    code="list_cut",
                    severity="info",
                    message=f"runtime {runtime.summary().runtime_id} has more; list it by itself",
                )
            )
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


async def show_transcript(call: Call) -> Answer:
    """A bounded page of the transcript."""
    asked = call.query(after=None, before=None, limit=DEFAULT_PAGE_ITEMS, max_bytes=MAX_PAGE_BYTES)
    return Answer(await _runtime(call).transcript(call.params["worker_id"], **asked))


def _runtime(call: Call) -> Runtime:
    return call.daemon.registry.runtime(call.params["runtime_id"])


def _page(items: Any, following: str | None) -> dict[str, Any]:
    return {"items": items} if following is None else {"items": items, "next": following}


_WORKERS = "/api/runtimes/<runtime_id>/workers"
ROUTES = (
    Route("GET", "/api/runtimes", "workers:read", list_runtimes),
    Route("GET", "/api/runtimes/<runtime_id>", "workers:read", show_runtime),
    Route("GET", "/api/workers", "workers:read", list_all_workers),
    Route("GET", _WORKERS, "workers:read", list_workers),
    Route("POST", _WORKERS, "workers:command", create_worker),
    Route("GET", f"{_WORKERS}/<worker_id>", "workers:read", show_worker),
    Route("POST", f"{_WORKERS}/<worker_id>/input", "workers:command", send_input),
    Route("GET", f"{_WORKERS}/<worker_id>/transcript", "workers:read", show_transcript),
)
