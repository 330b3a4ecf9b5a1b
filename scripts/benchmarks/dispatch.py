"""What an event costs in a lane, beside its peers, in processor time of one run.

Every contender is charged for handing its events over and for all its tasks, in bursts of its capacity,
256; making the events is free. What each does with one:

- lane: the service as the host runs it. Room is reserved and the event delivered in one stretch, as the
  log's writer does at a commit; then taking it off the channel, decoding, the event and context of
  the handler, deadline, handler, counters, judgement, and the outcome as an observation event: numbered,
  with its cursor and time, encoded, framed, committed to the window. To end a burst is to have it committed.
- trio channel: one task does `await send(event)`, another iterates the channel and calls the handler under
  `trio.fail_after`. It decodes nothing, counts nothing, records nothing. The goals are against this.
- asyncio queue: the same by `await put`, `await get` and `asyncio.timeout`.
- trio, recording: the channel with its loop decoding and appending the outcome to our log.
- work alone: what no lane can leave out, in one function without any of our structure: 64 events a scope
  taken off a channel, clock, decoding, handler, a counter, and the outcome encoded and framed into a list.
- lane, admitted: `lane` behind `Admission.accept` by 16 requesters at once, so with ids, a check
  of the payload, the acceptance as a second observation event, the receipt and the wait for its commit.

`--check` fails where a goal is missed. `--profile` shows where our own time goes.
"""

import asyncio
import cProfile
import gc
import logging
import pstats
import random
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, contextmanager, nullcontext
from statistics import median
from typing import Any

import msgspec
import structlog
import trio
import trio.testing

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.eventlog.opening import open_event_log
from yoi_daemon.model.cursor import CursorCodec
from yoi_daemon.model.events import Draft, IngressAttempt, ObservationEvent, format_time
from yoi_daemon.model.frames import text_frame
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.settings import ObserveSettings, PluginSettings
from yoi_daemon.plugins.admission import Admission
from yoi_daemon.plugins.boots import NotJournaled
from yoi_daemon.plugins.delivery import Delivery
from yoi_daemon.plugins.execution.watchdog import run_watchdog
from yoi_daemon.plugins.lane.dispatcher import BATCH_EVENTS
from yoi_daemon.plugins.loading.loader import LoadedPlugin
from yoi_daemon.plugins.supervision.parts import HostServices
from yoi_daemon.plugins.supervision.service import Service
from yoi_daemon.sdk import Config, Context, IngressEvent, Plugin

ROUNDS = 9
BURST = 256
"""Handed over at once: a lane's default capacity, and the peers'."""
BURSTS = 40
REQUESTERS = 16
TIMEOUT_S = 30.0
GOALS = {False: 8.0, True: 2.0}
"""How much cheaper than the Trio channel ours is to be, by whether the handler suspends.

`work alone` says how far that can go: no lane is cheaper than it.
"""

PAYLOAD = (
    b'{"action":"opened","number":1347,"repository":{"id":1296269,"full_name":"octo/hello"},'
    b'"pull_request":{"title":"Bend and do not break","state":"open","user":{"login":"octocat","id":1},'
    b'"labels":["bug","lane"],"draft":false,"changed_files":5},"sender":{"login":"octocat","id":583231}}'
)


class Burst:
    """Counts a burst's events down in the handler; `over` is set by its last."""

    def __init__(self, over: trio.Event | asyncio.Event) -> None:
        self.over = over
        self._left = BURST

    def step(self) -> None:
        self._left -= 1
        if not self._left:
            self.over.set()


class Stopwatch:
    """Adds up processor time of the whole process, user and system."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self):
        begun = time.process_time()
        yield
        self.seconds += time.process_time() - begun

    def us_an_event(self) -> float:
        return self.seconds / (BURST * BURSTS) * 1e6


@asynccontextmanager
async def open_service(plugin: Plugin[Config]) -> AsyncGenerator[tuple[Service, EventLog]]:
    """A running service of `plugin` with its log's writer and the watchdog beside it."""

    async def no_timers(plugin_id: str, loaded: LoadedPlugin) -> None:
        pass

    loaded = LoadedPlugin(
        plugin=plugin,
        manifest=plugin.manifest(),
        config=Config(),
        digest="d1",
        module="bench",
        file="",
        folder="",
        base="",
    )
    async with (
        open_event_log(ObserveSettings()) as log,
        trio.open_nursery() as nursery,
    ):
        may_dispatch = trio.Event()
        may_dispatch.set()
        parts = HostServices(
            event_log=log,
            workers_for=lambda *_: None,
            clock=trio.lowlevel.current_clock().current_time,
            age_s=trio.lowlevel.current_clock().current_time,
            wall_clock=time.time,
            uniform=random.uniform,
            load=lambda _id, _settings: loaded,
            forget=lambda _loaded: None,
            run_timers=no_timers,
            boots=NotJournaled(),
            may_dispatch=may_dispatch,
        )
        service = Service("bench", PluginSettings(queue_events=BURST), parts)
        service.installation.adopt(loaded)
        nursery.start_soon(run_watchdog, lambda: [service])
        nursery.start_soon(service.supervisor.run)
        while service.lifecycle.state != "running":
            await service.lifecycle.changed.wait()
        yield service, log
        nursery.cancel_scope.cancel()


class Bursts:
    """A plugin whose handlers count the events of the burst under way."""

    def __init__(self) -> None:
        self.plugin = Plugin("bench")
        self.burst = Burst(trio.Event())

        @self.plugin.ingress("returns")
        async def on_returns(ctx: Context, event: IngressEvent) -> None:
            self.burst.step()

        @self.plugin.ingress("suspends")
        async def on_suspends(ctx: Context, event: IngressEvent) -> None:
            await trio.lowlevel.checkpoint()
            self.burst.step()


async def measure_lane(suspends: bool, profile: cProfile.Profile | None = None) -> float:
    bursts, ids, watch = Bursts(), IdSource(), Stopwatch()
    ingress = "suspends" if suspends else "returns"
    async with open_service(bursts.plugin) as (service, log):
        for number in range(1, BURSTS + 1):
            bursts.burst = Burst(trio.Event())
            deliveries = [
                Delivery(
                    event_id=ids.new("evt"),
                    correlation_id=ids.new("cor"),
                    source="api",
                    ingress=ingress,
                    payload=PAYLOAD,
                    created_at=format_time(time.time()),
                    accepted_s=trio.current_time(),
                )
                for _ in range(BURST)
            ]
            with watch.running(), profile or nullcontext():
                for delivery in deliveries:
                    service.lane.reserve(delivery)
                    service.lane.deliver(delivery)
                await bursts.burst.over.wait()
                while service.settlement.counters["handled"] < number * BURST:
                    await trio.lowlevel.checkpoint()
                await log.committed(log.appended)
    return watch.us_an_event()


async def measure_admitted(suspends: bool) -> float:
    bursts, watch = Bursts(), Stopwatch()
    ingress = "suspends" if suspends else "returns"
    async with open_service(bursts.plugin) as (service, log):
        admission = Admission(log, IdSource(), clock=trio.current_time, wall_clock=time.time)

        async def request() -> None:
            for _ in range(BURST // REQUESTERS):
                await admission.accept(service, ingress, PAYLOAD)

        for number in range(1, BURSTS + 1):
            bursts.burst = Burst(trio.Event())
            with watch.running():
                async with trio.open_nursery() as nursery:
                    for _ in range(REQUESTERS):
                        nursery.start_soon(request)
                await bursts.burst.over.wait()
                while service.settlement.counters["handled"] < number * BURST:
                    await trio.lowlevel.checkpoint()
                await log.committed(log.appended)
    return watch.us_an_event()


async def measure_work(suspends: bool) -> float:
    async def at_once(event: IngressEvent) -> None:
        pass

    async def suspending(event: IngressEvent) -> None:
        await trio.lowlevel.checkpoint()

    handler = suspending if suspends else at_once
    send, receive = trio.open_memory_channel[bytes](BURST)
    decoder, encoder, cursors = (
        msgspec.json.Decoder(Any),
        msgspec.json.Encoder(),
        CursorCodec("0" * 16),
    )
    ids, watch, frames = IdSource(), Stopwatch(), list[bytes]()
    event_id, correlation_id, created_at = ids.new("evt"), ids.new("cor"), format_time(time.time())
    handled = 0
    with watch.running():
        for _ in range(BURSTS):
            for _ in range(BURST):
                send.send_nowait(PAYLOAD)
            for _ in range(BURST // BATCH_EVENTS):
                with trio.CancelScope():
                    for _ in range(BATCH_EVENTS):
                        event = IngressEvent(
                            id=event_id,
                            source="api",
                            ingress="push",
                            payload=decoder.decode(receive.receive_nowait()),
                            created_at=created_at,
                            attempt=1,
                            correlation_id=correlation_id,
                        )
                        begun_s = trio.current_time()
                        await handler(event)
                        handled += 1
                        message = encoder.encode(
                            ObservationEvent(
                                cursor=cursors.encode(handled),
                                seq=handled,
                                time=format_time(time.time()),
                                kind="plugin.ingress.handled",
                                plugin_id="bench",
                                correlation_id=correlation_id,
                                data=IngressAttempt(
                                    event_id=event_id,
                                    ingress="push",
                                    attempt=1,
                                    duration_ms=round((trio.current_time() - begun_s) * 1000, 3),
                                ),
                            )
                        )
                        frames.append(text_frame(message))
    return watch.us_an_event()


async def measure_trio(suspends: bool) -> float:
    async def at_once(payload: bytes) -> None:
        burst.step()

    async def suspending(payload: bytes) -> None:
        await trio.lowlevel.checkpoint()
        burst.step()

    handler = suspending if suspends else at_once
    send, receive = trio.open_memory_channel[bytes](BURST)

    async def dispatch() -> None:
        async for payload in receive:
            with trio.fail_after(TIMEOUT_S):
                await handler(payload)

    watch = Stopwatch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dispatch)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(BURSTS):
            burst = Burst(trio.Event())
            with watch.running():
                for _ in range(BURST):
                    await send.send(PAYLOAD)
                await burst.over.wait()
        nursery.cancel_scope.cancel()
    return watch.us_an_event()


async def measure_recording(suspends: bool) -> float:
    async def at_once(payload: Any) -> None:
        burst.step()

    async def suspending(payload: Any) -> None:
        await trio.lowlevel.checkpoint()
        burst.step()

    handler = suspending if suspends else at_once
    send, receive = trio.open_memory_channel[bytes](BURST)
    decoder, ids = msgspec.json.Decoder(Any), IdSource()
    event_id, correlation_id = ids.new("evt"), ids.new("cor")

    async def dispatch(log: EventLog) -> None:
        async for payload in receive:
            begun_s = trio.current_time()
            with trio.fail_after(TIMEOUT_S):
                await handler(decoder.decode(payload))
            data = IngressAttempt(
                event_id=event_id,
                ingress="push",
                attempt=1,
                duration_ms=round((trio.current_time() - begun_s) * 1000, 3),
            )
            log.append(
                Draft(
                    kind="plugin.ingress.handled",
                    plugin_id="bench",
                    correlation_id=correlation_id,
                    data=data,
                )
            )

    watch = Stopwatch()
    async with open_event_log(ObserveSettings()) as log, trio.open_nursery() as nursery:
        nursery.start_soon(dispatch, log)
        await trio.testing.wait_all_tasks_blocked()
        for bursts in range(1, BURSTS + 1):
            burst = Burst(trio.Event())
            with watch.running():
                for _ in range(BURST):
                    await send.send(PAYLOAD)
                await burst.over.wait()
                await log.committed(bursts * BURST)
        nursery.cancel_scope.cancel()
    return watch.us_an_event()


async def measure_asyncio(suspends: bool) -> float:
    async def at_once(payload: bytes) -> None:
        burst.step()

    async def suspending(payload: bytes) -> None:
        await asyncio.sleep(0)
        burst.step()

    handler = suspending if suspends else at_once
    queue: asyncio.Queue[bytes] = asyncio.Queue(BURST)

    async def dispatch() -> None:
        while True:
            payload = await queue.get()
            async with asyncio.timeout(TIMEOUT_S):
                await handler(payload)

    watch = Stopwatch()
    async with asyncio.TaskGroup() as group:
        dispatcher = group.create_task(dispatch())
        for _ in range(BURSTS):
            burst = Burst(asyncio.Event())
            with watch.running():
                for _ in range(BURST):
                    await queue.put(PAYLOAD)
                await burst.over.wait()
        dispatcher.cancel()
    return watch.us_an_event()


CONTENDERS: dict[str, Callable[[bool], float]] = {
    "lane": lambda suspends: trio.run(measure_lane, suspends),
    "trio channel": lambda suspends: trio.run(measure_trio, suspends),
    "asyncio queue": lambda suspends: asyncio.run(measure_asyncio(suspends)),
    "trio, recording": lambda suspends: trio.run(measure_recording, suspends),
    "work alone": lambda suspends: trio.run(measure_work, suspends),
    "lane, admitted": lambda suspends: trio.run(measure_admitted, suspends),
}


def compare(suspends: bool) -> float:
    """Prints the table of one kind of handler; gives how much cheaper than the Trio channel ours is."""
    for measure in CONTENDERS.values():
        measure(suspends)  # warm
    costs: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(ROUNDS):
        for name, measure in CONTENDERS.items():
            gc.collect()
            costs[name].append(measure(suspends))
    print(f"\nhandler {'suspends once' if suspends else 'does not suspend'}", end="")
    print(f" (goal: the Trio channel costs at least {GOALS[suspends]:g} times as much)")
    print(f"  {'':16}{'µs an event':>12}{'min - max':>16}{'of ours':>10}{'min - max':>16}")
    middle = 0.0
    for name, values in costs.items():
        ratios = [value / ours for value, ours in zip(values, costs["lane"], strict=True)]
        spread = f"{min(values):.2f} - {max(values):.2f}"
        ratio_spread = f"{min(ratios):.2f} - {max(ratios):.2f}"
        print(
            f"  {name:16}{median(values):>12.2f}{spread:>16}{median(ratios):>9.2f}x{ratio_spread:>16}"
        )
        if name == "trio channel":
            middle = median(ratios)
    return middle


def show_profile() -> None:
    for suspends in GOALS:
        profile = cProfile.Profile()
        trio.run(measure_lane, suspends, profile)
        print(
            f"handler {'suspends once' if suspends else 'does not suspend'}, {BURST * BURSTS} events"
        )
        pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(30)


def main() -> None:
    """Measures, and prints the tables or the profile."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    if "--profile" in sys.argv:
        show_profile()
        return
    missed = [suspends for suspends, goal in GOALS.items() if compare(suspends) < goal]
    if missed and "--check" in sys.argv:
        sys.exit("bench dispatch: a goal was missed")


if __name__ == "__main__":
    main()
