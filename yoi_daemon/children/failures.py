"""How a child process can fail whoever started it."""

import signal

import msgspec

from yoi_daemon.model.errors import YoiError


class Exit(msgspec.Struct, frozen=True):
    """The end of a process: by itself with `status`, or by `signal`; the other is None."""

    status: int | None = None
    signal: int | None = None

    @classmethod
    def of(cls, returncode: int) -> "Exit":
        """Reads a return code as `subprocess` has it: the negative number of a signal, else a status."""
        return cls(signal=-returncode) if returncode < 0 else cls(status=returncode)

    @property
    def is_success(self) -> bool:
        return self.status == 0

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit status {self.status}"
        known = self.signal in set(signal.Signals)
        return f"signal {signal.Signals(self.signal).name if known else self.signal}"


class ChildError(YoiError):
    """The root of what goes wrong with a child process; the message names the program."""


class ChildNotFound(ChildError):
    """There is no such program, or no such working directory."""


class ChildNotAllowed(ChildError):
    """The operating system refused to start the program."""


class ChildTimeout(ChildError):
    """The child took longer than it had, and was ended."""


class ChildNotReaped(ChildError):
    """The child did not end on SIGKILL: the kernel holds it, in a system call on a dead disk for one."""


class MessageTooLarge(ChildError):
    """A message, or the whole output, is larger than its bound."""


class ChannelClosed(ChildError):
    """The other end is gone, or a message was cut off in the middle: nothing more can be exchanged."""
