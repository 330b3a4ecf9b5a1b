"""From a runtime's id to the runtime: the only address of a worker is `runtime_id + worker_id`."""

from collections.abc import Mapping

from yoi_daemon.model.errors import Refused
from yoi_daemon.model.workers import RuntimeSummary
from yoi_daemon.runtime.interface import Runtime


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

    @property
    def runtimes(self) -> Mapping[str, Runtime]:
        """The runtimes by id."""
        return self._runtimes

    def summaries(self) -> tuple[RuntimeSummary, ...]:
        """All runtimes as the API shows them."""
        return tuple(runtime.summary() for runtime in self._runtimes.values())
