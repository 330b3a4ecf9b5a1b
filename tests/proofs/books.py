"""The books of one service, kept from what it tells: every accepted event is somewhere, exactly once."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from yoi_daemon.plugins.service import Service


class Runs:
    """What a handler notes of its own runs, as (event id, attempt)."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.in_hand: str | None = None

    def begin(self, event) -> None:
        assert self.in_hand is None, f"{event.id} overlaps {self.in_hand}"
        self.in_hand = event.id
        self.begun.append((event.id, event.attempt))

    def end(self) -> None:
        self.in_hand = None


class Books:
    """What became of each accepted event, read from the committed events of one plugin."""

    def __init__(self, events: Iterable[dict[str, Any]]) -> None:
        self.accepted: list[str] = []
        """Event ids in the order of their acceptance."""
        self.seqs: dict[str, int] = {}
        self.place: dict[str, str] = {}
        """Where each is: `waiting`, `handled`, `dead`, `discarded`. Displaced ones are told by count alone."""
        self.displaced: Counter[str] = Counter()
        self.attempts: dict[str, list[int]] = {}
        for event in events:
            name = event["kind"].removeprefix("plugin.ingress.")
            if name != event["kind"]:
                self._enter(name, event["data"], event["seq"])

    def _enter(self, name: str, data: dict[str, Any], seq: int) -> None:
        if name in ("dropped", "coalesced"):
            self.displaced[name] += data["count"]
            return
        if name == "unfinished":
            return
        event_id = data["event_id"]
        if name == "accepted":
            redelivery = data.get("redelivery_of") is not None
            before = self.place.get(event_id)
            assert before == ("dead" if redelivery else None), f"accepted again while {before}"
            if not redelivery:
                self.accepted.append(event_id)
                self.seqs[event_id] = seq
            self.place[event_id] = "waiting"
        elif name == "discarded":
            assert self.place[event_id] == "dead", "discarded, and was not dead"
            self.place[event_id] = "discarded"
        elif name == "dead_lettered":
            assert self.place[event_id] == "waiting", f"died while {self.place[event_id]}"
            self.place[event_id] = "dead"
        else:
            assert self.place[event_id] == "waiting", f"{name} while {self.place[event_id]}"
            self.attempts.setdefault(event_id, []).append(data["attempt"])
            if name == "handled":
                self.place[event_id] = "handled"

    def at(self, place: str) -> set[str]:
        return {event_id for event_id, at in self.place.items() if at == place}

    def check(self, service: Service, runs: Runs, size_of) -> None:
        """Holds the books against the service's own account. `size_of` gives an event's bytes."""
        counters = service.settlement.counters
        assert counters["accepted"] == len(self.accepted), "accepted is miscounted"
        assert counters["dropped"] == self.displaced["dropped"], "dropped, and not reported"
        assert counters["coalesced"] == self.displaced["coalesced"], "coalesced, and not reported"

        letters = {letter.event_id for letter in service.dead_letters.page(None, 1 << 30)[0]}
        assert letters == self.at("dead"), "the dead letters are not the dead"

        # Reserved is exactly what waits; what was displaced still waits in the books.
        lane = service.lane.statistics()
        displaced = self.displaced.total()
        assert lane.depth == len(self.at("waiting")) - displaced, (
            "a reservation leaked, or an event"
        )
        if not displaced:
            waiting_bytes = sum(map(size_of, self.at("waiting")))
            assert lane.bytes == waiting_bytes, "bytes are reserved for nobody"
        ended = sum(len(self.at(place)) for place in ("handled", "dead", "discarded"))
        assert len(self.accepted) == ended + lane.depth + displaced, "an event is lost or doubled"
        assert service.lane.current is None or runs.in_hand is not None

        assert not service.delivery_keys._under_way, "a key leaked"
        self._check_runs(runs)

    def _check_runs(self, runs: Runs) -> None:
        runs_of: dict[str, list[int]] = {}
        for event_id, attempt in runs.begun:
            assert event_id in self.place, "handled, and was not accepted"
            runs_of.setdefault(event_id, []).append(attempt)
        for event_id, attempts in runs_of.items():
            assert attempts == list(range(1, len(attempts) + 1)), f"runs of {event_id}: {attempts}"
            judged = attempts[:-1] if event_id == runs.in_hand else attempts
            assert self.attempts.get(event_id, []) == judged, (
                f"outcomes of {event_id} are not its runs"
            )
        assert set(self.attempts) <= set(runs_of), "an outcome, and nothing ran"
        first = [event_id for event_id, attempt in runs.begun if attempt == 1]
        order = {event_id: number for number, event_id in enumerate(self.accepted)}
        assert first == sorted(first, key=order.__getitem__), "first attempts out of order"


def decoded(event_log) -> list[dict[str, Any]]:
    """Every committed event."""
    return [msgspec.json.decode(entry.message) for entry in event_log.read(0, 1 << 30)]
