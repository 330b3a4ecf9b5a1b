"""What an author's exception is reported as: its type and text, and the place in the plugin; all bounded."""

import os
import traceback
import types

import trio

from yoi_daemon.cancellation import leaf_of
from yoi_daemon.model.public_text import public_text
from yoi_daemon.plugins.delivery import Failure
from yoi_daemon.plugins.loading.loader import LoadedPlugin

TRACEBACK_FRAMES = 20
MAX_TRACEBACK_CHARS = 8192
MAX_MESSAGE_CHARS = 500
"""What is kept of an exception's text: enough to recognise it, bounded for logs and events."""


def failure_of(error: BaseException, loaded: LoadedPlugin, code: str = "handler_failed") -> Failure:
    """Returns the failure that an exception is: of a group, its first exception."""
    leaf = leaf_of(error)
    name, text = type(leaf).__name__, text_of(leaf, loaded)
    return Failure(
        outcome="handler_failed",
        code=code,
        message=shortened(f"{name}: {text}" if text else name),
        where=place_in(leaf, loaded),
        traceback=_traceback_of(error),
    )


def place_in(error: BaseException, loaded: LoadedPlugin) -> str | None:
    """Returns the innermost frame of `error` that lies in the plugin, as `plugins/NAME.py:LINE`."""
    place: str | None = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        place = place_of(frame, line, loaded) or place
    return place


def frame_in(task: trio.lowlevel.Task, loaded: LoadedPlugin) -> str | None:
    """Returns where in the plugin `task` is now, as `plugins/NAME.py:LINE`."""
    place: str | None = None
    for frame, line in task.iter_await_frames():
        place = place_of(frame, line, loaded) or place
    return place


def place_of(frame: types.FrameType, line: int, loaded: LoadedPlugin) -> str | None:
    """Returns a line of a frame as `plugins/NAME.py:LINE`; None where it is not the plugin's."""
    file = frame.f_code.co_filename
    if file == loaded.file or file.startswith(loaded.folder + os.sep):
        return f"plugins/{os.path.relpath(file, loaded.base)}:{line}"
    return None


def text_of(error: BaseException, loaded: LoadedPlugin) -> str:
    """Returns the text of an exception without secrets, on one line; empty where it cannot be had."""
    try:
        return public_text(loaded.redact(f"{error}"))
    except Exception:  # noqa: BLE001 (an author's __str__)
        return ""


def shortened(text: str) -> str:
    """Returns what is kept of a text, printable, in at most `MAX_MESSAGE_CHARS` characters."""
    printable = _printable(text[: MAX_MESSAGE_CHARS + 1])
    if len(printable) <= MAX_MESSAGE_CHARS:
        return printable
    return printable[: MAX_MESSAGE_CHARS - 1] + "…"


def _traceback_of(error: BaseException) -> str:
    try:
        # No locals: they hold secrets.
        lines = traceback.format_exception(error, limit=-TRACEBACK_FRAMES)
    except Exception:  # noqa: BLE001 (an author's __context__, __cause__ or __notes__)
        return ""
    return _printable("".join(lines)[-MAX_TRACEBACK_CHARS:])


def _printable(text: str) -> str:
    # What holds a path that is not UTF-8, say, could not be written to events and logs.
    return text.encode("utf-8", "backslashreplace").decode()
