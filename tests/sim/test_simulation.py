"""Accept, claim, handle, retry, stop, resume, compact, under schedules that nobody sees twice, but by their seed.

See `world.py` for the story and what must hold, `scheduler.py` for who runs, `disk.py` for what is lost.
"""

from random import Random

import pytest
import trio

from tests.sim.scheduler import POLICIES
from tests.sim.world import FAULT, POWER, POWERS, WHOLE, Plan, Plant, World
from yoi_daemon.plugins.lane.ledger import LaneLedger

pytestmark = pytest.mark.prove

VICTIMS = ("victim", "drops6", "waits1", "held1", "redeliverer", "stopper", WHOLE, POWER, POWERS)
ODD = 97
"""A stride that is no multiple of anything in the story."""


def disturbed_at_random(policy: str, seed: int) -> Plan:
    """A schedule, and in most a disturbance somewhere in it."""
    chance = Random(seed)
    what = chance.choice((None, POWER, POWERS, POWERS, WHOLE, *VICTIMS))
    reach = {WHOLE: 1200, POWER: 1200, POWERS: 500}.get(what, 20)
    return Plan(policy, seed, what, chance.randrange(reach) if what else 0)


@pytest.mark.parametrize("policy", POLICIES)
def test_any_schedule_keeps_the_promises(policy, full, quiet):
    fired = steps = 0
    seeds = 500 if full else 15
    for seed in range(seeds):
        world = World(disturbed_at_random(policy, seed)).run()
        fired += world.fired
        steps += len(world.scheduler.trace)
    print(f"{policy}: {seeds} schedules, {fired} disturbed, {steps} steps")
    assert fired >= seeds / 3


@pytest.mark.parametrize("what", VICTIMS)
def test_disturbed_at_any_moment_the_promises_hold(what, full, quiet):
    """Before and after every step: all of them in full, else some."""
    stride = 1 if full else ODD if what in (WHOLE, POWER, POWERS) else 9
    moments = sweep("shuffle", what, stride)
    print(f"{what}: {moments} moments")
    assert moments >= 2


@pytest.mark.parametrize("policy", POLICIES)
def test_any_operation_of_the_disk_may_fail(policy, full, quiet):
    faults = sweep(policy, FAULT, 1 if full else 7)
    print(f"{policy}: {faults} faults")
    assert faults >= 5


def sweep(policy: str, what: str, stride: int, plant: Plant | None = None) -> int:
    """Disturbs at every `stride`-th moment until there is none; how many there were."""
    count = 0
    while True:
        plan = Plan(policy, 0, what, count * stride)
        world = World(plan) if plant is None else World(plan, plant)
        if not world.run().fired:
            return count
        count += 1
        assert count < 100_000


def test_the_same_seed_gives_the_same_trace(quiet):
    for policy in POLICIES:
        plan = Plan(policy, 7, POWER, 500)
        first, second = World(plan).run(), World(plan).run()
        assert first.scheduler.trace == second.scheduler.trace
        other = World(Plan(policy, 8, POWER, 500)).run()
        assert other.scheduler.trace != first.scheduler.trace


def test_a_plan_is_its_text():
    for plan in (Plan("defer", 3), Plan("shuffle", 4, "held1", 17)):
        assert Plan.parse(str(plan)) == plan


def test_the_story_goes_everywhere(quiet):
    worlds = [World(Plan("shuffle", seed)).run() for seed in range(4)]
    events = [event for world in worlds for event in world.disk.history]
    kinds = {event.kind.removeprefix("plugin.ingress.") for event in events}
    assert {"accepted", "handled", "retry_scheduled", "handler_failed", "dead_lettered"} <= kinds
    assert {"interrupted", "dropped", "p.done", "plugin.state"} <= kinds
    assert any(b'"redelivery_of"' in event.message for event in events)
    assert all(world.disk.rows["dead_letter"] for world in worlds)
    let_go = {world.disk.floors["lifecycle"] > 0 for world in worlds}
    assert let_go == {True, False}


def test_replay(request, quiet):
    """`--replay PLAN` lives one history again, and shows its trace."""
    text = request.config.getoption("--replay")
    if text is None:
        pytest.skip("no plan to replay")
    world = World(Plan.parse(text))
    try:
        world.run()
    finally:
        print("\n".join(world.scheduler.trace))


class LateAcknowledgement(LaneLedger):
    """Forgets a handled event in a task of its own, which nothing shields."""

    nursery: trio.Nursery

    def ended(self, commit, delivery) -> None:
        async def end() -> None:
            await trio.lowlevel.checkpoint()
            with self.together() as later:
                LaneLedger.ended(self, later, delivery)

        self.nursery.start_soon(end)


def plant_acknowledgement(rig, service) -> None:
    service.ledger.__class__ = LateAcknowledgement
    service.ledger.nursery = rig.nursery


def plant_impatience(rig, service) -> None:
    """Answers when the writer has had its turn so often that it must be done: true, where all have turns."""
    log = rig.event_log

    async def committed(seq: int) -> None:
        for _ in range(30):
            await trio.lowlevel.checkpoint()

    service._host.event_log.committed = committed
    log.committed = committed


def test_control_an_unshielded_acknowledgement_is_caught(quiet):
    with pytest.raises(AssertionError, match=r"handled again|left behind|while handled") as caught:
        sweep("shuffle", WHOLE, 5, Plant("acknowledgement", plant_acknowledgement))
    print(caught.value, caught.value.__notes__)
    assert "--replay shuffle:0:whole@" in caught.value.__notes__[0]


@pytest.mark.parametrize("policy", POLICIES)
def test_control_what_only_starvation_shows_is_caught_by_starving(policy, quiet):
    plant = Plant("impatience", plant_impatience)
    found = []
    for seed in range(40):
        try:
            # A disk that is quick, for a slow one shows it too.
            World(Plan(policy, seed), plant, delays=(0,)).run()
        except AssertionError as problem:
            found.append(str(problem))
    print(f"{policy}: {len(found)} of 40 schedules show it")
    assert all("answered before the commit" in problem for problem in found), found
    assert bool(found) == (policy != "shuffle")
