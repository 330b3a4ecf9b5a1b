"""Space on the store's file system: when there is too little, and a reserve for seeing things to their end."""

import os
from contextlib import suppress
from pathlib import Path

RESERVE_NAME = "reserve"


class Space:
    """The file system of one directory. Its calls may block a moment.

    Below `low_bytes` of free space, or without the reserve, nothing more is to be accepted. The reserve,
    `reserve_bytes` that are taken in good times, is let go of when a commit finds no room: acknowledging
    needs some too. It is taken again only where `low_bytes` stay free beside it.
    """

    def __init__(self, directory: Path, *, low_bytes: int, reserve_bytes: int) -> None:
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._low_bytes = low_bytes
        self._reserve_bytes = reserve_bytes
        self.free_bytes = 0
        self.is_low = False
        self.measure()

    def measure(self) -> None:
        """Looks again, and takes the reserve where it can be had."""
        found = os.fstatvfs(self._directory)
        self.free_bytes = found.f_bavail * found.f_frsize
        has_reserve = self._has_reserve()
        if not has_reserve and self.free_bytes >= self._low_bytes + self._reserve_bytes:
            has_reserve = self._take()
        self.is_low = self.free_bytes < self._low_bytes or not has_reserve

    def release(self) -> bool:
        """Lets go of the reserve; whether there was one. Nothing more is accepted until it is back."""
        self.is_low = True
        try:
            os.unlink(RESERVE_NAME, dir_fd=self._directory)
        except FileNotFoundError:
            return False
        return True

    def close(self) -> None:
        """Ends the use of the directory; the reserve stays."""
        os.close(self._directory)

    def _has_reserve(self) -> bool:
        try:
            found = os.stat(RESERVE_NAME, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return found.st_size == self._reserve_bytes

    def _take(self) -> bool:
        # Without room, or descriptors, for it there is none; the next look tries again.
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            file = os.open(RESERVE_NAME, flags, 0o600, dir_fd=self._directory)
            try:
                os.posix_fallocate(file, 0, self._reserve_bytes)
                return True
            finally:
                os.close(file)
        return False
