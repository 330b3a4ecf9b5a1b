"""What the host tells a boot journal, so that a death of the process has a suspect."""

from collections.abc import Callable, Collection
from typing import Protocol

import msgspec

from yoi_daemon.model.boots import BootVerdict, Quarantine


class Boots(Protocol):
    """The journal of this daemon's boots. Losing it loses no event: what it cannot write it forgets."""

    async def begin(self, at_work: Collection[str], attempts: Callable[[str], int]) -> BootVerdict:
        """Judges how the last boot ended and begins this one, before any plugin is loaded.

        `at_work` are the plugins of which the store says that an event was in hand.
        """
        ...

    @property
    def quarantined(self) -> dict[str, Quarantine]:
        """Returns the plugins that are not to be loaded, by id, each in one edition."""
        ...

    def enter(self, plugin_id: str, edition: str) -> None:
        """It is about to be loaded. Blocks until that is on the disk; call it in a thread."""
        ...

    async def enter_start(self, plugin_id: str, edition: str) -> None:
        """Its `start` is about to be called; returns when that is on the disk."""
        ...

    def leave(self, plugin_id: str) -> None:
        """What was entered came to an end, good or bad."""
        ...

    def came_up(self, plugin_id: str, edition: str) -> None:
        """It runs: a quarantine is over."""
        ...


class NotJournaled:
    """No journal: nothing is noted and nothing held back."""

    @property
    def quarantined(self) -> dict[str, Quarantine]:
        return {}

    async def begin(self, at_work: Collection[str], attempts: Callable[[str], int]) -> BootVerdict:
        return BootVerdict()

    def enter(self, plugin_id: str, edition: str) -> None:
        return

    async def enter_start(self, plugin_id: str, edition: str) -> None:
        return

    def leave(self, plugin_id: str) -> None:
        return

    def came_up(self, plugin_id: str, edition: str) -> None:
        return


class Hold(msgspec.Struct, frozen=True):
    """Why a plugin is not loaded though it could be: `safe_mode`, or `quarantined` in this edition."""

    code: str
    message: str
    edition: str | None = None


def in_quarantine(found: Quarantine, plugin_id: str) -> Hold:
    """Returns the hold of a plugin that the boots died on."""
    message = (
        f"the daemon died {found.deaths} times in a row while this plugin was to {found.doing}; "
        f"correct it, or 'yoi-daemon plugin start {plugin_id}' tries it once more"
    )
    return Hold("quarantined", message, found.edition)


def in_safe_mode() -> Hold:
    """Returns the hold of every plugin in safe mode."""
    return Hold(
        "safe_mode",
        "the daemon is in safe mode and has loaded no plugin; 'yoi-daemon status' says why, "
        "'yoi-daemon reload' ends it",
    )
