from collections.abc import AsyncGenerator

import pytest

from tests.api.asgi import Client
from yoi_daemon.api.app import Application
from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.front.access import names_of
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.addresses import TcpAddress
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.settings import MemoryStoreSettings, Settings
from yoi_daemon.monitoring.metrics import register_metrics

TOKEN = "yoi_admin"
NAMES = names_of([TcpAddress("127.0.0.1", 7420)], [], ["https://app.example"])


@pytest.fixture
async def daemon(tmp_path, wall_clock) -> AsyncGenerator[Daemon]:
    """A whole daemon without plugins and without listeners."""
    directories = Directories(tmp_path / "config", tmp_path / "state", tmp_path / "secrets")
    directories.state.mkdir()
    async with open_daemon(
        directories,
        Settings(store=MemoryStoreSettings()),
        Tokens(TOKEN),
        environ={},
        wall_clock=wall_clock,
    ) as one:
        register_metrics(one)
        yield one


@pytest.fixture
def client(daemon: Daemon) -> Client:
    return Client(Application(daemon, NAMES), "127.0.0.1:7420", TOKEN)
