"""How many connections the process's descriptors allow. Each listener has its part: one cannot starve the other."""

import resource
import sys
from contextlib import suppress

RESERVED = 64
"""For everything but connections: the daemon rests at 18; plugins have files and sockets of their own."""

FEWEST = 8
API_PART, OBSERVE_PART = 0.25, 0.75
"""Requests are over soon, streams are not."""


def raise_limit() -> None:
    """As many as the process may have; a shell's usual soft limit, 1024, is for programs that use `select`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # where a sandbox forbids it, what is there must do
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections(part: float, most: int) -> int:
    """At most so many connections, `most` or what the descriptors allow a listener with this part."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = sys.maxsize
    return min(most, max(FEWEST, int((soft - RESERVED) * part)))
