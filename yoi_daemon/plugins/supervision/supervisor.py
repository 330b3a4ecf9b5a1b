"""The task that keeps one service as it is wanted: it alone loads, starts and ends it.

Commands wait in line and are carried out here, one at a time, whatever becomes of those who asked: a
client that goes away in the middle of a restart leaves no service half restarted.
"""

from collections import deque
from functools import partial

import trio

from yoi_daemon.cancellation import GuardedCall
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import Draft, PluginGaveUp
from yoi_daemon.plugins.delivery import Attempt
from yoi_daemon.plugins.execution.calls import Calls
from yoi_daemon.plugins.execution.interface import NOT_READY
from yoi_daemon.plugins.supervision.commands import ServiceCommand
from yoi_daemon.plugins.supervision.generation import (
    Generation,
    GenerationEnd,
    GenerationParts,
    StopTimes,
    stop_times,
)
from yoi_daemon.plugins.supervision.installation import Installation, Installed
from yoi_daemon.plugins.supervision.parts import HostServices, Supervised
from yoi_daemon.plugins.supervision.restart import Restart, RestartPolicy


class Supervisor:
    """Supervises one service.

    A generation is `next` until its `start` has returned, then `current`: it alone dispatches, once the
    host lets handlers be called.
    """

    def __init__(self, subject: Supervised, installation: Installation, host: HostServices) -> None:
        self.current: Generation | None = None
        """The generation that runs, or that stops."""
        self.next: Generation | None = None
        """The generation that starts."""
        self.policy = RestartPolicy(host.uniform)
        self.is_wedged = False
        """Something of the plugin ignores its cancellation: nothing more is started."""
        self.is_retired = False
        self._plugin_id = subject.plugin_id
        self._lane = subject.lane
        self._lifecycle = subject.lifecycle
        self._settlement = subject.settlement
        self._on_retired = subject.on_retired
        self._installation = installation
        self._host = host
        self._calls: Calls | None = None
        self._wanted = True
        self._is_ending = False
        self._wake = trio.Event()
        self._commands: deque[ServiceCommand] = deque()

    # -- questions

    @property
    def _installed(self) -> Installed:
        return self._installation.installed

    @property
    def generations(self) -> tuple[Generation, ...]:
        """Returns those that have not ended: `current`, then `next`."""
        return tuple(run for run in (self.current, self.next) if run is not None)

    def generation_of(self, call: GuardedCall) -> Generation | None:
        """The generation that a handler's, a start's or an end's call belongs to; None for a call beside the lane."""
        if isinstance(call, Attempt):
            return self.current
        return next((run for run in self.generations if run.life is call), None)

    @property
    def calls(self) -> Calls | None:
        """Returns the calls beside the lane, for one more; None while no call may begin."""
        return None if self.is_retired or self._is_ending else self._calls

    def calls_under_way(self) -> tuple[GuardedCall, ...]:
        """Returns the calls beside the lane whose function has not returned, wedged ones too."""
        return () if self._calls is None else self._calls.under_way()

    def refusal(self) -> Refused | None:
        """Returns why nothing more is begun, if so: `draining` or `plugin_not_found`."""
        if self._is_ending:
            return Refused("draining", "the daemon stops", retry_after_s=5.0)
        if self.is_retired:
            return Refused("plugin_not_found", "this plugin was removed")
        return None

    # -- asked from other tasks

    def submit(self, command: ServiceCommand) -> ServiceCommand:
        """Puts a command in line. One that cannot be carried out any more is refused at once."""
        if (refused := self.refusal()) is not None:
            command.end(refused)
        else:
            self._commands.append(command)
            self._look_again()
        return command

    async def ask(self, command: ServiceCommand) -> None:
        """Submits a command and waits for it. Cancelling the wait does not take it back.

        Raises `Refused`: `invalid_state`, `plugin_not_found`, and `draining` when the daemon stops.
        """
        await self.submit(command).outcome()

    async def end(self, budget_s: float) -> None:
        """Ends the service with the daemon, ahead of all commands: the handler in hand may finish.

        Returns when everything has ended or was given up, in about `budget_s` at most.
        """
        self._is_ending = True
        self._want(wanted=False)
        if not self.is_wedged:
            await self._end_generations(stop_times(self._installed.settings, budget_s))
        if self._calls is not None:
            self._calls.cancel(grace_s=0.1 * budget_s)
            await self._calls.wait_over()

    def give_up(self) -> None:
        """Something ignores its cancellation: nothing more is started."""
        self.is_wedged = True
        self._want(wanted=False)
        self._lane.seal()
        for generation in self.generations:
            generation.is_over.set()

    def note_wedged_call(self, call: GuardedCall) -> None:
        """A call beside the lane ignores its cancellation: nobody waits for it any more."""
        if self._calls is not None:
            self._calls.note_wedged(call)

    # -- the task

    async def run(self) -> None:
        """Loads the plugin and keeps its service as wanted, until cancelled or retired."""
        async with trio.open_nursery() as nursery:
            self._calls = Calls(nursery, self._host.clock)
            if not (self._installation.is_loaded.is_set() or self._is_ending):
                await self._installation.load()
            opener = trio.CancelScope()
            nursery.start_soon(self._open_first_gate, opener)
            while not self.is_retired:
                command = await self._next_command()
                if command is None:
                    self._begin(nursery)
                    continue
                refused: Refused | None = None
                try:
                    await self._carry_out(command, nursery)
                except Refused as error:
                    refused = error
                finally:
                    command.end(refused)
            opener.cancel()
            while self._commands:
                self._commands.popleft().end(self.refusal())

    async def _open_first_gate(self, scope: trio.CancelScope) -> None:
        with scope:
            await self._host.may_dispatch.wait()
            if self.current is not None:
                self.current.gate.open()

    async def _next_command(self) -> ServiceCommand | None:
        """Returns the next command, or None when the service is to be started now."""
        while not self._commands:
            if self._wake.is_set():
                self._wake = trio.Event()
            retry_at_s = self._lifecycle.retry_at_s
            if not self._may_begin():
                await self._wake.wait()
            elif retry_at_s is None or self._host.clock() >= retry_at_s:
                return None
            else:
                with trio.move_on_after(retry_at_s - self._host.clock()):
                    await self._wake.wait()
        return self._commands.popleft()

    def _may_begin(self) -> bool:
        return (
            self._wanted
            and not self.is_wedged
            and not self.generations
            and self._installed.has_service
        )

    async def _carry_out(self, command: ServiceCommand, nursery: trio.Nursery) -> None:
        match command.name:
            case "start":
                if not await self._installation.release():
                    self._check_service("start")
                    self._start(nursery)
            case "stop":
                self._check_service("stop")
                await self._stop()
            case "restart":
                if not await self._installation.release():
                    self._check_service("restart")
                    await self._stop()
                    self._start(nursery)
            case "replace":
                assert command.replacement is not None
                await self._replace(command.replacement, nursery)
            case "retire":
                await self._retire()

    # -- starting and stopping

    def _check_service(self, verb: str) -> None:
        self._refuse_wedged()
        installed = self._installed
        if installed.held is not None:
            raise Refused("invalid_state", f"it is not loaded: {installed.held.message}")
        if installed.loaded is None:
            raise Refused(
                "invalid_state",
                f"the module could not be loaded: {self._lifecycle.reason.message}; correct it, then reload",
            )
        if not installed.has_service:
            raise Refused("invalid_state", f"this plugin has no service to {verb}")

    def _start(self, nursery: trio.Nursery) -> None:
        self._refuse_when_over()
        if self.generations:
            return
        self.policy.clear()
        self._want(wanted=True)
        self._begin(nursery)

    async def _stop(self) -> None:
        """Drains and stops, in the plugin's own times. Raises `Refused` where it is or becomes wedged."""
        self._refuse_wedged()
        self._want(wanted=False)
        if self.generations:
            await self._end_generations(stop_times(self._installed.settings))
            self._refuse_wedged()
        elif self._installed.has_service:
            if self._lifecycle.state == "starting":  # between two tries
                self._lifecycle.move("stopping", "stopping", "asked to stop")
            if self._lifecycle.state != "stopped":
                self._lifecycle.move("stopped", "stopped", "stopped by command")

    async def _replace(self, replacement: Installed, nursery: trio.Nursery) -> None:
        assert replacement.loaded is not None
        by_command = self._installed.held is None
        was_stopped = by_command and self._lifecycle.state in ("stopping", "stopped")
        await self._stop()
        self._installation.take(replacement.loaded, replacement.settings)
        if not was_stopped and self._installed.has_service:
            self._start(nursery)

    async def _retire(self) -> None:
        if not self.is_wedged:
            self._want(wanted=False)
            await self._end_generations(stop_times(self._installed.settings))
        self.is_retired = True
        if self._calls is not None:
            self._calls.cancel()
            await self._calls.wait_over()
        self._on_retired()

    async def _end_generations(self, times: StopTimes) -> None:
        if not self.generations:
            return
        if self._lifecycle.state in ("starting", "running"):
            self._lifecycle.move("stopping", "stopping", "asked to stop")
        self._lane.wake_waiters()
        generations = self.generations
        for generation in generations:
            generation.ask_to_stop(times)
        for generation in generations:
            await generation.is_over.wait()

    # -- one generation

    def _begin(self, nursery: trio.Nursery) -> None:
        installed = self._installed
        assert installed.loaded is not None
        assert installed.executor is not None
        parts = GenerationParts(
            lane=self._lane,
            executor=installed.executor,
            clock=self._host.clock,
            boots=self._host.boots,
            run_timers=partial(self._host.run_timers, self._plugin_id, installed.loaded),
        )
        generation = Generation(installed.loaded, installed.settings, parts, observer=self)
        self.next = generation
        self._lifecycle.restarts = self.policy.restarts
        self._lifecycle.move("starting", "starting", "start was called")
        nursery.start_soon(self._run_generation, generation)

    async def _run_generation(self, generation: Generation) -> None:
        try:
            await generation.run()
            self._settle(generation)
        finally:
            if generation is self.current:
                self.current = None
            else:
                self.next = None
            self._cancel_bound_calls()
            generation.is_over.set()
            self._look_again()

    def note_running(self, generation: Generation) -> None:
        """See `GenerationObserver`."""
        self.current, self.next = generation, None
        self.policy.note_started()
        self._lifecycle.move("running", "running", "start returned")
        self._host.boots.came_up(self._plugin_id, generation.loaded.edition)
        if self._host.may_dispatch.is_set():
            generation.gate.open()

    def note_ending(self, generation: Generation) -> None:
        """See `GenerationObserver`."""
        self._cancel_bound_calls()

    def _cancel_bound_calls(self) -> None:
        if self._calls is not None:
            self._calls.cancel(only_bound=True)

    def _settle(self, generation: Generation) -> None:
        """Moves on from a generation's end, and decides whether and when there is another."""
        if self.is_wedged:
            return  # the state is failed, and stays so
        end, hook = generation.end, generation.hook_failure
        if end.failed:
            self._settlement.note_error(end)
        if hook is not None:
            self._settlement.note_error(hook)
        lifecycle, restart = self._lifecycle, self._installed.settings.restart
        if lifecycle.state == "stopping":
            code, message = (
                ("stopped", "stopped by command") if hook is None else (hook.code, hook.message)
            )
            lifecycle.move("stopped", code, message)
        elif end.code == NOT_READY:
            # No failure: no restart is spent, and every restart policy tries again.
            delay_s = self.policy.next_start(self._installed.settings, end.retry_after_s)
            lifecycle.move("starting", end.code, end.message, retry_in_s=delay_s)
        elif restart == "permanent" or (restart == "transient" and end.failed):
            self._restart_later(end)
        else:
            self._wanted = False
            if not end.failed:
                lifecycle.move("stopping", end.code, end.message)
            lifecycle.move("failed" if end.failed else "stopped", end.code, end.message)

    def _restart_later(self, end: GenerationEnd) -> None:
        following = self.policy.next_restart(self._installed.settings, self._host.clock())
        lifecycle, counters = self._lifecycle, self._settlement.counters
        lifecycle.restarts = self.policy.restarts
        lifecycle.gave_up = following.gave_up
        if not following.gave_up:
            counters["restarted"] += 1
            lifecycle.move("failed", end.code, end.message, retry_in_s=following.delay_s)
            return
        counters["gave_up"] += 1
        message = f"restarted too often; the last time {end.code}: {end.message}"
        lifecycle.move("failed", "gave_up", message, retry_in_s=following.delay_s)
        self._append_gave_up(following)

    def _append_gave_up(self, following: Restart) -> None:
        settings = self._installed.settings
        data = PluginGaveUp(
            restarts=settings.restart_attempts,
            within_s=settings.restart_window_s,
            retry_in_s=following.delay_s,
        )
        self._host.event_log.append(
            Draft(kind="plugin.gave_up", plugin_id=self._plugin_id, data=data)
        )

    def _want(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._lifecycle.retry_at_s = None
        self._lifecycle.gave_up = False
        self._look_again()

    def _look_again(self) -> None:
        self._wake.set()

    def _refuse_wedged(self) -> None:
        if self.is_wedged:
            raise Refused(
                "invalid_state",
                f"{self._lifecycle.reason.message}; only a restart of the daemon frees it",
            )

    def _refuse_when_over(self) -> None:
        if (refused := self.refusal()) is not None:
            raise refused
