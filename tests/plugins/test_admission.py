"""The way in: typed refusals that change nothing, overflow as declared, keys, redelivery."""

import hashlib
import hmac

import msgspec
import pytest
import trio

from yoi_daemon.model.errors import Refused
from yoi_daemon.sdk import Config, Plugin, Secret


class Signed(Config):
    secret: Secret = msgspec.field(default_factory=lambda: Secret("s3cret"))


class Point(msgspec.Struct):
    x: int


async def never(ctx, event) -> None:
    await trio.sleep_forever()


def full_plugin(**options) -> Plugin:
    """A plugin whose handler hangs, with an ingress `go` as declared and another, `other`."""
    plugin = Plugin("p")
    plugin.ingress("go", **options)(never)
    plugin.ingress("other")(never)
    return plugin


async def refusal(call) -> Refused:
    with pytest.raises(Refused) as refused:
        await call
    return refused.value


async def test_each_refusal_has_its_code_and_changes_nothing(autojump_clock, rig):
    plugin = full_plugin()

    @plugin.ingress("typed")
    async def typed(ctx, event) -> None: ...

    typed.__annotations__["event"] = None

    @plugin.ingress("point")
    async def point(ctx, event) -> None: ...

    service = rig.add(plugin, queue_events=2, event_bytes=2048, queue_bytes=4096)
    await trio.sleep(1)
    assert (await refusal(rig.accept(service, "nope"))).code == "ingress_not_found"
    too_large = await refusal(rig.accept(service, "go", "x" * 3000))
    assert (too_large.code, too_large.fields["max_bytes"]) == ("payload_too_large", 2048)
    broken = await refusal(rig.admission.accept(service, "go", b"{"))
    assert broken.code == "invalid_event"
    assert service.lane.statistics().depth == 0
    await rig.accept(service, "go")
    await rig.accept(service, "go")
    full = await refusal(rig.accept(service, "go"))
    assert full.code == "queue_full"
    assert full.retry_after_s > 0
    assert (full.fields["queue_depth"], full.fields["queue_capacity"]) == (2, 2)
    assert service.settlement.counters["accepted"] == 2


async def test_a_typed_payload_is_refused_with_the_path_of_the_fault(autojump_clock, rig):
    from yoi_daemon.sdk import Context, IngressEvent

    plugin = Plugin("p")
    seen = []

    async def go(ctx: Context, event: IngressEvent[Point]) -> None:
        seen.append(event.payload)

    go.__annotations__ |= {"ctx": Context, "event": IngressEvent[Point]}
    plugin.ingress("go")(go)
    service = rig.add(plugin)
    wrong = await refusal(rig.accept(service, "go", {"x": "one"}))
    assert wrong.code == "invalid_event"
    assert "$.x" in wrong.detail
    await rig.accept(service, "go", {"x": 1})
    await trio.sleep(1)
    assert seen == [Point(1)]


async def test_the_queue_is_bounded_by_bytes_too(autojump_clock, rig):
    service = rig.add(full_plugin(), queue_bytes=4096, event_bytes=4096)
    await rig.accept(service, "go", "x" * 3000)
    assert (await refusal(rig.accept(service, "go", "x" * 3000))).code == "queue_full"
    await rig.accept(service, "go", "small")


async def test_wait_waits_for_room_up_to_its_time(autojump_clock, rig):
    done = []
    plugin = Plugin("p")

    @plugin.ingress("go", overflow="wait", wait_s=5)
    async def go(ctx, event) -> None:
        await trio.sleep(3)
        done.append(event.payload)

    service = rig.add(plugin, queue_events=1)
    await rig.accept(service, "go", 0)
    before = trio.current_time()
    await rig.accept(service, "go", 1)
    assert trio.current_time() - before == pytest.approx(3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.accept, service, "go", 2)
        await trio.sleep(0.1)
        assert (await refusal(rig.accept(service, "go", 3))).code == "queue_full"
        assert trio.current_time() - before == pytest.approx(8.1)
    await trio.sleep(100)
    assert done == [0, 1, 2]


async def test_drop_oldest_drops_only_its_own_and_says_so_each_second(autojump_clock, rig):
    service = rig.add(full_plugin(overflow="drop_oldest"), queue_events=4, dispatch_timeout_s=900)
    await rig.accept(service, "go", "in hand")
    await rig.accept(service, "other", "kept")
    await trio.sleep(1)
    for number in range(10):
        await rig.accept(service, "go", number)
    await trio.sleep(3)
    waiting = [msgspec.json.decode(one.payload) for one in service.lane.fresh("go")]
    assert waiting == [8, 9]
    assert len([*service.lane.fresh("other")]) == 1
    assert service.settlement.counters["dropped"] == 8
    reports = rig.events("plugin.ingress.dropped")
    assert sum(event["data"]["count"] for event in reports) == 8
    assert len(reports) <= 2
    # What no dropping of its own can make room for is refused, and drops nothing.
    assert (await refusal(rig.accept(service, "other"))).code == "queue_full"
    assert service.settlement.counters["dropped"] == 8


async def test_coalesce_takes_the_place_of_the_same_key(autojump_clock, rig):
    plugin = full_plugin(overflow="coalesce", coalesce_by="repo.name")
    service = rig.add(plugin, queue_events=3, dispatch_timeout_s=900)
    await rig.accept(service, "other")
    for name, number in (("a", 1), ("b", 1), ("a", 2)):
        await rig.accept(service, "go", {"repo": {"name": name}, "n": number})
    full = await refusal(rig.accept(service, "go", {"repo": {"name": "c"}}))
    assert full.code == "queue_full"
    waiting = [msgspec.json.decode(one.payload) for one in service.lane.fresh("go")]
    assert waiting == [{"repo": {"name": "b"}, "n": 1}, {"repo": {"name": "a"}, "n": 2}]
    assert service.settlement.counters["coalesced"] == 1
    assert len(rig.outcomes()) <= 1


async def test_the_same_key_gives_the_first_answer(autojump_clock, rig):
    service = rig.add(full_plugin())
    first = await rig.accept(service, "go", 1, key="k")
    assert await rig.accept(service, "go", 1, key="k") == first
    conflict = await refusal(rig.accept(service, "go", 2, key="k"))
    assert conflict.code == "delivery_id_conflict"
    # Another ingress's key is another key.
    assert (await rig.accept(service, "other", 2, key="k")).event_id != first.event_id
    assert service.settlement.counters["accepted"] == 2
    assert service.lane.statistics().depth == 2


async def test_many_at_once_with_one_key_are_one_event(autojump_clock, rig):
    service = rig.add(full_plugin())
    answers = []

    async def send() -> None:
        answers.append(await rig.accept(service, "go", 1, key="k"))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(send)
    assert len({answer.event_id for answer in answers}) == 1
    assert service.lane.statistics().depth == 1


async def test_a_dead_letter_is_redelivered_with_its_id(autojump_clock, rig):
    fail = [True]
    seen = []
    plugin = Plugin("p")

    @plugin.ingress("go")
    async def go(ctx, event) -> None:
        seen.append((event.id, event.source, event.attempt))
        if fail[0]:
            raise ValueError

    service = rig.add(plugin, attempts=1, redeliver_per_s=2)
    receipts = [await rig.accept(service, "go", n) for n in range(4)]
    await trio.sleep(1)
    assert len(service.dead_letters) == 4
    missing = await refusal(rig.admission.redeliver(service, "evt_no"))
    assert missing.code == "event_not_found"
    fail[0] = False
    for receipt in receipts[:2]:
        again = await rig.admission.redeliver(service, receipt.event_id)
        assert again.event_id == receipt.event_id
    limited = await refusal(rig.admission.redeliver(service, receipts[2].event_id))
    assert (limited.code, limited.retry_after_s) == ("rate_limited", 0.5)
    await trio.sleep(1)
    await rig.admission.redeliver(service, receipts[2].event_id)
    await trio.sleep(1)
    assert seen[-1] == (receipts[2].event_id, "redelivery", 2)
    assert len(service.dead_letters) == 1
    accepted = rig.events("plugin.ingress.accepted")
    assert accepted[-1]["data"]["redelivery_of"] == receipts[2].event_id
    counters = service.settlement.counters
    assert (counters["accepted"], counters["handled"], counters["redelivered"]) == (4, 3, 3)


async def test_webhooks_are_limited_and_a_stranger_uses_nothing_up(rig, autojump_clock):
    plugin = Plugin("gen", config=Signed)

    @plugin.ingress("push", verify="github")
    async def push(ctx, event) -> None:
        pass

    service = rig.add(plugin, hooks_per_s=2)
    await trio.sleep(1)

    async def send(secret: str) -> str | None:
        digest = hmac.new(secret.encode(), b"{}", hashlib.sha256).hexdigest()
        headers = {"x-hub-signature-256": f"sha256={digest}"}
        try:
            await rig.admission.accept_hook(service, "push", b"{}", headers)
        except Refused as refused:
            return refused.code
        return None

    assert [await send("guessed") for _ in range(50)] == ["unauthenticated"] * 50
    assert [await send("s3cret") for _ in range(3)] == [None, None, "rate_limited"]
    await trio.sleep(0.5)
    assert [await send("s3cret") for _ in range(2)] == [None, "rate_limited"]
