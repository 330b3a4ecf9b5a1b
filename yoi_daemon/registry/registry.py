"""From a runtime's id to the runtime: the only address of a worker is `runtime_id + worker_id`."""

from collections.abc import Mapping

import trio

from yoi_daemon.model.errors import Refused
from yoi_daemon.model.workers import Diagnostic, RuntimeSummary, WorkerPage, WorkerSummary
from yoi_daemon.registry.interface import Runtime


class Registry:
    """The runtimes of one daemon."""

    def __init__(self, runtimes: Mapping[str, Runtime]) -> None:
        self._runtimes = dict(runtimes)

    def runtime(self, runtime_id: str) -> Runtime:
        """One runtime. Raises `Refused` (`runtime_not_found`)."""
        runtime = self._runtimes.get(runtime_id)
        if runtime is None:
            known = ", ".join(sorted(self._runtimes))
            raise Refused("runtime_not_found", f"there is no runtime of this id; there is {known}")
        return runtime

    async def all_workers(
        self, limit: int
    ) -> tuple[tuple[WorkerSummary, ...], tuple[Diagnostic, ...]]:
        """Returns up to `limit` workers of each runtime. One that refuses is a diagnostic, the rest is listed."""
        listed: dict[str, WorkerPage] = {}
        diagnostics: list[Diagnostic] = []

        async def ask(runtime_id: str, runtime: Runtime) -> None:
            try:
                page = listed[runtime_id] = await runtime.workers(limit=limit)
            except Refused as refused:
                message = f"runtime {runtime_id} is left out: {refused.detail}"
                diagnostics.append(Diagnostic(code=refused.code, severity="error", message=message))
                return
            if page.next is not None:
                message = f"runtime {runtime_id} has more; list it by itself"
                diagnostics.append(Diagnostic(code="list_cut", severity="info", message=message))

        # All at once: one that does not answer costs its own deadline, and no other's.
        async with trio.open_nursery() as nursery:
            for runtime_id, runtime in self._runtimes.items():
                nursery.start_soon(ask, runtime_id, runtime)
        items = [found for name in self._runtimes if name in listed for found in listed[name].items]
        return tuple(items), tuple(sorted(diagnostics, key=lambda found: found.message))

    @property
    def runtimes(self) -> Mapping[str, Runtime]:
        """Returns the runtimes by id."""
        return self._runtimes

    def summaries(self) -> tuple[RuntimeSummary, ...]:
        """Returns all runtimes as the API shows them."""
        return tuple(runtime.summary() for runtime in self._runtimes.values())
