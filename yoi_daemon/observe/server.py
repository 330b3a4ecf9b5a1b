"""The stream's WebSocket listener: admission, and the session of each path. Needs the `observe` extra."""

import random
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import trio

from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.eventlog.fanout import Fanout
from yoi_daemon.front.access import Names, joined, refuse_token_in_query
from yoi_daemon.front.connection import (
    ORDERLY_CLOSE_CODES,
    Connection,
    SessionHandler,
    UpgradeRequest,
)
from yoi_daemon.front.descriptors import OBSERVE_PART, connections
from yoi_daemon.front.principal import Principal
from yoi_daemon.front.websocket import WebSocketLimits, serve_websocket
from yoi_daemon.model.errors import Refused
from yoi_daemon.stream.draining import DrainSchedule
from yoi_daemon.stream.projections import WorkerScope, check_target, snapshot_workers
from yoi_daemon.stream.protocol import (
    CLOSE_CODES,
    Start,
    StreamQuery,
    StreamRefused,
    Target,
    filter_of,
    find_start,
    find_target,
    read_query,
)
from yoi_daemon.stream.session import Scope, Session

FAREWELL_S = 0.5
"""Time for a subscriber whose token ended to receive that, in seconds."""
REFUSED_AT_ONCE = 64
"""Connections beyond the cap on subscribers, so that a refusal can be sent."""


class ObserveServer:
    """Opens sessions on one daemon's log; `spread_s` is the time for closing them."""

    def __init__(
        self,
        daemon: Daemon,
        names: Names,
        *,
        spread_s: float = 1.5,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._daemon = daemon
        self._names = names
        self._uniform = uniform
        self._fanout = Fanout(daemon.event_log)
        daemon.observed.lag_events = self._fanout.lag_events
        self._by_token: Counter[str] = Counter()
        self._drain = DrainSchedule(
            daemon.draining,
            spread_s=spread_s,
            count=lambda: daemon.observed.subscribers,
            uniform=uniform,
        )

    async def serve(
        self,
        sockets: Sequence[socket.socket],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serves until the daemon drains and every session has ended."""
        settings = self._daemon.settings.observe
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fanout.run)
            nursery.start_soon(self._fanout.wake_all_at, self._daemon.draining)
            await serve_websocket(
                sockets,
                self.admit,
                draining=self._daemon.draining,
                close_codes={**ORDERLY_CLOSE_CODES, **CLOSE_CODES},
                limits=WebSocketLimits(
                    connections=connections(
                        OBSERVE_PART, settings.max_subscribers + REFUSED_AT_ONCE
                    ),
                    connections_by_address=None
                    if settings.behind_proxy
                    else settings.max_address_connections,
                ),
                certificate=self._daemon.certificates.get("observe"),
                new_request_id=lambda: self._daemon.ids.new("req"),
                task_status=task_status,
            )
            nursery.cancel_scope.cancel()

    async def admit(self, request: UpgradeRequest) -> SessionHandler:
        """Checks Host, Origin and token before the 101, and fixes the position of `latest`.

        All other errors are sent on the stream, where a client can read them.
        """
        headers = joined(request.headers)
        self._names.check(headers)
        refuse_token_in_query(request.query)
        address = request.peer.rpartition(":")[0].strip("[]") or request.peer
        principal = self._daemon.tokens.authenticate(headers.get("authorization"), address)
        route, target = find_target(request.path)
        principal.require(route.access)
        if self._daemon.draining.is_set():
            raise Refused("draining", "the daemon is stopping; reconnect", retry_after_s=2.0)
        try:
            self._check_room(principal)
            query = read_query(request.query)
            scope, start = await self._begin(target, query)
        except StreamRefused as refused:
            reason = refused

            async def refuse(connection: Connection) -> None:
                await self._session(connection).refuse(reason)

            return refuse
        return partial(self._follow, principal, scope, start)

    async def _follow(
        self, principal: Principal, scope: Scope, start: Start, connection: Connection
    ) -> None:
        observed = self._daemon.observed
        try:
            # Again: during the handshake others may have connected, and the token may have ended.
            self._check_room(principal)
            if not self._daemon.tokens.is_valid(principal):
                raise _token_ended()
        except StreamRefused as refused:
            await self._session(connection).refuse(refused)
            return
        session = self._session(connection)
        observed.subscribers += 1
        self._by_token[principal.token_id] += 1
        try:
            with self._daemon.tokens.while_valid(principal) as validity:
                await session.run(scope, start)
            if validity.cancelled_caught:
                await self._end_with_token(session, connection)
        finally:
            observed.subscribers -= 1
            self._by_token[principal.token_id] -= 1
            observed.slow_consumers += session.was_overrun or connection.stalled

    async def _end_with_token(self, session: Session, connection: Connection) -> None:
        """Sends the error and closes; aborts a peer that does not read, so that nothing more reaches it."""
        with trio.move_on_after(FAREWELL_S):
            await session.refuse(_token_ended())
            return
        connection.abort()

    def _check_room(self, principal: Principal) -> None:
        settings = self._daemon.settings.observe
        for count, most, whose in (
            (self._daemon.observed.subscribers, settings.max_subscribers, "this daemon"),
            (
                self._by_token[principal.token_id],
                settings.max_token_subscribers,
                "this token",
            ),
        ):
            if count >= most:
                raise StreamRefused(
                    "too_many_subscribers",
                    "too_many_subscribers",
                    f"{whose} has {most} subscribers already; close some, or raise the limit",
                    retry_after_s=round(self._uniform(1.0, 10.0), 2),
                )

    async def _begin(self, target: Target, query: StreamQuery) -> tuple[Scope, Start]:
        """Returns what is followed, and from where. Raises `StreamRefused`."""
        log, registry = self._daemon.event_log, self._daemon.registry
        wanted = filter_of(target, query)
        worker: WorkerScope | None = None
        final = None
        if target.worker_id is not None:
            worker = await check_target(registry, log, target, may_be_missing=query.await_worker)
            final = worker.final()
        elif target.plugin_id is not None:
            self._check_plugin(target.plugin_id)
        start = find_start(query, wanted, log)
        if final is not None and query.cursor == "latest":
            raise StreamRefused(
                "worker_gone",
                final.state,
                "this worker emits nothing more; begin at earliest to read its events",
                worker=final,
            )
        wants_snapshot = query.snapshot or start.resume == "snapshot"
        snapshot = None
        if wants_snapshot:
            snapshot = (
                partial(snapshot_workers, registry, log) if worker is None else worker.snapshot
            )
        return (
            Scope(
                wanted=wanted,
                final=None if worker is None else worker.final,
                snapshot=snapshot,
            ),
            start,
        )

    def _session(self, connection: Connection) -> Session:
        return Session(
            self._fanout,
            connection,
            heartbeat_s=self._daemon.settings.observe.heartbeat_s,
            drain=self._drain,
        )

    def _check_plugin(self, plugin_id: str) -> None:
        try:
            self._daemon.plugins.service(plugin_id)
        except Refused as refused:
            raise StreamRefused(refused.code, refused.code, refused.detail) from refused


def _token_ended() -> StreamRefused:
    return StreamRefused(
        "unauthenticated",
        "token_ended",
        "the token was revoked or has expired; reconnect with another",
    )
