"""The context a plugin's functions get: fenced, so that what comes after the verdict has no effect."""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from copy import copy
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar

import trio
from structlog.typing import FilteringBoundLogger

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import Draft
from yoi_daemon.model.settings import Grant
from yoi_daemon.plugins.execution.state import PluginState
from yoi_daemon.sdk.config import Config
from yoi_daemon.sdk.context import Workers

T = TypeVar("T")
EVENT_NAME = re.compile(r"(?=.{1,64}\Z)[a-z0-9_]+(\.[a-z0-9_]+)*")
EVENT_NAME_RULE = "up to 64 of a-z, 0-9 and _, in parts joined by dots"
Check = Callable[[], None]
"""Raises `sdk.AttemptClosedError` when effects are no longer wanted."""


class WorkersFor(Protocol):
    """Makes the worker commands of one call; the composition root gives it."""

    def __call__(
        self, plugin_id: str, grants: Sequence[Grant], check: Check, correlation_id: str | None
    ) -> Workers:
        """Commands as far as `grants` go; each asks `check` before it has an effect."""
        ...


class FencedState:
    """Implements `sdk.State` for one call: what is written after the verdict is refused."""

    def __init__(self, state: PluginState, event_log: EventLog, check: Check) -> None:
        self._state = state
        self._event_log = event_log
        self._check = check

    async def get(self, key: str) -> Any:
        await trio.lowlevel.checkpoint()
        return self._state.get(key)

    async def set(self, key: str, value: Any) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        await self._event_log.recorded(self._state.set(key, value))

    async def delete(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        await self._event_log.recorded(self._state.delete(key))

    async def keys(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return self._state.keys()


class CallServices:
    """What all contexts of one run of a service share."""

    __slots__ = (
        "config",
        "event_log",
        "grants",
        "local",
        "logger",
        "plugin_id",
        "state",
        "workers_for",
    )

    def __init__(
        self,
        *,
        plugin_id: str,
        config: Config,
        grants: Sequence[Grant],
        event_log: EventLog,
        state: PluginState,
        logger: FilteringBoundLogger,
        workers_for: WorkersFor,
    ) -> None:
        self.plugin_id = plugin_id
        self.config = config
        self.grants = grants
        self.event_log = event_log
        self.state = state
        self.logger = logger
        self.workers_for = workers_for
        self.local = SimpleNamespace()

    def renewed(self) -> "CallServices":
        """Returns the same with another, empty `local`."""
        renewed = copy(self)
        renewed.local = SimpleNamespace()
        return renewed


class CallContext:
    """Implements `sdk.Context` for one call."""

    __slots__ = ("_check", "_correlation_id", "_event_id", "_services", "_stack")

    def __init__(
        self,
        services: CallServices,
        check: Check,
        correlation_id: str | None = None,
        event_id: str | None = None,
        *,
        stack: AsyncExitStack | None = None,
    ) -> None:
        self._services = services
        self._check = check
        self._correlation_id = correlation_id
        self._event_id = event_id
        self._stack = stack

    @property
    def config(self) -> Any:
        return self._services.config

    @property
    def local(self) -> Any:
        return self._services.local

    @property
    def log(self) -> FilteringBoundLogger:
        services = self._services
        bound = {"correlation_id": self._correlation_id, "event_id": self._event_id}
        return services.logger.bind(
            **{key: value for key, value in bound.items() if value is not None}
        )

    @property
    def state(self) -> FencedState:
        services = self._services
        return FencedState(services.state, services.event_log, self._check)

    @property
    def workers(self) -> Workers:
        services = self._services
        return services.workers_for(
            services.plugin_id, services.grants, self._check, self._correlation_id
        )

    async def emit(self, kind: str, data: Any = None) -> None:
        services = self._services
        if not EVENT_NAME.fullmatch(kind):
            raise Refused("invalid_event", f"an event's name is {EVENT_NAME_RULE}")
        await services.event_log.room()
        self._check()
        services.event_log.append(
            Draft(
                kind=f"{services.plugin_id}.{kind}",
                data=data,
                plugin_id=services.plugin_id,
                correlation_id=self._correlation_id,
            )
        )

    async def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        if self._stack is None:
            raise RuntimeError(
                "ctx.enter is for start only: what it enters lives as long as the service"
            )
        return await self._stack.enter_async_context(manager)


class StartContext(CallContext):
    """The context of `start`: it alone may enter resources, and only while `start` runs.

    It notes which nurseries came with a resource, so that one that came without can be told.
    """

    __slots__ = ("_entered", "_open")

    def __init__(self, services: CallServices, stack: AsyncExitStack, check: Check) -> None:
        super().__init__(services, check, stack=stack)
        # Those of whoever calls `start` are not its own.
        self._entered = set(trio.lowlevel.current_task().child_nurseries)
        self._open = True

    async def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        if not self._open:
            raise RuntimeError(
                "ctx.enter is for start only: what it enters lives as long as the service"
            )
        task = trio.lowlevel.current_task()
        before = set(task.child_nurseries)
        entered = await super().enter(manager)
        self._entered |= set(task.child_nurseries) - before
        return entered

    def end(self) -> None:
        """`start` has returned. What it keeps of this context can still emit; entering is over."""
        self._open = False

    def left_behind(self) -> int:
        """Returns how many nurseries are open in this task that no resource brought."""
        return len(set(trio.lowlevel.current_task().child_nurseries) - self._entered)
