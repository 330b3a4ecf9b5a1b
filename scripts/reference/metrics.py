"""`metrics`: every family that the daemon has of its own."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import trio
from prometheus_client.core import Metric

from scripts.reference.text import sentence, table
from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.settings import MemoryStoreSettings, Settings
from yoi_daemon.monitoring.metrics import DaemonCollector

SUFFIX = {"counter": "_total"}


def render(families: Iterable[Metric] | None = None) -> str:
    rows = [
        (
            f"`{family.name}{SUFFIX.get(family.type, '')}`",
            family.type,
            ", ".join(f"`{label}`" for label in getattr(family, "_labelnames", ())) or "none",
            sentence(family.documentation, family.name),
        )
        for family in (trio.run(_families) if families is None else families)
    ]
    return table(("metric", "type", "labels", "meaning"), rows)


async def _families() -> list[Metric]:
    """Those of a daemon that was just opened, without plugins."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        directories = Directories(root / "config", root / "state", root / "secrets")
        directories.state.mkdir()
        settings = Settings(store=MemoryStoreSettings())
        async with open_daemon(directories, settings, Tokens("token"), environ={}) as daemon:
            return list(DaemonCollector(daemon).collect())
