"""Events that no attempt could handle, kept byte-exact for an operator."""

import base64
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from itertools import islice
from typing import Any

import msgspec

from yoi_daemon.eventlog.interface import Commit
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.plugins import DeadLetterDetail, DeadLetterSummary
from yoi_daemon.plugins.delivery import Delivery
from yoi_daemon.plugins.lane.ledger import LaneLedger
from yoi_daemon.store.tables import DeadLetterRow

MAX_DEAD_LETTERS = 10_000
MAX_DEAD_LETTER_BYTES = 104_857_600
MAX_DEAD_LETTER_AGE_S = 1_209_600.0
"""10,000, 100 MiB and 14 days for each plugin; beyond any of them the oldest is evicted, and counted."""
EXPIRED_AT_ONCE = 100


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One dead event with its attempts. `digest` is that of the plugin's code at its death."""

    plugin_id: str
    delivery: Delivery
    digest: str
    died_at: str
    age_s: float


class DeadLetters:
    """The dead letters of one plugin. Event ids sort by age, so pages are oldest first."""

    def __init__(
        self,
        plugin_id: str,
        ledger: LaneLedger,
        *,
        age_s: Callable[[], float],
        max_letters: int = MAX_DEAD_LETTERS,
        max_bytes: int = MAX_DEAD_LETTER_BYTES,
        max_age_s: float = MAX_DEAD_LETTER_AGE_S,
    ) -> None:
        self._plugin_id = plugin_id
        self._ledger = ledger
        self._age_s = age_s
        self._max_age_s = max_age_s
        self._max_letters = max_letters
        self._max_bytes = max_bytes
        self._letters: dict[str, DeadLetter] = {}
        """In the order of their deaths."""
        self._ids: list[str] = []
        """Sorted."""
        self._bytes = 0
        self.evicted = 0
        """Letters that were deleted because a bound was reached."""

    def __len__(self) -> int:
        return len(self._letters)

    def add(self, commit: Commit, delivery: Delivery, digest: str, died_at: str) -> None:
        """Keeps an event and evicts the oldest letters beyond a bound."""
        letter = DeadLetter(
            plugin_id=self._plugin_id,
            delivery=delivery,
            digest=digest,
            died_at=died_at,
            age_s=self._age_s(),
        )
        if delivery.event_id in self._letters:
            self.take(delivery.event_id)
        self._ledger.died(commit, delivery, digest, died_at, letter.age_s)
        self._keep(letter)
        while len(self._letters) > 1 and (
            len(self._letters) > self._max_letters or self._bytes > self._max_bytes
        ):
            self._evict_oldest(commit)
        self._expire(commit)

    def restore(self, delivery: Delivery, row: DeadLetterRow) -> None:
        """Keeps a letter of an earlier run; they come oldest first."""
        self._keep(
            DeadLetter(
                plugin_id=self._plugin_id,
                delivery=delivery,
                digest=row.digest,
                died_at=row.died_at,
                age_s=row.age_s,
            )
        )

    def _keep(self, letter: DeadLetter) -> None:
        event_id = letter.delivery.event_id
        self._letters[event_id] = letter
        insort(self._ids, event_id)
        self._bytes += letter.delivery.size

    def expire(self) -> None:
        """Evicts letters that are too old, up to `EXPIRED_AT_ONCE`."""
        with self._ledger.together() as commit:
            self._expire(commit)

    def _expire(self, commit: Commit) -> None:
        oldest_s = self._age_s() - self._max_age_s
        for letter in list(islice(self._letters.values(), EXPIRED_AT_ONCE)):
            if letter.age_s >= oldest_s:
                return
            self._evict_oldest(commit)

    def _evict_oldest(self, commit: Commit) -> None:
        self.remove(commit, next(iter(self._letters)))
        self.evicted += 1

    def get(self, event_id: str) -> DeadLetter:
        """Returns one letter. Raises `Refused` (`event_not_found`)."""
        letter = self._letters.get(event_id)
        if letter is None:
            raise Refused(
                "event_not_found",
                f"plugin {self._plugin_id} has no dead letter {event_id}; list them with dead list",
            )
        return letter

    def remove(self, commit: Commit, event_id: str) -> DeadLetter:
        """Deletes one letter. Raises `Refused` (`event_not_found`)."""
        letter = self.take(event_id)
        self._ledger.evicted(commit, letter.delivery)
        return letter

    def take(self, event_id: str) -> DeadLetter:
        """Takes one letter out for redelivery. Raises `Refused` (`event_not_found`)."""
        letter = self.get(event_id)
        del self._letters[event_id]
        del self._ids[bisect_left(self._ids, event_id)]
        self._bytes -= letter.delivery.size
        return letter

    def page(self, after: str | None, limit: int) -> tuple[list[DeadLetterSummary], str | None]:
        """Returns up to `limit` letters after the event id `after`, and the `after` of the next page."""
        begin = 0 if after is None else bisect_right(self._ids, after)
        chosen = self._ids[begin : begin + limit]
        more = chosen[-1] if len(self._ids) > begin + limit else None
        return [summary_of(self._letters[event_id]) for event_id in chosen], more


def summary_of(letter: DeadLetter) -> DeadLetterSummary:
    """Returns the public summary."""
    return DeadLetterSummary(**_public(letter))


def detail_of(letter: DeadLetter) -> DeadLetterDetail:
    """Returns the public detail, with the payload."""
    delivery = letter.delivery
    exact = delivery.body or delivery.payload
    return DeadLetterDetail(
        **_public(letter),
        payload=msgspec.Raw(delivery.payload),
        payload_base64=base64.b64encode(exact).decode("ascii"),
        headers=delivery.headers,
    )


def _public(letter: DeadLetter) -> dict[str, Any]:
    delivery = letter.delivery
    return {
        "event_id": delivery.event_id,
        "ingress": delivery.ingress,
        "source": delivery.source,
        "created_at": delivery.created_at,
        "died_at": letter.died_at,
        "correlation_id": delivery.correlation_id,
        "bytes": delivery.size,
        "attempts": tuple(delivery.attempts),
        "plugin_digest": letter.digest,
        "redelivery_of": delivery.redelivery_of,
    }
