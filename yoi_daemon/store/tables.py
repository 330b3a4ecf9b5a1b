"""The tables: one row type each, its key first. All durable data but events is written as changes of rows."""

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import msgspec

from yoi_daemon.model.frames import payload_of

R = TypeVar("R", bound=tuple[Any, ...])


class Table(Generic[R]):
    """A table of rows that are put and dropped by their key, the first `key_columns` columns.

    `insert` and `replace` are statements with a row as parameters, `delete` one with a key. `large` are
    the columns that may hold large values.
    """

    __slots__ = (
        "columns",
        "delete",
        "insert",
        "key_columns",
        "large",
        "name",
        "replace",
        "row_type",
    )

    def __init__(self, name: str, row_type: type[R], key_columns: int = 1) -> None:
        self.name = name
        self.row_type = row_type
        self.columns: tuple[str, ...] = tuple(row_type.__annotations__)
        self.key_columns = key_columns
        self.large: tuple[int, ...] = tuple(
            index
            for index, (column, kind) in enumerate(row_type.__annotations__.items())
            if kind in (bytes, bytes | None) or column == "text"
        )
        self.insert = f"INSERT INTO {name} VALUES ({', '.join('?' * len(self.columns))})"
        self.replace = self.insert.replace("INSERT", "INSERT OR REPLACE", 1)
        key = " AND ".join(f"{column} = ?" for column in self.columns[:key_columns])
        self.delete = f"DELETE FROM {name} WHERE {key}"

    def put(self, row: R) -> "Change":
        """Returns the change that inserts or replaces a row."""
        return (self, row[: self.key_columns], row)

    def drop(self, *key: str | int) -> "Change":
        """Returns the change that deletes the row with this key."""
        return (self, key, None)


Change: TypeAlias = tuple[Table[Any], tuple[Any, ...], tuple[Any, ...] | None]
"""A table, a key, and the new row; None deletes it. Within one commit, the last change of a key counts."""

Changes: TypeAlias = Sequence[Change]


class LogEvent(msgspec.Struct, array_like=True, gc=False):
    """One numbered event of the log: the fields that filters match, and the frame that every subscriber gets.

    `monotonic_s` is its time by the store's own clock. `is_last` if its worker emits nothing after
    it. Stored on disk in this form: only fields with a default may be added, at the end.
    """

    seq: int
    kind: str
    worker: tuple[str, str] | None
    plugin_id: str | None
    monotonic_s: float
    frame: bytes
    is_last: bool = False

    @property
    def message(self) -> bytes:
        """Returns the event as JSON, without its frame."""
        return payload_of(self.frame)


class Segment(NamedTuple):
    """Events of one retention class that were committed together, up to number `last_seq`.

    `age_s` is the first one's; `content` is msgpack, `LogEvent`s in order.
    """

    last_seq: int
    events: int
    frame_bytes: int
    age_s: float
    content: bytes


class Watermark(NamedTuple):
    """The last event that a retention class evicted in a scope; `scope` is JSON. `lane` is the class: the column's name since the first schema."""

    lane: str
    scope: str
    seq: int


class WorkerNumber(NamedTuple):
    """The number of a worker's latest event among its own."""

    runtime_id: str
    worker_id: str
    worker_seq: int


class IngressRow(NamedTuple):
    """An accepted event as received, by the number of its acceptance; kept while it waits or is dead.

    Without a `ProgressRow` it waits for its first attempt, ordered by its number. `headers` is JSON;
    `body` is None if it equals the payload.
    """

    number: int
    plugin_id: str
    event_id: str
    ingress: str
    correlation_id: str
    created_at: str
    payload: bytes
    body: bytes | None
    headers: bytes
    source: str


class ProgressRow(NamedTuple):
    """The progress of an accepted event that was tried, or redelivered.

    `position` is its place in the order: its number, or its redelivery's. `claim` is 1 if the process
    ended while the event was claimed together with others, and 2 if it was claimed alone; `attempts` is
    JSON, the outcome of each attempt.
    """

    number: int
    plugin_id: str
    position: int
    source: str
    redelivery_of: str | None
    attempt: int
    failures: int
    claim: int
    attempts: bytes


class ClaimRow(NamedTuple):
    """A plugin's events with an attempt under way: `numbers` is JSON, and some may have ended since.

    The attempt is one more than in their `ProgressRow`. `is_alone` if a single event was claimed.
    """

    plugin_id: str
    is_alone: int
    numbers: str


class DeadLetterRow(NamedTuple):
    """An event that no attempt could handle; its bytes are in `ingress_event`."""

    number: int
    plugin_id: str
    digest: str
    died_at: str
    age_s: float


class IdempotencyKeyRow(NamedTuple):
    """A key and the first response to it. `owner` is a plugin's id, or empty for the API's own keys."""

    owner: str
    scope: str
    key: str
    number: int
    digest: bytes
    age_s: float
    answer: bytes


class PluginValueRow(NamedTuple):
    """A value of a plugin's own state, as JSON."""

    plugin_id: str
    key: str
    value: bytes


class WorkerRow(NamedTuple):
    """A worker; `reason` is JSON, `seq` the number of the event that last changed its state."""

    runtime_id: str
    worker_id: str
    profile: str
    label: str
    created_at: str
    state: str
    generation: int
    reason: bytes | None
    let_go: int
    seq: int


class TranscriptRow(NamedTuple):
    """An item of a worker's transcript."""

    runtime_id: str
    worker_id: str
    number: int
    item_id: str
    role: str
    text: str
    time: str


class InboxRow(NamedTuple):
    """An accepted input that waits for its turn, in the order of `number`."""

    runtime_id: str
    worker_id: str
    item_id: str
    number: int
    text: str
    correlation_id: str | None


class Fact(NamedTuple):
    """A named value about the store itself."""

    name: str
    value: str | int | float


LIFECYCLE_SEGMENT = Table("lifecycle_segment", Segment)
VOLUME_SEGMENT = Table("volume_segment", Segment)
WATERMARK = Table("watermark", Watermark, 2)
WORKER_NUMBER = Table("worker_number", WorkerNumber, 2)
INGRESS_EVENT = Table("ingress_event", IngressRow)
PROGRESS = Table("progress", ProgressRow)
CLAIMED = Table("claimed", ClaimRow)
DEAD_LETTER = Table("dead_letter", DeadLetterRow)
IDEMPOTENCY_KEY = Table("idempotency_key", IdempotencyKeyRow, 3)
PLUGIN_VALUE = Table("plugin_value", PluginValueRow, 2)
WORKER = Table("worker", WorkerRow, 2)
TRANSCRIPT_ITEM = Table("transcript_item", TranscriptRow, 3)
INBOX_INPUT = Table("inbox_input", InboxRow, 3)
FACT = Table("fact", Fact)

TABLES: tuple[Table[Any], ...] = (
    LIFECYCLE_SEGMENT,
    VOLUME_SEGMENT,
    WATERMARK,
    WORKER_NUMBER,
    INGRESS_EVENT,
    PROGRESS,
    CLAIMED,
    DEAD_LETTER,
    IDEMPOTENCY_KEY,
    PLUGIN_VALUE,
    WORKER,
    TRANSCRIPT_ITEM,
    INBOX_INPUT,
    FACT,
)
