"""The books of one service, kept from what it tells: every accepted event is somewhere, exactly once."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.plugins.supervision.service import Service


class Runs:
    """What a handler notes of its own runs."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        """As (event id, attempt)."""
        self.in_hand: str | None = None
        self.overlaps: list[tuple[str, str]] = []

    def begin(self, event) -> None:
        if self.in_hand is not None:
            self.overlaps.append((self.in_hand, event.id))
        self.in_hand = event.id
        self.begun.append((event.id, event.attempt))

    def end(self) -> None:
        self.in_hand = None


class Ended(NamedTuple):
    """How one attempt ended. `again` says that another is to follow."""

    attempt: int
    outcome: str
    again: bool


class Books:
    """What became of each accepted event of the one plugin of a log, read from its committed events."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        """Event ids in the order of their acceptance."""
        self.ingress: dict[str, str] = {}
        self.seqs: dict[str, int] = {}
        self.place: dict[str, str] = {}
        """Where each is: `waiting`, `handled`, `dead`, `discarded`, and `dropped` or `coalesced` if told so."""
        self.reported = Counter[str]()
        self.ended: dict[str, list[Ended]] = {}
        self._position = 0

    def read(self, event_log: EventLog) -> None:
        """Enters what was committed since the last time."""
        for entry in event_log.read(self._position, 1 << 30):
            self._position = entry.seq
            event = msgspec.json.decode(entry.message)
            name = event["kind"].removeprefix("plugin.ingress.")
            if name not in (event["kind"], "unfinished"):
                self._enter(name, event["data"], event["seq"])

    def _enter(self, name: str, data: dict[str, Any], seq: int) -> None:
        if name in ("dropped", "coalesced"):
            self.reported[name] += data["count"]
            return
        event_id = data["event_id"]
        before = self.place.get(event_id)
        if name == "accepted":
            is_new = data.get("redelivery_of") is None
            assert before == (None if is_new else "dead"), f"accepted again while {before}"
            if is_new:
                self.accepted.append(event_id)
                self.seqs[event_id] = seq
                self.ingress[event_id] = data["ingress"]
            self.place[event_id] = "waiting"
        elif name == "discarded":
            assert before == "dead", f"discarded while {before}"
            self.place[event_id] = "discarded"
        else:
            assert before == "waiting", f"{name} while {before}"
            if name == "dead_lettered":
                self.place[event_id] = "dead"
                return
            again = name == "interrupted" or data.get("retry_in_s") is not None
            self.ended.setdefault(event_id, []).append(Ended(data["attempt"], name, again))
            if name == "handled":
                self.place[event_id] = "handled"

    def displace(self, event_id: str, how: str) -> None:
        """Of these the log tells only how many."""
        assert self.place[event_id] == "waiting"
        self.place[event_id] = how

    def at(self, *places: str) -> list[str]:
        """In the order of their acceptance."""
        return [event_id for event_id in self.accepted if self.place[event_id] in places]

    def check(self, service: Service, runs: Runs, size_of: Callable[[str], int]) -> None:
        """Holds the books against the service's own account. `size_of` gives an event's bytes."""
        counters = service.settlement.counters
        assert counters["accepted"] == len(self.accepted), "accepted is miscounted"
        for how in ("dropped", "coalesced"):
            assert counters[how] == len(self.at(how)), f"{how} is miscounted"

        letters = [letter.event_id for letter in service.dead_letters.page(None, 1 << 30)[0]]
        assert letters == sorted(self.at("dead")), "the dead letters are not the dead"

        lane, waiting = service.lane.statistics(), self.at("waiting")
        assert lane.depth == len(waiting), "a reservation leaked, or an event is lost or doubled"
        assert lane.bytes == sum(map(size_of, waiting)), "bytes are reserved for nobody"
        ended = self.at("handled", "dead", "discarded", "dropped", "coalesced")
        assert len(self.accepted) == len(ended) + lane.depth, "an event is lost or doubled"

        assert not runs.overlaps, "handlers overlap"
        self._check_runs(runs)

    def check_at_rest(self, service: Service) -> None:
        """What holds once no requester is under way and a second has passed."""
        for how in ("dropped", "coalesced"):
            assert self.reported[how] == len(self.at(how)), f"{how} and not reported"
        assert not service.delivery_keys._under_way, "a key leaked"

    def _check_runs(self, runs: Runs) -> None:
        numbers: dict[str, list[int]] = {}
        for event_id, attempt in runs.begun:
            assert event_id in self.place, "handled, and was not accepted"
            numbers.setdefault(event_id, []).append(attempt)
        for event_id, attempts in numbers.items():
            assert attempts == list(range(1, len(attempts) + 1)), f"runs of {event_id}: {attempts}"
            judged = [ended.attempt for ended in self.ended.get(event_id, [])]
            under_way = attempts[-1:] if event_id == runs.in_hand else []
            # One that was given up for late may be judged and still run.
            assert attempts in (judged, judged + under_way), f"outcomes of {event_id}: {judged}"
        assert set(self.ended) <= set(numbers), "an outcome, and nothing ran"
        order = {event_id: number for number, event_id in enumerate(self.accepted)}
        firsts = [order[event_id] for event_id, attempt in runs.begun if attempt == 1]
        assert firsts == sorted(firsts), "first attempts out of order"

    def check_held(self, runs: Runs, ingress: str) -> None:
        """An interrupted event goes first again, and one of an ingress that holds is not overtaken."""
        for (before, attempt), (after, _) in zip(runs.begun, runs.begun[1:], strict=False):
            ended = self.ended[before][attempt - 1]
            holds = ended.outcome == "interrupted" or self.ingress[before] == ingress
            assert not (ended.again and holds) or after == before, f"{after} overtook {before}"
