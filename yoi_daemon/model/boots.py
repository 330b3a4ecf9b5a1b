"""The rules that find the plugin which kills the daemon's boots, from a journal of the deaths.

A boot is one process until it has been healthy for a while. Consecutive deaths are those since the
last boot that was healthy or was stopped in order.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile

import msgspec

Suspects = Mapping[str, str]
"""Plugin ids, each with the plugin's edition: a digest of its code and its configuration."""

BEYOND_ATTEMPTS = 2
"""A poison event ends up to `attempts + 1` processes before it is a dead letter. A plugin whose events end
`attempts`, the bound for boots and so many more is the fault itself."""


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """A boot that died. `in_hand` was being imported or started; `at_work` was handling an event."""

    in_hand: dict[str, str]
    at_work: dict[str, str]


class Quarantine(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin that is not loaded while it has this edition; `doing` is what it did when the boots died."""

    edition: str
    deaths: int
    doing: str


class BootVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """How the daemon starts.

    `convicted` are newly quarantined. `safe` is the reason to load no plugin. If `is_careful`, plugins
    start one at a time, and no event is handled before, so that the next death has one suspect.
    """

    convicted: dict[str, Quarantine] = {}
    safe: str | None = None
    is_careful: bool = False


def judge(deaths: Sequence[Death], limit: int, attempts: Callable[[str], int]) -> BootVerdict:
    """Judges consecutive deaths, the oldest first.

    `limit` of them on one plugin quarantine it, and of unknown cause mean safe mode; 0 is never.
    `attempts` returns the attempts of a plugin's events. A death with an event in hand is charged to
    the event, which becomes a dead letter in the end.
    """
    if not limit:
        return BootVerdict()
    convicted: dict[str, Quarantine] = {}
    safe = None
    workers = _worked_to_death(deaths, limit, attempts)
    if len(workers) == 1:
        convicted |= workers
    elif workers:
        safe = f"the last {min(found.deaths for found in workers.values())} starts died while several plugins handled events"
    others = [death for death in deaths if not death.at_work]
    if len(others) >= limit:
        latest = others[-limit:]
        common = [
            (name, edition)
            for name, edition in latest[-1].in_hand.items()
            if all(death.in_hand.get(name) == edition for death in latest)
        ]
        if len(common) == 1:
            ((plugin_id, edition),) = common
            convicted[plugin_id] = Quarantine(
                edition=edition,
                deaths=_in_a_row([death.in_hand for death in others], plugin_id, edition),
                doing="come up",
            )
        elif not any(death.in_hand for death in latest):
            safe = f"the last {limit} starts died, and no plugin was being loaded or started"
    if len(others) > 2 * limit and not convicted:
        safe = f"{len(others)} starts in a row died, and no one plugin is to blame"
    return BootVerdict(convicted=convicted, safe=safe, is_careful=len(deaths) >= limit - 1)


def _worked_to_death(
    deaths: Sequence[Death], limit: int, attempts: Callable[[str], int]
) -> dict[str, Quarantine]:
    """Returns plugins that handled events at more consecutive deaths than their attempts account for."""
    found: dict[str, Quarantine] = {}
    for plugin_id, edition in deaths[-1].at_work.items() if deaths else ():
        count = _in_a_row([death.at_work for death in deaths], plugin_id, edition)
        if count >= attempts(plugin_id) + limit + BEYOND_ATTEMPTS:
            found[plugin_id] = Quarantine(edition=edition, deaths=count, doing="handle events")
    return found


def _in_a_row(suspects: Sequence[Suspects], plugin_id: str, edition: str) -> int:
    """Counts the latest consecutive deaths of this plugin."""
    return len([*takewhile(lambda found: found.get(plugin_id) == edition, reversed(suspects))])
