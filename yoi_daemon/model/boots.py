"""Which plugin the daemon's starts died on: the rules, from what a journal noted of each start that died.

A boot is one life of the process until it has been well for a while. Deaths in a row are those since
the last boot that was well or was stopped in order.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile

import msgspec

Suspects = Mapping[str, str]
"""Plugin ids, each with the edition of the plugin: its code and its configuration."""

BEYOND_ATTEMPTS = 2
"""A poison event ends up to `attempts + 1` processes before it is a dead letter. A plugin whose events end
`attempts`, the bound for boots and so many more is the fault itself."""


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """A boot that died. `in_hand` was being imported or started just then; `at_work` had an event in hand."""

    in_hand: dict[str, str]
    at_work: dict[str, str]


class Quarantine(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin that is not loaded, as long as it is this edition; `doing` is what the boots died on."""

    edition: str
    deaths: int
    doing: str


class BootVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """How the daemon starts.

    `convicted` are newly found guilty. `safe` says why no plugin is to be loaded. `is_careful`: plugins
    come up one at a time, and no event is handled before, so that the next death has one suspect.
    """

    convicted: dict[str, Quarantine] = {}
    safe: str | None = None
    is_careful: bool = False


def judge(deaths: Sequence[Death], limit: int, attempts: Callable[[str], int]) -> BootVerdict:
    """What follows from the deaths in a row, the oldest first.

    `limit` of them on one plugin are its quarantine, and of unknown cause safe mode; 0 is never.
    `attempts` are what an event of a plugin has. A death with an event in hand is the event's: it is
    charged an attempt, and is a dead letter in the end.
    """
    if not limit:
        return BootVerdict()
    convicted: dict[str, Quarantine] = {}
    safe = None
    workers = _worked_to_death(deaths, limit, attempts)
    if len(workers) == 1:
        convicted |= workers
    elif workers:
        safe = f"the last {min(one.deaths for one in workers.values())} starts died while several plugins handled events"
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
    """The plugins whose events were in hand at more deaths in a row than their attempts account for."""
    found: dict[str, Quarantine] = {}
    for plugin_id, edition in deaths[-1].at_work.items() if deaths else ():
        count = _in_a_row([death.at_work for death in deaths], plugin_id, edition)
        if count >= attempts(plugin_id) + limit + BEYOND_ATTEMPTS:
            found[plugin_id] = Quarantine(edition=edition, deaths=count, doing="handle events")
    return found


def _in_a_row(suspects: Sequence[Suspects], plugin_id: str, edition: str) -> int:
    """How many of the latest are of this plugin, without a break."""
    return len([*takewhile(lambda one: one.get(plugin_id) == edition, reversed(suspects))])
