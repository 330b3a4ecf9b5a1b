"""A program run to its end, with everything it writes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import trio

from yoi_daemon.children.child import READ_BYTES, Child, Command, open_child
from yoi_daemon.children.failures import ChildTimeout, Exit, MessageTooLarge
from yoi_daemon.children.limits import DEFAULT_LIMITS, Limits


class Completed(msgspec.Struct, frozen=True):
    """How a program ended, and what it wrote; of `stderr` the last."""

    exit: Exit
    stdout: bytes
    stderr: str


async def run(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    timeout_s: float,
    cwd: Path | None = None,
    input: bytes = b"",
    max_output_bytes: int = 1 << 20,
    limits: Limits = DEFAULT_LIMITS,
) -> Completed:
    """Runs a program to its end; any exit status is returned. What it started ends with it.

    Raises `ChildNotFound`, `ChildNotAllowed`, `ChildTimeout`, and `MessageTooLarge` where it writes more than
    `max_output_bytes`. Then, or cancelled, it is ended with SIGKILL.
    """
    command = Command(
        argv=tuple(argv), environment=environment, cwd=cwd, limits=limits, ask_s=0, term_s=0
    )
    async with open_child(command) as child:
        with trio.move_on_after(timeout_s):
            output = await _exchange(child, input, max_output_bytes)
            return Completed(await child.wait(), output, child.stderr)
    raise ChildTimeout(f"{command.argv[0]} took over {timeout_s:g} s and was ended")


async def _exchange(child: Child, input: bytes, max_bytes: int) -> bytes:
    output = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_feed, child, input)
        while len(output) <= max_bytes and (chunk := await child.stdout.receive_some(READ_BYTES)):
            output += chunk
        # It has closed its output: what it has not read by now is not wanted.
        nursery.cancel_scope.cancel()
    if len(output) > max_bytes:
        raise MessageTooLarge(f"the output is larger than {max_bytes} bytes")
    return bytes(output)


async def _feed(child: Child, input: bytes) -> None:
    try:
        await child.stdin.send_all(input)
    except trio.BrokenResourceError:
        return  # it does not read its input, and need not
    await child.stdin.aclose()
