"""A runtime's events, read from the daemon's log."""

from collections import deque

import msgspec

from yoi_daemon.eventlog.interface import Entry, EventLog, PositionExpiredError
from yoi_daemon.model.cursor import MalformedCursorError, decode_cursor
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import ObservationEvent

CHUNK_BYTES = 65_536


class RuntimeEvents:
    """See `Runtime.events`. The cursor is judged at once."""

    def __init__(self, log: EventLog, runtime_id: str, cursor: str) -> None:
        self._log = log
        self._runtime_id = runtime_id
        self._read_to = _position(log, cursor)
        self._entries: deque[Entry] = deque()

    def __aiter__(self) -> "RuntimeEvents":
        return self

    async def __anext__(self) -> ObservationEvent:
        while True:
            while self._entries:
                entry = self._entries.popleft()
                if entry.worker is not None and entry.worker[0] == self._runtime_id:
                    return msgspec.json.decode(entry.message, type=ObservationEvent)
            await self._log.wait_beyond(self._read_to)
            try:
                self._entries.extend(self._log.read(self._read_to, CHUNK_BYTES))
            except PositionExpiredError as error:
                raise _expired() from error
            self._read_to = self._entries[-1].seq


def _position(log: EventLog, cursor: str) -> int:
    try:
        named = decode_cursor(cursor)
    except MalformedCursorError as error:
        raise Refused("cursor_unknown", "this never was a cursor") from error
    # The epoch before the number: a number of another log means nothing here.
    if named.epoch != log.cursors.epoch:
        raise Refused("cursor_unknown", "this cursor is of another log; begin anew")
    window = log.window()
    if named.seq > window.head:
        raise Refused("cursor_unknown", "this cursor is ahead of the log")
    if named.seq < window.floor:
        raise _expired()
    return named.seq


def _expired() -> Refused:
    return Refused("cursor_expired", "events after this cursor are gone; begin anew")
