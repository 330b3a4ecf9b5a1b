"""Where handlers run. Messages in, messages out, so that a process can stand where a task stands."""

import os
import traceback
import types
from collections.abc import Callable
from math import isfinite
from typing import Any, Protocol

import msgspec
import trio

from yoi_daemon.cancellation import leaf_of, reraise_cancellation
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.public_text import public_text
from yoi_daemon.plugins.delivery import Attempt, Failure
from yoi_daemon.plugins.loading.loader import LoadedPlugin
from yoi_daemon.sdk.context import Context, IngressEvent, Retry
from yoi_daemon.sdk.plugin import Function

TRACEBACK_FRAMES = 20
MAX_TRACEBACK_CHARS = 8192
MAX_MESSAGE_CHARS = 500
"""What is kept of an exception's text: enough to recognise it, bounded for logs and events."""


class Executor(Protocol):
    """Runs a service's functions. One conformance suite holds every implementation."""

    async def handle(self, attempt: Attempt) -> Failure | None:
        """Runs the handler of the attempt's ingress; None when it succeeded.

        Nothing a handler raises leaves but as a `Failure`; only the cancellation of a scope around
        the call does.
        """
        ...


class InlineExecutor:
    """Runs handlers as part of the dispatcher's own task; a plain `def` in a thread of its own."""

    def __init__(
        self, loaded: LoadedPlugin, context_for: Callable[[Attempt], Context[Any]]
    ) -> None:
        self._loaded = loaded
        self._ingresses = loaded.plugin.ingresses
        self._context_for = context_for
        # Of its own: a handler that blocks its thread must not take one from the rest of the daemon.
        self._threads = trio.CapacityLimiter(1)

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
            return Failure(
                outcome="invalid_event",
                code="invalid_event",
                message=_short(_text_of(error, self._loaded)),
            )
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
            context = self._context_for(attempt)
            if spec.function.is_async:
                await spec.function.call(context, event)
            else:
                await trio.to_thread.run_sync(
                    spec.function.call, context, event, limiter=self._threads
                )
        except Retry as retry:
            reraise_cancellation(retry)
            return Failure(
                outcome="retry_scheduled",
                code="retry",
                message=_short(_text_of(retry, self._loaded) or "the handler asked for a retry"),
                retry_after_s=_seconds(getattr(retry, "after_s", None)),
            )
        except BaseException as error:  # noqa: ASYNC103, BLE001 (a plugin ends itself, not the daemon)
            reraise_cancellation(error)
            return failure_of(error, self._loaded)  # noqa: ASYNC104 (a cancellation was raised above)
        return None


def check_payload(loaded: LoadedPlugin, ingress: str, payload: bytes) -> Refused | None:
    """Returns why JSON does not fit the author's type of an ingress; None where it does."""
    decoder = loaded.plugin.ingresses[ingress].decoder
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


async def call_function(function: Function, *arguments: Any) -> Any:
    """Calls an author's function, a plain `def` in a thread. What it raises comes out."""
    if function.is_async:
        return await function.call(*arguments)
    return await trio.to_thread.run_sync(function.call, *arguments, limiter=trio.CapacityLimiter(1))


def failure_of(error: BaseException, loaded: LoadedPlugin) -> Failure:
    """What is told of an exception: its type and text, and the innermost place in the plugin."""
    leaf = leaf_of(error)
    name, text = type(leaf).__name__, _text_of(leaf, loaded)
    return Failure(
        outcome="handler_failed",
        code="handler_failed",
        message=_short(f"{name}: {text}" if text else name),
        where=place_in(leaf, loaded),
        traceback=_traceback_of(error),
    )


def place_in(error: BaseException, loaded: LoadedPlugin) -> str | None:
    """The innermost frame of `error` that lies in the plugin, as `plugins/NAME.py:LINE`."""
    place: str | None = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        place = place_of(frame, line, loaded) or place
    return place


def frame_in(task: trio.lowlevel.Task, loaded: LoadedPlugin) -> str | None:
    """Where in the plugin `task` is now, as `plugins/NAME.py:LINE`."""
    place: str | None = None
    for frame, line in task.iter_await_frames():
        place = place_of(frame, line, loaded) or place
    return place


def place_of(frame: types.FrameType, line: int, loaded: LoadedPlugin) -> str | None:
    """A line of a frame as `plugins/NAME.py:LINE`; None where it is not the plugin's."""
    file = frame.f_code.co_filename
    if file == loaded.file or file.startswith(loaded.folder + os.sep):
        return f"plugins/{os.path.relpath(file, loaded.base)}:{line}"
    return None


def _traceback_of(error: BaseException) -> str:
    try:
        # No locals: they hold secrets.
        lines = traceback.format_exception(error, limit=-TRACEBACK_FRAMES)
    except Exception:  # noqa: BLE001 (an author's __context__, __cause__ or __notes__)
        return ""
    return _printable("".join(lines)[-MAX_TRACEBACK_CHARS:])


def _text_of(error: BaseException, loaded: LoadedPlugin) -> str:
    try:
        return public_text(loaded.redact(f"{error}"))
    except Exception:  # noqa: BLE001 (an author's __str__)
        return ""


def _short(text: str) -> str:
    printable = _printable(text[: MAX_MESSAGE_CHARS + 1])
    if len(printable) <= MAX_MESSAGE_CHARS:
        return printable
    return printable[: MAX_MESSAGE_CHARS - 1] + "…"


def _printable(text: str) -> str:
    # What holds a path that is not UTF-8, say, could not be written to events and logs.
    return text.encode("utf-8", "backslashreplace").decode()


def _seconds(after_s: Any) -> float | None:
    """The time that a `Retry` names; None, so the host's own, where it names no number of seconds."""
    try:
        seconds = float(after_s)
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if isfinite(seconds) else None
