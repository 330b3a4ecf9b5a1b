"""The state directory: its creation and lock, the admin token, and the files of a running daemon."""

import errno
import fcntl
import json
import os
import stat
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from yoi_daemon.front.principal import make_secret
from yoi_daemon.model.blocking import Blocked
from yoi_daemon.model.cursor import is_epoch
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import (
    ConfigFault,
    ConfigurationError,
    NotAllowed,
    StorageFailed,
    YoiError,
)

MAX_PRIVATE_BYTES = 4 * 1024 * 1024
"""Maximum size of a private file, which is read whole."""
MAX_EPOCHS = 256
"""Earlier logs whose cursors are recognised; 17 bytes each."""


@contextmanager
def hold_state_directory(directories: Directories) -> Generator[None]:
    """Creates the directories (0700) and locks the state for the duration of the context.

    Raises `NotAllowed`, and `ConfigurationError` when another daemon holds it.
    """
    try:
        directories.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            if directories.secrets.parent == directories.state:
                directories.secrets.mkdir(mode=0o700)
        mode = stat.S_IMODE(directories.state.stat().st_mode)
        lock = os.open(directories.state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NotAllowed(
            f"the state directory {directories.state} cannot be used: {error.strerror}; "
            "make it writable for this user, or give another with --state DIR"
        ) from error
    if mode & 0o022:
        os.close(lock)
        raise NotAllowed(
            f"the state directory {directories.state} is writable by others (mode {mode:04o}), who could "
            f"replace what is in it; chmod go-w {directories.state}, and start again"
        )
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ConfigurationError(
            [
                ConfigFault(
                    file=str(directories.state),
                    key="",
                    expected="another daemon runs on this state directory; stop it, or give another with --state DIR",
                )
            ]
        ) from error
    try:
        yield
    finally:
        remove_daemon_files(directories)
        os.close(lock)


def admin_token(directories: Directories) -> str:
    """Returns the token in `<state>/admin.token`, created at the first start with mode 0600.

    Raises `NotAllowed`, also where others can read or write the file, who may have done so already.
    """
    path = directories.admin_token_file
    content = read_private(path)
    try:
        if content is not None and (token := content.decode("ascii").strip()):
            return token
        token = make_secret()
        _write_whole(path, token + "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _failure(path, error) from error
    return token


def read_private(path: Path) -> bytes | None:
    """Returns the content of a file that only this user can read or write; None where there is none.

    Raises `NotAllowed` for a file that others can access or own, or that is no regular file.
    """
    try:
        # Not through a link, and not waiting for the writer of a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotAllowed(f"{path} is a link; put the file itself there, or remove it") from None
        raise _failure(path, error) from error
    try:
        _check_private(path, os.fstat(descriptor))
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_PRIVATE_BYTES + 1)
    except OSError as error:
        raise _failure(path, error) from error
    finally:
        os.close(descriptor)
    if len(content) > MAX_PRIVATE_BYTES:
        raise NotAllowed(f"{path} is larger than {MAX_PRIVATE_BYTES} bytes; it is none of ours")
    return content


def _check_private(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise NotAllowed(f"{path} is no plain file; remove it, and start again")
    if found.st_uid != os.geteuid():
        raise NotAllowed(
            f"{path} belongs to user {found.st_uid}, and the daemon runs as {os.geteuid()}; "
            "remove it or give it to the daemon's user (chown), and start again"
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise NotAllowed(
            f"{path} is open to others (mode {mode:04o}), who may have read it; remove it, and a "
            f"new one is made, or, where nobody can have, chmod 600 {path}; then start again"
        )


def write_private(path: Path, content: str) -> None:
    """Replaces a file of mode 0600, durably or not at all. Raises `NotAllowed`, `StorageFailed`."""
    try:
        _write_whole(path, content)
    except OSError as error:
        raise _failure(path, error) from error


def remember_epoch(directories: Directories, epoch: str) -> tuple[str, ...]:
    """Adds the log's epoch to `<state>/epochs`. Returns the earlier epochs, whose cursors are recognised.

    A file that cannot be read is started anew. Raises `NotAllowed`, `StorageFailed`.
    """
    path = directories.state / "epochs"
    earlier: list[str] = []
    try:
        with suppress(FileNotFoundError, UnicodeDecodeError):
            earlier = [line for line in path.read_text("ascii").split() if is_epoch(line)]
        if epoch in earlier:
            earlier.remove(epoch)
        earlier = earlier[-MAX_EPOCHS:]
        _write_whole(path, "\n".join([*earlier, epoch]) + "\n")
    except OSError as error:
        raise _failure(path, error) from error
    return tuple(earlier)


def write_daemon_file(directories: Directories, content: dict[str, Any]) -> None:
    """Writes `daemon.json`. Raises `NotAllowed`, `StorageFailed`."""
    for file in directories.daemon_files:
        write_private(file, json.dumps(content) + "\n")


def remove_daemon_files(directories: Directories) -> None:
    """Removes the files of a running daemon; never raises."""
    _remove((*directories.daemon_files, *directories.blocked_files))


def write_blocked_files(directories: Directories, blocked: Blocked) -> None:
    """Writes who blocks the event loop, for `yoi-daemon status`; never raises."""
    for file in directories.blocked_files:
        with suppress(OSError):
            _write_whole(file, msgspec.json.encode(blocked).decode() + "\n")


def remove_blocked_files(directories: Directories) -> None:
    """Removes the files that say who blocks the event loop; never raises."""
    _remove(directories.blocked_files)


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        with suppress(OSError):
            file.unlink(missing_ok=True)


def _write_whole(path: Path, text: str) -> None:
    """Writes a file of mode 0600 atomically and durably."""
    partial = path.with_name(path.name + ".new")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _failure(path: Path, error: OSError | UnicodeDecodeError) -> YoiError:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return StorageFailed(
            f"{path} cannot be written: {error.strerror}; make room, then start again"
        )
    reason = error.strerror if isinstance(error, OSError) else "it is not ASCII text"
    return NotAllowed(f"{path} cannot be read or made: {reason}")
