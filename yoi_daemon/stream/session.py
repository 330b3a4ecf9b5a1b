"""One subscriber's session, on any transport: hello, replay, then live until one side ends it."""

from collections.abc import Awaitable, Callable
from math import inf
from typing import NamedTuple

import msgspec
import trio

from yoi_daemon.eventlog.fanout import Fanout, Subscriber
from yoi_daemon.eventlog.filter import Filter
from yoi_daemon.eventlog.interface import PositionExpiredError
from yoi_daemon.model.frames import Transport, text_frame
from yoi_daemon.model.workers import WorkerSummary
from yoi_daemon.stream.draining import Drain
from yoi_daemon.stream.protocol import (
    BookmarkReason,
    Snapshot,
    Start,
    StreamRefused,
    bookmark,
    end,
    error,
    gap,
    hello,
)


class DatedSnapshot(NamedTuple):
    """A snapshot and the position it is true at."""

    snapshot: Snapshot
    position: int


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What a session asks about its scope; both may be absent.

    `final` gives the worker once nothing more can come of it; `snapshot` the workers as they are.
    """

    wanted: Filter
    final: Callable[[], Awaitable[WorkerSummary | None]] | None = None
    snapshot: Callable[[], Awaitable[DatedSnapshot]] | None = None


class Session:
    """Follows the log for one subscriber. It has no queue: it reads where it stands."""

    __slots__ = (
        "_drain",
        "_drain_at",
        "_fanout",
        "_heartbeat_s",
        "_log",
        "_transport",
        "was_overrun",
    )

    def __init__(
        self, fanout: Fanout, transport: Transport, *, heartbeat_s: float, drain: Drain
    ) -> None:
        self._fanout = fanout
        self._log = fanout.log
        self._transport = transport
        self._heartbeat_s = heartbeat_s
        self._drain = drain
        self._drain_at = inf
        self.was_overrun = False

    async def refuse(self, refused: StreamRefused, position: int | None = None) -> None:
        """Says why, then closes."""
        self._transport.offer(text_frame(error(self._log, refused, position)))
        await self._transport.drained()
        await self._transport.close(refused.code)

    async def run(self, scope: Scope, start: Start) -> None:
        """Replays and follows until the scope is finished, the daemon drains or the subscriber is overrun.

        Ends early, by cancellation or by what the transport raises, when the peer goes.
        """
        taken = None if scope.snapshot is None else await scope.snapshot()
        position = start.position
        if taken is not None and start.resume in ("live", "snapshot"):
            position = taken.position
        self._transport.when_stalled(self._stalled, "slow_consumer")
        subscriber = self._fanout.join(scope.wanted, self._transport, position)
        try:
            subscriber.tell(
                hello(self._log, self._heartbeat_s, start.resume, position), is_position=True
            )
            if start.loss is not None:
                subscriber.tell(gap(self._log, start.loss, position), is_position=True)
            if taken is not None:
                # Exactly at its position: what is before it was delivered, what is after it will be.
                await self._replay(subscriber, taken.position)
                subscriber.tell(msgspec.json.encode(taken.snapshot), is_position=True)
            await self._follow(subscriber, scope)
        except PositionExpiredError:
            self.was_overrun = True
            overrun = StreamRefused(
                "slow_consumer",
                "overrun",
                "the window passed this subscriber; resume to learn what is left",
            )
            await self.refuse(overrun, subscriber.position)
        finally:
            self._fanout.leave(subscriber)

    def _stalled(self) -> bytes:
        # Without a cursor: what is unsent is dropped, and only the subscriber knows what it has.
        refused = StreamRefused(
            "slow_consumer",
            "stalled",
            "a write made no progress for too long; resume with the last cursor you have",
        )
        return error(self._log, refused, None)

    async def _replay(self, subscriber: Subscriber, up_to: int) -> None:
        await self._fanout.reached(up_to)
        while subscriber.position < up_to:
            await subscriber.drained()
            subscriber.take(up_to)

    async def _follow(self, subscriber: Subscriber, scope: Scope) -> None:
        is_live = False
        await self._fanout.reached(subscriber.position)
        while True:
            await subscriber.drained()
            took = subscriber.take()
            if not took:
                self._mark(subscriber)
            if not subscriber.caught_up:
                await trio.lowlevel.checkpoint()
                continue
            if not is_live:
                is_live = True
                self._bookmark(subscriber, "live")
                continue
            if await self._is_over(subscriber, scope):
                return
            if not subscriber.caught_up:
                continue
            if self._drain_at == inf:
                await subscriber.rest(self._heartbeat_s)
                continue
            with trio.move_on_at(self._drain_at):
                await subscriber.rest(self._heartbeat_s)

    def _mark(self, subscriber: Subscriber) -> None:
        """A bookmark, if one is due. Silence is what this subscriber hears, whatever its filter keeps."""
        if trio.current_time() >= subscriber.heard_s + self._heartbeat_s:
            self._bookmark(subscriber, "idle")
        elif self._fanout.lags(subscriber.feed.wanted, subscriber.told) and (
            subscriber.position > subscriber.told
        ):
            soon = self._log.soon(subscriber.feed.wanted)
            self._bookmark(subscriber, "evicting" if subscriber.told < soon else "progress")

    async def _is_over(self, subscriber: Subscriber, scope: Scope) -> bool:
        """Ends the stream where it is finished, or where the daemon stops and it is this one's turn."""
        if scope.final is not None and (worker := await scope.final()) is not None:
            # Its last event was numbered before it was seen to be over.
            await self._log.committed(last := self._log.appended)
            await self._replay(subscriber, last)
            subscriber.tell(end(self._log, subscriber.position, worker), is_position=True)
            await subscriber.drained()
            await self._transport.close("end")
            return True
        if not self._drain.is_set():
            return False
        now = trio.current_time()
        if self._drain_at == inf:
            self._drain_at = now + self._drain.delay_s()
            # That it drains was numbered before it was seen, and is told too.
            await self._log.committed(self._log.appended)
        if now < self._drain_at or self._log.head > subscriber.position:
            return False
        self._bookmark(subscriber, "draining")
        ending = StreamRefused(
            "shutting_down",
            "draining",
            "the daemon stops; come back",
            retry_after_s=self._drain.retry_s(),
        )
        await self.refuse(ending, subscriber.position)
        return True

    def _bookmark(self, subscriber: Subscriber, reason: BookmarkReason) -> None:
        message = bookmark(self._log, subscriber.position, reason, subscriber.delivered)
        subscriber.tell(message, is_position=True)
