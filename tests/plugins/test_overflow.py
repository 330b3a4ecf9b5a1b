"""A full queue on either store: what is claimed for a commit has not begun, and may still be displaced."""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests.plugins.rig import Rig, open_rig
from yoi_daemon.model.errors import Refused
from yoi_daemon.plugins.supervision.service import Service
from yoi_daemon.sdk import Plugin

CAPACITY = 4


@pytest.fixture(params=["memory", "sqlite"])
async def rig(request, tmp_path, mock_clock: MockClock) -> AsyncGenerator[Rig]:
    async with open_rig(tmp_path if request.param == "sqlite" else None) as rig:
        yield rig


class Gate:
    """A plugin whose handler waits until it is opened."""

    def __init__(self, **options: Any) -> None:
        self.began, self.opened = trio.Event(), trio.Event()
        self.seen: list[tuple[Any, int]] = []
        self.plugin = Plugin("p")
        self.plugin.ingress("go", **options)(self.handle)
        self.handle.__func__.__annotations__.clear()

    async def handle(self, ctx, event) -> None:
        self.seen.append((event.payload, event.attempt))
        self.began.set()
        await self.opened.wait()


async def fill(rig: Rig, gate: Gate, payloads: list[Any]) -> Service:
    """A service with these events: the first in hand, the others behind it in one commit."""
    service = rig.add(gate.plugin, queue_events=CAPACITY)
    while service.lifecycle.state != "running":
        await service.lifecycle.changed.wait()
    for payload in payloads:
        encoded = msgspec.json.encode(payload)
        _, seq = await rig.admission.admit(service, "go", encoded)
    await rig.event_log.committed(seq)
    await gate.began.wait()
    waiting = [delivery.place for delivery in service.lane.fresh("go")]
    expected = "claimed" if rig.store.durable else "queued"
    assert waiting == [expected] * (CAPACITY - 1)
    return service


def fresh(service: Service) -> list[Any]:
    return [msgspec.json.decode(delivery.payload) for delivery in service.lane.fresh("go")]


async def drained(rig: Rig, gate: Gate, service: Service) -> None:
    gate.opened.set()
    await rig.until("plugin.ingress.handled", CAPACITY)
    assert service.lane.statistics().depth == service.lane.statistics().bytes == 0


async def test_drop_oldest_drops_the_oldest_that_has_not_begun(rig):
    gate = Gate(overflow="drop_oldest")
    service = await fill(rig, gate, [0, 1, 2, 3])
    for number in range(4, 10):
        await rig.accept(service, "go", number)
    assert fresh(service) == [7, 8, 9]
    assert service.settlement.counters["dropped"] == 6
    await drained(rig, gate, service)
    assert gate.seen == [(0, 1), (7, 1), (8, 1), (9, 1)]


async def test_coalesce_takes_the_place_of_what_has_not_begun(rig):
    gate = Gate(overflow="coalesce", coalesce_by="group")
    service = await fill(rig, gate, [{"group": name, "n": 1} for name in "abcd"])
    for name in "bcd":
        await rig.accept(service, "go", {"group": name, "n": 2})
    with pytest.raises(Refused) as refused:  # its like is in hand
        await rig.accept(service, "go", {"group": "a", "n": 2})
    assert refused.value.code == "queue_full"
    assert service.settlement.counters["coalesced"] == 3
    await drained(rig, gate, service)
    assert gate.seen == [({"group": name, "n": 1 if name == "a" else 2}, 1) for name in "abcd"]


async def test_a_payload_is_decoded_once_for_all_that_are_compared_with_it(rig, monkeypatch):
    from yoi_daemon.plugins import admission

    decoded = []
    value_at = admission.value_at

    def counted(payload, path):
        decoded.append(payload)
        return value_at(payload, path)

    monkeypatch.setattr(admission, "value_at", counted)
    gate = Gate(overflow="coalesce", coalesce_by="group")
    service = await fill(rig, gate, [{"group": name} for name in "abcd"])
    for _ in range(10):
        await rig.accept(service, "go", {"group": "d"})
    assert len(decoded) == 3 + 10
    await drained(rig, gate, service)


async def test_all_that_was_claimed_may_be_displaced_while_the_claim_is_committed(rig):
    """The dispatcher takes what is left when the commit is there; on a store that forgets there is no such time."""
    gate = Gate(overflow="drop_oldest")
    service = rig.add(gate.plugin, queue_events=CAPACITY)
    claim = service.ledger.claim
    newer = iter(range(10, 10 + CAPACITY))

    async def claim_late(deliveries) -> None:
        for number in newer:
            await rig.admission.admit(service, "go", msgspec.json.encode(number))
        await claim(deliveries)

    service.ledger.claim = claim_late
    while service.lifecycle.state != "running":
        await service.lifecycle.changed.wait()
    for number in range(CAPACITY):
        _, seq = await rig.admission.admit(service, "go", msgspec.json.encode(number))
    await rig.event_log.committed(seq)
    await drained(rig, gate, service)
    older = [*range(CAPACITY)] if not rig.store.durable else [*range(10, 10 + CAPACITY)]
    assert gate.seen == [(number, 1) for number in older]
