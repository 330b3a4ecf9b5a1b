"""What one event costs a lane, beside its peers, in processor time of one run.

Ours is the real service: from taking an event off the channel, through decoding, deadline, handler and
counters, to the outcome as a committed observation event. The peers are what one would write by hand:
a Trio memory channel and `trio.fail_after` around each call, an `asyncio.Queue` and `asyncio.timeout`.
They hand over the same payload undecoded and record nothing.

`--check` fails where a goal is missed, `--profile` shows where our time goes.
"""

import asyncio
import cProfile
import gc
import pstats
import random
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from statistics import median

import trio

from yoi_daemon.eventlog.opening import open_event_log
from yoi_daemon.model.events import format_time
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.settings import ObserveSettings, PluginSettings
from yoi_daemon.plugins.delivery import Delivery
from yoi_daemon.plugins.loading import LoadedPlugin
from yoi_daemon.plugins.service import Parts, Service
from yoi_daemon.plugins.watchdog import run_watchdog
from yoi_daemon.sdk import Config, Context, IngressEvent, Plugin

ROUNDS = 9
BURST = 256
"""Events queued before the clock runs: the default capacity of a lane, and of the peers' channels."""
BURSTS = 40
EVENTS = BURST * BURSTS
TIMEOUT_S = 30.0
GOALS = {"returns at once": 8.0, "suspends once": 2.0}
"""How many times cheaper than the Trio channel ours is to be."""

PAYLOAD = (
    b'{"action":"opened","number":1347,"repository":{"id":1296269,"full_name":"octo/hello","private":false},'
    b'"pull_request":{"title":"Make the lane bend and not break","state":"open","user":{"login":"octocat","id":1},'
    b'"labels":["bug","lane"],"draft":false,"changed_files":5},"sender":{"login":"octocat","id":583231}}'
)
assert 290 <= len(PAYLOAD) <= 310


class Stopwatch:
    """Adds up processor time, user and system, of the whole process."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._begun = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._begun


class Countdown:
    """Counts a burst's handler calls down; `over` is set at its last."""

    def __init__(self, over: trio.Event | asyncio.Event) -> None:
        self.over = over
        self._left = BURST

    def step(self) -> None:
        self._left -= 1
        if not self._left:
            self.over.set()


# -- ours


async def measure_lane(suspends: bool) -> float:
    """A service as the host runs it, on real clocks; its events were accepted before the clock runs."""
    async with open_service(suspends) as (service, countdown):
        lane, log = service.lane, service._parts.event_log
        stopwatch = Stopwatch()
        for burst in range(BURSTS):
            countdown.restart(trio.Event())
            for delivery in make_deliveries():
                lane.reserve(delivery.size)
                lane.deliver(delivery)
            with stopwatch:
                await countdown.over.wait()
                while service.settlement.counters["handled"] < (burst + 1) * BURST:
                    await trio.lowlevel.checkpoint()
                await log.committed(log.appended)
        return stopwatch.seconds
