"""One subscriber's session, on any transport: hello, replay, then live until one side ends it."""

from collections.abc import Callable
from math import inf
from typing import Protocol

import trio

from yoi_daemon.eventlog.filter import Filter
from yoi_daemon.eventlog.interface import EventLog, PositionExpiredError
from yoi_daemon.eventlog.subscription import Subscription
from yoi_daemon.model.frames import text_frame
from yoi_daemon.observe.protocol import (
    CLOSE_CODES,
    BookmarkReason,
    Resume,
    StreamRefused,
    bookmark,
    error,
    hello,
)


class Transport(Protocol):
    """What a session needs of a connection. Every method raises when the peer is gone, but `close`."""

    async def send_frames(self, frames: list[bytes]) -> None:
        """Sends whole text frames, in order. Waits for the peer to take them, with a limit."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Ends the connection."""
        ...


class Session:
    """Follows the log from `position` for one subscriber. It has no queue: it reads where it stands."""

    def __init__(
        self,
        log: EventLog,
        transport: Transport,
        *,
        heartbeat_s: float,
        draining: trio.Event,
        uniform: Callable[[float, float], float],
    ) -> None:
        self._log = log
        self._transport = transport
        self._heartbeat_s = heartbeat_s
        self._draining = draining
        self._uniform = uniform
        self._silent_at = inf

    async def refuse(self, refused: StreamRefused, position: int | None = None) -> None:
        """Says why, then closes."""
        await self._transport.send_frames([text_frame(error(self._log, refused, position))])
        await self._transport.close(CLOSE_CODES[refused.code], refused.code)

    async def run(self, wanted: Filter, position: int, resume: Resume) -> None:
        """Replays and follows until the daemon drains or the subscriber is overrun.

        Ends early, by cancellation or by what the transport raises, when the peer goes.
        """
        subscription = Subscription(self._log, wanted, position)
        await self._send([text_frame(hello(self._log, self._heartbeat_s, resume, position))])
        is_live = False
        while True:
            try:
                frames = subscription.take()
            except PositionExpiredError:
                overrun = StreamRefused(
                    "slow_consumer",
                    "overrun",
                    "the window passed this subscriber; resume to learn what is left",
                )
                await self.refuse(overrun, subscription.position)
                return
            if frames:
                await self._send(list(frames))
            # Silence is what this subscriber hears, whatever its filter keeps from it.
            if trio.current_time() >= self._silent_at:
                await self._bookmark(subscription, "idle")
            if not subscription.caught_up:
                await trio.lowlevel.checkpoint()
                continue
            if self._draining.is_set():
                await self._bookmark(subscription, "draining")
                after_s = round(
                    self._uniform(0.2, 2.0), 2
                )  # spread, so that not all come back at once
                ending = StreamRefused(
                    "shutting_down",
                    "draining",
                    "the daemon stops; come back",
                    retry_after_s=after_s,
                )
                await self.refuse(ending, subscription.position)
                return
            if not is_live:
                is_live = True
                await self._bookmark(subscription, "live")
            with trio.move_on_at(self._silent_at):
                # Draining wakes this too: it begins with an event.
                await subscription.wait()

    async def _bookmark(self, subscription: Subscription, reason: BookmarkReason) -> None:
        await self._send(
            [text_frame(bookmark(self._log, subscription.position, reason, subscription.delivered))]
        )

    async def _send(self, frames: list[bytes]) -> None:
        await self._transport.send_frames(frames)
        self._silent_at = trio.current_time() + self._heartbeat_s
