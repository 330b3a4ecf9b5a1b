"""What journald is sent, over a real datagram socket; what it does not take, over a real stream."""

import fcntl
import io
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from yoi_daemon.daemon.journal import MAX_FIELDS, JournalHandler, encode, field_name, is_journal
from yoi_daemon.daemon.logs import configure_logs
from yoi_daemon.model.redaction import Redaction
from yoi_daemon.sdk import Secret

SECRET = "hunter2-and-more"


class Journald:
    """The other side: the socket of datagrams, and the stream that stands for standard error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(5)
        self.stderr, self.stream = socket.socketpair()
        self.stream.settimeout(5)
        self.handler = JournalHandler(self.stderr.fileno(), str(path))

    def receive(self) -> dict[str, str]:
        """The next record, read by the protocol's own rules."""
        data, ancillary, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        for _, _, rights in ancillary:
            descriptor = int.from_bytes(rights[:4], "little")
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
            assert seals & fcntl.F_SEAL_WRITE, "journald refuses a file that may still change"
            with os.fdopen(descriptor, "rb") as file:
                file.seek(0)
                data = file.read()
        return decode(data)

    def close(self) -> None:
        for one in (self.socket, self.stderr, self.stream, self.handler):
            one.close()


def decode(data: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    stream = io.BytesIO(data)
    while line := stream.readline():
        name, is_plain, value = line.rstrip(b"\n").partition(b"=")
        if not is_plain:
            value = stream.read(int.from_bytes(stream.read(8), "little"))
            assert stream.read(1) == b"\n"
        assert name.decode() not in fields, f"{name!r} twice"
        fields[name.decode()] = value.decode()
    return fields


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    """Logging goes there, as configured, and is as it was afterwards."""
    root = logging.getLogger()
    handlers, level, configured = root.handlers[:], root.level, structlog.get_config()
    made = Journald(tmp_path / "socket")
    redaction = Redaction()
    redaction.add(SECRET)
    configure_logs("info", redaction, journal=made.handler)
    yield made
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**configured)
    made.close()


def test_a_record_has_its_fields(journald: Journald) -> None:
    log = structlog.get_logger("plugin").bind(plugin_id="p", correlation_id="cor_1")
    log.warning(
        "plugin error", code="handler_failed", worker_id="wrk_1", runtime_id="r", n=3, no=None
    )
    told = journald.receive()
    assert (
        told.items()
        >= {
            "PRIORITY": "4",
            "SYSLOG_IDENTIFIER": "yoi-daemon",
            "YOI_PLUGIN": "p",
            "YOI_CORRELATION_ID": "cor_1",
            "YOI_CODE": "handler_failed",
            "YOI_WORKER": "wrk_1",
            "YOI_RUNTIME": "r",
            "YOI_N": "3",
            "CODE_FILE": __file__,
            "CODE_FUNC": "test_a_record_has_its_fields",
        }.items()
    )
    assert told["MESSAGE"].startswith("plugin error ")
    assert "code=handler_failed" in told["MESSAGE"]
    assert {"YOI_EVENT", "YOI_LEVEL", "YOI_TIMESTAMP", "YOI_NO"} & set(told) == set()


@pytest.mark.parametrize(
    ("level", "number"),
    [("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3"), ("critical", "2")],
)
def test_priorities(journald: Journald, logged_errors, level: str, number: str) -> None:
    logging.getLogger().setLevel("DEBUG")
    getattr(logging.getLogger("some.library"), level)("it says %s", level)
    told = journald.receive()
    assert (told["PRIORITY"], told["MESSAGE"]) == (number, f"it says {level}")
    if level in ("error", "critical"):
        logged_errors.expect("it says")


def test_hostile_texts_and_names(journald: Journald) -> None:
    log = structlog.get_logger()
    log.info(
        "two\nlines",
        **{
            "forged\nPRIORITY": "0",
            "_PID": "1",
            "PRIORITY": "0",
            "ünïcode": "\ud800",
            "n" * 300: "long",
            "": "nameless",
            "lines": "a\nMESSAGE=forged\n",
            "nul": "a\0b\x1b[31m",
        },
    )
    told = journald.receive()
    assert told["MESSAGE"].startswith("two\nlines ")
    assert told["PRIORITY"] == "6"
    assert told["YOI_LINES"] == "a\nMESSAGE=forged\n"
    assert told["YOI_NUL"] == "a\\x00b\\x1b[31m"
    assert told["YOI__PID"] == "1"
    assert told["YOI_PRIORITY"] == told["YOI_FORGED_PRIORITY"] == "0"
    assert told["YOI__N_CODE"] == "\\ud800"
    assert all(len(name) <= 64 and name.isascii() and name.isupper() for name in told)


def test_an_author_does_not_take_our_names(journald: Journald) -> None:
    structlog.get_logger().info("x", plugin="forged", plugin_id="p")
    assert journald.receive()["YOI_PLUGIN"] == "p"


def test_a_record_of_many_fields_is_still_taken(journald: Journald) -> None:
    structlog.get_logger().info("x", **{f"k{number}": number for number in range(2000)})
    told = journald.receive()
    assert len(told) == MAX_FIELDS + 6
    assert "k1999=1999" in told["MESSAGE"]


def test_a_record_too_large_for_a_datagram_comes_as_a_sealed_file(journald: Journald) -> None:
    large = "x" * 4_000_000
    structlog.get_logger().info("large", it=large, plugin_id="p")
    told = journald.receive()
    assert (told["YOI_IT"], told["YOI_PLUGIN"]) == (large, "p")
    assert len(told["MESSAGE"]) < 1100


def test_secrets_are_taken_out_of_every_field(journald: Journald) -> None:
    log = structlog.get_logger()
    try:
        raise ValueError(f"refused: {SECRET}")
    except ValueError:
        log.warning(
            "in the text %s",
            SECRET,
            value=SECRET,
            deep={"er": [SECRET]},
            held=Secret(SECRET),
            headers={"Authorization": f"Bearer {SECRET}"},
            exc_info=True,
            **{SECRET: 1},
        )
    told = journald.receive()
    assert SECRET not in str(told)
    assert SECRET.upper().replace("-", "_") not in str(told)
    assert "ValueError: refused: [redacted]" in told["MESSAGE"]
    assert "Traceback" in told["YOI_EXCEPTION"]


def test_without_a_journal_it_goes_to_the_stream_with_its_priority(journald: Journald) -> None:
    journald.path.unlink()
    structlog.get_logger().warning("two\nlines", plugin_id="p")
    level, _, line = journald.stream.recv(4096).decode().partition(">")
    assert level == "<4"
    assert line.count("\n") == 1
    assert json.loads(line).items() >= {"event": "two\nlines", "plugin_id": "p"}.items()
    assert journald.handler.lost == 0


def test_what_neither_takes_is_counted_and_told_later(journald: Journald) -> None:
    journald.stderr.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    log = structlog.get_logger()
    for number in range(5000):  # nobody reads: each call returns all the same
        log.info("burst", number=number)
    lost = journald.handler.lost
    assert lost > 0
    journald.socket.setblocking(False)
    for number in range(5000):
        try:
            assert journald.receive()["YOI_NUMBER"] == str(number)
        except BlockingIOError:
            break
    log.info("after")
    assert journald.receive()["MESSAGE"] == (
        f"{lost} log records were lost: the journal did not take them"
    )
    assert journald.receive()["MESSAGE"] == "after"
    assert journald.handler.lost == 0


def test_what_cannot_be_shown_does_not_end_who_logs_it(journald: Journald) -> None:
    class Unshown:
        def __repr__(self) -> str:
            raise ValueError("no")

    journald.handler.emit(logging.makeLogRecord({"msg": Unshown(), "levelno": 20}))
    assert journald.handler.lost == 1


def test_the_journals_stream_is_known_by_its_device_and_inode(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = os.fstat(ours.fileno())
        told = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert is_journal(told, ours.fileno())
        assert not is_journal(told, theirs.fileno())
        assert not is_journal({}, ours.fileno())
        assert not is_journal({"JOURNAL_STREAM": "nonsense"}, ours.fileno())
    assert not is_journal(told, 99_999)


def test_one_field_by_the_book() -> None:
    assert encode([("A", "b")]) == b"A=b\n"
    assert encode([("A", "b\nc")]) == b"A\n\x03\0\0\0\0\0\0\0b\nc\n"
    assert field_name("correlation_id") == "YOI_CORRELATION_ID"
