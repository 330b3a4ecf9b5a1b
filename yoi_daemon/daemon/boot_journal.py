"""The boot journal in `<state>/boots.jsonl`: what the daemon was doing, in case that ends the process.

The first line is what earlier boots left, written with the file; each further line is one step of this
boot. What begins is on the disk before it begins. What ends is only written: a process that dies takes
nothing from the kernel with it, and a power cut that forgets a line makes one false suspect, once.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import structlog
import trio

from yoi_daemon.cancellation import is_only
from yoi_daemon.daemon.statedir import read_private, write_private
from yoi_daemon.model.boots import BootVerdict, Death, Quarantine, judge
from yoi_daemon.model.errors import YoiError
from yoi_daemon.plugins.host import PluginHost

FORMAT = 1
MAX_DEATHS = 100
"""Maximum number of deaths in a row that are kept; the rules use no more."""


class _Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line: `deaths` in a row before this boot, and the plugins that are held back."""

    version: int
    deaths: tuple[Death, ...]
    quarantined: dict[str, Quarantine]


class _Step(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A further line. `refused` is an end in order that was nobody's wish: it says nothing about plugins."""

    what: Literal["enter", "leave", "release", "well", "stopped", "refused"]
    plugin_id: str = ""
    edition: str = ""


_head = msgspec.json.Decoder(_Head)
_step = msgspec.json.Decoder(_Step)


class _Boot:
    """A boot, as far as its journal says."""

    def __init__(self, head: _Head) -> None:
        self.deaths = list(head.deaths)
        self.quarantined = dict(head.quarantined)
        self.in_hand: Counter[str] = Counter()
        self.editions: dict[str, str] = {}
        self.is_well = False
        self.end: Literal["died", "stopped", "refused"] = "died"

    def take(self, step: _Step) -> None:
        match step.what:
            case "enter":
                self.in_hand[step.plugin_id] += 1
                self.editions[step.plugin_id] = step.edition
            case "leave":
                self.in_hand[step.plugin_id] = max(0, self.in_hand[step.plugin_id] - 1)
            case "release":
                self.quarantined.pop(step.plugin_id, None)
                self.deaths.clear()
            case "well":
                self.is_well = True
                self.deaths.clear()
            case "stopped" | "refused":
                self.end = step.what

    def deaths_with_this(self, at_work: Collection[str]) -> list[Death]:
        """Returns the deaths in a row once this boot is over; `at_work` had an event in hand."""
        if self.end == "stopped":
            return []
        in_hand = {name: self.editions[name] for name, count in self.in_hand.items() if count}
        if self.end == "refused" or (self.is_well and not in_hand):
            return self.deaths
        # An event may be in hand still from a boot before, if this one did not come so far.
        working = {name: self.editions[name] for name in at_work if name in self.editions}
        return [*self.deaths, Death(in_hand=in_hand, at_work=working)][-MAX_DEATHS:]


class BootJournal:
    """Implements `plugins.boots.Boots`. `limit` is `[daemon] boot_attempts`.

    A file that cannot be read is started anew. One that cannot be written is named in `trouble`: the daemon
    starts without it, and a death has no suspect.
    """

    def __init__(self, file: Path, *, limit: int) -> None:
        self._file = file
        self._limit = limit
        self._logger = structlog.get_logger("boots")
        # Never closed: a thread that was left behind may write to it until the process ends.
        self._descriptor: int | None = None
        self._in_hand: Counter[str] = Counter()
        self._up: set[tuple[str, str]] = set()
        self.quarantined: dict[str, Quarantine] = {}
        self.trouble: str | None = None

    async def begin(self, at_work: Collection[str], attempts: Callable[[str], int]) -> BootVerdict:
        return await trio.to_thread.run_sync(partial(self._begin, at_work, attempts))

    def enter(self, plugin_id: str, edition: str) -> None:
        self._in_hand[plugin_id] += 1
        self._note(_Step(what="enter", plugin_id=plugin_id, edition=edition), lasting=True)

    async def enter_start(self, plugin_id: str, edition: str) -> None:
        # One that came up before in this boot is not new: a restart costs no fsync.
        if self._descriptor is not None and (plugin_id, edition) not in self._up:
            await trio.to_thread.run_sync(self.enter, plugin_id, edition)

    def leave(self, plugin_id: str) -> None:
        if self._in_hand[plugin_id]:
            self._in_hand[plugin_id] -= 1
            self._note(_Step(what="leave", plugin_id=plugin_id))

    def came_up(self, plugin_id: str, edition: str) -> None:
        self._up.add((plugin_id, edition))
        if self.quarantined.pop(plugin_id, None) is not None:
            self._note(_Step(what="release", plugin_id=plugin_id))

    def note_stop(self) -> None:
        """Records a requested stop: however it goes, it is no death. Returns at once."""
        self._note(_Step(what="stopped"))

    async def watch(self, plugins: PluginHost, healthy_s: float) -> None:
        """Once ready: the boot is well when it has lived for `healthy_s` and every plugin came up or failed."""
        await trio.sleep(healthy_s)
        await plugins.wait_settled()
        await trio.to_thread.run_sync(partial(self._note, _Step(what="well"), lasting=True))

    @contextmanager
    def kept(self) -> Generator[None]:
        """Wraps the daemon's life: a clean end is no death, nor is one that names its cause."""
        try:
            yield
        except BaseException as error:
            # It says itself what is wrong, or a person wished it.
            if is_only(error, YoiError, KeyboardInterrupt):
                self._note(_Step(what="refused"))
            raise
        self.note_stop()

    def _begin(self, at_work: Collection[str], attempts: Callable[[str], int]) -> BootVerdict:
        last = self._read()
        deaths = [] if last is None else last.deaths_with_this(at_work)
        verdict = judge(deaths, self._limit, attempts)
        if last is not None and self._limit:
            self.quarantined = last.quarantined | verdict.convicted
        head = _Head(version=FORMAT, deaths=tuple(deaths), quarantined=self.quarantined)
        try:
            write_private(self._file, msgspec.json.encode(head).decode() + "\n")
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self._file, flags)
        except (YoiError, OSError) as error:
            self._note_trouble(error)
        return verdict

    def _read(self) -> _Boot | None:
        try:
            content = read_private(self._file)
        except YoiError as error:
            self._logger.warning("the boot journal is begun anew", reason=str(error))
            return None
        if content is None:
            return None
        first, *lines = content.split(b"\n")
        try:
            head = _head.decode(first)
            if head.version != FORMAT:
                raise msgspec.ValidationError("it is another version's")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._logger.warning("the boot journal is begun anew", reason=str(error))
            return None
        boot = _Boot(head)
        for line in lines:
            with suppress(msgspec.DecodeError, UnicodeDecodeError):  # torn by what ended the boot
                boot.take(_step.decode(line))
        return boot

    def _note(self, step: _Step, *, lasting: bool = False) -> None:
        """Writes a line. With `lasting` it returns when the line is on the disk: call it in a thread."""
        if self._descriptor is None:
            return
        try:
            # In one piece, which steps of several threads do not mix; the first break ends a torn line.
            os.write(self._descriptor, b"\n" + msgspec.json.encode(step))
            if lasting:
                os.fsync(self._descriptor)
        except OSError as error:
            self._note_trouble(error)

    def _note_trouble(self, error: Exception) -> None:
        if self.trouble is None:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self.trouble = "the boot journal cannot be written, so a crash would name no plugin"
            self._logger.warning(self.trouble, reason=reason)
