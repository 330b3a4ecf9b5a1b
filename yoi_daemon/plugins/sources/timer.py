"""What feeds a service by itself: timers, each through the same queue as everything else."""

from collections.abc import Callable, Iterable

import trio

from yoi_daemon.model.manifest import IngressDeclaration, TimerSource


async def run_timers(
    ingresses: Iterable[IngressDeclaration], tick: Callable[[IngressDeclaration], None]
) -> None:
    """Calls `tick` for each timer ingress every `period_s`, until cancelled.

    Periods are counted from the start, so that they do not drift; periods that passed while the loop
    stood still are left out, not made up for. `tick` must not raise.
    """
    async with trio.open_nursery() as nursery:
        for spec in ingresses:
            if isinstance(spec.source, TimerSource):
                nursery.start_soon(_run_timer, spec, spec.source.period_s, tick)


async def _run_timer(
    spec: IngressDeclaration, period_s: float, tick: Callable[[IngressDeclaration], None]
) -> None:
    due = trio.current_time()
    while True:
        late_s = trio.current_time() - due
        due += period_s * (1 + late_s // period_s)
        await trio.sleep_until(due)
        tick(spec)
