"""One supervised child process: its start, its streams, and its end together with everything it started."""

import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import trio

from yoi_daemon.children.failures import ChildNotAllowed, ChildNotFound, ChildNotReaped, Exit
from yoi_daemon.children.limits import DEFAULT_LIMITS, Limits

INHERITED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")
"""Variables that any child may see. The others may hold secrets of the daemon's."""
KILL_WAIT_S = 10.0
"""From SIGKILL to the end, which is immediate unless the kernel holds the process."""
DRAIN_S = 0.5
"""From the child's end to that of its standard error, which a process out of its group may hold open."""
READ_BYTES = 65_536


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What to start, and how it is ended: `ask_s` after its input was closed comes SIGTERM, `term_s` after that
    SIGKILL.

    `environment` is all of the child's; `stderr_bytes` is how much of its standard error is kept, the last.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: Path | None = None
    limits: Limits = DEFAULT_LIMITS
    stderr_bytes: int = 65_536
    ask_s: float = 3.0
    term_s: float = 3.0


def inherited(environ: Mapping[str, str], names: Iterable[str] = INHERITED) -> dict[str, str]:
    """Returns the variables of `environ` that are on the list."""
    return {name: environ[name] for name in names if name in environ}


class Child:
    """A process that runs in a session and a process group of its own, between `open_child`'s start and end."""

    def __init__(self, command: Command, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        self.stdin: trio.abc.SendStream = process.stdin
        self.stdout: trio.abc.ReceiveStream = process.stdout
        self._command = command
        self._process = process
        self._stderr = bytearray()
        self._ended = trio.Event()
        self._exit: Exit | None = None

    @property
    def stderr(self) -> str:
        """Returns the last of its standard error so far, with replacement characters for what is not UTF-8."""
        return self._stderr.decode("utf-8", "replace")

    async def wait(self) -> Exit:
        """Waits for its end. It has been reaped then, and nothing of its group is left."""
        await self._ended.wait()
        assert self._exit is not None
        return self._exit

    async def stop(self) -> Exit:
        """Ends it: closes its input, then SIGTERM, then SIGKILL, to the whole group. Cancelled, it may still run.

        Raises `ChildNotReaped`.
        """
        await self.stdin.aclose()
        await self._wait_for(self._command.ask_s)
        self._signal(signal.SIGTERM)
        await self._wait_for(self._command.term_s)
        return await self.kill()

    async def kill(self) -> Exit:
        """Ends it by SIGKILL to the whole group. Raises `ChildNotReaped`."""
        self._signal(signal.SIGKILL)
        await self._wait_for(KILL_WAIT_S)
        if self._exit is None:
            raise ChildNotReaped(f"{self._command.argv[0]} (pid {self.pid}) does not end")
        return self._exit

    async def _wait_for(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._ended.wait()

    def _signal(self, number: signal.Signals) -> None:
        # The group has the child's pid until the child is reaped, and only `_reap` does that.
        if self._exit is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    async def watch(self) -> None:
        """Keeps the last of its standard error, and reaps it; returns when both have ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_stderr)
            await self._reap()
            nursery.cancel_scope.deadline = trio.current_time() + DRAIN_S
        self._ended.set()

    async def _keep_stderr(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        async with stream:
            while chunk := await stream.receive_some(READ_BYTES):
                self._stderr += chunk
                del self._stderr[: -self._command.stderr_bytes]

    async def _reap(self) -> None:
        descriptor = os.pidfd_open(self.pid)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
        # It is dead and not reaped: its pid is still that of the group, and of nobody else.
        self._signal(signal.SIGKILL)
        self._exit = Exit.of(await self._process.wait())


@asynccontextmanager
async def open_child(command: Command) -> AsyncGenerator[Child]:
    """Starts a child; leaving stops it, also when cancelled, within `ask_s` + `term_s` + `KILL_WAIT_S`.

    Raises `ChildNotFound`, `ChildNotAllowed`, and on leaving `ChildNotReaped`.
    """
    child = Child(command, await _start(command))
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        watching = trio.CancelScope(shield=True)
        nursery.start_soon(_watch_in, watching, child)
        try:
            command.limits.apply(child.pid)
            yield child
        except BaseException as error:  # noqa: BLE001, ASYNC103 (raised below, where no nursery wraps it)
            failure = error
        with trio.CancelScope(shield=True):
            try:
                await child.stop()
            except ChildNotReaped as error:
                failure = failure or error
            await child.stdout.aclose()
        watching.cancel()
    if failure is not None:
        raise failure


async def _watch_in(scope: trio.CancelScope, child: Child) -> None:
    with scope:
        await child.watch()


async def _start(command: Command) -> trio.Process:
    program = command.argv[0]
    try:
        # Not cancelled half-way: a process that was started is returned. PR_SET_PDEATHSIG is of no use
        # here, because the thread that starts it is not the process's.
        return await trio.lowlevel.open_process(
            command.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=command.cwd,
            env=command.environment,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        missing = error.filename or program
        raise ChildNotFound(f"{program} cannot be started: there is no {missing}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ChildNotAllowed(f"{program} cannot be started: {reason}") from error
