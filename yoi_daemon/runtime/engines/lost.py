"""Stands in for an engine whose profile is no longer configured."""

from yoi_daemon.model.errors import Refused
from yoi_daemon.runtime.engines.interface import Turn


class LostEngine:
    """Fails every turn, and says why; the worker's transcript stays readable."""

    async def run(self, turn: Turn) -> None:
        raise Refused(
            "profile_not_found", "this worker's profile is gone from the configuration; put it back"
        )
