"""Reads files that only trusted users could have written: what was checked is what is read.

A path is walked from the root, one component at a time, each opened relative to its parent's descriptor
and never through an unchecked link, so that nothing can replace what was checked.
"""

import errno
import os
import stat
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import YoiError

MAX_FILE_BYTES = 1_048_576
"""Limit of a file; modules, configurations and secrets are far smaller, and systemd has it for credentials."""
MAX_LINKS = 40
"""The kernel's limit (`path_resolution(7)`)."""
GROUP_WRITABLE = "may be written by its group, which systemd's service would refuse; chmod g-w"
"""The warning about a path that is accepted all the same."""

_CHECK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# Neither a FIFO nor a terminal may block us, whatever replaced the file since the check.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class NotTrusted(YoiError):
    """An untrusted user could have written `path`; `reason` says why, and what to do.

    `reason` contains no path: responses may show it, but not `path`.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Trust:
    """The owners whose files are trusted, if nobody else may write them.

    Files writable by their group are accepted and recorded in `group_writable`; with `strict` refused.
    """

    def __init__(self, owners: frozenset[int], *, strict: bool) -> None:
        self.owners = owners
        self.strict = strict
        self.group_writable: set[Path] = set()

    def check(self, path: Path, found: os.stat_result) -> None:
        """Raises `NotTrusted`. A sticky directory is safe to pass: only owners can replace its files."""
        if found.st_uid not in self.owners:
            raise NotTrusted(
                path,
                f"belongs to user {found.st_uid}; chown it to root or to the user the daemon runs as",
            )
        if stat.S_ISLNK(found.st_mode):
            return  # a link's mode means nothing
        if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX:
            return
        self.check_mode(path, found.st_mode)

    def check_mode(self, path: Path, mode: int) -> None:
        """Raises `NotTrusted` if others may write."""
        if mode & stat.S_IWOTH:
            raise NotTrusted(path, "may be written by everyone; chmod o-w")
        if mode & stat.S_IWGRP:
            if self.strict:
                raise NotTrusted(path, "may be written by its group; chmod g-w")
            self.group_writable.add(path)


def trust_for(directories: Directories) -> Trust:
    """Returns trust in root and the user of this process; strict under systemd."""
    return Trust(frozenset({0, os.geteuid()}), strict=directories.by_systemd)


class Entry(NamedTuple):
    """One name in a directory. A link `may_be_directory` too."""

    name: str
    may_be_directory: bool


def read_trusted(
    path: Path,
    trust: Trust,
    *,
    beneath: Path | None = None,
    private: bool = False,
    max_bytes: int = MAX_FILE_BYTES,
) -> bytes:
    """Reads a regular file. Follows links if they and their targets are trusted.

    `beneath` is a directory above `path` that no link may lead out of. `private` is for secrets: the
    mode of the file, or of its directory, must keep others from reading it; the group may read a file
    of root's. Never blocks on a FIFO. Raises `NotTrusted`, and `OSError` if it cannot be read.
    """
    with _walked(path, trust, beneath) as walk:
        leaf, holder = walk.leaf, walk.holder
        if leaf is None:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        checked = os.fstat(leaf.descriptor)
        descriptor = os.open(leaf.path.name, _READ, dir_fd=holder.descriptor)
    with open(descriptor, "rb", buffering=0) as file:
        found = os.fstat(descriptor)
        if not os.path.samestat(found, checked):
            raise NotTrusted(path, "was replaced while it was read; try again")
        trust.check(path, found)
        _check_file(path, found)
        if private:
            _check_private(path, found, holder.mode)
        content = b""
        while len(content) <= max_bytes and (more := file.read(max_bytes + 1 - len(content))):
            content += more
    if len(content) > max_bytes:
        raise NotTrusted(path, f"is larger than {max_bytes} bytes")
    return content


def list_trusted(path: Path, trust: Trust, *, beneath: Path | None = None) -> list[Entry]:
    """Lists a directory, by name. `beneath` as for `read_trusted`.

    Raises `NotTrusted`, and `OSError` if it cannot be read or is no directory.
    """
    with _walked(path, trust, beneath) as walk:
        if walk.leaf is not None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        walk.check_holder()
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        descriptor = os.open(".", flags, dir_fd=walk.holder.descriptor)
    try:
        with os.scandir(descriptor) as entries:
            found = [
                Entry(entry.name, entry.is_symlink() or entry.is_dir(follow_symlinks=False))
                for entry in entries
            ]
    finally:
        os.close(descriptor)
    return sorted(found)


class _Place(NamedTuple):
    path: Path
    descriptor: int
    mode: int


class _Walk:
    """The state of a walk: the directories from the root, and a file in the last."""

    def __init__(self, trust: Trust, held: ExitStack) -> None:
        self.leaf: _Place | None = None
        self._trust = trust
        self._held = held
        self._places = [self._open_checked(Path("/"), "/", None)]
        self._fence = 1
        self._links = 0

    @property
    def holder(self) -> _Place:
        """Returns the current directory."""
        return self._places[-1]

    def check_holder(self) -> None:
        """Raises `NotTrusted` if others may add files here, a sticky directory included."""
        self._trust.check_mode(self.holder.path, self.holder.mode)

    def fence(self) -> None:
        """Lets nothing lead out of the current directory from now on."""
        self._fence = len(self._places)

    def go(self, parts: tuple[str, ...]) -> None:
        """Descends along `parts`."""
        left = list(reversed(parts))
        while left:
            part = left.pop()
            if part in ("", "."):
                continue
            if self.leaf is not None:
                path = self.leaf.path
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
            if part == "..":
                self._go_up(self.holder.path / part)
                continue
            path = self.holder.path / part
            place = self._open_checked(path, part, self.holder.descriptor)
            if stat.S_ISLNK(place.mode):
                left += reversed(self._target(place))
            elif stat.S_ISDIR(place.mode):
                self._places.append(place)
            else:
                self.check_holder()
                self.leaf = place

    def _open_checked(self, path: Path, name: str, beside: int | None) -> _Place:
        descriptor = os.open(name, _CHECK, dir_fd=beside)
        self._held.callback(os.close, descriptor)
        found = os.fstat(descriptor)
        self._trust.check(path, found)
        if not (stat.S_ISLNK(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            _check_file(path, found)
        return _Place(path, descriptor, found.st_mode)

    def _target(self, link: _Place) -> list[str]:
        self._links += 1
        if self._links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(link.path))
        target = os.readlink("", dir_fd=link.descriptor)  # of the checked link
        if target.startswith("/"):
            if self._fence > 1:
                raise NotTrusted(link.path, "is a link that leads out; put the file itself here")
            del self._places[1:]
        return target.split("/")

    def _go_up(self, path: Path) -> None:
        if len(self._places) > self._fence:
            self._places.pop()
        elif self._fence > 1:
            raise NotTrusted(path, "leads out, by a link; put the file itself here")


@contextmanager
def _walked(path: Path, trust: Trust, beneath: Path | None) -> Generator[_Walk]:
    """Walks to `path`, and keeps the descriptors open for the body."""
    with ExitStack() as held:
        walk = _Walk(trust, held)
        parts = path.absolute().parts[1:]
        if beneath is not None:
            above = beneath.absolute().parts[1:]
            walk.go(above)
            walk.fence()
            parts = path.relative_to(beneath).parts
        walk.go(parts)
        yield walk


def _check_file(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise NotTrusted(path, "is not a regular file")
    if found.st_nlink != 1:
        # The path of its other name is unchecked. Checked twice, because unlinking a name lowers the count.
        raise NotTrusted(path, "has another name, a hard link; put a copy here instead")


def _check_private(path: Path, found: os.stat_result, holder_mode: int) -> None:
    others = stat.S_IRGRP | stat.S_IROTH
    if found.st_uid == 0 != os.geteuid():
        # PostgreSQL's rule for keys. systemd grants credentials by an access list, which shows as the
        # group's permission.
        others = stat.S_IROTH
    # Reading a file needs its own `r`, and the `x` of its directory, two bits lower.
    if found.st_mode & holder_mode << 2 & others:
        raise NotTrusted(path, "may be read by others than the daemon; chmod 600")
