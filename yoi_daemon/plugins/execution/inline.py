"""Runs an author's functions within the daemon: in the caller's own task, a plain `def` in a thread."""

from contextlib import AsyncExitStack
from math import isfinite
from typing import Any

import msgspec
import trio

from yoi_daemon.cancellation import found_in, is_only, reraise_cancellation
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.manifest import PluginManifest
from yoi_daemon.plugins.delivery import Attempt, Failure, PluginCall
from yoi_daemon.plugins.execution.context import CallContext, CallServices, StartContext
from yoi_daemon.plugins.execution.failures import failure_of, shortened, text_of
from yoi_daemon.plugins.execution.interface import NOT_READY, Returned
from yoi_daemon.plugins.loading.loader import LoadedPlugin
from yoi_daemon.sdk.context import IngressEvent, NotReady, Retry
from yoi_daemon.sdk.plugin import Function

LEFT_TASK = Failure(
    outcome="handler_failed",
    code="start_left_task",
    message="start returned and left a nursery open; enter it with ctx.enter",
)


class InlineExecutor:
    """Implements `Executor` where the daemon itself runs: quick, and unable to end what ignores its end."""

    def __init__(self, loaded: LoadedPlugin, services: CallServices) -> None:
        self._loaded = loaded
        self._ingresses = loaded.plugin.ingresses
        self._services = services
        self._is_started = False
        # Of its own: a handler that blocks its thread must not take one from the rest of the daemon.
        self._threads = trio.CapacityLimiter(1)

    @property
    def manifest(self) -> PluginManifest:
        return self._loaded.manifest

    def check(self, ingress: str, payload: bytes) -> Refused | None:
        decoder = self._ingresses[ingress].decoder
        if decoder.type is Any:
            return None  # JSON it is
        try:
            decoder.decode(payload)
        except msgspec.ValidationError as error:
            why = str(error)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 (the author's type)
            why = type(error).__name__
        else:
            return None
        return Refused("invalid_event", f"the payload does not fit ingress {ingress}: {why}")

    async def start(self, call: PluginCall, resources: AsyncExitStack) -> Failure | None:
        resources.callback(self._end_run)  # the last of them, after all that `start` enters
        self._is_started = True
        function = self._loaded.plugin.on_start
        if function is None:
            return None
        context = StartContext(self._services, resources, call.check)
        try:
            await _call(function, context)
        except BaseException as error:  # noqa: ASYNC103, BLE001 (a plugin ends itself, not the daemon)
            reraise_cancellation(error)
            if is_only(error, NotReady, trio.Cancelled) and (found := found_in(error, NotReady)):
                return self._not_ready(found)  # noqa: ASYNC104 (a cancellation was raised above)
            return failure_of(error, self._loaded, "start_failed")  # noqa: ASYNC104 (likewise)
        finally:
            context.end()
        return LEFT_TASK if context.left_behind() else None

    def _end_run(self) -> None:
        self._is_started = False
        self._services = self._services.renewed()

    async def handle(self, attempt: Attempt) -> Failure | None:
        delivery = attempt.delivery
        spec = self._ingresses.get(delivery.ingress)
        if spec is None:
            return Failure(
                outcome="invalid_event",
                code="ingress_not_found",
                message=f"the plugin no longer has the ingress {delivery.ingress}",
            )
        try:
            payload = spec.decoder.decode(delivery.payload)
        except (msgspec.DecodeError, RecursionError) as error:
            message = shortened(text_of(error, self._loaded))
            return Failure(outcome="invalid_event", code="invalid_event", message=message)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 (the author's type)
            return failure_of(error, self._loaded)
        event: IngressEvent[Any] = IngressEvent(
            id=delivery.event_id,
            source=delivery.source,
            ingress=delivery.ingress,
            payload=payload,
            created_at=delivery.created_at,
            attempt=delivery.attempt,
            correlation_id=delivery.correlation_id,
            headers=delivery.headers,
            body=delivery.body,
        )
        try:
            context = CallContext(
                self._services, attempt.check, delivery.correlation_id, delivery.event_id
            )
            if spec.function.is_async:
                await spec.function.call(context, event)
            else:
                await trio.to_thread.run_sync(
                    spec.function.call, context, event, limiter=self._threads
                )
        except Retry as retry:
            reraise_cancellation(retry)
            return self._retry(retry)
        except BaseException as error:  # noqa: ASYNC103, BLE001 (a plugin ends itself, not the daemon)
            reraise_cancellation(error)
            return failure_of(error, self._loaded)  # noqa: ASYNC104 (a cancellation was raised above)
        return None

    def _not_ready(self, error: NotReady) -> Failure:
        return Failure(
            outcome="interrupted",
            code=NOT_READY,
            message=shortened(text_of(error, self._loaded) or "the plugin is not ready yet"),
            retry_after_s=_seconds(getattr(error, "after_s", None)),
        )

    def _retry(self, retry: Retry) -> Failure:
        return Failure(
            outcome="retry_scheduled",
            code="retry",
            message=shortened(text_of(retry, self._loaded) or "the handler asked for a retry"),
            retry_after_s=_seconds(getattr(retry, "after_s", None)),
        )

    async def status(self, call: PluginCall) -> Returned | Failure:
        function = self._loaded.plugin.on_status
        if function is None:
            return Returned(b"null")
        return await self._answer(function, CallContext(self._services, call.check))

    async def tool(self, call: PluginCall, name: str, arguments: bytes) -> Returned | Failure:
        spec = self._loaded.plugin.tools[name]
        try:
            decoded = spec.decoder.decode(arguments)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 (the author's type)
            why = text_of(error, self._loaded) or type(error).__name__
            message = shortened(f"the arguments do not fit: {why}")
            return Failure(outcome="invalid_event", code="invalid_arguments", message=message)
        # Without a run of the service each call has a `local` of its own.
        services = self._services if self._is_started else self._services.renewed()
        return await self._answer(spec.function, CallContext(services, call.check), decoded)

    async def stop(self, call: PluginCall) -> Failure | None:
        function = self._loaded.plugin.on_stop
        if function is None:
            return None
        try:
            await _call(function, CallContext(self._services, call.check))
        except BaseException as error:  # noqa: ASYNC103, BLE001 (a plugin ends itself, not the daemon)
            reraise_cancellation(error)
            return failure_of(error, self._loaded, "stop_failed")  # noqa: ASYNC104 (likewise)
        return None

    def kill(self) -> bool:
        return False

    async def _answer(
        self, function: Function, context: CallContext, *arguments: Any
    ) -> Returned | Failure:
        try:
            return Returned(msgspec.json.encode(await _call(function, context, *arguments)))
        except BaseException as error:  # noqa: ASYNC103, BLE001 (a plugin ends itself, not the daemon)
            reraise_cancellation(error)
            return failure_of(error, self._loaded)  # noqa: ASYNC104 (a cancellation was raised above)


async def _call(function: Function, *arguments: Any) -> Any:
    """Calls an author's function, a plain `def` in a thread. What it raises comes out."""
    if function.is_async:
        return await function.call(*arguments)
    return await trio.to_thread.run_sync(function.call, *arguments, limiter=trio.CapacityLimiter(1))


def _seconds(after_s: Any) -> float | None:
    """Returns the time that a `Retry` names; None, so the host's own, where it names no number of seconds."""
    try:
        seconds = float(after_s)
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if isfinite(seconds) else None
