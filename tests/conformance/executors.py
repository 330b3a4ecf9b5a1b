"""The executors under test, and a bench that calls one as the daemon does."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import ModuleType

import msgspec
import structlog
import trio

from tests.conformance import executor_plugin
from tests.plugins.rig import loaded_of
from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.plugins.delivery import Attempt, Delivery, LaneLimits, PluginCall
from yoi_daemon.plugins.execution.context import CallServices
from yoi_daemon.plugins.execution.inline import InlineExecutor
from yoi_daemon.plugins.execution.interface import Executor
from yoi_daemon.plugins.execution.state import PluginState

EXECUTORS = {"inline": InlineExecutor}
"""By name, how each is made of a loaded plugin and the services of its calls."""
LIMITS = LaneLimits(
    queue_events=1, queue_bytes=1, dispatch_timeout_s=30, dispatch_warn_s=5, dispatch_grace_s=5
)


def place(mark: str, module: ModuleType = executor_plugin) -> str:
    """Where the line with this mark is, as a failure reports it."""
    file = Path(str(module.__file__))
    (line,) = [
        number
        for number, text in enumerate(file.read_text().splitlines(), 1)
        if text.endswith(f"# mark: {mark}")
    ]
    return f"plugins/{file.name}:{line}"


def a_call() -> PluginCall:
    """A call that is no attempt, from now on."""
    return PluginCall(trio.current_time(), timeout_s=30, grace_s=5)


class Bench:
    """One executor, and what its plugin emitted."""

    def __init__(self, executor: Executor, event_log: EventLog, state: PluginState) -> None:
        self.executor = executor
        self.event_log = event_log
        self.state = state
        self.call: PluginCall | None = None
        """The latest call that is no attempt."""
        self.attempt: Attempt | None = None

    @asynccontextmanager
    async def started(self) -> AsyncGenerator[None]:
        """A run of the service: `start`, then `stop` and the closing of what was entered."""
        async with self.life() as (life, resources):
            assert await self.executor.start(life, resources) is None
            yield
            assert await self.make(self.executor.stop) is None

    async def start(self):
        """`start` alone, whatever comes of it; what it entered is closed."""
        async with self.life() as (life, resources):
            return await self.executor.start(life, resources)

    @asynccontextmanager
    async def life(self) -> AsyncGenerator[tuple[PluginCall, AsyncExitStack]]:
        """The call and the resources of a run: one scope around all of it, for what `start` enters outlives `start`."""
        self.call = life = a_call()
        with life.scope, life.give_up:
            async with AsyncExitStack() as resources:
                yield life, resources

    async def tool(self, name: str, arguments):
        encoded = msgspec.json.encode(arguments)
        return await self.make(lambda call: self.executor.tool(call, name, encoded))

    async def make(self, function):
        """One call of `function` within its scopes, as the daemon makes it."""
        self.call = call = a_call()
        with call.scope, call.give_up:
            try:
                return await function(call)
            finally:
                call.is_open = False

    def delivery(self, ingress: str, payload: bytes, **fields) -> Delivery:
        return Delivery(
            event_id="evt_1",
            correlation_id="cor_1",
            source="api",
            ingress=ingress,
            payload=payload,
            created_at="2027-01-15T08:00:00.000000Z",
            accepted_s=0,
            **fields,
        )

    async def handle(self, delivery: Delivery):
        """One attempt, as the lane makes it."""
        delivery.attempt += 1
        with trio.CancelScope() as scope, trio.CancelScope() as give_up:
            self.attempt = Attempt(delivery, trio.current_time(), LIMITS, scope, give_up)
            try:
                return await self.executor.handle(self.attempt)
            finally:
                self.attempt.is_open = False

    async def run(self, ingress: str, payload=None):
        return await self.handle(self.delivery(ingress, msgspec.json.encode(payload)))

    async def emitted(self, kind: str) -> list:
        await self.event_log.committed(self.event_log.appended)
        entries = self.event_log.read(0, 1 << 30)
        events = [msgspec.json.decode(entry.message) for entry in entries]
        return [event["data"] for event in events if event["kind"].endswith(f".{kind}")]

    async def begun(self) -> None:
        with trio.fail_after(10):
            while not await self.emitted("begun"):
                await self.event_log.wait_beyond(self.event_log.head)


def make_bench(
    kind: str, event_log: EventLog, module: ModuleType = executor_plugin, **config
) -> Bench:
    """A bench of the `plugin` of a module, with its settings."""
    loaded = loaded_of(module.plugin, **config)
    state = PluginState(loaded.manifest.name, event_log.record)
    services = CallServices(
        plugin_id=loaded.manifest.name,
        config=loaded.config,
        grants=(),
        event_log=event_log,
        logger=structlog.get_logger("plugin"),
        workers_for=lambda *_: None,
        state=state,
    )
    return Bench(EXECUTORS[kind](loaded, services), event_log, state)
