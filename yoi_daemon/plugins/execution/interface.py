"""What runs an author's functions. Data goes in and data comes out, so that a process can stand where a task stands."""

from contextlib import AsyncExitStack
from typing import Protocol

import msgspec

from yoi_daemon.model.errors import Refused
from yoi_daemon.model.manifest import PluginManifest
from yoi_daemon.plugins.delivery import Attempt, Failure, PluginCall


class Returned(msgspec.Struct, frozen=True):
    """What a function returned, as JSON: the caller shares no object with the plugin."""

    encoded: bytes


NOT_READY = "not_ready"
"""The code of a `start` that is to be tried again: no failure of the service."""


class Executor(Protocol):
    """Runs the functions of one version of a plugin: one module with one configuration.

    Whoever calls makes the `PluginCall`, enters its scopes around the call and has it judged; the plugin's
    effects are refused once it is closed. What a function raises is returned as a `Failure`; only the
    cancellation of a scope around the call is raised. One conformance suite holds every implementation.
    """

    @property
    def manifest(self) -> PluginManifest:
        """Returns what the plugin declares."""
        ...

    def check(self, ingress: str, payload: bytes) -> Refused | None:
        """Returns why JSON does not fit the type of a declared ingress; None where it does."""
        ...

    async def start(self, call: PluginCall, resources: AsyncExitStack) -> Failure | None:
        """Runs `start`, where there is one, and begins a run of the service; returns None when it has started.

        What `start` enters is closed with `resources`, in the task that called; the run ends with it. The
        code of a failure is `start_failed`, `start_left_task` for a nursery that was left open, or `NOT_READY`.
        """
        ...

    async def handle(self, attempt: Attempt) -> Failure | None:
        """Runs the handler of the attempt's ingress; returns None when it succeeded."""
        ...

    async def status(self, call: PluginCall) -> Returned | Failure:
        """Runs `status`; null where there is none."""
        ...

    async def tool(self, call: PluginCall, name: str, arguments: bytes) -> Returned | Failure:
        """Runs a declared tool. The code of a failure is `invalid_arguments` where JSON does not fit its type."""
        ...

    async def stop(self, call: PluginCall) -> Failure | None:
        """Runs `stop`, where there is one. The code of a failure is `stop_failed`."""
        ...

    def kill(self) -> bool:
        """Ends everything of the plugin at once. Returns False where that is impossible."""
        ...
