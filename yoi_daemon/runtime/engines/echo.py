"""`echo`: answers with its input. Deterministic, without tools or configuration."""

from yoi_daemon.runtime.engines.interface import Turn


class EchoEngine:
    """Implements `Engine`."""

    async def run(self, turn: Turn) -> None:
        await turn.append("assistant", turn.input)
