"""What operators and reloads ask of a service's supervisor."""

from typing import Literal

import trio

from yoi_daemon.model.errors import Refused
from yoi_daemon.plugins.supervision.installation import Installed

CommandName = Literal["start", "stop", "restart", "replace", "retire"]


class ServiceCommand:
    """One thing asked of a supervisor. `done` is set when it was carried out or `refused`."""

    def __init__(self, name: CommandName, replacement: Installed | None = None) -> None:
        self.name: CommandName = name
        self.replacement = replacement
        self.done = trio.Event()
        self.refused: Refused | None = None

    def end(self, refused: Refused | None = None) -> None:
        """It was carried out, or refused."""
        self.refused = refused
        self.done.set()

    async def outcome(self) -> None:
        """Waits until it was carried out. Raises `Refused` where it could not be."""
        await self.done.wait()
        if self.refused is not None:
            raise self.refused
