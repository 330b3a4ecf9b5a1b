"""`echo`: answers with what it was told. Deterministic, without tools; what is there when nothing is."""

from yoi_daemon.runtime.engines.interface import Turn


class EchoEngine:
    """See `Engine`."""

    async def run(self, turn: Turn) -> None:
        await turn.append("assistant", turn.input)
