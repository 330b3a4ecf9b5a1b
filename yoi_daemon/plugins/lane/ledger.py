"""One plugin's events in the store: written as they change, read after a restart."""

from contextlib import AbstractContextManager

import msgspec

from yoi_daemon.eventlog.interface import Commit, EventLog
from yoi_daemon.model.plugins import AttemptRecord
from yoi_daemon.plugins.delivery import Delivery
from yoi_daemon.store.interface import Store
from yoi_daemon.store.tables import (
    CLAIMED,
    DEAD_LETTER,
    IDEMPOTENCY_KEY,
    INGRESS_EVENT,
    PLUGIN_VALUE,
    PROGRESS,
    Change,
    ClaimRow,
    DeadLetterRow,
    IdempotencyKeyRow,
    IngressRow,
    PluginValueRow,
    ProgressRow,
)

NOT_CLAIMED, CLAIMED_TOGETHER, CLAIMED_ALONE = 0, 1, 2
"""`ProgressRow.claim`. Of several that were claimed together nobody knows which one a crash was in."""

_headers = msgspec.json.Decoder(dict[str, str])
_attempts = msgspec.json.Decoder(list[AttemptRecord])


class LaneLedger:
    """Writes one plugin's events into the store, each step into the commit of the event that tells it.

    An event handled at its first attempt is one row that comes and goes: most are. The claims of all
    are one row, and only what was tried, or redelivered, has a row that says how far it is.
    """

    def __init__(self, plugin_id: str, event_log: EventLog) -> None:
        self._plugin_id = plugin_id
        self._event_log = event_log
        self.durable = event_log.durable
        # The numbers that have a progress row, and those that the row of claims names.
        self._tried: set[int] = set()
        self._claimed: set[int] = set()
        self._is_alone = False

    def restore(self, restored: "Restored") -> None:
        """Restores what an earlier run left. Its claims are written as progress before anything else."""
        self._tried.update(restored.tried)
        changes: list[Change] = []
        for delivery, claim in restored.waiting:
            if claim != NOT_CLAIMED:
                changes.append(self._put_progress(delivery, claim))
        if changes:
            self._event_log.record([*changes, CLAIMED.drop(self._plugin_id)])

    def together(self) -> AbstractContextManager[Commit]:
        """See `EventLog.together`."""
        return self._event_log.together()

    def accepted(self, commit: Commit, delivery: Delivery) -> None:
        """Writes an accepted event, or one redelivered from the dead letters. Its `number` and `position` are set."""
        if not self.durable:
            return
        if delivery.redelivery_of is not None:
            commit.record((self._put_progress(delivery), DEAD_LETTER.drop(delivery.number)))
            return
        row = IngressRow(
            delivery.number,
            self._plugin_id,
            delivery.event_id,
            delivery.ingress,
            delivery.correlation_id,
            delivery.created_at,
            delivery.payload,
            None if delivery.body is delivery.payload else delivery.body,
            msgspec.json.encode(delivery.headers) if delivery.headers else b"{}",
            delivery.source,
        )
        commit.record((INGRESS_EVENT.put(row),))

    async def claim(self, deliveries: list[Delivery]) -> None:
        """Writes that these attempts are about to begin. Returns after the commit. Raises `StorageFailed`."""
        self._claimed.update(delivery.number for delivery in deliveries)
        self._is_alone = len(self._claimed) == 1
        ticket = self._event_log.record((self._put_claimed(),))
        await self._event_log.recorded(ticket)

    def unclaim(self, delivery: Delivery) -> None:
        """Withdraws the claim of an event that was displaced: a crash must not count its attempt."""
        if changes := self._unclaimed(delivery.number):
            self._event_log.record(changes)

    def waits(self, commit: Commit, delivery: Delivery) -> None:
        """Writes that no attempt of the event is under way: it was unclaimed, or is to be retried."""
        if not self.durable:
            return
        changes = self._unclaimed(delivery.number)
        if delivery.attempt or delivery.number in self._tried:
            changes.append(self._put_progress(delivery))
        commit.record(changes)

    def ended(self, commit: Commit, delivery: Delivery) -> None:
        """Deletes an event that was handled or displaced."""
        if not self.durable:
            return
        number = delivery.number
        self._claimed.discard(number)  # that the row of claims still names it does no harm
        if number in self._tried:
            self._tried.remove(number)
            commit.record((INGRESS_EVENT.drop(number), PROGRESS.drop(number)))
        else:
            commit.record((INGRESS_EVENT.drop(number),))

    def died(
        self, commit: Commit, delivery: Delivery, digest: str, died_at: str, age_s: float
    ) -> None:
        """Writes an event as a dead letter."""
        if self.durable:
            row = DeadLetterRow(delivery.number, self._plugin_id, digest, died_at, age_s)
            changes = [DEAD_LETTER.put(row), self._put_progress(delivery)]
            commit.record(changes + self._unclaimed(delivery.number))

    def evicted(self, commit: Commit, delivery: Delivery) -> None:
        """Deletes a dead letter."""
        if self.durable:
            self._tried.discard(delivery.number)
            tables = (DEAD_LETTER, INGRESS_EVENT, PROGRESS)
            commit.record([table.drop(delivery.number) for table in tables])

    def _put_progress(self, delivery: Delivery, claim: int = NOT_CLAIMED) -> Change:
        self._tried.add(delivery.number)
        return PROGRESS.put(
            ProgressRow(
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
        )

    def _put_claimed(self) -> Change:
        numbers = msgspec.json.encode(sorted(self._claimed)).decode()
        return CLAIMED.put(ClaimRow(self._plugin_id, self._is_alone, numbers))

    def _unclaimed(self, number: int) -> list[Change]:
        """Returns the change that takes an event out of the row of claims, if it is there."""
        if number not in self._claimed:
            return []
        self._claimed.remove(number)
        return [self._put_claimed()]


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What the store kept of one plugin: waiting events in order of acceptance, dead letters in order of death."""

    waiting: tuple[tuple[Delivery, int], ...] = ()
    """Each with its claim, as in `ProgressRow.claim`."""
    dead: tuple[tuple[Delivery, DeadLetterRow], ...] = ()
    keys: tuple[IdempotencyKeyRow, ...] = ()
    values: tuple[PluginValueRow, ...] = ()
    tried: frozenset[int] = frozenset()
    """The numbers of the events that have a progress row."""

    @property
    def has_claims(self) -> bool:
        """Returns whether an event was in hand when the process ended."""
        return any(claim != NOT_CLAIMED for _, claim in self.waiting)


async def restore(store: Store, plugin_id: str, now: float) -> Restored:
    """Reads what is kept of a plugin; `now` is when its events count as accepted, for their age in the queue.

    Raises `StorageFailed`.
    """
    events = {row.number: row for row in await store.rows(INGRESS_EVENT, plugin_id=plugin_id)}
    dead = {row.number: row for row in await store.rows(DEAD_LETTER, plugin_id=plugin_id)}
    waiting: list[tuple[Delivery, int]] = []
    letters: list[tuple[Delivery, DeadLetterRow]] = []
    progress = {row.number: row for row in await store.rows(PROGRESS, plugin_id=plugin_id)}
    claims = await _claims(store, plugin_id)
    for number, event in events.items():
        row = progress.get(number) or _untried(event)
        if number in claims:
            row = row._replace(attempt=row.attempt + 1, claim=claims[number])
        delivery = _delivery(event, row, now)
        if number in dead:
            letters.append((delivery, dead[number]))
        else:
            waiting.append((delivery, row.claim))
    waiting.sort(key=lambda kept: kept[0].position)
    letters.sort(key=lambda kept: kept[1].age_s)
    keys = await store.rows(IDEMPOTENCY_KEY, owner=plugin_id)
    return Restored(
        waiting=tuple(waiting),
        dead=tuple(letters),
        keys=tuple(sorted(keys, key=lambda row: row.number)),
        values=tuple(await store.rows(PLUGIN_VALUE, plugin_id=plugin_id)),
        tried=frozenset(progress),
    )


async def _claims(store: Store, plugin_id: str) -> dict[int, int]:
    """Returns the claim of each number that was claimed."""
    claims: dict[int, int] = {}
    for row in await store.rows(CLAIMED, plugin_id=plugin_id):
        claim = CLAIMED_ALONE if row.is_alone else CLAIMED_TOGETHER
        claims.update(dict.fromkeys(msgspec.json.decode(row.numbers, type=list[int]), claim))
    return claims


def _untried(event: IngressRow) -> ProgressRow:
    number = event.number
    return ProgressRow(
        number, event.plugin_id, number, event.source, None, 0, 0, NOT_CLAIMED, b"[]"
    )


def _delivery(event: IngressRow, progress: ProgressRow, now: float) -> Delivery:
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
