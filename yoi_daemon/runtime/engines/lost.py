"""The engine of workers whose profile is no longer configured."""

from yoi_daemon.model.errors import Refused
from yoi_daemon.runtime.engines.interface import Turn


class LostEngine:
    """Implements `Engine`. Fails every turn with `profile_not_found`; the transcript stays readable."""

    async def run(self, turn: Turn) -> None:
        raise Refused(
            "profile_not_found",
            "this worker's profile was removed from the configuration; restore it",
        )
