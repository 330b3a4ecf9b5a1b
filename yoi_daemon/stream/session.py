"""One subscriber's session on any transport: hello, replay, then live until one side ends it."""

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
from yoi_daemon.stream.draining import DrainSchedule
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
    """A snapshot, and the position at which it is true."""

    snapshot: Snapshot
    position: int


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What a session follows.

    `final` returns the worker once it can emit nothing more, and `snapshot` the workers as they are.
    """

    wanted: Filter
    final: Callable[[], WorkerSummary | None] | None = None
    snapshot: Callable[[], Awaitable[DatedSnapshot]] | None = None


class Session:
    """Follows the log for one subscriber. It has no queue: it reads from its position."""

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
        self, fanout: Fanout, transport: Transport, *, heartbeat_s: float, drain: DrainSchedule
    ) -> None:
        self._fanout = fanout
        self._log = fanout.log
        self._transport = transport
        self._heartbeat_s = heartbeat_s
        self._drain = drain
        self._drain_at = inf
        self.was_overrun = False

    async def refuse(self, refused: StreamRefused, position: int | None = None) -> None:
        """Sends the `error` message, then closes."""
        self._transport.offer(text_frame(error(self._log, refused, position)))
        await self._transport.drained()
        await self._transport.close(refused.code)

    async def run(self, scope: Scope, start: Start) -> None:
        """Replays and follows until the scope is finished, the daemon drains or the subscriber is overrun.

        Ends early when the peer goes, by cancellation or by an error of the transport.
        """
        snapshot = None if scope.snapshot is None else await scope.snapshot()
        position = start.position
        if snapshot is not None and start.resume in ("live", "snapshot"):
            position = snapshot.position
        self._transport.when_stalled(self._stalled, "slow_consumer")
        subscriber = self._fanout.join(scope.wanted, self._transport, position)
        try:
            subscriber.send(
                hello(self._log, self._heartbeat_s, start.resume, position), is_position=True
            )
            if start.loss is not None:
                subscriber.send(gap(self._log, start.loss, position), is_position=True)
            if snapshot is not None:
                # Exactly at its position: all before it was delivered, all after it will be.
                await self._replay(subscriber, snapshot.position)
                subscriber.send(msgspec.json.encode(snapshot.snapshot), is_position=True)
            await self._follow(subscriber, scope)
        except PositionExpiredError:
            self.was_overrun = True
            overrun = StreamRefused(
                "slow_consumer",
                "overrun",
                "the window passed this subscriber; resume to read what is left",
            )
            await self.refuse(overrun, subscriber.position)
        finally:
            self._fanout.leave(subscriber)

    def _stalled(self) -> bytes:
        # Without a cursor: unsent events are dropped, and only the subscriber knows which it has.
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
            subscriber.write_next(up_to)

    async def _follow(self, subscriber: Subscriber, scope: Scope) -> None:
        is_live = False
        await self._fanout.reached(subscriber.position)
        while True:
            await subscriber.drained()
            if not subscriber.write_next():
                self._bookmark_if_due(subscriber)
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
                await subscriber.wait_direct(self._heartbeat_s)
                continue
            with trio.move_on_at(self._drain_at):
                await subscriber.wait_direct(self._heartbeat_s)

    def _bookmark_if_due(self, subscriber: Subscriber) -> None:
        """Sends a bookmark if one is due: the heartbeat counts from the last write, whatever was filtered out."""
        if trio.current_time() >= subscriber.last_write_s + self._heartbeat_s:
            self._bookmark(subscriber, "idle")
        elif self._fanout.lags(subscriber.feed.wanted, subscriber.reported) and (
            subscriber.position > subscriber.reported
        ):
            next_floor = self._log.next_floor(subscriber.feed.wanted)
            self._bookmark(
                subscriber, "evicting" if subscriber.reported < next_floor else "progress"
            )

    async def _is_over(self, subscriber: Subscriber, scope: Scope) -> bool:
        """Ends the stream if its scope is finished, or the daemon drains and its time has come."""
        if scope.final is not None and (worker := scope.final()) is not None:
            # The last event was numbered before the worker was seen to be final.
            await self._log.committed(last := self._log.appended)
            await self._replay(subscriber, last)
            subscriber.send(end(self._log, subscriber.position, worker), is_position=True)
            await subscriber.drained()
            await self._transport.close("end")
            return True
        if not self._drain.has_begun():
            return False
        now = trio.current_time()
        if self._drain_at == inf:
            self._drain_at = now + self._drain.delay_s()
            # `daemon.draining` was numbered before the drain was seen, and is delivered too.
            await self._log.committed(self._log.appended)
        if now < self._drain_at or self._log.head > subscriber.position:
            return False
        self._bookmark(subscriber, "draining")
        ending = StreamRefused(
            "shutting_down",
            "draining",
            "the daemon is stopping; reconnect",
            retry_after_s=self._drain.retry_s(),
        )
        await self.refuse(ending, subscriber.position)
        return True

    def _bookmark(self, subscriber: Subscriber, reason: BookmarkReason) -> None:
        message = bookmark(self._log, subscriber.position, reason, subscriber.delivered)
        subscriber.send(message, is_position=True)
