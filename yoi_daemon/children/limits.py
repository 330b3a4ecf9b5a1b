"""Bounds of one process, as the kernel keeps them (setrlimit(2))."""

import resource
from contextlib import suppress

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one process may use; None leaves it what the daemon has. Children of the process inherit them."""

    memory_bytes: int | None = None
    """Address space (RLIMIT_AS), which some runtimes reserve far more of than they use."""
    cpu_s: int | None = None
    """Processor time; then SIGXCPU."""
    file_bytes: int | None = None
    """Size of a file that it writes; then SIGXFSZ."""
    open_files: int | None = None
    core_bytes: int | None = 0

    def apply(self, pid: int) -> None:
        """Bounds process `pid`, which was just started. One that has ended already is passed over.

        What the process forks before this is not bounded: limits hold accidents, and are no fence.
        """
        for kind, value in (
            (resource.RLIMIT_AS, self.memory_bytes),
            (resource.RLIMIT_CPU, self.cpu_s),
            (resource.RLIMIT_FSIZE, self.file_bytes),
            (resource.RLIMIT_NOFILE, self.open_files),
            (resource.RLIMIT_CORE, self.core_bytes),
        ):
            if value is not None:
                with suppress(ProcessLookupError):
                    _, hard = resource.prlimit(pid, kind)
                    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
                    resource.prlimit(pid, kind, (bound, bound))


DEFAULT_LIMITS = Limits()
"""What the daemon itself has, and no core dumps: they hold secrets."""
