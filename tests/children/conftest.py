import os
import sys

import pytest

from yoi_daemon.children.child import Command, inherited


@pytest.fixture
def python():
    """A command that runs Python source, with the bare interpreter, which starts fast."""

    def make(source: str, **options) -> Command:
        argv = (sys.executable, "-I", "-S", "-u", "-c", source)
        return Command(argv=argv, environment=inherited(os.environ), **options)

    return make


def is_alive(pid: int) -> bool:
    """Whether a process runs: neither gone nor a zombie that nobody has reaped yet."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
