"""What an author's own tests use: a plugin run by itself, without a daemon.

    async with open_plugin("plugins/hello.py", config={"greeting": "Hi"}) as harness:
        result = await harness.ingress("hello", {"name": "World"})
        assert result.outcome == "handled"

It needs no test framework: run it with `trio.run`, or with pytest-trio. One attempt is made for each
event, under the deadline given, and what the handler raised is in the result.
"""

import importlib.util
import itertools
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeVar

import msgspec
import structlog
import trio
from structlog.typing import FilteringBoundLogger

from yoi_daemon.model.config_faults import Faults
from yoi_daemon.model.configuration import (
    convert_table,
)
from yoi_daemon.model.workers import (
    Receipt,
    TranscriptItem,
    TranscriptPage,
    WhenBusy,
    WorkerSummary,
)
from yoi_daemon.sdk.config import Config, Secret
from yoi_daemon.sdk.context import IngressEvent, Retry, State, Workers
from yoi_daemon.sdk.plugin import Function, Plugin

T = TypeVar("T")
TIME = "2026-01-01T00:00:00.000000Z"


class Result(msgspec.Struct, frozen=True):
    """How one attempt ended; `error` is what the handler raised, if it did."""

    outcome: Literal["handled", "retry_scheduled", "handler_failed", "dispatch_timeout"]
    error: BaseException | None = None


class FakeWorkers:
    """Workers that only write down what they were told: `inputs` holds `(worker_id, text)` in order."""

    def __init__(self) -> None:
        self.inputs: list[tuple[str, str]] = []
        self._workers: dict[str, WorkerSummary] = {}

    async def create(
        self, *, profile: str = "builtin:echo", label: str = "", input: str | None = None
    ) -> Receipt:
        worker_id = f"wrk_{len(self._workers) + 1}"
        self._workers[worker_id] = WorkerSummary(
            runtime_id="backend-internal",
            worker_id=worker_id,
            implementation_kind="embedded",
            label=label,
            profile=profile,
            state="idle",
            generation=0,
            created_at=TIME,
        )
        if input is not None:
            self.inputs.append((worker_id, input))
        return Receipt(worker=self._workers[worker_id], cursor="cursor")

    async def send(self, worker_id: str, text: str, *, when_busy: WhenBusy = "queue") -> Receipt:
        self.inputs.append((worker_id, text))
        return Receipt(worker=self._workers[worker_id], cursor="cursor")

    async def transcript(self, worker_id: str, *, limit: int = 100) -> TranscriptPage:
        items = [
            TranscriptItem(
                item_id=f"itm_{number}",
                role="user",
                text=text,
                time=TIME,
                truncated=False,
                full_bytes=len(text.encode()),
            )
            for number, (of, text) in enumerate(self.inputs, 1)
            if of == worker_id
        ]
        return TranscriptPage(items=tuple(items[-limit:]), as_of="cursor")


class FakeState:
    """State in a dictionary, through JSON as in the daemon."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def get(self, key: str) -> Any:
        return self.values.get(key)

    async def set(self, key: str, value: Any) -> None:
        self.values[key] = msgspec.json.decode(msgspec.json.encode(value))

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)

    async def keys(self) -> list[str]:
        return sorted(self.values)


class Harness:
    """A started plugin. `emitted` holds `(kind, data)` in order, kinds with the plugin's id."""

    def __init__(self, plugin: Plugin[Any], config: Config, stack: AsyncExitStack) -> None:
        self.plugin = plugin
        self.emitted: list[tuple[str, Any]] = []
        self.workers = FakeWorkers()
        self.state = FakeState()
        self.local = SimpleNamespace()
        self._config = config
        self._stack = stack
        self._numbers = itertools.count(1)

    async def ingress(
        self,
        name: str,
        payload: Any = None,
        *,
        attempt: int = 1,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30,
    ) -> Result:
        """Hands one event to the handler of `name`; the payload is checked as at admission.

        Raises `KeyError` for an ingress the plugin does not have, and `msgspec.ValidationError` for
        a payload that would be refused.
        """
        spec = self.plugin.ingresses[name]
        body = msgspec.json.encode(payload)
        event: IngressEvent[Any] = IngressEvent(
            id=f"evt_{next(self._numbers)}",
            source="test",
            ingress=name,
            payload=spec.decoder.decode(body),
            created_at=TIME,
            attempt=attempt,
            correlation_id="cor_test",
            headers=headers or {},
            body=body,
        )
        try:
            with trio.move_on_after(timeout_s) as scope:
                await _call(spec.function, _TestContext(self, None), event)
        except Retry as retry:
            return Result("retry_scheduled", retry)
        except Exception as error:  # noqa: BLE001 (it is the result)
            return Result("handler_failed", error)
        return Result("dispatch_timeout" if scope.cancelled_caught else "handled")

    async def status(self) -> Any:
        """What `@plugin.status` answers, as the API would show it."""
        if self.plugin.on_status is None:
            return None
        answer = await _call(self.plugin.on_status, _TestContext(self, None))
        return msgspec.json.decode(msgspec.json.encode(answer))

    async def start(self) -> None:
        """Calls `start`."""
        if self.plugin.on_start is not None:
            await _call(self.plugin.on_start, _TestContext(self, self._stack))

    async def stop(self) -> None:
        """Calls `stop`."""
        if self.plugin.on_stop is not None:
            await _call(self.plugin.on_stop, _TestContext(self, None))

    @property
    def config(self) -> Config:
        """The settings the plugin was given."""
        return self._config


@asynccontextmanager
async def open_plugin(
    plugin: Plugin[Any] | str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    secrets: Mapping[str, str] | None = None,
) -> AsyncGenerator[Harness]:
    """Starts a plugin, or the one in a file, with `config` as its table would give it.

    A Secret in `config` names a key of `secrets`. Leaving calls `stop` and closes what was entered.
    Raises `ConfigurationError` for a config that would be refused.
    """
    loaded = plugin if isinstance(plugin, Plugin) else _load(Path(plugin))

    def decode(kind: type, value: Any) -> Any:
        if kind is not Secret:
            raise NotImplementedError(kind)
        if value not in (secrets or {}):
            raise ValueError("expected the name of one of the secrets given to open_plugin")
        return Secret((secrets or {})[value])

    faults = Faults("config")
    settings: Config = convert_table(dict(config or {}), loaded.config_type, (), faults, decode)
    faults.raise_if_any()
    async with AsyncExitStack() as stack:
        harness = Harness(loaded, settings, stack)
        await harness.start()
        yield harness
        await harness.stop()


class _TestContext:
    def __init__(self, harness: Harness, stack: AsyncExitStack | None) -> None:
        self._harness = harness
        self._stack = stack

    @property
    def config(self) -> Any:
        return self._harness.config

    @property
    def local(self) -> Any:
        return self._harness.local

    @property
    def log(self) -> FilteringBoundLogger:
        return structlog.get_logger("plugin").bind(plugin_id=self._harness.plugin.name)

    @property
    def state(self) -> State:
        return self._harness.state

    @property
    def workers(self) -> Workers:
        return self._harness.workers

    async def emit(self, kind: str, data: Any = None) -> None:
        await trio.lowlevel.checkpoint()
        # Through JSON, as in the daemon: what cannot be sent fails here too.
        sent = msgspec.json.decode(msgspec.json.encode(data))
        self._harness.emitted.append((f"{self._harness.plugin.name}.{kind}", sent))

    async def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        if self._stack is None:
            raise RuntimeError("ctx.enter is for start only")
        return await self._stack.enter_async_context(manager)


async def _call(function: Function, *arguments: Any) -> Any:
    if function.is_async:
        return await function.call(*arguments)
    return await trio.to_thread.run_sync(function.call, *arguments)


def _load(file: Path) -> Plugin[Any]:
    path = file / "__init__.py" if file.is_dir() else file
    spec = importlib.util.spec_from_file_location(file.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    plugin = getattr(module, "plugin", None)
    if not isinstance(plugin, Plugin):
        raise ImportError(f'{path}: expected plugin = Plugin("{file.stem}") at its top')
    return plugin  # pyright: ignore[reportUnknownVariableType] (its config type is the author's)
