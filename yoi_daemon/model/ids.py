"""Identifiers, and the rules for ids of plugins and runtimes."""

import os
import re
import time
from collections.abc import Callable

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: sorts as the number does
_RANDOM_BITS = 80
_PLUGIN_ID = re.compile(r"[a-z][a-z0-9_]{0,31}")

RESERVED_PLUGIN_IDS = frozenset({"daemon", "log", "plugin", "runtime", "tool", "worker"})
PLUGIN_ID_RULE = (
    "a lower-case letter, then up to 31 of a-z, 0-9 and _, without __, "
    f"and none of {', '.join(sorted(RESERVED_PLUGIN_IDS))}"
)
EMBEDDED_RUNTIME_ID = "backend-internal"
_RUNTIME_ID = re.compile(r"[a-z][a-z0-9_-]{0,31}")
RUNTIME_ID_RULE = (
    f"a lower-case letter, then up to 31 of a-z, 0-9, _ and -, and not {EMBEDDED_RUNTIME_ID}, "
    "which is the daemon's own"
)


class IdSource:
    """Makes identifiers that sort by time, also within one millisecond.

    An identifier is `prefix_` and 26 characters: 48 bits of Unix milliseconds, 80 bits of chance.
    When the clock stands still or steps back the chance part counts up instead, so that the order
    holds for one source. `clock` returns Unix seconds, `random_bytes` the given number of random bytes.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._clock = clock
        self._random_bytes = random_bytes
        self._last = 0
        # What is written of it but the last four characters: the same for most that are made in one millisecond.
        self._high, self._written = -1, ""

    def new(self, prefix: str) -> str:
        """Returns the next identifier, such as `evt_06f5…`."""
        milliseconds = int(self._clock() * 1000)
        if milliseconds > self._last >> _RANDOM_BITS:
            chance = int.from_bytes(self._random_bytes(_RANDOM_BITS // 8), "big")
            # The top bit is left free, so that counting up cannot run into the milliseconds.
            self._last = milliseconds << _RANDOM_BITS | chance >> 1
        else:
            self._last += 1
        high, low = self._last >> _LOW_BITS, self._last & _LOW
        if high != self._high:
            self._high = high
            self._written = "".join([_PAIRS[high >> shift & 1023] for shift in _SHIFTS])
        return f"{prefix}_{self._written}{_PAIRS[low >> 10]}{_PAIRS[low & 1023]}"


_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_LOW_BITS = 20
_LOW = (1 << _LOW_BITS) - 1
_SHIFTS = range(100, -1, -10)


def is_plugin_id(name: str) -> bool:
    """True if `name` may be a plugin's id (`PLUGIN_ID_RULE`)."""
    return (
        _PLUGIN_ID.fullmatch(name) is not None
        and "__" not in name
        and name not in RESERVED_PLUGIN_IDS
    )


def is_runtime_id(name: str) -> bool:
    """True if a configured runtime may have this id (`RUNTIME_ID_RULE`)."""
    return _RUNTIME_ID.fullmatch(name) is not None and name != EMBEDDED_RUNTIME_ID
