"""journald's native protocol: a log record as one datagram, with fields that `journalctl YOI_PLUGIN=…` finds.

Nothing here blocks or raises for what the journal does: it is asked from the event loop. What it does
not take goes to standard error, and what that does not take either is counted and told of later.
"""

import array
import errno
import fcntl
import json
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import cast

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "yoi-daemon"
FIELDS: Mapping[str, str] = {
    "plugin_id": "YOI_PLUGIN",
    "worker_id": "YOI_WORKER",
    "runtime_id": "YOI_RUNTIME",
}
"""What the fields are called whose names are not simply `YOI_` and the key."""
MAX_FIELDS = 200
"""Maximum number of fields in a record; journald drops records with more than 1,024. The message holds all."""
MAX_NAME_CHARS = 64
"""journald passes over a field with a longer name."""
MAX_SHOWN_CHARS = 1000
"""Of each fact in the message; the fact's own field has all of it."""
NOT_FIELDS = frozenset({"event", "level", "timestamp"})
"""Keys that journald has fields of its own for."""

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_TOO_LARGE = (errno.EMSGSIZE, errno.ENOBUFS)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_PLAIN = re.compile(r"[^\s\"'=\\]+")


def is_journal(environ: Mapping[str, str], descriptor: int) -> bool:
    """Returns whether `descriptor` is the journal's stream that `$JOURNAL_STREAM` names.

    The variable alone is not enough: standard error may have been redirected since.
    """
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


class JournalHandler(logging.Handler):
    """Sends each record to journald. Its formatter is to give a JSON object of texts, without secrets.

    `stderr` is the descriptor of the journal's stream. A record that no datagram can hold goes as a
    sealed file in memory.
    """

    def __init__(self, stderr: int, path: str = SOCKET) -> None:
        super().__init__()
        self._path = path
        self._journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._journal.setblocking(False)
        # Of another description the whole process would notice that it no longer blocks.
        self._stream = socket.socket(fileno=os.dup(stderr))
        self.lost = 0
        """Number of records lost since the last report of a loss."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            if self.lost and self._deliver(*_loss(self.lost)):
                self.lost = 0
            texts = cast("dict[str, str]", json.loads(line))
            fields = [*_own_fields(record, texts), *_yoi_fields(texts)]
            if not self._deliver(encode(fields), priority(record.levelno), line):
                self.lost += 1
        except Exception:  # noqa: BLE001 (a record that cannot be shown must not end who logs it)
            self.lost += 1

    def close(self) -> None:
        self._journal.close()
        self._stream.close()
        super().close()

    def _deliver(self, datagram: bytes, level: int, line: str) -> bool:
        return self._send(datagram) or self._write(f"<{level}>{line}\n")

    def _send(self, datagram: bytes) -> bool:
        try:
            self._journal.sendto(datagram, self._path)
        except OSError as error:
            return error.errno in _TOO_LARGE and self._send_file(datagram)
        return True

    def _send_file(self, datagram: bytes) -> bool:
        try:
            with closing(_Memory()) as memory:
                memory.write(datagram)
                passed = array.array("i", [memory.descriptor])
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)]
                self._journal.sendmsg([], rights, 0, self._path)
        except OSError:
            return False
        return True

    def _write(self, line: str) -> bool:
        data = line.encode("utf-8", "backslashreplace")
        try:
            # A line that was cut would take the next one's beginning with it.
            return self._stream.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(data)
        except OSError:
            return False


class _Memory:
    """A file in memory that nobody can change once it is written, as journald asks for."""

    def __init__(self) -> None:
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        self.descriptor = os.memfd_create("yoi-daemon-journal", flags)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)

    def close(self) -> None:
        os.close(self.descriptor)


def encode(fields: list[tuple[str, str]]) -> bytes:
    """Returns a record as journald's native protocol has it; a text with line breaks is preceded by its length."""
    parts: list[bytes] = []
    for name, text in fields:
        # Escapes that a terminal obeys have no business in a log, and journalctl shows such texts as numbers.
        shown = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
        data = shown.encode("utf-8", "backslashreplace")
        if b"\n" in data:
            parts.append(b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data))
        else:
            parts.append(b"%s=%s\n" % (name.encode(), data))
    return b"".join(parts)


def priority(level: int) -> int:
    """Returns the number of syslog for a level of Python's."""
    for at_least, number in ((50, 2), (40, 3), (30, 4), (20, 6)):
        if level >= at_least:
            return number
    return 7


def _own_fields(record: logging.LogRecord, texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield "MESSAGE", _message(texts)
    yield "PRIORITY", str(priority(record.levelno))
    yield "SYSLOG_IDENTIFIER", IDENTIFIER
    yield "CODE_FILE", record.pathname
    yield "CODE_LINE", str(record.lineno)
    yield "CODE_FUNC", record.funcName or "?"


def _yoi_fields(texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    taken = set[str]()
    # Ours first: a key of an author's cannot take the name of one of them.
    for key in sorted(texts, key=lambda key: key not in FIELDS):
        name = FIELDS.get(key) or field_name(key)
        if key not in NOT_FIELDS and name not in taken and len(taken) < MAX_FIELDS:
            taken.add(name)
            yield name, texts[key]


def field_name(key: str) -> str:
    """Returns a key as a field: capitals, digits and underscores, at most 64."""
    return ("YOI_" + re.sub(r"[^A-Z0-9_]", "_", key.upper()))[:MAX_NAME_CHARS]


def _message(texts: Mapping[str, str]) -> str:
    """Returns the message that `journalctl` shows: all that can be read on a screen."""
    hidden = {*NOT_FIELDS, "exception", "traceback"}
    facts = [f"{key}={_quoted(text)}" for key, text in texts.items() if key not in hidden]
    below = [texts[key] for key in ("exception", "traceback") if key in texts]
    return "\n".join([" ".join([texts.get("event", ""), *facts]), *below])


def _quoted(text: str) -> str:
    if len(text) > MAX_SHOWN_CHARS:
        text = text[: MAX_SHOWN_CHARS - 1] + "…"
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _loss(count: int) -> tuple[bytes, int, str]:
    text = f"{count} log records were lost: the journal did not take them"
    fields = [
        ("MESSAGE", text),
        ("PRIORITY", str(priority(logging.WARNING))),
        ("SYSLOG_IDENTIFIER", IDENTIFIER),
    ]
    return encode(fields), priority(logging.WARNING), text
