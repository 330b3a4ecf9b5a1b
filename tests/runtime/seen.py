"""What a subscriber would have seen."""

import json
from typing import Any

from yoi_daemon.eventlog.interface import EventLog


class Seen:
    """Reads the committed events of one log."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def events(self, kind: str = "", worker_id: str | None = None) -> list[dict[str, Any]]:
        events = [json.loads(entry.message) for entry in self._log.read(0, 1 << 40)]
        return [
            event
            for event in events
            if event["kind"].startswith(kind)
            and (worker_id is None or event.get("worker_id") == worker_id)
        ]

    def kinds(self, worker_id: str | None = None) -> list[str]:
        return [event["kind"] for event in self.events("", worker_id)]

    def moves(self, worker_id: str) -> list[tuple[str, str]]:
        """A worker's transitions; each must begin where the one before ended."""
        moves = [
            (event["data"]["before"], event["data"]["state"])
            for event in self.events("worker.state", worker_id)
        ]
        at = "idle"
        for before, state in moves:
            assert before == at
            at = state
        return moves

    def outcomes(self, worker_id: str) -> list[tuple[str, str | None]]:
        """How a worker's turns ended, each with the reason's code."""
        return [
            (event["data"]["outcome"], (event["data"].get("reason") or {}).get("code"))
            for event in self.events("worker.turn.finished", worker_id)
        ]

    async def until(self, kind: str, count: int = 1, worker_id: str | None = None) -> None:
        """Waits for so many events of the kind."""
        while len(self.events(kind, worker_id)) < count:
            await self._log.wait_beyond(self._log.head)
