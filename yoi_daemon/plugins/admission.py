"""Admission: an event is checked, has room reserved, is committed and queued; only then is it accepted."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
import trio

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import Draft, IngressAccepted, format_time
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.manifest import HookSource, IngressDeclaration, TimerSource
from yoi_daemon.model.plugins import IngressReceipt
from yoi_daemon.model.strict_json import check_json
from yoi_daemon.plugins.delivery import Delivery
from yoi_daemon.plugins.lane.dispatcher import Lane
from yoi_daemon.plugins.signatures import delivery_key, handed_headers, verify_signature
from yoi_daemon.plugins.supervision.installation import Installed
from yoi_daemon.plugins.supervision.service import Service

_any_json = msgspec.json.Decoder(Any)


def value_at(payload: bytes, path: tuple[str, ...]) -> Any:
    """Returns the value at a dotted path of a JSON document; None where there is none."""
    value: Any = _any_json.decode(payload)
    for key in path:
        value = cast("dict[str, Any]", value).get(key) if isinstance(value, dict) else None
    return value


def coalesce_value(delivery: Delivery, path: tuple[str, ...]) -> Any:
    """Returns the value at `path` of the payload, None where there is none. Decodes it once for a path."""
    known = delivery.coalesce_value
    if known is None or known[0] != path:
        known = delivery.coalesce_value = path, value_at(delivery.payload, path)
    return known[1]


class Admission:
    """Accepts events for services. Clocks give seconds."""

    def __init__(
        self,
        event_log: EventLog,
        ids: IdSource,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._event_log = event_log
        self._ids = ids
        self._clock = clock
        self._wall_clock = wall_clock

    async def accept(
        self, service: Service, ingress: str, payload: bytes, *, key: str | None = None
    ) -> IngressReceipt:
        """Accepts JSON from the API. Returns after the commit; cancelled, the event may be accepted or not.

        Raises `Refused`: `ingress_not_found`, `service_unavailable`, `service_failed`,
        `payload_too_large`, `invalid_event`, `queue_full`, `delivery_id_conflict`.
        """
        receipt, seq = await self.admit(service, ingress, payload, key=key)
        await self._event_log.committed(seq)
        return receipt

    async def admit(
        self,
        service: Service,
        ingress: str,
        payload: bytes,
        *,
        key: str | None = None,
        is_checked: bool = False,
    ) -> tuple[IngressReceipt, int]:
        """As `accept`, but returns before the commit: the receipt may be shown only after that number is committed.

        `is_checked`: `check_json` took it, or a text that it is part of.
        """
        installed = service.installation.installed
        spec = self._spec(service, installed, ingress)
        self._check(installed, spec, payload, is_checked=is_checked)
        return await self._take(service, spec, payload, source="api", key=key)

    async def accept_hook(
        self, service: Service, ingress: str, body: bytes, headers: Mapping[str, str]
    ) -> IngressReceipt:
        """Accepts a webhook whose signature is right. `headers` are in lower case.

        Raises `Refused` as `accept` does, and before anything about the body `unauthenticated` and
        `rate_limited`.
        """
        installed = service.installation.installed
        spec = self._spec(service, installed, ingress)
        loaded = installed.loaded
        source = spec.source
        if not isinstance(source, HookSource) or loaded is None:
            raise Refused(
                "ingress_not_found", f"plugin {service.plugin_id} has no webhook {ingress}"
            )
        verify_signature(source.verify, loaded.config, headers, body)
        service.count_hook()
        self._check(installed, spec, body)
        names = (*handed_headers(source.verify), *source.headers)
        handed = {name: headers[name] for name in names if name in headers}
        receipt, seq = await self._take(
            service,
            spec,
            body,
            source="hook",
            key=delivery_key(source.verify, headers),
            headers=handed,
            exact=body,
        )
        await self._event_log.committed(seq)
        return receipt

    async def redeliver(self, service: Service, event_id: str) -> IngressReceipt:
        """Queues a dead letter once more, with the same id. Returns after the commit.

        Raises `Refused`: `event_not_found`, `rate_limited`, `queue_full`, `service_unavailable`,
        `service_failed`.
        """
        receipt, seq = self._append_again(service, event_id)
        await self._event_log.committed(seq)
        return receipt

    def _append_again(self, service: Service, event_id: str) -> tuple[IngressReceipt, int]:
        delivery = service.redeliver(event_id)
        delivery.source = "redelivery"
        delivery.failures = 0
        delivery.accepted_s = self._clock()
        delivery.redelivery_of = event_id
        service.settlement.counters["redelivered"] += 1
        return self._append(service, delivery, None)

    def tick(self, service: Service, spec: IngressDeclaration) -> None:
        """Queues a timer's event, unless one of it still waits or the queue is full: both are `skipped`."""
        if service.refusal() is not None or self._event_log.refusal() is not None:
            return
        payload = msgspec.json.encode({"scheduled_at": format_time(self._wall_clock())})
        lane = service.lane
        if lane.has_unfinished(spec.name) or not lane.has_room(len(payload)):
            # Not `dropped`: that counts accepted events, each of which is reported.
            service.settlement.counters["skipped"] += 1
            return
        delivery = self._delivery(spec, payload, source="timer")
        self._reserve_and_append(service, delivery, None)

    def _spec(self, service: Service, installed: Installed, ingress: str) -> IngressDeclaration:
        manifest = installed.manifest
        if manifest is None:
            raise service.refusal() or Refused(
                "service_unavailable",
                "the plugin is still being loaded",
                retry_after_s=1.0,
                state=service.lifecycle.state,
            )
        spec = manifest.ingresses.get(ingress)
        if spec is None or isinstance(spec.source, TimerSource):
            raise Refused(
                "ingress_not_found",
                f"plugin {service.plugin_id} has no ingress {ingress}; see plugin show {service.plugin_id}",
            )
        return spec

    def _check(
        self,
        installed: Installed,
        spec: IngressDeclaration,
        payload: bytes,
        *,
        is_checked: bool = False,
    ) -> None:
        settings = installed.settings
        limit = min(settings.event_bytes, settings.queue_bytes)
        if len(payload) > limit:
            raise Refused(
                "payload_too_large",
                f"the event is {len(payload)} bytes; this plugin takes up to {limit}",
                bytes=len(payload),
                max_bytes=limit,
            )
        if not is_checked:
            try:
                check_json(payload)
            except ValueError as error:
                raise Refused("invalid_event", f"the payload is not JSON: {error}") from error
        executor = installed.executor
        if executor is not None and (refused := executor.check(spec.name, payload)) is not None:
            raise refused

    async def _take(
        self,
        service: Service,
        spec: IngressDeclaration,
        payload: bytes,
        *,
        source: str,
        key: str | None,
        headers: Mapping[str, str] | None = None,
        exact: bytes = b"",
    ) -> tuple[IngressReceipt, int]:
        if key is not None:
            first = await service.delivery_keys.claim(spec.name, key, payload)
            if first is not None:
                return first, 0
        try:
            delivery = self._delivery(spec, payload, source=source, headers=headers, body=exact)
            await self._make_room(service, spec, delivery)
            return self._reserve_and_append(service, delivery, key)
        except BaseException:
            if key is not None:
                service.delivery_keys.abandon(spec.name, key)
            raise

    def _reserve_and_append(
        self, service: Service, delivery: Delivery, key: str | None
    ) -> tuple[IngressReceipt, int]:
        """One step: a requester who is cancelled leaves no room reserved. Raises `Refused` (`queue_full`)."""
        service.lane.reserve(delivery)
        return self._append(service, delivery, key)

    async def _make_room(
        self, service: Service, spec: IngressDeclaration, delivery: Delivery
    ) -> None:
        """Follows the ingress's overflow rule where the queue is full; somebody else may take the room first.

        Raises `Refused` as `Service.refusal` says. What was displaced stays so.
        """
        lane, size = service.lane, delivery.size
        self._refuse_closed(service)
        if (refused := self._event_log.refusal()) is not None:
            raise refused
        if spec.overflow != "reject" and not lane.has_room(size):
            match spec.overflow:
                case "wait":
                    await self._wait_for_room(service, spec, size)
                case "drop_oldest":
                    for oldest in self._enough_room(lane, spec.name, size):
                        service.settlement.displace(lane, oldest, "dropped")
                case "coalesce":
                    twin = self._twin(lane, spec, delivery)
                    if twin is not None and lane.has_room(size - twin.size, events=0):
                        service.settlement.displace(lane, twin, "coalesced")

    def _refuse_closed(self, service: Service) -> None:
        if (refused := service.refusal()) is not None:
            raise refused

    def _enough_room(self, lane: Lane, ingress: str, size: int) -> list[Delivery]:
        """Returns the oldest events whose room together fits one of `size`; none where it does not."""
        chosen: list[Delivery] = []
        freed = 0
        for oldest in lane.fresh(ingress):
            chosen.append(oldest)
            freed += oldest.size
            if lane.has_room(size - freed, events=1 - len(chosen)):
                return chosen
        return []

    def _twin(self, lane: Lane, spec: IngressDeclaration, delivery: Delivery) -> Delivery | None:
        """Returns the oldest waiting event that `delivery` may take the place of."""
        path = spec.coalesce_by
        value = coalesce_value(delivery, path)
        if value is None:
            return None  # no key is not the same key
        waiting = lane.fresh(spec.name)
        return next((older for older in waiting if coalesce_value(older, path) == value), None)

    async def _wait_for_room(self, service: Service, spec: IngressDeclaration, size: int) -> None:
        """Waits for room, at most as long as the ingress says. The caller must reserve it at once."""
        with trio.move_on_after(spec.wait_s):
            async with service.lane.turnstile:  # first come, first served
                while not service.lane.has_room(size):
                    await service.lane.wait_for_room()
                    self._refuse_closed(service)
        self._refuse_closed(service)  # it may have stopped meanwhile

    def _delivery(
        self,
        spec: IngressDeclaration,
        payload: bytes,
        *,
        source: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Delivery:
        return Delivery(
            event_id=self._ids.new("evt"),
            correlation_id=self._ids.new("cor"),
            source=source,
            ingress=spec.name,
            payload=payload,
            created_at=format_time(self._wall_clock()),
            accepted_s=self._clock(),
            headers=headers,
            body=body,
        )

    def _append(
        self, service: Service, delivery: Delivery, key: str | None
    ) -> tuple[IngressReceipt, int]:
        """Numbers the acceptance. The log delivers it at the commit, also if the requester is cancelled."""
        depth = service.lane.depth
        draft = Draft(
            kind="plugin.ingress.accepted",
            plugin_id=service.plugin_id,
            correlation_id=delivery.correlation_id,
            data=IngressAccepted(
                event_id=delivery.event_id,
                ingress=delivery.ingress,
                source=delivery.source,
                queue_depth=depth,
                redelivery_of=delivery.redelivery_of,
            ),
        )

        def deliver() -> None:
            if delivery.redelivery_of is None:
                service.settlement.counters["accepted"] += 1
            service.lane.deliver(delivery)
            if key is not None:
                service.delivery_keys.settle(delivery.ingress, key, delivery.payload, receipt)

        with self._event_log.together() as commit:
            try:
                seq = commit.append(draft, deliver)
            except BaseException:
                service.lane.release(delivery)
                raise
            delivery.position = seq
            if delivery.redelivery_of is None:
                delivery.number = seq
            receipt = IngressReceipt(
                event_id=delivery.event_id,
                correlation_id=delivery.correlation_id,
                queue_depth=depth,
                cursor=self._event_log.cursors.encode(seq),
            )
            service.ledger.accepted(commit, delivery)
            if key is not None:
                keys = service.delivery_keys
                keys.record(commit, delivery.ingress, key, delivery.payload, receipt)
        return receipt, seq
