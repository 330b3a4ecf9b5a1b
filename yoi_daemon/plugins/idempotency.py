"""Delivery keys: the same key and body get the first answer again, within a window."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec
import trio

from yoi_daemon.model.errors import Refused

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
    expires_s: float


class DeliveryKeys(Generic[R]):
    """The keys of one plugin, or of the API. A key belongs to an ingress, or to a token and an address; `clock` gives monotonic seconds."""

    def __init__(
        self, *, clock: Callable[[], float], max_keys: int = MAX_KEYS, max_age_s: float = MAX_AGE_S
    ) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._max_age_s = max_age_s
        self._known: OrderedDict[tuple[str, str], _Known[R]] = OrderedDict()
        self._under_way: dict[tuple[str, str], trio.Event] = {}

    async def claim(self, ingress: str, key: str, body: bytes) -> R | None:
        """The first answer to this key, or None: then the key is the caller's until `settle` or `abandon`.

        Waits while the same key is under way: its fate is ours. Raises `Refused`
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
                    "this key came with another body before; give what is new a new key",
                )
                if (event_id := getattr(known.receipt, "event_id", None)) is not None:
                    refused.fields["event_id"] = event_id
                raise refused
            return known.receipt
        self._under_way[at] = trio.Event()
        return None

    def settle(self, ingress: str, key: str, body: bytes, receipt: R) -> None:
        """The event was committed; the key answers so from now on. Synchronous."""
        at = (ingress, key)
        self._known[at] = _Known(_digest(body), receipt, self._clock() + self._max_age_s)
        if len(self._known) > self._max_keys:
            self._known.popitem(last=False)
        self.abandon(ingress, key)

    def abandon(self, ingress: str, key: str) -> None:
        """The event was not accepted; the key is free. Synchronous."""
        self._under_way.pop((ingress, key)).set()

    def _expire(self) -> None:
        now = self._clock()
        while self._known and next(iter(self._known.values())).expires_s <= now:
            self._known.popitem(last=False)


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()
