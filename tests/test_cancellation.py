"""What an exception says of cancellation, and the guard of a call that may not end."""

from contextlib import suppress
from math import inf

import pytest
import trio
import trio.testing

from yoi_daemon.cancellation import (
    CallClosedError,
    GuardedCall,
    cancellation_in,
    found_in,
    is_only,
    leaf_of,
    leaves_of,
    reraise_cancellation,
)


class Hostile(Exception):
    """Raises wherever somebody reads it."""

    @property
    def __context__(self):
        raise SystemExit("an author's __context__")

    @property
    def __class__(self):
        raise SystemExit("an author's __class__")

    def __str__(self):
        raise SystemExit("an author's __str__")


class HostileGroup(ExceptionGroup):
    """Hides its members from whoever asks it."""

    @property
    def exceptions(self):
        raise SystemExit("an author's exceptions")

    @property
    def __context__(self):
        raise SystemExit("an author's __context__")


def nested(*leaves: Exception, depth: int = 1) -> BaseExceptionGroup:
    group = BaseExceptionGroup("", leaves)
    for _ in range(depth - 1):
        group = BaseExceptionGroup("", [group])
    return group


# -- exceptions


def test_leaves_come_in_order_from_groups_within_groups():
    a, b, c = ValueError("a"), KeyError("b"), OSError("c")
    group = ExceptionGroup("", [ExceptionGroup("", [a, b]), c])
    assert list(leaves_of(group)) == [a, b, c]
    assert leaf_of(group) is a
    assert leaf_of(c) is c


def test_an_exception_is_found_by_its_kind_inside_groups():
    wanted = KeyError("b")
    group = ExceptionGroup("", [ValueError("a"), ExceptionGroup("", [wanted])])
    assert found_in(group, LookupError) is wanted
    assert found_in(wanted, KeyError) is wanted
    assert found_in(group, OSError) is None


def test_a_group_is_only_what_all_its_leaves_are():
    group = BaseExceptionGroup("", [KeyboardInterrupt(), ExceptionGroup("", [OSError()])])
    assert is_only(group, OSError, KeyboardInterrupt)
    assert not is_only(group, KeyboardInterrupt)
    assert is_only(KeyboardInterrupt(), KeyboardInterrupt)


async def cancelled() -> trio.Cancelled:
    """A `Cancelled` as a scope that was cancelled raises it."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            return error
    raise AssertionError


def raised_while_handling(error: Exception, handled: BaseException) -> Exception:
    # Not by `error.__context__ = …`: a class may have a `__context__` of its own.
    vars(BaseException)["__context__"].__set__(error, handled)
    return error


@pytest.mark.parametrize(
    "hide",
    [
        lambda kept: kept,
        lambda kept: nested(ValueError(), kept),
        lambda kept: nested(kept, depth=50_000),
        lambda kept: raised_while_handling(ValueError(), kept),
        lambda kept: nested(ValueError(), raised_while_handling(ValueError(), nested(kept))),
        lambda kept: raised_while_handling(Hostile(), kept),
        lambda kept: HostileGroup("", [raised_while_handling(Hostile(), kept)]),
    ],
    ids=["alone", "beside", "deep", "in_its_place", "both", "hostile", "hostile_group"],
)
async def test_a_cancellation_around_the_caller_is_found_wherever_it_hides(hide):
    kept = await cancelled()
    error = hide(kept)
    # The control: with nothing cancelled it is an error like another.
    assert cancellation_in(error) is None
    reraise_cancellation(error)
    with trio.CancelScope() as scope:  # noqa: ASYNC100 (asked within it)
        scope.cancel()
        assert cancellation_in(error) is kept
        with pytest.raises(trio.Cancelled):
            reraise_cancellation(error)


async def test_an_error_without_a_cancellation_is_none_even_in_a_cancelled_scope():
    one, other = Hostile(), ValueError()
    one = raised_while_handling(one, other)
    other.__context__ = one  # a circle
    with trio.CancelScope() as scope:  # noqa: ASYNC100 (asked within it)
        scope.cancel()
        assert cancellation_in(one) is None
        assert cancellation_in(HostileGroup("", [one, other])) is None
        reraise_cancellation(one)


# -- calls


def guarded(kind: type[GuardedCall] = GuardedCall) -> GuardedCall:
    return kind(100.0, timeout_s=10, warn_s=4, grace_s=2)


def test_a_call_is_warned_of_then_cancelled_then_given_up_each_once():
    call = guarded()
    steps = {at: call.advance(at) for at in (100, 103.9, 104, 105, 109.9, 110, 111.9, 112, 113)}
    assert {at: step for at, step in steps.items() if step} == {104: "slow", 110: "late", 112: "wedged"}  # fmt: skip


def test_the_verdict_closes_effects_and_cancels_in_one_step():
    call = guarded()
    call.check()
    call.advance(110)
    assert (call.is_open, call.is_late, call.is_wedged) == (False, True, False)
    assert call.scope.cancel_called
    with pytest.raises(CallClosedError):
        call.check()


def test_a_second_cancellation_only_brings_the_end_forward():
    call = guarded()
    call.cancel(101, 8)
    assert call.due == 109
    call.cancel(102, 3)
    assert call.due == 105
    call.cancel(103, 100)
    assert call.due == 105
    assert call.advance(104.9) is None
    assert call.advance(105) == "wedged"


def test_a_call_that_has_returned_refuses_its_late_effects():
    call = guarded()
    call.is_open = False
    with pytest.raises(CallClosedError):
        call.check()


def test_a_hastened_deadline_never_grows():
    call = guarded()
    call.hasten(105, 1)
    call.hasten(inf, 5)
    assert (call.due, call.grace_s) == (105, 1)
    assert call.advance(105) == "late"
    assert call.advance(106) == "wedged"


def test_time_in_which_a_call_could_not_run_is_given_back():
    call = guarded()
    call.extend(7)
    assert call.advance(110) is None
    assert call.advance(111) == "slow"
    assert call.advance(117) == "late"


class Unshielded(GuardedCall):
    """The control: given up, but not shielded."""

    __slots__ = ()

    def abandon(self) -> None:
        self.is_wedged = True


@pytest.mark.parametrize(("kind", "spins"), [(GuardedCall, False), (Unshielded, True)])
async def test_what_swallows_its_cancellation_spins_no_core_once_given_up(kind, spins):
    call = guarded(kind)
    turns = 0
    release = trio.Event()

    async def ignore_cancellation() -> None:
        nonlocal turns
        with call.scope, call.give_up:
            while not release.is_set():
                turns += 1
                with suppress(trio.Cancelled):
                    await release.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ignore_cancellation)
        await trio.testing.wait_all_tasks_blocked()
        assert turns == 1
        call.advance(110)
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        assert turns > 5  # cancelled and not given up, it spins
        assert call.advance(112) == "wedged"
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        before = turns
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        assert (turns > before) is spins
        release.set()
