"""A disk that is full, and a disk that fails: the real daemon says so in words, and loses nothing it accepted."""

import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import DaemonProcess
from yoi_daemon.store.sqlite.checking import find_faults
from yoi_daemon.store.sqlite.reading import open_for_reading

pytestmark = pytest.mark.prove

MEGABYTE = 1 << 20
SIZES = f"low_bytes = {16 * MEGABYTE}\nreserve_bytes = {8 * MEGABYTE}"
CLIENTS = 4
RECOVERS_WITHIN_S = 5
PLUGIN = """
import os
import trio
from yoi_daemon.sdk import Plugin

plugin = Plugin("p")
handled = os.open(os.environ["HANDLED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

@plugin.ingress("go")
async def go(ctx, event):
    await trio.sleep(0.01)
    os.write(handled, event.id.encode() + b"\\n")
"""
SYNC_FAILS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int fails(void) {
    const char *when = getenv("SYNC_FAILS_WHEN");
    if (when == NULL || access(when, F_OK) != 0) return 0;
    errno = EIO;
    return 1;
}
int fsync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    return fails() ? -1 : real(fd);
}
int fdatasync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    return fails() ? -1 : real(fd);
}
"""


class House:
    """A daemon's directories, its daemons, and what it accepted."""

    def __init__(self, root: Path, state: Path, store: str) -> None:
        self.config = root / "config"
        self.state = state
        self._handled = root / "handled"
        self.accepted: list[str] = []
        self.answers = Counter[tuple[int, str]]()
        self.daemons: list[DaemonProcess] = []
        (self.config / "plugins").mkdir(parents=True)
        (self.config / "plugins" / "p.py").write_text(PLUGIN)
        (self.config / "yoi-daemon.toml").write_text(
            f"[store]\n{store}\n[observe]\nwindow_bytes = {4 * MEGABYTE}\n"
        )

    def start(self, **environ: str) -> DaemonProcess:
        environ |= {"HANDLED": str(self._handled)}
        self.daemon = DaemonProcess(self.config, self.state, **environ)
        self.daemons.append(self.daemon)
        return self.daemon.wait_ready()

    def send(self) -> tuple[int, str]:
        """Sends one event; the status and the code."""
        payload = {"text": "x" * 2000}
        status, answer = self.daemon.request("POST", "/api/plugins/p/ingress/go", payload)
        if status == 202:
            self.accepted.append(answer["event_id"])
        said = (status, answer.get("code", ""))
        self.answers[said] += 1
        return said

    def handled(self) -> Counter[str]:
        text = self._handled.read_text() if self._handled.exists() else ""
        return Counter(text.split())

    def unhandled(self) -> set[str]:
        return set(self.accepted) - set(self.handled())

    def status(self) -> dict[str, Any]:
        return self.daemon.request("GET", "/api/status")[1]

    def check_store(self) -> None:
        with open_for_reading(self.state / "store.sqlite3") as store:
            assert find_faults(store) == []
            assert list(store.execute("SELECT number FROM ingress_event")) == [], (
                "not all is handled"
            )


class Load:
    """Clients that send as fast as they are answered, until left."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(CLIENTS)]

    def _send(self) -> None:
        while not self._over.is_set():
            try:
                status, _ = self._house.send()
            except (OSError, HTTPException):
                return  # the daemon is gone: what it did not answer was not accepted
            if status != 202:
                self._over.wait(0.02)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def until(is_so: Callable[[], Any], what: str, within_s: float = 60) -> float:
    """Waits; the seconds that it took."""
    begun = time.monotonic()
    while not is_so():
        assert time.monotonic() - begun < within_s, f"not within {within_s} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - begun


@pytest.fixture
def make_house(tmp_path) -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def make(state: Path, store: str) -> House:
        house = House(tmp_path, state, store)
        houses.append(house)
        return house

    yield make
    for house in houses:
        for daemon in house.daemons:
            daemon.end()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"NOT PROVEN, a full disk: mounting one needs root: {mounted.stderr!r}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def free_bytes(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def fill(disk: Path) -> None:
    """Takes what is free now, to the last block, and not what is freed meanwhile."""
    left = step = free_bytes(disk)
    with (disk / "filler").open("wb") as filler:
        while step >= 4096 and left > 0:
            try:
                size = os.fstat(filler.fileno()).st_size
                os.posix_fallocate(filler.fileno(), size, min(step, left))
            except OSError:  # the daemon took some
                step //= 2
            else:
                left -= min(step, left)


def test_a_full_disk_is_said_in_words_and_what_was_accepted_is_handled(
    small_disk, make_house, full
):
    house = make_house(small_disk / "state", SIZES)
    house.start()
    recoveries, waiting = [], []
    for _ in range(5 if full else 2):
        before, low_before = len(house.accepted), house.answers[507, "storage_low"]
        with Load(house):
            until(lambda at=before: len(house.accepted) > at + 50, "events are accepted")
            fill(small_disk)
            until(
                lambda at=low_before: house.answers[507, "storage_low"] > at, "the disk is told low"
            )
            waiting.append(len(house.unhandled()))
        until(lambda: not house.unhandled(), "what was accepted is handled while the disk is full")
        assert waiting[-1], "nothing was left to handle when the disk was full"
        assert house.send() == (507, "storage_low")
        assert free_bytes(small_disk) < 16 * MEGABYTE
        assert house.status()["store"]["low"]
        (small_disk / "filler").unlink()
        recoveries.append(until(lambda: house.send()[0] == 202, "it recovers", RECOVERS_WITHIN_S))
    until(lambda: not house.unhandled(), "the rest is handled")
    print(
        f"answers {dict(house.answers)}, handled while full {waiting}, "
        f"recovered in {[round(s, 2) for s in recoveries]} s"
    )
    assert set(house.answers) <= {(202, ""), (429, "queue_full"), (507, "storage_low")}
    assert house.daemon.stop() == 0, house.daemon.lines
    assert not any("Traceback" in line for line in house.daemon.lines)
    assert set(house.handled().values()) == {1}
    house.check_store()


def test_filled_again_before_the_reserve_is_back_it_goes_on(small_disk, make_house):
    """Some space is not enough: what is accepted then could not be acknowledged the next time."""
    house = make_house(small_disk / "state", SIZES)
    house.start()
    filler = small_disk / "filler"
    with Load(house):
        until(lambda: len(house.accepted) > 50, "events are accepted")
        fill(small_disk)
        until(lambda: not (house.state / "reserve").exists(), "the reserve is let go of")
        os.truncate(filler, filler.stat().st_size - 12 * MEGABYTE)
        accepted, looks = len(house.accepted), house.answers.total()
        until(lambda: house.answers.total() > looks + 100, "the disk was looked at again")
        assert len(house.accepted) <= accepted + CLIENTS, "accepted without a reserve"
        until(lambda: not house.unhandled(), "what was accepted is handled")
        filler.rename(small_disk / "more")
        fill(small_disk)
        looks = house.answers.total()
        until(lambda: house.answers.total() > looks + 100, "it goes on")
    (small_disk / "more").unlink()
    until(lambda: house.send()[0] == 202, "it recovers", RECOVERS_WITHIN_S)
    assert (house.state / "reserve").exists()
    assert house.daemon.stop() == 0, house.daemon.lines


def test_control_without_a_reserve_the_daemon_ends(small_disk, make_house):
    house = make_house(small_disk / "state", "low_bytes = 1024\nreserve_bytes = 1024")
    daemon = house.start()
    with Load(house):
        until(lambda: len(house.accepted) > 50, "events are accepted")
        fill(small_disk)
        assert daemon.wait(60) == 74
    (small_disk / "filler").unlink()
    # Even so: nothing that it accepted is lost.
    house.start()
    until(lambda: not house.unhandled(), "what was accepted is handled after the restart")
    assert house.daemon.stop() == 0
    house.check_store()


@pytest.fixture
def failing_sync(tmp_path) -> tuple[dict[str, str], Path]:
    """An environment where no sync works while a file is there, and that file."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("NOT PROVEN, a failing fsync: there is no cc to build the library with")
    source, library, trigger = (tmp_path / name for name in ("fail.c", "fail.so", "now"))
    source.write_text(SYNC_FAILS)
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"]
    subprocess.run(command, check=True)
    return {"LD_PRELOAD": str(library), "SYNC_FAILS_WHEN": str(trigger)}, trigger


def test_an_io_error_ends_the_daemon_and_the_restart_recovers(
    tmp_path, make_house, failing_sync, full
):
    environ, trigger = failing_sync
    house = make_house(tmp_path / "state", "")
    for _ in range(3 if full else 1):
        daemon = house.start(**environ)
        before = len(house.accepted)
        with Load(house):
            until(lambda at=before: len(house.accepted) > at + 50, "events are accepted")
            trigger.touch()
            assert daemon.wait(60) == 74, daemon.lines
        trigger.unlink()
    house.start()
    until(lambda: not house.unhandled(), "what was accepted is handled after the restart")
    print(f"answers {dict(house.answers)}, {sum(house.handled().values())} runs of handlers")
    assert house.daemon.stop() == 0
    house.check_store()
