"""What the store is told of one plugin's events, and what it gives back after a restart."""

import msgspec

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.plugins.delivery import AttemptRecord, Delivery
from yoi_daemon.store.interface import Store
from yoi_daemon.store.tables import (
    DEAD_LETTER,
    IDEMPOTENCY_KEY,
    INGRESS_EVENT,
    PLUGIN_VALUE,
    PROGRESS,
    Change,
    DeadLetterRow,
    IdempotencyKey,
    IngressEvent,
    PluginValue,
    Progress,
)

NOT_CLAIMED, CLAIMED, CLAIMED_ALONE = 0, 1, 2
"""`Progress.claim`. Of several that were claimed together nobody knows which one a crash was in."""

_headers = msgspec.json.Decoder(dict[str, str])
_attempts = msgspec.json.Decoder(list[AttemptRecord])


class Records:
    """Writes down what becomes of one plugin's events, in the commit of what is appended with it."""

    def __init__(self, plugin_id: str, event_log: EventLog) -> None:
        self._plugin_id = plugin_id
        self._event_log = event_log
        self.durable = event_log.durable

    def accepted(self, delivery: Delivery) -> None:
        """It came in, or again from the dead letters, and has its `number` and `position`."""
        if not self.durable:
            return
        changes: list[Change] = [PROGRESS.put(self._progress(delivery))]
        if delivery.redelivery_of is None:
            changes.append(
                INGRESS_EVENT.put(
                    IngressEvent(
                        delivery.number,
                        self._plugin_id,
                        delivery.event_id,
                        delivery.ingress,
                        delivery.correlation_id,
                        delivery.created_at,
                        delivery.payload,
                        None if delivery.body is delivery.payload else delivery.body,
                        msgspec.json.encode(delivery.headers) if delivery.headers else b"{}",
                    )
                )
            )
        else:
            changes.append(DEAD_LETTER.drop(delivery.number))
        self._event_log.record(changes)

    async def claim(self, deliveries: list[Delivery]) -> None:
        """Their attempts are about to begin: returns when that is committed."""
        claim = CLAIMED_ALONE if len(deliveries) == 1 else CLAIMED
        ticket = self._event_log.record(
            [PROGRESS.put(self._progress(delivery, claim)) for delivery in deliveries]
        )
        await self._event_log.recorded(ticket)

    def waits(self, delivery: Delivery) -> None:
        """No attempt is under way: it was given back, or is tried again later."""
        if self.durable:
            self._event_log.record((PROGRESS.put(self._progress(delivery)),))

    def ended(self, delivery: Delivery) -> None:
        """It was handled, or has lost its place."""
        if self.durable:
            self._event_log.record(
                (INGRESS_EVENT.drop(delivery.number), PROGRESS.drop(delivery.number))
            )

    def died(self, delivery: Delivery, digest: str, died_at: str, age_s: float) -> None:
        """It is a dead letter."""
        if self.durable:
            row = DeadLetterRow(delivery.number, self._plugin_id, digest, died_at, age_s)
            self._event_log.record((DEAD_LETTER.put(row), PROGRESS.put(self._progress(delivery))))

    def let_go(self, delivery: Delivery) -> None:
        """A dead letter is no more."""
        if self.durable:
            tables = (DEAD_LETTER, INGRESS_EVENT, PROGRESS)
            self._event_log.record([table.drop(delivery.number) for table in tables])

    def _progress(self, delivery: Delivery, claim: int = NOT_CLAIMED) -> Progress:
        return Progress(
            delivery.number,
            self._plugin_id,
            delivery.position,
            delivery.source,
            delivery.redelivery_of,
            delivery.attempt,
            delivery.failures,
            claim,
            msgspec.json.encode(delivery.attempts) if delivery.attempts else b"[]",
        )


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What the store kept of one plugin: what waits, in order of acceptance, and what is dead, as it died."""

    waiting: tuple[tuple[Delivery, int], ...] = ()
    """Each with its claim."""
    dead: tuple[tuple[Delivery, DeadLetterRow], ...] = ()
    keys: tuple[IdempotencyKey, ...] = ()
    values: tuple[PluginValue, ...] = ()

    @property
    def has_claims(self) -> bool:
        """Whether an event was in hand when the process ended."""
        return any(claim != NOT_CLAIMED for _, claim in self.waiting)


async def restore(store: Store, plugin_id: str, now: float) -> Restored:
    """Reads what is kept of a plugin; `now` is when its events count as accepted, for their age in the queue.

    Raises `StorageFailed`.
    """
    events = {row.number: row for row in await store.rows(INGRESS_EVENT, plugin_id=plugin_id)}
    dead = {row.number: row for row in await store.rows(DEAD_LETTER, plugin_id=plugin_id)}
    waiting: list[tuple[Delivery, int]] = []
    letters: list[tuple[Delivery, DeadLetterRow]] = []
    for row in await store.rows(PROGRESS, plugin_id=plugin_id):
        delivery = _delivery(events[row.number], row, now)
        if row.number in dead:
            letters.append((delivery, dead[row.number]))
        else:
            waiting.append((delivery, row.claim))
    waiting.sort(key=lambda one: one[0].position)
    letters.sort(key=lambda one: one[1].age_s)
    keys = await store.rows(IDEMPOTENCY_KEY, owner=plugin_id)
    return Restored(
        waiting=tuple(waiting),
        dead=tuple(letters),
        keys=tuple(sorted(keys, key=lambda row: row.number)),
        values=tuple(await store.rows(PLUGIN_VALUE, plugin_id=plugin_id)),
    )


def _delivery(event: IngressEvent, progress: Progress, now: float) -> Delivery:
    delivery = Delivery(
        event_id=event.event_id,
        correlation_id=event.correlation_id,
        source=progress.source,
        ingress=event.ingress,
        payload=event.payload,
        created_at=event.created_at,
        accepted_s=now,
        headers=_headers.decode(event.headers),
        body=event.payload if event.body is None else event.body,
        redelivery_of=progress.redelivery_of,
    )
    delivery.number, delivery.position = progress.number, progress.position
    delivery.attempt = progress.attempt
    delivery.failures = progress.failures
    delivery.attempts = _attempts.decode(progress.attempts)
    return delivery
