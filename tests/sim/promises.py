"""What must hold of a history when it is over, whatever came between."""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import msgspec

from tests.proofs.books import Books
from tests.sim.disk import Disk
from yoi_daemon.model.cursor import decode_cursor
from yoi_daemon.model.plugins import IngressReceipt
from yoi_daemon.store.tables import (
    DEAD_LETTER,
    IDEMPOTENCY_KEY,
    INGRESS_EVENT,
    PROGRESS,
    IdempotencyKeyRow,
    LogEvent,
)


def check_promises(
    disk: Disk,
    receipts: Mapping[str, IngressReceipt],
    begun: Sequence[tuple[str, int]],
    *,
    attempts: int,
    died: bool,
) -> None:
    """Accepted is handled, dead, or dropped and reported; what was told is so; numbers are whole.

    `attempts` is how many each delivery has; `died` whether a life ended otherwise than in order.
    """
    history = disk.history
    assert [event.seq for event in history] == list(range(1, len(history) + 1)), "numbers"
    books = Books()
    books.read(SimpleNamespace(read=lambda *_: history))
    rows = disk.rows
    dead = {key[0] for key in rows.get(DEAD_LETTER.name, {})}
    for table in (INGRESS_EVENT, PROGRESS):
        waiting = {key[0] for key in rows.get(table.name, {})} - dead
        assert not waiting, f"left behind: {waiting}"
    died = {books.seqs[event_id] for event_id in books.at("dead")}
    assert dead == died, "the dead letters are not the dead"
    assert {key[0] for key in rows.get(INGRESS_EVENT.name, {})} == dead, "events of nobody"
    dropped = set(books.at("waiting"))
    assert len(dropped) == books.reported["dropped"], f"dropped and not reported: {dropped}"
    assert all(books.ingress[event_id] == "drops" for event_id in dropped), "lost"
    _check_receipts(disk, receipts, books)
    _check_attempts(begun, books)
    _check_failures(history, attempts, died=died)


def _check_receipts(disk: Disk, receipts: Mapping[str, IngressReceipt], books: Books) -> None:
    for name, receipt in receipts.items():
        seq = decode_cursor(receipt.cursor).seq
        assert books.seqs.get(receipt.event_id) == seq, f"{name} was accepted, and is lost"
    named = Counter(msgspec.json.decode(payload)["name"] for payload in disk.payloads.values())
    assert set(named) >= set(receipts), "another event"
    assert set(named.values()) <= {1}, f"a key accepted twice: {named}"
    keys = {key[2]: row for key, row in disk.rows.get(IDEMPOTENCY_KEY.name, {}).items()}
    for name, receipt in receipts.items():
        answer = msgspec.json.decode(IdempotencyKeyRow(*keys[name]).answer, type=IngressReceipt)
        assert answer == receipt, f"{name} would be answered otherwise"


def _check_attempts(begun: Sequence[tuple[str, int]], books: Books) -> None:
    last: dict[str, int] = {}
    for event_id, attempt in begun:
        assert event_id in books.place, "handled, and was not accepted"
        assert attempt > last.get(event_id, 0), f"attempt {attempt} of {event_id} again"
        last[event_id] = attempt


def check_order(disk: Disk, begun: Sequence[tuple[str, int]]) -> None:
    """The first attempts of these runs are in the order in which their events were accepted."""
    accepted: dict[str, int] = {}
    for event in disk.history:
        if event.kind == "plugin.ingress.accepted":
            accepted.setdefault(msgspec.json.decode(event.message)["data"]["event_id"], event.seq)
    firsts = dict.fromkeys(event_id for event_id, _ in begun)
    assert list(firsts) == sorted(firsts, key=accepted.__getitem__), "first attempts out of order"


def _check_failures(history: Sequence[LogEvent], attempts: int, *, died: bool) -> None:
    """A delivery has so many attempts and no more, and is charged with no death that was none."""
    failures = Counter[str]()
    for event in history:
        name = event.kind.removeprefix("plugin.ingress.")
        data = msgspec.json.decode(event.message)["data"]
        if name == "accepted":
            failures[data["event_id"]] = 0
        elif name != event.kind and "attempt" in data and "code" in data:
            is_death = data["code"] == "process_died"
            assert died or not is_death, "charged with a death that was none"
            failures[data["event_id"]] += name != "interrupted" or is_death
            assert failures[data["event_id"]] <= attempts, f"{event} is one attempt too many"
