"""Lists of the API: `{items, next?, diagnostics?}`, page after page."""

from collections.abc import Sequence
from typing import Any

import msgspec

from yoi_daemon.cli.output import note
from yoi_daemon.cli.views import Answer, DiagnosticView
from yoi_daemon.client.rest import DaemonClient

MAX_PAGES = 1000
"""A list that never ends is a fault; this many pages are more than any daemon keeps."""


class _Page(msgspec.Struct, kw_only=True):
    items: list[Any]
    next: str | None = None
    diagnostics: list[Any] = []


async def get_whole_list(daemon: DaemonClient, path: str) -> Answer:
    """Returns all items at `path`, as one answer without `next`."""
    page = await daemon.get(path, _Page)
    items, diagnostics = page.items, page.diagnostics
    for _ in range(MAX_PAGES):
        if page.next is None:
            break
        page = await daemon.get(path, _Page, params={"after": page.next})
        items += page.items
        diagnostics += [found for found in page.diagnostics if found not in diagnostics]
    return {"items": items} | ({"diagnostics": diagnostics} if diagnostics else {})


def write_diagnostics(diagnostics: Sequence[DiagnosticView]) -> None:
    """What kept a list from being complete, on standard error."""
    for diagnostic in diagnostics:
        note(f"{diagnostic.severity or 'note'}: {diagnostic.message or diagnostic.code}")
