"""Who is written to together: the feed of a filter, and the groups of its direct subscribers."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from yoi_daemon.eventlog.entry import Entry
from yoi_daemon.eventlog.filter import Filter
from yoi_daemon.model.frames import Write

WRITES_A_TURN = 128
"""Writes between two checkpoints of a pass, and so the most members of a group."""


class Member(Protocol):
    """A direct subscriber, as its group sees it."""

    @property
    def told(self) -> int:
        """The last event the peer knows it is at."""
        ...

    def wake(self) -> None:
        """Lets its own task look at things, if it rests."""
        ...

    def follow(self) -> None:
        """It leaves its group."""
        ...

    def fall_short(self, frames: bytes, taken: int) -> None:
        """Of `frames` only `taken` bytes were written: it leaves its group and sees to the rest itself."""
        ...


class Group:
    """Direct ones of a feed that are written to in one stretch: what holds of one holds of all.

    Everything that matches up to `position` was written. `delivered` is in events since it was made,
    `last` the number of the last of them and `heard_s` when that was. `is_due` says that the pass
    under way has yet to write to it: then nobody may join.
    """

    __slots__ = ("delivered", "heard_s", "is_due", "last", "members", "position")

    def __init__(self) -> None:
        self.members: dict[Member, Write] = {}
        self.delivered = self.last = self.position = 0
        self.heard_s = 0.0
        self.is_due = False

    def write(self, pending: Sequence[Entry], frames: bytes, cut: int, now: float) -> None:
        """Writes `frames`, which are `pending` joined, to every member."""
        size = len(frames)
        short: list[tuple[int, int]] = []
        # Only what is written with is looked at: of a thousand members nothing is in the processor's cache.
        for index, write in enumerate(tuple(self.members.values())):
            try:
                taken = write(frames)
            except Exception:  # noqa: BLE001 - its own task meets the same, and ends itself by it
                taken = 0
            if taken != size:
                short.append((index, taken))
        self.is_due = False
        self.position = cut
        self.delivered += len(pending)
        self.last = pending[-1].seq
        self.heard_s = now
        if short:
            members = tuple(self.members)
            for index, taken in short:
                members[index].fall_short(frames, taken)


class Feed:
    """The subscribers of one filter."""

    __slots__ = ("groups", "pending", "takes_its_scope", "told", "users", "wanted")

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self.takes_its_scope = wanted in (
            Filter(worker=wanted.worker),
            Filter(plugin_id=wanted.plugin_id),
        )
        """Whether all that is in the filter's scope passes."""
        self.users = 0
        self.groups: list[Group] = []
        """None is empty."""
        self.pending: list[Entry] = []
        self.told = 0
        """No direct member was told of less; a lower bound."""

    def direct(self) -> Iterator[Member]:
        """Its direct members."""
        return (member for group in self.groups for member in group.members)

    def group(self) -> Group:
        """One that may be joined."""
        if self.groups:
            group = self.groups[-1]
            if not group.is_due and len(group.members) < WRITES_A_TURN:
                return group
        group = Group()
        self.groups.append(group)
        return group
