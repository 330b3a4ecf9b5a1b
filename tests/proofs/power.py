"""A disk whose power may fail: it records what SQLite does to it, and builds what could be found afterwards.

Writes and truncations are volatile until their file is synced, directory entries until a file that was
made in it is. In an image each unsynced sector has any version it ever had, or begins with one and goes on
with the version before; names come and go in order. What lies beyond an unsynced truncation may be back.
"""

import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import apsw


class Operation(NamedTuple):
    """`kind` is open, write, truncate, sync, lose (a sync that failed), delete; `file` a name."""

    kind: str
    file: str
    offset: int = 0
    data: bytes = b""


class Recorder:
    """What was done to the files of one directory."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.syncs_until_error = -1
        """So many syncs work, then one has an I/O error; less than 0 for none."""

    def note(self, kind: str, path: str, offset: int = 0, data: bytes = b"") -> None:
        self.operations.append(Operation(kind, Path(path).name, offset, data))

    @property
    def position(self) -> int:
        return len(self.operations)

    def sync(self, path: str) -> None:
        """Notes a sync. One that fails loses what it should have kept, as Linux does, and raises."""
        self.syncs_until_error -= 1
        if self.syncs_until_error == -1:
            self.note("lose", path)
            error = apsw.IOError("injected")
            error.extendedresult = apsw.SQLITE_IOERR_FSYNC
            raise error
        self.note("sync", path)


class _File(apsw.VFSFile):
    def __init__(self, name: Any, flags: list[int], recorder: Recorder) -> None:
        super().__init__("", name, flags)
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._recorder = recorder
        recorder.note("open", self._path)

    def xWrite(self, data, offset):
        super().xWrite(data, offset)
        self._recorder.note("write", self._path, offset, bytes(data))

    def xTruncate(self, newsize):
        super().xTruncate(newsize)
        self._recorder.note("truncate", self._path, newsize)

    def xSync(self, flags):
        # The real one is left out: what is synced is known from here.
        self._recorder.sync(self._path)


class RecordingVfs(apsw.VFS):
    """A file system for apsw alone: the standard module has a SQLite of its own."""

    def __init__(self, recorder: Recorder) -> None:
        self.name = f"recording-{id(recorder)}"
        self._recorder = recorder
        super().__init__(self.name, "")

    def xOpen(self, name, flags):
        return _File(name, flags, self._recorder)

    def xDelete(self, filename, syncdir):
        super().xDelete(filename, syncdir)
        self._recorder.note("delete", filename, int(syncdir))


class RecordedConnection:
    """A connection as the store wants it, on a recording file system."""

    def __init__(self, path: Path, vfs: RecordingVfs) -> None:
        self._vfs = vfs  # lives as long as it
        self._connection = apsw.Connection(str(path), vfs=vfs.name)
        self._connection.set_busy_timeout(5000)

    def execute(self, sql: str, parameters: Any = ()) -> Iterator[Any]:
        try:
            return iter(list(self._connection.execute(sql, parameters)))
        except apsw.Error as error:
            raise translated(error) from error

    def executemany(self, sql: str, parameters: Any) -> object:
        try:
            return list(self._connection.executemany(sql, parameters))
        except apsw.Error as error:
            raise translated(error) from error

    def close(self) -> None:
        try:
            self._connection.close()
        except apsw.Error as error:
            raise translated(error) from error


def translated(error: apsw.Error) -> sqlite3.OperationalError:
    """The same, as the standard module says it."""
    same = sqlite3.OperationalError(str(error))
    same.sqlite_errorcode = error.extendedresult
    return same


class _Inode:
    """A file's content. `versions` are the changes since it was synced, oldest first."""

    def __init__(self) -> None:
        self.synced = bytearray()
        self.unsynced: list[Operation] = []

    def sync(self) -> None:
        self.synced = self.keep(range(len(self.unsynced)))
        self.unsynced = []

    def keep(self, chosen: Iterable[int]) -> bytearray:
        content = bytearray(self.synced)
        for number in chosen:
            _apply(content, self.unsynced[number])
        return content

    def lose(self, random: Random, sector: int) -> bytes:
        """Each sector as of some moment since the sync, or torn between two."""
        content = bytearray(self.synced)
        sizes = [len(content)]
        versions: dict[int, list[bytes]] = {}
        for operation in self.unsynced:
            end = operation.offset + len(operation.data)
            touched = range(operation.offset // sector, (max(end, len(content)) - 1) // sector + 1)
            if operation.kind == "write":
                touched = range(min(len(content), operation.offset) // sector, -(-end // sector))
            for number in touched:
                versions.setdefault(number, [_sector(content, number, sector)])
            _apply(content, operation)
            sizes.append(len(content))
            for number in touched:
                versions[number].append(_sector(content, number, sector))
        size = random.choice(sizes)
        content.extend(bytes(max(0, size - len(content))))
        for number, seen in sorted(versions.items()):
            kinds = list(dict.fromkeys(seen))  # in their order, each once
            chosen = random.randrange(len(kinds))
            found = kinds[chosen]
            if chosen and random.random() < 0.5:
                at = random.randrange(sector)
                found = found[:at] + kinds[chosen - 1][at:]
            start = number * sector
            content[start : start + sector] = found
        return bytes(content[:size])


def _sector(content: bytearray, number: int, sector: int) -> bytes:
    return bytes(content[number * sector : (number + 1) * sector]).ljust(sector, b"\0")


def _apply(content: bytearray, operation: Operation) -> None:
    if operation.kind == "truncate":
        del content[operation.offset :]
        return
    end = operation.offset + len(operation.data)
    content.extend(bytes(max(0, end - len(content))))
    content[operation.offset : end] = operation.data


class Disk:
    """Goes through the operations one by one; what could be found is asked between any two."""

    def __init__(self) -> None:
        self._synced_names: dict[str, _Inode] = {}
        self._changes: list[tuple[str, _Inode | None]] = []
        """Names made, and names that are gone (None), since the directory was synced."""

    def do(self, operation: Operation) -> None:
        names = self._names(len(self._changes))
        inode = names.get(operation.file)
        match operation.kind:
            case "open" if inode is None:
                self._changes.append((operation.file, _Inode()))
            case "write" | "truncate":
                assert inode is not None
                inode.unsynced.append(operation)
            case "sync":
                assert inode is not None
                inode.sync()
                # SQLite syncs the directory with the first sync of a log or journal that it made.
                if "-" in operation.file:
                    self._sync_names()
            case "lose":
                assert inode is not None
                inode.unsynced.clear()
            case "delete":
                self._changes.append((operation.file, None))
                if operation.offset:
                    self._sync_names()

    def _names(self, changes: int) -> dict[str, _Inode]:
        names = dict(self._synced_names)
        for name, inode in self._changes[:changes]:
            if inode is None:
                names.pop(name, None)
            else:
                names[name] = inode
        return names

    def _sync_names(self) -> None:
        self._synced_names = self._names(len(self._changes))
        self._changes = []

    def write_image(self, to: Path, random: Random, how: str, sector: int) -> None:
        """What is found after a power cut now. `how`: `drop` what was not synced, `keep` it, or `mix`."""
        shutil.rmtree(to, ignore_errors=True)
        to.mkdir()
        everything = len(self._changes)
        changes = {"drop": 0, "keep": everything, "mix": random.randint(0, everything)}[how]
        for name, inode in self._names(changes).items():
            content = {
                "drop": lambda inode=inode: bytes(inode.synced),
                "keep": lambda inode=inode: bytes(inode.keep(range(len(inode.unsynced)))),
                "mix": lambda inode=inode: inode.lose(random, sector),
            }[how]()
            (to / name).write_bytes(content)
