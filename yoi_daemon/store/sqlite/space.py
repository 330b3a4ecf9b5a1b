"""Free space on the store's file system, and a reserve for finishing accepted work."""

import os
from contextlib import suppress
from pathlib import Path

RESERVE_NAME = "reserve"


class Space:
    """The file system of one directory. Its calls may block for a moment.

    With less than `low_bytes` free, or without the reserve, nothing more should be accepted. The reserve
    is a file of `reserve_bytes`, released when a commit finds no room: acknowledging needs space too. It
    is allocated again only if `low_bytes` stay free beside it.
    """

    def __init__(self, directory: Path, *, low_bytes: int, reserve_bytes: int) -> None:
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._low_bytes = low_bytes
        self._reserve_bytes = reserve_bytes
        self.free_bytes = 0
        self.is_low = False
        self.measure()

    def measure(self) -> None:
        """Measures the free space, and allocates the reserve if possible."""
        found = os.fstatvfs(self._directory)
        self.free_bytes = found.f_bavail * found.f_frsize
        has_reserve = self._has_reserve()
        if not has_reserve and self.free_bytes >= self._low_bytes + self._reserve_bytes:
            has_reserve = self._allocate()
        self.is_low = self.free_bytes < self._low_bytes or not has_reserve

    def release(self) -> bool:
        """Releases the reserve. Returns True if there was one. Space is low until it is back."""
        self.is_low = True
        try:
            os.unlink(RESERVE_NAME, dir_fd=self._directory)
        except FileNotFoundError:
            return False
        return True

    def close(self) -> None:
        """Closes the directory; the reserve stays."""
        os.close(self._directory)

    def _has_reserve(self) -> bool:
        try:
            found = os.stat(RESERVE_NAME, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return found.st_size == self._reserve_bytes

    def _allocate(self) -> bool:
        # Fails without room or descriptors; the next measurement tries again.
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            file = os.open(RESERVE_NAME, flags, 0o600, dir_fd=self._directory)
            try:
                os.posix_fallocate(file, 0, self._reserve_bytes)
                return True
            finally:
                os.close(file)
        return False
