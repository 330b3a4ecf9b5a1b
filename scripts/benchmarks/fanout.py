"""What a delivery costs the server's process, beside its peers in the same run.

Every server has the same client, a compiled process of its own that holds all subscribers on real sockets,
and the same events of 300 bytes. Ours is the daemon's parts behind its real listener. The peers are Node's
`ws` and Python's `websockets` on uvloop, each as its authors show a broadcast, nats-server, which coalesces
by itself, and two floors: a loop of `send` in C, and the same loop in Python, below which no server in
Python can come. Figures are processor time of the server, user and system.
A round measures each once; ratios are those of the round, and their median counts.

    paced     one event a write: each is published when the one before is committed
    backlog   many events at once, and as many again when everybody has them
    scoped    each subscriber on a worker of its own; the floor is one `send` for each match
    latency   from before an event is made to its arrival, at 10,000 deliveries a second
    idle      resident memory of 1,000 subscribers that wait

Names of these choose: `--only=paced,idle`. `--check` fails where a goal is missed or a peer is.
"""

import secrets
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from fanout_peers.install import (
    FLOOR,
    NATS,
    PYTHON_FLOOR,
    WEBSOCKETS,
    WS,
    NotInstalled,
    Peers,
    install,
)
from fanout_peers.processes import Arrival, Client, Mode, NatsServer, Server

ROUNDS = 3
MICRO = 1e6
LATENCY = "µs, p50"
NAP_US = 1000
"""The client looks so often, but where latency is measured."""
OURS = "yoi-daemon"
WARM_EVENTS = 50
APART = 0.98
"""Of a paced case's deliveries at least so many come in a segment of their own, or it was none. Not all:
TCP itself joins two where a peer's acknowledgement is late."""
SETTLE_S = 1.0
"""After everybody came, before memory is looked at."""
MEMORY_WARM = 10
"""Subscribers that come first, so that what is loaded and made once is not put on the others."""

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """`bursts` of `events`; each begins when the one before has come, and `interval_us` after it did.

    `goals`: the least a peer's figure is to be over ours. `most`: of our own figure.
    """

    name: str
    subscribers: int
    goals: Mapping[str, float] = field(default_factory=dict[str, float])
    beside: tuple[str, ...] = ()
    mode: Mode = "burst"
    bursts: int = 1
    events: int = 0
    interval_us: int = 0
    figure: str = "µs a delivery"
    most: float = 0.0

    @property
    def share(self) -> int:
        """Of so many events a subscriber gets one."""
        return self.subscribers if self.mode == "scoped" else 1

    @property
    def contenders(self) -> tuple[str, ...]:
        return (OURS, *self.goals, *self.beside)


WRITE_GOALS = {FLOOR: 0.65, WS: 1.2, WEBSOCKETS: 1.6}
CASES = (
    Case(
        "paced",
        100,
        WRITE_GOALS,
        (PYTHON_FLOOR,),
        "apart",
        bursts=150,
        events=10,
        interval_us=25_000,
    ),
    Case(
        "paced",
        1000,
        WRITE_GOALS,
        (PYTHON_FLOOR,),
        "apart",
        bursts=100,
        events=1,
        interval_us=60_000,
    ),
    Case("backlog", 100, {WS: 8, NATS: 0.7}, (FLOOR, WEBSOCKETS), "burst", bursts=10, events=1000),
    Case("backlog", 1000, {WS: 8, NATS: 2}, (FLOOR, WEBSOCKETS), "burst", bursts=2, events=500),
    Case("scoped", 1000, {FLOOR: 1 / 1.6}, (PYTHON_FLOOR,), "scoped", bursts=100, events=1000),
    Case(
        "latency",
        100,
        {FLOOR: 1 / 1.8},
        (WS, WEBSOCKETS),
        bursts=500,
        events=1,
        interval_us=10_000,
        figure=LATENCY,
    ),
    Case("idle", 1000, {}, (WS, WEBSOCKETS), figure="KiB a subscriber", most=24),
)


class Arena:
    """Starts contenders and clients."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._environ = {"BENCH_TOKEN": secrets.token_hex(16)}

    def serve(self, name: str, subscribers: int, folder: Path) -> Server:
        if name == OURS:
            script = HERE / "fanout_peers" / "daemon_server.py"
            return Server([sys.executable, str(script), str(folder)], self._environ)
        command = self._peers.commands[name]
        if name == NATS:
            return NatsServer(command, self._environ, folder)
        return Server([*command, str(subscribers)], self._environ)

    def subscribe(self, name: str, port: int, case: Case, subscribers: int) -> Client:
        protocol = "nats" if name == NATS else "ws"
        path = "/v1/workers/w%d/events?await=1" if case.mode == "scoped" else "/v1/events"
        nap_us = 0 if case.figure == LATENCY else NAP_US
        arguments = [str(port), str(subscribers), protocol, path, str(nap_us)]
        client = Client([str(self._peers.client), *arguments], self._environ)
        client.wait_open()
        return client


def measure(arena: Arena, case: Case, name: str) -> float:
    """The case's figure for one contender."""
    with (
        tempfile.TemporaryDirectory() as folder,
        arena.serve(name, case.subscribers, Path(folder)) as server,
    ):
        port = server.find_port()
        if not case.events:
            return measure_memory(arena, case, name, server, port)
        with arena.subscribe(name, port, case, case.subscribers) as client:
            run(server, client, replace(case, events=WARM_EVENTS * case.share, bursts=1))
            begun_s = server.processor_s()
            p50_us, segments = run(server, client, case)
            spent_s = server.processor_s() - begun_s
    deliveries = case.bursts * case.events * case.subscribers // case.share
    if case.mode == "apart" and segments < deliveries * APART:
        sys.exit(f"bench fanout: {deliveries} deliveries of {name} came in {segments} segments")
    return p50_us if case.figure == LATENCY else spent_s * MICRO / deliveries


def run(server: Server, client: Client, case: Case) -> Arrival:
    """Burst after burst, each when everybody has the one before, and it is time: not to be joined with it."""
    arrivals: list[Arrival] = []
    due_s = time.monotonic()
    for _ in range(case.bursts):
        client.expect(case.events // case.share)
        due_s = max(due_s, time.monotonic()) + case.interval_us / MICRO
        time.sleep(max(0.0, due_s - time.monotonic()))
        server.publish(case.events, case.mode)
        arrivals.append(client.wait_came())
    return Arrival(median(one.p50_us for one in arrivals), sum(one.segments for one in arrivals))


def measure_memory(arena: Arena, case: Case, name: str, server: Server, port: int) -> float:
    with arena.subscribe(name, port, case, MEMORY_WARM):
        time.sleep(SETTLE_S)
        before = server.resident_kib()
        with arena.subscribe(name, port, case, case.subscribers):
            time.sleep(SETTLE_S)
            return (server.resident_kib() - before) / case.subscribers


def compare(arena: Arena, case: Case, missing: Mapping[str, str]) -> list[str]:
    """Prints the case's table; gives the goals that were missed, as sentences."""
    names = [name for name in case.contenders if name not in missing]
    rounds = [{name: measure(arena, case, name) for name in names} for _ in range(ROUNDS)]
    print(f"\n{case.name}, {case.subscribers:,} subscribers")
    print(f"  {'':14}{case.figure:>18}{'min - max':>16}{'of ours':>9}{'min - max':>16}  goal")
    missed: list[str] = []
    for name in names:
        values = [one[name] for one in rounds]
        ratios = [one[name] / one[OURS] for one in rounds]
        goal, is_met = "", True
        if name in case.goals:
            goal, is_met = f"≥ {case.goals[name]:.3g}x", median(ratios) >= case.goals[name]
        elif name == OURS and case.most:
            goal, is_met = f"≤ {case.most:g}", median(values) <= case.most
        print(
            f"  {name:14}{median(values):>18.2f}{f'{min(values):.2f} - {max(values):.2f}':>16}"
            f"{median(ratios):>8.2f}x{f'{min(ratios):.2f} - {max(ratios):.2f}':>16}"
            f"  {goal}{'' if is_met else '  MISSED'}",
            flush=True,
        )
        if not is_met:
            missed.append(f"{case.name} at {case.subscribers}, {name} {goal}")
    return missed


def main() -> None:
    """Installs the peers, measures, and prints the tables."""
    only = [word.removeprefix("--only=") for word in sys.argv if word.startswith("--only=")]
    wanted = ",".join(only).split(",") if only else [case.name for case in CASES]
    try:
        peers = install()
    except NotInstalled as error:
        sys.exit(f"bench fanout: {error}")
    for name, why in peers.missing.items():
        print(f"NOT MEASURED, because it cannot be installed: {name}: {why}", file=sys.stderr)
    arena = Arena(peers)
    missed = [
        one for case in CASES if case.name in wanted for one in compare(arena, case, peers.missing)
    ]
    missed += [f"{name} could not be installed" for name in peers.missing]
    for one in missed:
        print(f"bench fanout: {one}", file=sys.stderr)
    if missed and "--check" in sys.argv:
        sys.exit(1)
