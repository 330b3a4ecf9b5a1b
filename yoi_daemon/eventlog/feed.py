"""Subscribers that are written to together: the feed of a filter, and its groups."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from yoi_daemon.eventlog.entry import Entry
from yoi_daemon.eventlog.filter import Filter
from yoi_daemon.model.frames import Write

WRITES_A_TURN = 128
"""Writes between two checkpoints of a pass, and so the most members of a group."""


class Member(Protocol):
    """A direct subscriber as its group sees it."""

    @property
    def reported(self) -> int:
        """Returns the last position that the peer knows of."""
        ...

    def wake(self) -> None:
        """Wakes its own task, if that waits."""
        ...

    def follow(self) -> None:
        """Leaves its group."""
        ...

    def note_short_write(self, frames: bytes, taken: int) -> None:
        """Only `taken` bytes of `frames` were written: leaves its group and writes the rest itself."""
        ...


class Group:
    """Direct subscribers of a feed that are written to in one stretch, and share position and counts.

    Everything that matches up to `position` was written. `delivered` counts events since the group was
    made, `last` is the number of the last of them, and `last_write_s` its time. While `is_due`, the
    current pass has yet to write to the group, and no member may join.
    """

    __slots__ = ("delivered", "is_due", "last", "last_write_s", "members", "position")

    def __init__(self) -> None:
        self.members: dict[Member, Write] = {}
        self.delivered = self.last = self.position = 0
        self.last_write_s = 0.0
        self.is_due = False

    def write(self, pending: Sequence[Entry], frames: bytes, cut: int, now: float) -> None:
        """Writes `frames`, which are `pending` joined, to every member."""
        size = len(frames)
        short: list[tuple[int, int]] = []
        # Touches the write functions alone: of a thousand members nothing is in the processor's cache.
        for index, write in enumerate(tuple(self.members.values())):
            try:
                taken = write(frames)
            except Exception:  # noqa: BLE001 - its own task meets the same error, and ends
                taken = 0
            if taken != size:
                short.append((index, taken))
        self.is_due = False
        self.position = cut
        self.delivered += len(pending)
        self.last = pending[-1].seq
        self.last_write_s = now
        if short:
            members = tuple(self.members)
            for index, taken in short:
                members[index].note_short_write(frames, taken)


class Feed:
    """The subscribers of one filter."""

    __slots__ = ("groups", "least_reported", "passes_whole_scope", "pending", "users", "wanted")

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self.passes_whole_scope = wanted in (
            Filter(worker=wanted.worker),
            Filter(plugin_id=wanted.plugin_id),
        )
        """True if the filter passes everything in its scope."""
        self.users = 0
        self.groups: list[Group] = []
        """Never an empty one."""
        self.pending: list[Entry] = []
        self.least_reported = 0
        """A lower bound of what direct members have reported."""

    def direct(self) -> Iterator[Member]:
        """Yields the direct members."""
        return (member for group in self.groups for member in group.members)

    def group(self) -> Group:
        """Returns a group that may be joined."""
        if self.groups:
            group = self.groups[-1]
            if not group.is_due and len(group.members) < WRITES_A_TURN:
                return group
        group = Group()
        self.groups.append(group)
        return group
