"""Whatever a client sends, the process lives, serves others, gives back its descriptors, and ends."""

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.hostile.clients import Client, over_tls
from tests.hostile.heads import heads
from tests.hostile.http_clients import http_clients
from tests.hostile.process import Server
from tests.hostile.tls_clients import tls_clients
from tests.hostile.websocket_clients import websocket_clients

pytestmark = pytest.mark.prove

PLAIN = [*heads(), *http_clients(), *websocket_clients()]
TLS = [*tls_clients()]
PLAIN_OVER_TLS = [*map(over_tls, PLAIN)]
CLIENTS = [*PLAIN, *TLS, *PLAIN_OVER_TLS]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Of those that only come over TLS as well, every fifth is for every day."""
    if "client" in metafunc.fixturenames:
        full = metafunc.config.getoption("--full")
        chosen = CLIENTS if full else [*PLAIN, *TLS, *PLAIN_OVER_TLS[::5]]
        metafunc.parametrize("client", chosen, ids=[client.id for client in chosen])


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Generator[dict[str, Future[None]]]:
    """Every selected client's run, several at a time: most of each is waiting."""
    selected = {item.name for item in request.session.items}
    chosen = [client for client in CLIENTS if f"test_survives[{client.id}]" in selected]
    with ThreadPoolExecutor(6) as pool:
        yield {client.id: pool.submit(_survive, client) for client in chosen}


def _survive(client: Client) -> None:
    needs_tls = {"tls": 1.0} if client.listeners[0] in ("https", "wss") else {}
    with Server("guarded", {**client.options, **needs_tls}) as server:
        for listener in client.listeners:
            received = client.attack(server.port[listener])
            assert server.alive
            assert (received or b"").startswith(client.expect), received
        server.check_health()
        server.check_descriptors()
        server.check_log(server.terminate())


def test_survives(client: Client, outcomes: dict[str, Future[None]]) -> None:
    outcomes[client.id].result()


def test_every_client_has_a_name_of_its_own() -> None:
    assert len({client.id for client in CLIENTS}) == len(CLIENTS) >= 400
