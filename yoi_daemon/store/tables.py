"""The tables: one row type each, its key first. What the daemon keeps is written as changes of rows."""

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import msgspec

from yoi_daemon.model.frames import payload_of

R = TypeVar("R", bound=tuple[Any, ...])


class Table(Generic[R]):
    """A table of rows that are put and dropped by their key, the first `key_columns` columns.

    `insert` and `replace` are statements that take a row, `delete` one that takes a key. `large` are
    the columns that may hold much.
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
        """The row with this key is `row` from now on."""
        return (self, row[: self.key_columns], row)

    def drop(self, *key: str | int) -> "Change":
        """There is no row with this key from now on."""
        return (self, key, None)


Change: TypeAlias = tuple[Table[Any], tuple[Any, ...], tuple[Any, ...] | None]
"""A table, a key, and the row that it is from now on; None drops it. The last of one commit counts."""

Changes: TypeAlias = Sequence[Change]


class LogEvent(msgspec.Struct, array_like=True, gc=False):
    """One numbered event of the log: what filters look at, and the one WebSocket frame every subscriber gets.

    `monotonic_s` is when, by the store's own clock. `is_last` says that its worker emits nothing after
    it. It is kept on the disk as it is here: only fields with a default may be added, at the end.
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
        """The event as JSON, without its frame."""
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
    """An accepted event as it came, by the number of its acceptance; it stays while it waits or is dead.

    Without a `ProgressRow` it waits for its first attempt, at its number's place in the order. `headers` is
    JSON; `body` is None where it is the payload itself.
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
    """How far an accepted event is that was tried, or redelivered.

    `position` is its place in the order: its number, or its redelivery's. `claim` is 1 where the process
    ended while an attempt was claimed together with others, and 2 where it alone was; `attempts` is
    JSON, how each attempt ended.
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
    """A plugin's events whose next attempt is under way: `numbers` is JSON, and one may have ended since.

    The attempt is one more than their `ProgressRow` says. `is_alone` where one was claimed, and no others with it.
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
    """A key and the first answer to it. `owner` is a plugin's id, or empty for the API's own keys."""

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
