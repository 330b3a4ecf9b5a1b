"""Workers that something else recorded: one regular file for each, `<directory>/<worker_id>.json`.

Everything here blocks, and is run in a thread.
"""

import os
import re
import stat

import msgspec

from yoi_daemon.model.events import Reason
from yoi_daemon.model.states import WorkerState
from yoi_daemon.model.workers import Role

MAX_RECORDS = 1000
MAX_RECORD_BYTES = 1_048_576
MAX_RECORD_ITEMS = 10_000
"""What is read of a directory: the first 1,000 names, each file up to 1 MiB and 10,000 items."""

_WORKER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_SUFFIX = ".json"


class RecordedItem(msgspec.Struct, frozen=True, kw_only=True):
    """One item of a recorded transcript, oldest first; `time` is RFC 3339."""

    item_id: str
    role: Role
    text: str
    time: str


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's file. Its id is the file's name; keys that are not here are passed over."""

    state: WorkerState
    created_at: str
    label: str = ""
    profile: str = ""
    generation: int = 0
    reason: Reason | None = None
    items: list[RecordedItem] = []


class RecordingFault(msgspec.Struct, frozen=True):
    """What is wrong in the directory; the text holds no value of a record, and no place but a file's name."""

    code: str
    text: str


class MalformedRecordingError(Exception):
    """A record that cannot be shown; the text holds nothing of it."""


class Recordings:
    """One directory of records. Nothing of it is kept between two calls."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def read_all(self) -> tuple[dict[str, Recording], list[RecordingFault]]:
        """Returns every record by its worker's id, in their order, and what is wrong with those that cannot be shown.

        Raises `OSError` where the directory cannot be read.
        """
        with os.scandir(self._directory) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(_SUFFIX))
        records: dict[str, Recording] = {}
        faults: list[RecordingFault] = []
        if len(names) > MAX_RECORDS:
            text = f"{len(names)} records; the first {MAX_RECORDS} are shown"
            faults.append(RecordingFault("too_many_records", text))
        for name in names[:MAX_RECORDS]:
            try:
                worker_id = name.removesuffix(_SUFFIX)
                if _WORKER_ID.fullmatch(worker_id) is None:
                    raise MalformedRecordingError("its name is no worker id")
                records[worker_id] = self._read(worker_id)
            except FileNotFoundError:
                continue  # gone since it was listed
            except (OSError, MalformedRecordingError) as error:
                why = "it cannot be read" if isinstance(error, OSError) else f"{error}"
                faults.append(
                    RecordingFault("malformed_record", f"{ascii(name)[1:-1][:150]}: {why}")
                )
        return dict(sorted(records.items())), faults

    def read(self, worker_id: str) -> Recording | None:
        """One record, None where there is none.

        Raises `MalformedRecordingError`, and `OSError` where the directory cannot be read.
        """
        if _WORKER_ID.fullmatch(worker_id) is None:
            return None
        try:
            return self._read(worker_id)
        except FileNotFoundError:
            os.scandir(self._directory).close()
            return None
        except OSError as error:
            raise MalformedRecordingError("it cannot be read") from error

    def _read(self, worker_id: str) -> Recording:
        path = os.path.join(self._directory, worker_id + _SUFFIX)
        # No link out of the directory, and no pipe that would hold the thread.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise MalformedRecordingError("it is no regular file")
            data = file.read(MAX_RECORD_BYTES + 1)
        if len(data) > MAX_RECORD_BYTES:
            raise MalformedRecordingError(f"it is larger than {MAX_RECORD_BYTES} bytes")
        try:
            record = msgspec.json.decode(data, type=Recording)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedRecordingError(_shape_fault(error)) from error
        if len(record.items) > MAX_RECORD_ITEMS:
            raise MalformedRecordingError(f"it has more than {MAX_RECORD_ITEMS} items")
        if len({item.item_id for item in record.items}) < len(record.items):
            raise MalformedRecordingError("two of its items have the same item_id")
        return record


def _shape_fault(error: Exception) -> str:
    """What msgspec says: it names types and places, but it also quotes a value that is none of a Literal's."""
    if not isinstance(error, msgspec.ValidationError):
        return "it is not JSON"
    text = str(error)
    if not text.startswith("Invalid enum value"):
        return text
    _, at, place = text.rpartition(" - at")
    return f"a word it does not know{at}{place if at else ''}"
