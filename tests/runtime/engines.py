"""Engines that do what engines may do: answer in parts, fail, hang, go on when they should not."""

from collections.abc import Sequence

import trio

from yoi_daemon.runtime.engines.interface import ItemWriter, Turn, TurnClosedError


class StreamingEngine:
    """Answers with `parts` items; waits for `may_go_on` before each but the first."""

    def __init__(self, parts: int = 3) -> None:
        self.parts = parts
        self.may_go_on = trio.Event()
        self.wrote_first = trio.Event()

    async def run(self, turn: Turn) -> None:
        for number in range(self.parts):
            await turn.append("assistant", f"{turn.input} part {number}")
            self.wrote_first.set()
            await self.may_go_on.wait()


class FailingEngine:
    """Answers, then raises `error`; with an input of `fine` it does not."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error or ValueError("the secret of the engine")

    async def run(self, turn: Turn) -> None:
        await turn.append("assistant", "so far so good")
        if turn.input != "fine":
            raise self.error


class HangingEngine:
    """Never ends by itself. An input of `quick` is answered at once."""

    def __init__(self) -> None:
        self.hangs = trio.Event()

    async def run(self, turn: Turn) -> None:
        if turn.input == "quick":
            await turn.append("assistant", "quick")
            return
        self.hangs.set()
        await trio.sleep_forever()


class EndlessEngine:
    """Appends for ever, without another wait of its own."""

    async def run(self, turn: Turn) -> None:
        while True:
            await turn.append("assistant", "more")


class LateEngine:
    """Keeps every turn it was given; with an input of `last words` it writes while it is cancelled."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.hangs = trio.Event()
        self.refused: list[str] = []

    async def run(self, turn: Turn) -> None:
        self.turns.append(turn)
        if turn.input == "hang":
            self.hangs.set()
            await trio.sleep_forever()
        await turn.append("assistant", f"answer to {turn.input}")

    async def write_late(self, turn: Turn) -> None:
        try:
            await turn.append("assistant", "too late")
        except TurnClosedError as error:
            self.refused.append(str(error))


class MirrorEngine:
    """Tells what it was given: the input, and the history's texts."""

    async def run(self, turn: Turn) -> None:
        assert turn.history[-1].text == turn.input
        await turn.append("assistant", "|".join(item.text for item in turn.history))


class StubbornEngine:
    """Ignores its cancellation until `may_end`, then writes. An input of `quick` is answered at once."""

    def __init__(self) -> None:
        self.hangs = trio.Event()
        self.may_end = trio.Event()
        self.refused: list[str] = []
        self.swallowed = 0

    async def run(self, turn: Turn) -> None:
        if turn.input == "quick":
            await turn.append("assistant", "quick")
            return
        self.hangs.set()
        try:
            await self.may_end.wait()
        except trio.Cancelled:  # noqa: ASYNC103
            self.swallowed += 1
            with trio.CancelScope(shield=True):
                await self.may_end.wait()
        try:
            await turn.append("assistant", "too late")
        except TurnClosedError as error:
            self.refused.append(str(error))


class SpinningEngine:
    """Swallows every cancellation and waits again, which spins for as long as one is pending."""

    def __init__(self) -> None:
        self.hangs = trio.Event()
        self.may_end = trio.Event()
        self.swallowed = 0

    async def run(self, turn: Turn) -> None:
        self.hangs.set()
        while not self.may_end.is_set():
            try:
                await self.may_end.wait()
            except BaseException:  # noqa: ASYNC103, BLE001
                self.swallowed += 1


class CrashingEngine:
    """Ends itself, as a library's `sys.exit` does. An input of `fine` is answered."""

    async def run(self, turn: Turn) -> None:
        if turn.input != "fine":
            raise SystemExit(3)
        await turn.append("assistant", "fine")


class TellingEngine:
    """Writes its answer part by part, `pause_s` after each; an input of `fall silent` waits after two for ever."""

    def __init__(self, parts: Sequence[str], pause_s: float = 0.0) -> None:
        self.parts = parts
        self.pause_s = pause_s
        self.hangs = trio.Event()
        self.item: ItemWriter | None = None

    async def run(self, turn: Turn) -> None:
        async with turn.stream("assistant") as self.item:
            for number, part in enumerate(self.parts):
                if turn.input == "fall silent" and number == 2:
                    self.hangs.set()
                    await trio.sleep_forever()
                await self.item.write(part)
                if self.pause_s:
                    await trio.sleep(self.pause_s)
