"""An author's settings, and secrets in them."""

import hmac
from typing import Any, NoReturn

import msgspec


class Config(msgspec.Struct, forbid_unknown_fields=True):
    """The root of an author's `Settings`: `[plugins.NAME.config]` is decoded into it, unknown keys are faults."""


class Secret:
    """A value read from a file in the secrets directory. It cannot be printed, copied or serialised."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Returns the value itself. Hand it only to what needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be serialised")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a Secret cannot be serialised")

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(
            self._value.encode(), other._value.encode()
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]
