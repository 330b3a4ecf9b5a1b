"""What an exception says of cancellation, and one guard for each call that may not end.

Exceptions of foreign code are read without running any of it: a class of theirs may define
`__context__`, `__class__` or `exceptions` itself, and raise there.
"""

from collections.abc import Callable, Iterator
from math import inf
from typing import Any, ClassVar, Literal, TypeVar, cast, overload

import trio

E = TypeVar("E", bound=BaseException)

_context_of = cast("Callable[[BaseException], BaseException | None]", vars(BaseException)["__context__"].__get__)  # fmt: skip
_members_of = cast("Callable[[Any], tuple[BaseException, ...]]", vars(BaseExceptionGroup)["exceptions"].__get__)  # fmt: skip


# -- exceptions


@overload
def leaves_of(error: BaseExceptionGroup[E]) -> Iterator[E]: ...
@overload
def leaves_of(error: BaseException) -> Iterator[BaseException]: ...
def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """Yields the exceptions in `error` that are not groups, in order; `error` itself where it is no group."""
    pending = [error]
    while pending:
        found = pending.pop()
        if issubclass(type(found), BaseExceptionGroup):
            pending += reversed(_members_of(found))
        else:
            yield found


@overload
def leaf_of(error: BaseExceptionGroup[E]) -> E: ...
@overload
def leaf_of(error: BaseException) -> BaseException: ...
def leaf_of(error: BaseException) -> BaseException:
    """Returns the first of `leaves_of`."""
    return next(leaves_of(error))


def found_in(error: BaseException, kind: type[E]) -> E | None:
    """Returns the first of `leaves_of` that is a `kind`; None where none is."""
    for leaf in leaves_of(error):
        if issubclass(type(leaf), kind):
            return cast("E", leaf)
    return None


def is_only(error: BaseException, *kinds: type[BaseException]) -> bool:
    """Returns True where each of `leaves_of` is of one of `kinds`."""
    return all(issubclass(type(leaf), kinds) for leaf in leaves_of(error))


def cancellation_in(error: BaseException) -> trio.Cancelled | None:
    """Returns the cancellation in `error`, where a scope around the caller is cancelled; else None.

    It is looked for in groups, and in what was being handled when an exception was raised: an error of
    a clean-up, beside the cancellation or in its place, does not hide it. A `Cancelled` that foreign
    code kept and raised again, with nothing cancelled, is an error like another.
    """
    if trio.current_effective_deadline() != -inf:
        return None
    pending, seen = [error], set[int]()
    while pending:
        found = pending.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if issubclass(type(found), trio.Cancelled):
            return cast("trio.Cancelled", found)
        if issubclass(type(found), BaseExceptionGroup):
            pending += _members_of(found)
        if (context := _context_of(found)) is not None:
            pending.append(context)
    return None


def reraise_cancellation(error: BaseException) -> None:
    """Raises `cancellation_in(error)` where there is one. Call it first in a handler of every exception."""
    if (cancelled := cancellation_in(error)) is not None:
        raise cancelled


# -- calls


class CallClosedError(Exception):
    """The call was judged, or has returned: its effects are refused."""


class GuardedCall:
    """One call of code that may ignore its deadline and its cancellation. Times are seconds of one clock.

    It is open until its verdict, which falls once: when it returns, at `due`, or when somebody cancels it.
    Once it is not open its effects are refused. Cancelled, it is late, and has `grace_s` to end; then it is
    wedged: `give_up`, the scope inside `scope`, is shielded, because a function that swallows a pending
    cancellation spins a core, and whoever waits for it goes on without it.

    Whoever makes a call runs it in `with call.scope, call.give_up`, and has `advance` called when `due`
    or `warn_at` is reached.
    """

    __slots__ = (
        "due",
        "give_up",
        "grace_s",
        "is_late",
        "is_open",
        "is_wedged",
        "scope",
        "started_s",
        "warn_at",
    )

    closed_error: ClassVar[type[CallClosedError]] = CallClosedError

    def __init__(
        self, started_s: float, *, timeout_s: float, grace_s: float, warn_s: float = inf
    ) -> None:
        self.started_s = started_s
        self.due = started_s + timeout_s
        self.warn_at = started_s + warn_s
        self.grace_s = grace_s
        self.scope = trio.CancelScope()
        self.give_up = trio.CancelScope()
        self.is_open = True
        self.is_late = False
        self.is_wedged = False

    def check(self) -> None:
        """Every effect passes here first. Raises `closed_error` once the call is not open."""
        if not self.is_open:
            raise self.closed_error("this call has ended; its effects are refused")

    def cancel(self, now: float, grace_s: float | None = None) -> None:
        """The verdict: closes the call, cancels it and starts its grace, in one step.

        Cancelled before, it is given up no later than `grace_s` from now; `grace_s` is its own unless given.
        """
        due = now + (self.grace_s if grace_s is None else grace_s)
        if self.is_late:
            self.due = min(self.due, due)
            return
        self.is_open = False
        self.is_late = True
        self.due = due
        self.scope.cancel()

    def abandon(self) -> None:
        """Gives the call up: it is no longer waited for, and no longer cancelled."""
        self.is_wedged = True
        self.give_up.shield = True

    def advance(self, now: float) -> Literal["slow", "late", "wedged"] | None:
        """Does what is due at `now`: warns once, cancels, or gives up. Returns which of them it did."""
        if self.is_wedged:
            return None
        if now >= self.due:
            if self.is_late:
                self.abandon()
                return "wedged"
            self.cancel(now)
            return "late"
        if now >= self.warn_at and not self.is_late:
            self.warn_at = inf
            return "slow"
        return None

    def hasten(self, due: float, grace_s: float) -> None:
        """Brings the deadline forward to `due`, and shortens the grace to `grace_s`; neither ever grows."""
        self.due = min(self.due, due)
        self.grace_s = min(self.grace_s, grace_s)

    def extend(self, by_s: float) -> None:
        """Moves the deadline and the warning: time in which the call could not run is not its own."""
        self.due += by_s
        self.warn_at += by_s
