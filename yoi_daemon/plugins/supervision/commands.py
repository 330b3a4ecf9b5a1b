"""What operators and reloads ask of a service, in line for its supervisor."""

from collections import deque
from collections.abc import Callable
from typing import Literal

import trio

from yoi_daemon.model.errors import Refused
from yoi_daemon.plugins.supervision.installation import Installed

CommandName = Literal["start", "stop", "restart", "replace", "retire"]


class Command:
    """One thing asked of a supervisor. `done` is set when it was carried out or `refused`."""

    def __init__(self, name: CommandName, replacement: Installed | None = None) -> None:
        self.name: CommandName = name
        self.replacement = replacement
        self.done = trio.Event()
        self.refused: Refused | None = None


class Commands:
    """The commands that wait, in order. `wake` is called for each that comes."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._waiting: deque[Command] = deque()
        self._wake = wake

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def ask(self, command: Command) -> None:
        """Puts a command in line and waits for it. Cancelling the wait does not take it back.

        Raises the `Refused` that the command came to.
        """
        self._waiting.append(command)
        self._wake()
        await command.done.wait()
        if command.refused is not None:
            raise command.refused

    def take(self) -> Command:
        """The next command. Raises `IndexError` where none waits."""
        return self._waiting.popleft()

    def refuse_all(self, refused: Refused) -> None:
        """Refuses every command that waits."""
        while self._waiting:
            command = self._waiting.popleft()
            command.refused = refused
            command.done.set()
