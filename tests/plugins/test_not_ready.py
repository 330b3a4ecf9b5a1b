"""A `start` that is not ready is called again: no failure, and no restart."""

import pytest
import trio

from tests.plugins.test_lifecycle import plugin_with, until
from yoi_daemon.plugins.summary import record_of
from yoi_daemon.sdk import NotReady


class Peer:
    """What a plugin waits for: up from the `up_at`-th try on."""

    def __init__(self, up_at: float, after_s: float | None = None, *, within: bool = False) -> None:
        self.tries: list[float] = []
        self._up_at = up_at
        self._after_s = after_s
        self._within = within

    async def start(self, ctx) -> None:
        self.tries.append(trio.current_time())
        if len(self.tries) >= self._up_at:
            return
        if not self._within:
            raise NotReady("the peer is not up", after_s=self._after_s)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(self._find_nobody)

    async def _find_nobody(self) -> None:
        raise NotReady("the peer is not up", after_s=self._after_s)

    @property
    def pauses(self) -> list[float]:
        return [after - before for before, after in zip(self.tries, self.tries[1:], strict=False)]


@pytest.mark.parametrize("within", [False, True], ids=["raised", "raised in a nursery"])
async def test_a_start_that_is_not_ready_is_called_again_when_it_says(autojump_clock, rig, within):
    peer = Peer(4, after_s=7, within=within)
    service = rig.add(plugin_with(peer.start))
    await until(service, "running")
    assert peer.pauses == pytest.approx([7, 7, 7])
    record = record_of(service)
    assert (record.restarts, record.last_error) == (0, None)
    assert record.counters.get("restarted", 0) == 0
    assert [state for state, _ in rig.states()] == ["starting"] * 7 + ["running"]


async def test_a_service_that_is_not_ready_says_so_and_accepts_events(autojump_clock, rig):
    peer = Peer(2, after_s=60)
    service = rig.add(plugin_with(peer.start))
    await service.settled()
    record = record_of(service)
    assert (record.state, record.reason.code) == ("starting", "not_ready")
    assert record.reason.message == "the peer is not up"
    assert record.retry_at is not None
    await rig.admission.accept(service, "go", b"1")
    assert service.lane.statistics().depth == 1
    await until(service, "running")
    await rig.settled()
    assert service.settlement.counters["handled"] == 1


async def test_without_a_time_the_pauses_double_up_to_a_bound(autojump_clock, rig):
    peer = Peer(9)
    service = rig.add(plugin_with(peer.start), restart_min_s=1, restart_max_s=20)
    await until(service, "running")
    assert peer.pauses == pytest.approx([1, 2, 4, 8, 16, 20, 20, 20], rel=0.3)
    assert peer.pauses[-1] == pytest.approx(20)


@pytest.mark.parametrize(("asked", "pause"), [(0, 0.1), (-5, 0.1), (1e9, 3600)])
async def test_the_time_it_names_is_bounded(autojump_clock, rig, asked, pause):
    peer = Peer(2, after_s=asked)
    service = rig.add(plugin_with(peer.start))
    await until(service, "running")
    assert peer.pauses == pytest.approx([pause])


@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
async def test_every_restart_policy_tries_again(autojump_clock, rig, restart):
    peer = Peer(2, after_s=1)
    service = rig.add(plugin_with(peer.start), restart=restart)
    await until(service, "running")


async def test_an_operator_stops_and_starts_between_two_tries(autojump_clock, rig):
    peer = Peer(float("inf"), after_s=600)
    service = rig.add(plugin_with(peer.start))
    await service.settled()
    await service.stop()
    assert service.lifecycle.state == "stopped"
    await trio.sleep(1000)
    assert len(peer.tries) == 1
    await service.start()
    await service.settled()
    assert len(peer.tries) == 2
    # Asked again, it does not wait for the time that was named.
    begun_s = trio.current_time()
    await service.start()
    await service.settled()
    assert (len(peer.tries), trio.current_time() - begun_s < 1) == (3, True)


async def test_the_control_any_other_exception_beside_it_is_a_failure(
    autojump_clock, rig, logged_errors
):
    async def start(ctx) -> None:
        raise ExceptionGroup("both", [NotReady("not yet"), ValueError("broken")])

    service = rig.add(plugin_with(start), restart="temporary")
    await until(service, "failed")
    assert service.lifecycle.reason.code == "start_failed"
    logged_errors.expect("service failed")
