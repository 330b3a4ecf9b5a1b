"""Limits connections by the process's file descriptors. Each listener has a share, so neither starves the other."""

import resource
import sys
from contextlib import suppress

RESERVED = 64
"""Descriptors for everything but connections: an idle daemon has 18; plugins have their own."""

FEWEST = 8
API_PART, OBSERVE_PART = 0.25, 0.75
"""The listeners' shares: requests are short, streams are not."""


def raise_limit() -> None:
    """Raises the limit of descriptors to the hard limit; the usual soft one, 1024, is for programs that use `select`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # a sandbox may forbid it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections(part: float, most: int) -> int:
    """Returns the limit of connections: `most`, or fewer if this share of the descriptors allows no more."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = sys.maxsize
    return min(most, max(FEWEST, int((soft - RESERVED) * part)))
