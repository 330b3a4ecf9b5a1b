"""A plugin's own small key-value state. It outlives restarts of the service; with a memory store not the process."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from yoi_daemon.model.errors import Refused
from yoi_daemon.store.tables import PLUGIN_VALUE, Changes, PluginValueRow

MAX_KEY_CHARS = 200
MAX_VALUE_BYTES = 65_536
MAX_STATE_BYTES = 1_048_576
"""A key of 200 characters, a value of 64 KiB of JSON, 1 MiB for all of a plugin's: small, by intent."""


class PluginState:
    """The state of one plugin: JSON values by key, held encoded, so that nothing is shared.

    `record` has changes committed, and gives the ticket of the commit.
    """

    def __init__(self, plugin_id: str, record: Callable[[Changes], int]) -> None:
        self._plugin_id = plugin_id
        self._record = record
        self._values: dict[str, bytes] = {}
        self._bytes = 0

    def get(self, key: str) -> Any:
        """Returns the value of `key`; None where there is none."""
        encoded = self._values.get(key)
        return None if encoded is None else msgspec.json.decode(encoded)

    def restore(self, values: Iterable[PluginValueRow]) -> None:
        """Takes up what an earlier run left."""
        for row in values:
            self._values[row.key] = row.value
            self._bytes += self._size(row.key)

    def set(self, key: str, value: Any) -> int:
        """Keeps `value`; gives the ticket of its commit. Raises `Refused`: `invalid_request`, `payload_too_large`, `limit_reached`."""
        if not 1 <= len(key) <= MAX_KEY_CHARS:
            raise Refused("invalid_request", f"a key has 1 to {MAX_KEY_CHARS} characters")
        try:
            encoded = msgspec.json.encode(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise Refused("invalid_request", f"the value is not JSON: {error}") from error
        if len(encoded) > MAX_VALUE_BYTES:
            raise Refused(
                "payload_too_large",
                f"the value is {len(encoded)} bytes of JSON; at most {MAX_VALUE_BYTES} are kept",
            )
        grown = self._bytes - self._size(key) + len(key) + len(encoded)
        if grown > MAX_STATE_BYTES:
            raise Refused(
                "limit_reached", f"a plugin keeps at most {MAX_STATE_BYTES} bytes; delete some keys"
            )
        self._values[key] = encoded
        self._bytes = grown
        row = PluginValueRow(self._plugin_id, key, encoded)
        return self._record((PLUGIN_VALUE.put(row),))

    def delete(self, key: str) -> int:
        """Lets go of `key`, if it is there; gives the ticket of the commit."""
        self._bytes -= self._size(key)
        self._values.pop(key, None)
        return self._record((PLUGIN_VALUE.drop(self._plugin_id, key),))

    def keys(self) -> list[str]:
        """Returns the keys there are, sorted."""
        return sorted(self._values)

    def _size(self, key: str) -> int:
        return len(key) + len(self._values[key]) if key in self._values else 0
