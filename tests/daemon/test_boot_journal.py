"""The boot journal's file: what a next boot reads out of it, whatever became of it."""

import errno
import os
import stat
from collections.abc import Collection

import pytest
import trio

from yoi_daemon.daemon import boot_journal
from yoi_daemon.daemon.boot_journal import BootJournal
from yoi_daemon.model.boots import BootVerdict
from yoi_daemon.model.errors import NotAllowed, StorageFailed

ATTEMPTS = 3


@pytest.fixture
def file(tmp_path):
    return tmp_path / "boots.jsonl"


async def boot(
    file, at_work: Collection[str] = (), limit: int = 3
) -> tuple[BootJournal, BootVerdict]:
    journal = BootJournal(file, limit=limit)
    return journal, await journal.begin(at_work, lambda _name: ATTEMPTS)


async def die_on(file, plugin_id: str, times: int = 3) -> None:
    for _ in range(times):
        journal, _ = await boot(file)
        journal.enter(plugin_id, "e1")


async def held(file) -> dict[str, int]:
    journal, _ = await boot(file)
    return {name: one.deaths for name, one in journal.quarantined.items()}


async def test_a_step_is_on_the_disk_before_it_is_taken(file, monkeypatch):
    synced: list[bytes] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(file.read_bytes() if file.exists() else b"")
        fsync(descriptor)

    monkeypatch.setattr(boot_journal.os, "fsync", note)
    journal, _ = await boot(file)
    assert len(synced) == 2  # the file, and its directory
    journal.enter("a", "e1")
    assert b'"what":"enter","plugin_id":"a"' in synced[-1]
    journal.leave("a")
    assert len(synced) == 3
    await journal.enter_start("a", "e1")
    assert synced[-1].count(b'"what":"enter"') == 2
    journal.leave("a")
    journal.came_up("a", "e1")
    await journal.enter_start("a", "e1")  # a restart in the same boot
    assert len(synced) == 4
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_three_deaths_are_a_quarantine_that_lasts_until_it_comes_up(file):
    await die_on(file, "a", 2)
    assert await held(file) == {}  # this one lives until it is asked to stop
    await die_on(file, "a", 3)
    journal, verdict = await boot(file)
    assert verdict.convicted["a"].edition == "e1"
    journal.note_stop()
    assert await held(file) == {"a": 3}
    journal, _ = await boot(file)
    journal.enter("a", "e1")  # an operator's start, which dies
    assert list(await held(file)) == ["a"]
    journal, _ = await boot(file)
    journal.enter("a", "e2")
    journal.leave("a")
    journal.came_up("a", "e2")
    assert journal.quarantined == {}
    assert await held(file) == {}


async def test_what_came_to_its_end_is_not_in_hand(file):
    for _ in range(3):
        journal, _ = await boot(file)
        journal.enter("a", "e1")
        journal.leave("a")
        journal.leave("a")  # once more is nothing
        journal.enter("b", "e1")
    assert list(await held(file)) == ["b"]


@pytest.mark.parametrize("step", ["stop", "well"])
async def test_a_boot_that_was_well_or_stopped_ends_the_row(file, step, autojump_clock):
    class Settled:
        async def wait_settled(self) -> None: ...

    for _ in range(2):
        await boot(file)
    journal, verdict = await boot(file)
    assert verdict.is_careful
    if step == "stop":
        journal.note_stop()
    else:
        await journal.watch(Settled(), 60)  # type: ignore[arg-type]
        assert trio.current_time() >= 60
    for _ in range(3):
        _, verdict = await boot(file)
        assert verdict.safe is None
    _, verdict = await boot(file)
    assert verdict.safe is not None


async def test_what_a_well_boot_dies_on_while_it_loads_it_counts(file, autojump_clock):
    class Settled:
        async def wait_settled(self) -> None: ...

    journal, _ = await boot(file)
    await journal.watch(Settled(), 1)  # type: ignore[arg-type]
    journal.enter("a", "e1")  # a reload
    await die_on(file, "a", 2)
    assert await held(file) == {"a": 3}


@pytest.mark.parametrize("end", [StorageFailed("disk"), NotAllowed("no"), KeyboardInterrupt()])
async def test_an_end_that_says_what_is_wrong_is_no_death_and_no_success(file, end):
    await die_on(file, "a", 2)
    for _ in range(5):
        journal, verdict = await boot(file)
        journal.enter("a", "e1")
        with pytest.raises(BaseExceptionGroup), journal.kept():
            raise BaseExceptionGroup("nursery", [BaseExceptionGroup("nursery", [end])])
    assert verdict.convicted == {}
    await die_on(file, "a", 1)
    assert list(await held(file)) == ["a"]


async def test_a_fault_of_the_daemons_own_is_a_death(file):
    for _ in range(3):
        journal, _ = await boot(file)
        with pytest.raises(BaseExceptionGroup), journal.kept():
            raise BaseExceptionGroup("nursery", [StorageFailed("disk"), KeyError("bug")])
    assert (await boot(file))[1].safe is not None


async def test_an_end_in_order_is_no_death(file):
    for _ in range(5):
        journal, verdict = await boot(file)
        assert (verdict.safe, verdict.is_careful) == (None, False)
        with journal.kept():
            pass


async def test_an_event_in_hand_takes_the_death_upon_it(file):
    at_work: set[str] = set()
    for _ in range(5):
        journal, verdict = await boot(file, at_work)
        assert verdict.safe is None
        journal.enter("a", "e1")
        journal.leave("a")
        at_work = {"a", "never loaded in this boot"}
    # Of a plugin that the boot did not come to, an event may be claimed from before.
    for _ in range(4):
        _, verdict = await boot(file, {"a"})
    assert verdict.safe is not None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"no json\n",
        b'{"version":2,"deaths":[],"quarantined":{}}\n',
        b'{"version":1,"deaths":[{}],"quarantined":{}}\n',
        b"\xff\xfe",
        b"x" * (5 << 20),
    ],
    ids=["empty", "a line", "text", "another version", "another shape", "bytes", "too large"],
)
async def test_a_file_that_does_not_read_is_begun_anew(file, content):
    file.write_bytes(content)
    file.chmod(0o600)
    _, verdict = await boot(file)
    assert verdict == BootVerdict()
    await die_on(file, "a", 3)
    assert await held(file) == {"a": 3}


@pytest.mark.parametrize("keep", range(1, 48, 7))
async def test_a_torn_line_is_passed_over_and_the_next_is_read(file, keep):
    await die_on(file, "a", 2)
    journal, _ = await boot(file)
    journal.enter("b", "e1")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) - keep])
    journal.enter("a", "e1")
    assert list(await held(file)) == ["a"]


async def test_a_file_that_others_could_have_written_is_begun_anew(file):
    await die_on(file, "a", 3)
    file.chmod(0o666)
    assert await held(file) == {}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    target = file.with_name("elsewhere")
    file.rename(target)
    file.symlink_to(target)
    await boot(file)
    assert not file.is_symlink()


async def test_one_that_cannot_be_written_is_told_and_holds_nothing_up(tmp_path):
    journal, verdict = await boot(tmp_path / "missing" / "boots.jsonl")
    assert verdict == BootVerdict()
    assert journal.trouble is not None
    journal.enter("a", "e1")
    await journal.enter_start("a", "e1")
    journal.leave("a")
    journal.note_stop()


async def test_a_disk_that_fills_up_later_is_told_once(file, monkeypatch):
    journal, _ = await boot(file)

    def fail(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(boot_journal.os, "write", fail)
    assert journal.trouble is None
    journal.enter("a", "e1")
    journal.leave("a")
    assert journal.trouble is not None


async def test_with_no_limit_nothing_is_held_back(file):
    await die_on(file, "a", 3)
    journal, verdict = await boot(file, limit=0)
    assert (journal.quarantined, verdict) == ({}, BootVerdict())
