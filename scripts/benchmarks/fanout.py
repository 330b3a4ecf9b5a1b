"""What a delivery costs the server's process, beside its peers in the same run.

Every server has the same client, a compiled process of its own that holds all subscribers on real sockets,
and the same events of 300 bytes. Ours is the daemon's parts behind its real listener. The peers are Node's
`ws` and Python's `websockets` on uvloop, each as its authors show a broadcast, nats-server, which coalesces
by itself, and the floor, a loop of `send` in C. Figures are processor time of the server, user and system.
A round measures each once; ratios are those of the round, and their median counts.

    paced     events so far apart that each is written by itself
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
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from fanout_peers.install import FLOOR, NATS, WEBSOCKETS, WS, NotInstalled, Peers, install
from fanout_peers.processes import Client, NatsServer, Server

ROUNDS = 3
MICRO = 1e6
LATENCY = "µs, p50"
NAP_US = 1000
"""The client looks so often, but where latency is measured."""
OURS = "yoi-daemon"
WARM_EVENTS = 50
SETTLE_S = 1.0
"""After everybody came, before memory is looked at."""
MEMORY_WARM = 10
"""Subscribers that come first, so that what is loaded and made once is not put on the others."""

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """`bursts` of `events`, `interval_us` apart; each burst is awaited before the next.

    `goals`: the least a peer's figure is to be over ours. `most`: of our own figure.
    """

    name: str
    subscribers: int
    goals: Mapping[str, float] = field(default_factory=dict[str, float])
    beside: tuple[str, ...] = ()
    bursts: int = 1
    events: int = 0
    interval_us: int = 0
    scoped: bool = False
    figure: str = "µs a delivery"
    most: float = 0.0

    @property
    def contenders(self) -> tuple[str, ...]:
        return (OURS, *self.goals, *self.beside)


WRITE_GOALS = {FLOOR: 0.65, WS: 1.2, WEBSOCKETS: 1.6}
CASES = (
    Case("paced", 100, WRITE_GOALS, events=1500, interval_us=3_000),
    Case("paced", 1000, WRITE_GOALS, events=150, interval_us=30_000),
    Case("backlog", 100, {WS: 8, NATS: 0.7}, (FLOOR, WEBSOCKETS), bursts=10, events=1000),
    Case("backlog", 1000, {WS: 8, NATS: 2}, (FLOOR, WEBSOCKETS), bursts=2, events=500),
    Case("scoped", 1000, {FLOOR: 1 / 1.6}, bursts=100, events=1000, scoped=True),
    Case(
        "latency",
        100,
        {FLOOR: 1 / 1.8},
        (WS, WEBSOCKETS),
        events=500,
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

    def subscribe(
        self, name: str, port: int, subscribers: int, *, scoped: bool = False, nap_us: int = 0
    ) -> Client:
        protocol = "nats" if name == NATS else "ws"
        path = "/v1/workers/w%d/events?await=1" if scoped else "/v1/events"
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
        nap_us = 0 if case.figure == LATENCY else NAP_US
        with arena.subscribe(
            name, port, case.subscribers, scoped=case.scoped, nap_us=nap_us
        ) as client:
            each = 1 if case.scoped else case.events
            run_burst(server, client, case, WARM_EVENTS * (case.subscribers if case.scoped else 1))
            begun_s = server.processor_s()
            p50s = [run_burst(server, client, case, case.events) for _ in range(case.bursts)]
            spent_s = server.processor_s() - begun_s
    if case.figure == LATENCY:
        return median(p50s)
    return spent_s * MICRO / (case.bursts * each * case.subscribers)


def run_burst(server: Server, client: Client, case: Case, events: int) -> float:
    """Publishes, waits for the arrival of everything, gives the median latency in µs."""
    client.expect(events // case.subscribers if case.scoped else events)
    if not case.interval_us:
        server.publish(events, scoped=case.scoped)
        return client.wait_came()
    due_s = time.monotonic()
    for _ in range(events):
        # Late, it does not catch up: what is due together would be written together.
        due_s = max(due_s, time.monotonic()) + case.interval_us / MICRO
        time.sleep(max(0.0, due_s - time.monotonic()))
        server.publish(1)
    return client.wait_came()


def measure_memory(arena: Arena, case: Case, name: str, server: Server, port: int) -> float:
    with arena.subscribe(name, port, MEMORY_WARM):
        time.sleep(SETTLE_S)
        before = server.resident_kib()
        with arena.subscribe(name, port, case.subscribers):
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
