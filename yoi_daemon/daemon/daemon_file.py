"""`daemon.json`: where the daemon listens, for clients on this machine, and the certificates they trust."""

from collections.abc import Iterable, Mapping
from typing import Any

from yoi_daemon.daemon.statedir import write_daemon_file
from yoi_daemon.model.directories import Directories


class DaemonFile:
    """The file of one daemon, written once it listens and again when its certificates change. Methods block.

    A client trusts the certificates in the file and no others, whatever names they carry.
    """

    def __init__(self, directories: Directories) -> None:
        self._directories = directories
        self._facts: Mapping[str, Any] | None = None
        self._certificates: tuple[str, ...] = ()

    def write(self, facts: Mapping[str, Any], certificates: Iterable[str]) -> None:
        """Writes `facts` and PEM `certificates`. Raises `NotAllowed`, `StorageFailed`."""
        distinct = tuple(dict.fromkeys(certificates))
        write_daemon_file(self._directories, {**facts, "certificates": "".join(distinct)})
        self._facts, self._certificates = facts, distinct

    def trust(self, certificates: Iterable[str]) -> None:
        """Replaces the certificates, where there is a file and they differ.

        Raises `NotAllowed`, `StorageFailed`.
        """
        if self._facts is not None and tuple(dict.fromkeys(certificates)) != self._certificates:
            self.write(self._facts, certificates)
