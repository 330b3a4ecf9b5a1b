"""A worker's transcript: bounded, and read in bounded pages that name what they cut."""

from collections import deque
from collections.abc import Iterable

import msgspec

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.workers import (
    DEFAULT_PAGE_ITEMS,
    MAX_PAGE_BYTES,
    MAX_PAGE_ITEMS,
    Role,
    TranscriptItem,
    TranscriptPage,
    cut_text,
)


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One item; `size` is its text in bytes of UTF-8."""

    item_id: str
    role: Role
    text: str
    time: str
    size: int


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Items, and the item ids for requesting the adjacent pages. `evicted` counts items, see `Transcript`."""

    items: tuple[TranscriptItem, ...]
    before: str | None
    after: str | None
    evicted: int = 0

    def dated(self, as_of: str) -> TranscriptPage:
        """Returns the page as the API shows it, true at the cursor `as_of`."""
        return TranscriptPage(
            items=self.items,
            as_of=as_of,
            before=self.before,
            after=self.after,
            let_go=self.evicted,
        )


class Transcript:
    """The latest items of one worker: at most `max_items` and `max_bytes` of text, but always the last one."""

    def __init__(self, *, max_items: int, max_bytes: int) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._items: deque[Item] = deque()
        self._bytes = 0
        self.evicted = 0
        """Oldest items removed because a bound was reached."""

    def __len__(self) -> int:
        return len(self._items)

    @property
    def numbers(self) -> range:
        """Returns the numbers of the items: they count from 0 and are never reused."""
        return range(self.evicted, self.evicted + len(self._items))

    def restore(self, evicted: int, items: Iterable[Item]) -> None:
        """Restores the items of an earlier run, which had evicted so many."""
        self.evicted = evicted
        self._items.extend(items)
        self._bytes = sum(item.size for item in self._items)

    def items(self) -> tuple[Item, ...]:
        """Returns all items, oldest first."""
        return tuple(self._items)

    def append(self, *, item_id: str, role: Role, text: str, time: str) -> Item:
        """Adds an item, and evicts the oldest beyond the bounds."""
        item = Item(
            item_id=item_id, role=role, text=text, time=time, size=len(text.encode("utf-8"))
        )
        self._items.append(item)
        self._bytes += item.size
        while len(self._items) > 1 and (
            len(self._items) > self._max_items or self._bytes > self._max_bytes
        ):
            self._bytes -= self._items.popleft().size
            self.evicted += 1
        return item

    def page(self, *, after: str | None, before: str | None, limit: int, max_bytes: int) -> Page:
        """Returns the latest `limit` items, or the first ones after `after`, or the last ones before `before`.

        The texts together are at most `max_bytes` of UTF-8; an item that alone is larger is cut at a
        character. Raises `Refused` (`invalid_request`) for both ids at once or an unknown one.
        """
        if after is not None and before is not None:
            raise Refused("invalid_request", "give after or before, not both")
        items = list(self._items)
        ids = [item.item_id for item in items]
        if after is not None:
            start, stop = _position(ids, after, self.evicted) + 1, len(items)
            chosen = range(start, min(stop, start + limit))
        else:
            stop = len(items) if before is None else _position(ids, before, self.evicted)
            chosen = range(max(0, stop - limit), stop)
        # From the requested end until the bytes are used up; always one item, cut if necessary.
        shown: list[TranscriptItem] = []
        room = max_bytes
        forwards = after is not None
        for index in chosen if forwards else reversed(chosen):
            item = items[index]
            if shown and item.size > room:
                break
            text, full_bytes = cut_text(item.text, room)
            room -= min(item.size, room)
            shown.append(
                TranscriptItem(
                    item_id=item.item_id,
                    role=item.role,
                    text=text,
                    time=item.time,
                    truncated=len(text) < len(item.text),
                    full_bytes=full_bytes,
                )
            )
        if not forwards:
            shown.reverse()
        if not shown:
            return Page(items=(), before=None, after=None, evicted=self.evicted)
        first, last = shown[0].item_id, shown[-1].item_id
        return Page(
            items=tuple(shown),
            before=first if first != ids[0] else None,
            after=last if last != ids[-1] else None,
            evicted=self.evicted,
        )


async def read_page(
    transcript: Transcript,
    log: EventLog,
    *,
    after: str | None,
    before: str | None,
    limit: int,
    max_bytes: int,
) -> TranscriptPage:
    """Returns a page of `transcript` once its `as_of` is committed. Raises as `Runtime.transcript` does."""
    if not 1 <= limit <= MAX_PAGE_ITEMS or not 1 <= max_bytes <= MAX_PAGE_BYTES:
        raise Refused(
            "invalid_request", f"limit is 1 to {MAX_PAGE_ITEMS}, max_bytes 1 to {MAX_PAGE_BYTES}"
        )
    page = page_now(transcript, log, after=after, before=before, limit=limit, max_bytes=max_bytes)
    await log.committed(log.appended)
    return page


def page_now(
    transcript: Transcript,
    log: EventLog,
    *,
    after: str | None = None,
    before: str | None = None,
    limit: int = DEFAULT_PAGE_ITEMS,
    max_bytes: int,
) -> TranscriptPage:
    """Returns a page of `transcript`, true at the log's `appended` position, which may not be committed yet.

    Raises as `Transcript.page` does.
    """
    page = transcript.page(after=after, before=before, limit=limit, max_bytes=max_bytes)
    return page.dated(log.cursors.encode(log.appended))


def _position(ids: list[str], item_id: str, evicted: int) -> int:
    try:
        return ids.index(item_id)
    except ValueError as error:
        detail = "this transcript has no such item"
        if evicted:
            detail += f"; its {evicted} oldest were evicted"
        raise Refused("invalid_request", detail) from error
