"""Delivery keys: within a window, the same key and body get the first answer again."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import msgspec
import trio

from yoi_daemon.model.errors import Refused
from yoi_daemon.store.interface import Recorder
from yoi_daemon.store.tables import IDEMPOTENCY_KEY, IdempotencyKeyRow

R = TypeVar("R", bound=msgspec.Struct)
"""The first answer."""

MAX_KEYS = 10_000
MAX_AGE_S = 86_400.0
"""Keys are remembered for a day, and the latest 10,000 of each plugin."""
MAX_KEY_CHARS = 256
"""200 of the caller's, and whose they are."""


class _Known(msgspec.Struct, Generic[R], frozen=True):
    digest: bytes
    receipt: R
    age_s: float


class DeliveryKeys(Generic[R]):
    """The keys of one plugin (`owner`), or of the API, where it is empty.

    A key belongs to an ingress, or to a token and an address. `receipt_type` is the answers' type,
    which is JSON in the store; `recorder` has evicted keys committed; `age_s` gives the seconds they age by.
    """

    def __init__(
        self,
        owner: str,
        receipt_type: type[R],
        recorder: Recorder,
        *,
        age_s: Callable[[], float],
        max_keys: int = MAX_KEYS,
        max_age_s: float = MAX_AGE_S,
    ) -> None:
        self._owner = owner
        self._decoder = msgspec.json.Decoder(receipt_type)
        self._recorder = recorder
        self._age_s = age_s
        self._number = 0
        self._max_keys = max_keys
        self._max_age_s = max_age_s
        self._known: OrderedDict[tuple[str, str], _Known[R]] = OrderedDict()
        self._under_way: dict[tuple[str, str], trio.Event] = {}

    def restore(self, rows: Iterable[IdempotencyKeyRow]) -> None:
        """Restores the keys of an earlier run, oldest first."""
        for row in rows:
            receipt = self._decoder.decode(row.answer)
            self._known[row.scope, row.key] = _Known(row.digest, receipt, row.age_s)
            self._number = row.number

    async def claim(self, ingress: str, key: str, body: bytes) -> R | None:
        """Returns the first answer to this key, or None: then the key is the caller's until `settle` or `abandon`.

        Waits while another caller has the same key. Raises `Refused`
        (`delivery_id_conflict`) for another body.
        """
        if not 1 <= len(key) <= MAX_KEY_CHARS:
            raise Refused("invalid_request", f"a delivery key has 1 to {MAX_KEY_CHARS} characters")
        at = (ingress, key)
        while (under_way := self._under_way.get(at)) is not None:
            await under_way.wait()
        self._expire()
        known = self._known.get(at)
        if known is not None:
            if known.digest != _digest(body):
                refused = Refused(
                    "delivery_id_conflict",
                    "this key came with another body before; use a new key for a new event",
                )
                if (event_id := getattr(known.receipt, "event_id", None)) is not None:
                    refused.fields["event_id"] = event_id
                raise refused
            return known.receipt
        self._under_way[at] = trio.Event()
        return None

    def settle(self, ingress: str, key: str, body: bytes, receipt: R) -> None:
        """Keeps the answer of a key whose event was committed. Synchronous."""
        self._known[ingress, key] = _Known(_digest(body), receipt, self._age_s())
        if len(self._known) > self._max_keys:
            self._evict_oldest()
        self.abandon(ingress, key)

    def record(self, commit: Recorder, ingress: str, key: str, body: bytes, receipt: R) -> int:
        """Writes the key and its answer into `commit` and returns its ticket. `settle` is to follow."""
        self._number += 1
        row = IdempotencyKeyRow(
            self._owner,
            ingress,
            key,
            self._number,
            _digest(body),
            self._age_s(),
            msgspec.json.encode(receipt),
        )
        return commit.record((IDEMPOTENCY_KEY.put(row),))

    def abandon(self, ingress: str, key: str) -> None:
        """Frees a key whose event was not accepted. Synchronous."""
        self._under_way.pop((ingress, key)).set()

    def _expire(self) -> None:
        oldest_s = self._age_s() - self._max_age_s
        while self._known and next(iter(self._known.values())).age_s <= oldest_s:
            self._evict_oldest()

    def _evict_oldest(self) -> None:
        (ingress, key), _ = self._known.popitem(last=False)
        self._recorder.record((IDEMPOTENCY_KEY.drop(self._owner, ingress, key),))


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()
