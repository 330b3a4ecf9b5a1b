"""Worker commands for plugins, as far as the configuration grants them."""

from collections.abc import Callable, Sequence

from yoi_daemon.model.errors import Refused
from yoi_daemon.model.ids import EMBEDDED_RUNTIME_ID
from yoi_daemon.model.settings import Grant
from yoi_daemon.model.workers import Receipt, TranscriptPage, WhenBusy
from yoi_daemon.registry.registry import Registry


class GrantedWorkers:
    """Implements `sdk.Workers` over the registry's embedded runtime."""

    def __init__(
        self,
        registry: Registry,
        plugin_id: str,
        grants: Sequence[Grant],
        check: Callable[[], None],
        correlation_id: str | None,
    ) -> None:
        self._runtime = registry.runtime(EMBEDDED_RUNTIME_ID)
        self._plugin_id = plugin_id
        self._grants = grants
        self._check = check
        self._correlation_id = correlation_id

    async def create(
        self, *, profile: str = "builtin:echo", label: str = "", input: str | None = None
    ) -> Receipt:
        self._require("workers:command")
        return await self._runtime.create(
            profile=profile, label=label, input=input, correlation_id=self._correlation_id
        )

    async def send(self, worker_id: str, text: str, *, when_busy: WhenBusy = "queue") -> Receipt:
        self._require("workers:command")
        return await self._runtime.send(
            worker_id, text, when_busy=when_busy, correlation_id=self._correlation_id
        )

    async def transcript(self, worker_id: str, *, limit: int = 100) -> TranscriptPage:
        self._require("workers:read")
        return await self._runtime.transcript(worker_id, limit=limit)

    def _require(self, grant: Grant) -> None:
        self._check()
        # Who may command may read what came of it.
        if grant not in self._grants and not (
            grant == "workers:read" and "workers:command" in self._grants
        ):
            raise Refused(
                "forbidden",
                f'plugin {self._plugin_id} has no grant "{grant}"; '
                f"add it to grants in [plugins.{self._plugin_id}]",
            )
