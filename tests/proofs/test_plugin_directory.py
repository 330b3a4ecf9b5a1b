"""Somebody swaps a plugin's file while it is loaded, thousands of times: what they planted never runs."""

import importlib.util
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from yoi_daemon.model.directories import Directories
from yoi_daemon.model.redaction import Redaction
from yoi_daemon.plugins.loading.loader import Loader
from yoi_daemon.plugins.loading.source import LoadFailed
from yoi_daemon.trusted_files import Trust

pytestmark = pytest.mark.prove
FULL, SAMPLE = 10_000, 1_000
FOREIGN = 12_345

GOOD = """
from yoi_daemon.sdk import Plugin
plugin = Plugin("gen")
@plugin.tool("a")
async def tool(ctx, args: dict[str, int]) -> int: return 1
"""
SWAPPER = """
import os, pathlib, sys
root = pathlib.Path(sys.argv[1])
file, good, planted = root / "config/plugins/gen.py", sys.argv[2], sys.argv[3]
(root / "out.py").write_text(planted)

def loose(path):
    path.write_text(planted)
    path.chmod(0o666)

def foreign(path):
    path.write_text(planted)
    os.chown(path, FOREIGN, -1)

def link(path):
    path.symlink_to(root / "out.py")

def hard_link(path):
    os.link(root / "out.py", path)

def fifo(path):
    os.mkfifo(path)

def large(path):
    path.write_text(planted.ljust(2 * 1048576, "#"))

kinds = [loose, link, hard_link, fifo, large] + [foreign] * (os.geteuid() == 0)
turn = 0
print("ready", flush=True)
while True:
    kinds[turn % len(kinds)](root / "next")
    os.replace(root / "next", file)
    (root / "next").write_text(good)
    os.replace(root / "next", file)
    turn += 1
""".replace("FOREIGN", str(FOREIGN))


class Contest:
    """A good plugin, one who swaps it, and the mark that planted code would leave."""

    def __init__(self, root: Path) -> None:
        self.mark = root / "ran"
        self.file = root / "config" / "plugins" / "gen.py"
        self.file.parent.mkdir(parents=True)
        self.file.write_text(GOOD)
        self.planted = f"open({str(self.mark)!r}, 'w').close()\n{GOOD}"
        directories = Directories(root / "config", root / "state", root / "secrets")
        trust = Trust(frozenset({0, os.geteuid()}), strict=False)
        self.loader = Loader(directories, trust, Redaction())

    @contextmanager
    def swapping(self) -> Iterator[None]:
        root = self.file.parents[2]
        swapper = subprocess.Popen(
            [sys.executable, "-c", SWAPPER, root, GOOD, self.planted], stdout=subprocess.PIPE
        )
        with swapper:
            assert swapper.stdout
            swapper.stdout.readline()
            try:
                yield
            finally:
                alive = swapper.poll() is None
                swapper.kill()
        assert alive


@pytest.fixture
def contest(tmp_path) -> Contest:
    return Contest(tmp_path)


def test_what_is_swapped_in_never_runs(contest, full):
    reasons: dict[str, int] = {}
    codes: set[str] = set()
    loaded = 0
    with contest.swapping(), contest.loader.installed():
        for _ in range(FULL if full else SAMPLE):
            try:
                found = contest.loader.discover().found["gen"]
                contest.loader.forget(contest.loader.load(contest.loader.read(found), {}))
                loaded += 1
            except LoadFailed as failure:
                codes.add(failure.code)
                reasons[failure.message] = reasons.get(failure.message, 0) + 1
    assert not contest.mark.exists()
    # Nothing but good code was ever compiled, so nothing else can be wrong with it.
    assert codes <= {"not_trusted", "unreadable"}
    # It was a contest: both were seen, and of the planted more than one kind.
    assert loaded > 0
    assert len(reasons) >= 3
    print(f"loaded {loaded}, refused {reasons}")


def naive_load(file: Path) -> None:
    """Looks first, then imports by path, as a host does that checks too early."""
    found = file.lstat()
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022:
        spec = importlib.util.spec_from_file_location("naive_gen", file)
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_the_control_a_host_that_looks_and_then_imports_runs_it(contest):
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        with contest.swapping():
            for _ in range(100_000):
                with suppress(OSError):
                    naive_load(contest.file)
                if contest.mark.exists():
                    return
    finally:
        sys.dont_write_bytecode = before
    pytest.fail("the contest is too easy: planted code did not run in a host that checks too early")
