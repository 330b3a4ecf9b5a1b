"""The state directory: made, locked, its token made once, and the file that says where the daemon is."""

import errno
import fcntl
import json
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from yoi_daemon.model.cursor import is_epoch
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import (
    ConfigFault,
    ConfigurationError,
    NotAllowed,
    StorageFailed,
    YoiError,
)

TOKEN_PREFIX = "yoi_"
TOKEN_BYTES = 32
MAX_EPOCHS = 256
"""Earlier runs whose cursors are told from those of another daemon; 17 bytes each."""


@contextmanager
def hold_state_directory(directories: Directories) -> Generator[None]:
    """Makes the directories (0700) and holds a lock on the state for as long as the context.

    Raises `NotAllowed`, and `ConfigurationError` when another daemon holds it.
    """
    try:
        directories.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            if directories.secrets.parent == directories.state:
                directories.secrets.mkdir(mode=0o700)
        lock = os.open(directories.state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NotAllowed(
            f"the state directory {directories.state} cannot be used: {error.strerror}; "
            "make it writable for this user, or give another with --state DIR"
        ) from error
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
    """The token in `<state>/admin.token`, made at first start with mode 0600. Raises `NotAllowed`."""
    path = directories.admin_token_file
    try:
        with suppress(FileNotFoundError):
            if token := path.read_text(encoding="ascii").strip():
                return token
        token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
        _write_whole(path, token + "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _failure(path, error) from error
    return token


def remember_epoch(directories: Directories, epoch: str) -> tuple[str, ...]:
    """Notes the log's name in `<state>/epochs`; gives the earlier ones, so that their cursors are known.

    A file that does not read as epochs is begun anew. Raises `NotAllowed`, `StorageFailed`.
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
    """Says where the daemon listens. Raises `NotAllowed`."""
    for file in directories.daemon_files:
        try:
            _write_whole(file, json.dumps(content) + "\n")
        except OSError as error:
            raise _failure(file, error) from error


def remove_daemon_files(directories: Directories) -> None:
    """It listens no more; never raises."""
    for file in directories.daemon_files:
        with suppress(OSError):
            file.unlink(missing_ok=True)


def _write_whole(path: Path, text: str) -> None:
    """Writes a file of mode 0600 that is never seen half."""
    partial = path.with_name(path.name + ".new")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _failure(path: Path, error: OSError | UnicodeDecodeError) -> YoiError:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return StorageFailed(
            f"{path} cannot be written: {error.strerror}; make room, then start again"
        )
    reason = error.strerror if isinstance(error, OSError) else "it is not ASCII text"
    return NotAllowed(f"{path} cannot be read or made: {reason}")
