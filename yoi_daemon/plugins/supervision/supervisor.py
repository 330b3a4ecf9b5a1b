"""The task that keeps one service as it is wanted: it alone starts and ends generations.

Commands wait in line and are carried out here, one at a time, whatever becomes of those who asked: a
client that goes away in the middle of a restart leaves no service half restarted.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal

import trio

from yoi_daemon.model.errors import Refused
from yoi_daemon.model.settings import PluginSettings
from yoi_daemon.plugins.boots import Hold
from yoi_daemon.plugins.execution.calls import Calls
from yoi_daemon.plugins.lane.dispatcher import Lane
from yoi_daemon.plugins.lane.settlement import Settlement
from yoi_daemon.plugins.loading.loader import LoadedPlugin
from yoi_daemon.plugins.supervision.generation import Generation, StopTimes, stop_times
from yoi_daemon.plugins.supervision.lifecycle import Lifecycle
from yoi_daemon.plugins.supervision.restart import RestartPolicy

CommandName = Literal["start", "stop", "restart", "replace", "retire"]


class Command:
    """One thing asked of a supervisor. `done` is set when it was carried out or `refused`."""

    def __init__(
        self,
        name: CommandName,
        loaded: LoadedPlugin | None = None,
        settings: PluginSettings | None = None,
    ) -> None:
        self.name: CommandName = name
        self.loaded = loaded
        self.settings = settings
        self.done = trio.Event()
        self.refused: Refused | None = None

    async def outcome(self) -> None:
        """Waits until it was carried out. Raises `Refused` where it could not be."""
        await self.done.wait()
        if self.refused is not None:
            raise self.refused


class Supervisor:
    """Supervises one service. `load` loads what there is, or notes that it cannot be; `make_generation` gives a
    run of what is loaded now; `take` takes another version.
    """

    def __init__(
        self,
        settings: PluginSettings,
        *,
        lane: Lane,
        lifecycle: Lifecycle,
        settlement: Settlement,
        clock: Callable[[], float],
        uniform: Callable[[float, float], float],
        load: Callable[[], Awaitable[None]],
        make_generation: Callable[[], Generation],
        take: Callable[[LoadedPlugin, PluginSettings], None],
        on_gave_up: Callable[[float], None],
        on_retired: Callable[[], object],
    ) -> None:
        self.settings = settings
        self.loaded: LoadedPlugin | None = None
        self.held: Hold | None = None
        """Why it is not loaded, until it is taken or a command says otherwise."""
        self.policy = RestartPolicy(settings, uniform)
        self.generation: Generation | None = None
        """The run that is under way."""
        self.calls: Calls | None = None
        """Status and tools under way, while it is supervised."""
        self.is_wedged = False
        self.is_retired = False
        self._lane = lane
        self._lifecycle = lifecycle
        self._settlement = settlement
        self._clock = clock
        self._load = load
        self._make_generation = make_generation
        self._take = take
        self._on_gave_up = on_gave_up
        self._on_retired = on_retired
        self._wanted = True
        self._is_ending = False
        self._commands: deque[Command] = deque()
        self._wake = trio.Event()

    # -- asked from other tasks

    def submit(self, command: Command) -> Command:
        """Puts a command in line. One that cannot be carried out any more is refused at once."""
        try:
            self._refuse_when_over()
        except Refused as refused:
            command.refused = refused
            command.done.set()
        else:
            self._commands.append(command)
            self._wake.set()
        return command

    async def ask(self, command: Command) -> None:
        """Puts a command in line and waits for it. Cancelling the wait does not take it back.

        Raises `Refused`: `invalid_state`, and `draining` when the daemon stops.
        """
        await self.submit(command).outcome()

    async def end(self, budget_s: float) -> None:
        """Ends the service with the daemon, ahead of all commands: the handler in hand may finish.

        Returns when everything has ended or was given up, in about `budget_s` at most.
        """
        self._is_ending = True
        self._want(wanted=False)
        generation = self.generation
        if generation is not None and not self.is_wedged:
            await self._end_generation(generation, stop_times(self.settings, budget_s))
        if self.calls is not None:
            self.calls.cancel(grace_s=0.1 * budget_s)
            await self.calls.wait_over()

    def give_up(self) -> None:
        """What runs ignores its cancellation: nothing is started any more."""
        self.is_wedged = True
        self._want(wanted=False)
        self._lane.seal()
        if self.generation is not None:
            self.generation.is_over.set()

    # -- the task

    async def run(self) -> None:
        """Loads the plugin and keeps its service as wanted, until cancelled or retired."""
        async with trio.open_nursery() as nursery:
            self.calls = Calls(nursery, self._clock)
            if self.loaded is None and self.held is None and not self._is_ending:
                await self._load()
            while not self.is_retired:
                command = await self._next_command()
                if command is None:
                    self._begin(nursery)
                    continue
                try:
                    await self._carry_out(command, nursery)
                except Refused as refused:
                    command.refused = refused
                finally:
                    command.done.set()
            self._refuse_the_rest()

    async def _next_command(self) -> Command | None:
        """The next command, or None when the service is to be started now."""
        while not self._commands:
            if self._wake.is_set():
                self._wake = trio.Event()
            retry_at_s = self._lifecycle.retry_at_s
            if not self._may_begin():
                await self._wake.wait()
            elif retry_at_s is None or self._clock() >= retry_at_s:
                return None
            else:
                with trio.move_on_after(retry_at_s - self._clock()):
                    await self._wake.wait()
        return self._commands.popleft()

    def _may_begin(self) -> bool:
        return (
            self._wanted
            and not self.is_wedged
            and self.generation is None
            and self.loaded is not None
            and self.loaded.manifest.has_service
        )

    async def _carry_out(self, command: Command, nursery: trio.Nursery) -> None:
        match command.name:
            case "start":
                if not await self._load_held():
                    self._check_service("start")
                    self._start(nursery)
            case "stop":
                self._check_service("stop")
                await self._stop()
            case "restart":
                if not await self._load_held():
                    self._check_service("restart")
                    await self._stop()
                    self._start(nursery)
            case "replace":
                assert command.loaded is not None
                assert command.settings is not None
                by_command = self.held is None
                was_stopped = by_command and self._lifecycle.state in ("stopping", "stopped")
                await self._stop()
                self._take(command.loaded, command.settings)
                if not was_stopped and command.loaded.manifest.has_service:
                    self._start(nursery)
            case "retire":
                await self._retire()

    async def _load_held(self) -> bool:
        """An operator's word loads what was held back; says whether that was all, for want of a service."""
        if self.held is None:
            return False
        self.held = None
        await self._load()
        return self.loaded is not None and not self.loaded.manifest.has_service

    def _check_service(self, verb: str) -> None:
        self._refuse_wedged()
        if self.held is not None:
            raise Refused("invalid_state", f"it is not loaded: {self.held.message}")
        if self.loaded is None:
            raise Refused(
                "invalid_state",
                f"the module could not be loaded: {self._lifecycle.reason.message}; correct it, then reload",
            )
        if not self.loaded.manifest.has_service:
            raise Refused("invalid_state", f"this plugin has no service to {verb}")

    def _start(self, nursery: trio.Nursery) -> None:
        self._refuse_when_over()
        if self._lifecycle.state in ("starting", "running"):
            return
        self.policy.clear()
        self._want(wanted=True)
        self._begin(nursery)

    async def _stop(self) -> None:
        """Drains and stops, in the plugin's own times. Raises `Refused` where it is or becomes wedged."""
        self._refuse_wedged()
        self._want(wanted=False)
        if self.generation is not None:
            await self._end_generation(self.generation, stop_times(self.settings))
            self._refuse_wedged()
        elif self._lifecycle.state in ("ready", "failed") and self._has_service():
            self._lifecycle.move("stopped", "stopped", "stopped by command")

    async def _retire(self) -> None:
        if not self.is_wedged:
            self._want(wanted=False)
            if self.generation is not None:
                await self._end_generation(self.generation, stop_times(self.settings))
        self.is_retired = True
        if self.calls is not None:
            self.calls.cancel()
            await self.calls.wait_over()
        self._on_retired()

    async def _end_generation(self, generation: Generation, times: StopTimes) -> None:
        if self._lifecycle.state in ("starting", "running"):
            self._lifecycle.move("stopping", "stopping", "asked to stop")
        self._lane.wake_waiters()
        generation.ask_to_stop(times)
        await generation.is_over.wait()

    def _begin(self, nursery: trio.Nursery) -> None:
        generation = self.generation = self._make_generation()
        self._lifecycle.restarts = self.policy.restarts
        self._lifecycle.move("starting", "starting", "start was called")
        nursery.start_soon(self._run_generation, generation)

    async def _run_generation(self, generation: Generation) -> None:
        try:
            await generation.run()
            self._settle(generation)
        finally:
            self.generation = None
            if self.calls is not None:
                self.calls.cancel(only_bound=True)
            generation.is_over.set()
            self._wake.set()

    def _settle(self, generation: Generation) -> None:
        """Moves on from a generation's end, and decides whether and when there is another."""
        if self.is_wedged:
            return  # the state is failed, and stays so
        end, hook = generation.end, generation.hook_failure
        if end.failed:
            self._settlement.note_error(end)
        if hook is not None:
            self._settlement.note_error(hook)
        lifecycle = self._lifecycle
        if lifecycle.state == "stopping":
            code, message = (
                ("stopped", "stopped by command") if hook is None else (hook.code, hook.message)
            )
            lifecycle.move("stopped", code, message)
            return
        restart = self.settings.restart
        if restart == "temporary" or (restart == "transient" and not end.failed):
            self._wanted = False
            if end.failed:
                lifecycle.move("failed", end.code, end.message)
            else:
                lifecycle.move("stopping", end.code, end.message)
                lifecycle.move("stopped", end.code, end.message)
            return
        following = self.policy.next_restart(self._clock())
        lifecycle.restarts = self.policy.restarts
        lifecycle.gave_up = following.gave_up
        code, message = end.code, end.message
        if not following.gave_up:
            self._settlement.counters["restarted"] += 1
        else:
            code, message = (
                "gave_up",
                f"restarted too often; the last time {end.code}: {end.message}",
            )
        lifecycle.move("failed", code, message, retry_in_s=following.delay_s)
        if following.gave_up:
            self._on_gave_up(following.delay_s)

    def _has_service(self) -> bool:
        return self.loaded is not None and self.loaded.manifest.has_service

    def _want(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._lifecycle.retry_at_s = None
        self._lifecycle.gave_up = False
        self._wake.set()

    def _refuse_wedged(self) -> None:
        if self.is_wedged:
            raise Refused(
                "invalid_state",
                f"{self._lifecycle.reason.message}; only a restart of the daemon frees it",
            )

    def _refuse_when_over(self) -> None:
        if self._is_ending:
            raise Refused("draining", "the daemon stops", retry_after_s=5.0)
        if self.is_retired:
            raise Refused("plugin_not_found", "this plugin was removed")

    def _refuse_the_rest(self) -> None:
        for command in self._commands:
            command.refused = Refused("plugin_not_found", "this plugin was removed")
            command.done.set()
        self._commands.clear()
