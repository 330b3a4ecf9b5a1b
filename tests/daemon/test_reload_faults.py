"""Whatever a reload meets is a refused reload that says where and why, and changes nothing."""

import json
import shutil
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from yoi_daemon.daemon.certificates import open_certificates
from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.daemon.reloading import reload
from yoi_daemon.daemon.settings_file import read_settings
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.tokens import TokenRecord

FILES = Path(__file__).parents[1] / "data" / "tls"
TLS = "[store]\nkind = 'memory'\n[api]\ntls_certificate = 'cert'\ntls_key = 'key'\n"
PLUGIN = """
from yoi_daemon.sdk import Config, Plugin
class Wanted(Config):
    x: int = 0
    def __post_init__(self):
        if self.x:
            {does}
plugin = Plugin("gen", config=Wanted)
@plugin.ingress("take")
async def take(ctx, event): ...
"""


class Records:
    """Keeps no token; raises `error` when it is read."""

    error: Exception | None = None

    def load(self) -> Sequence[TokenRecord]:
        if self.error is not None:
            raise self.error
        return ()

    def save(self, records: Sequence[TokenRecord]) -> None: ...


@pytest.fixture
def directories(tmp_path) -> Directories:
    found = Directories(tmp_path / "config", tmp_path / "state", tmp_path / "state" / "secrets")
    found.plugins.mkdir(parents=True)
    found.secrets.mkdir(parents=True)
    found.config_file.write_text(TLS)
    install(found, "server")
    return found


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
async def daemon(directories, records) -> AsyncGenerator[Daemon]:
    settings = read_settings(directories, {})
    certificates = open_certificates(settings, directories)
    tokens = Tokens("yoi_t", keeper=records)
    async with open_daemon(directories, settings, tokens, {}, certificates=certificates) as daemon:
        daemon.daemon_file.write({"pid": 1}, [one.pem for one in certificates.values()])
        yield daemon
        await daemon.plugins.shutdown(budget_s=1)


def install(directories: Directories, name: str) -> None:
    shutil.copy(FILES / f"{name}.pem", directories.secrets / "cert")
    shutil.copy(FILES / f"{name}.key", directories.secrets / "key")


def trusted(daemon: Daemon) -> list[str]:
    """The certificates that `daemon.json` has local clients trust."""
    pem = json.loads((daemon.directories.state / "daemon.json").read_text())["certificates"]
    return [
        part + "-----END CERTIFICATE-----\n"
        for part in pem.split("-----END CERTIFICATE-----\n")[:-1]
    ]


def change_everything(directories: Directories) -> None:
    install(directories, "renewed")
    directories.config_file.write_text(TLS + "[daemon]\nlog_level = 'error'\n")
    (directories.plugins / "new.py").write_text(PLUGIN.format(does="...").replace('"gen"', '"new"'))


async def refusal(daemon: Daemon) -> str:
    """Reloads, which is to be refused with one fault and to leave everything as it was."""
    settings, services = daemon.settings, dict(daemon.plugins.services)
    context, published = daemon.certificates["api"].context, trusted(daemon)
    with pytest.raises(Refused) as caught:
        await reload(daemon)
    (fault,) = caught.value.fields["faults"]
    assert str(daemon.directories.state) not in fault
    assert daemon.settings is settings
    assert dict(daemon.plugins.services) == services
    assert daemon.certificates["api"].context is context
    assert trusted(daemon) == published
    (shown,) = daemon.status().diagnostics
    assert shown.code == "reload_refused"
    assert fault in shown.message
    return fault


async def test_a_daemon_file_that_cannot_be_written_refuses_the_reload(daemon, directories):
    change_everything(directories)
    in_the_way = directories.state / "daemon.json.new"
    in_the_way.mkdir()
    assert "daemon.json cannot be read or made" in await refusal(daemon)
    in_the_way.rmdir()
    assert (await reload(daemon)).plugins == ("new",)
    assert trusted(daemon) == [daemon.certificates["api"].pem]


async def test_a_trusted_certificate_block_refuses_the_reload(daemon, directories):
    """OpenSSL takes it for a certificate; the clients that are to trust it do not."""
    certificate = directories.secrets / "cert"
    own, heading, issuer = certificate.read_text().rpartition("-----BEGIN")
    own = own.replace(" CERTIFICATE-----", " TRUSTED CERTIFICATE-----")
    certificate.write_text(own + heading + issuer)
    assert "api.tls_certificate: does not begin with a block BEGIN C" in await refusal(daemon)


@pytest.mark.parametrize("does", ["raise SystemExit(3)", "raise KeyboardInterrupt", "1 / 0"])
async def test_what_an_authors_settings_raise_refuses_the_reload(daemon, directories, does):
    (directories.plugins / "gen.py").write_text(PLUGIN.format(does=does))
    await reload(daemon)
    await daemon.plugins.wait_settled()
    directories.config_file.write_text(TLS + "[plugins.gen.config]\nx = 1\n")
    assert await refusal(daemon) == (
        "definition_error: plugins/gen: Wanted cannot be read from TOML: "
        f"{'ZeroDivisionError' if does == '1 / 0' else does.split()[1].partition('(')[0]}; "
        "its fields need types that msgspec converts"
    )


async def test_settings_that_do_not_compare_are_taken_as_changed(daemon, directories):
    compares = "\n    def __eq__(self, other):\n        raise SystemExit\nplugin ="
    source = PLUGIN.format(does="...").replace("\nplugin =", compares)
    (directories.plugins / "gen.py").write_text(source)
    await reload(daemon)
    assert (await reload(daemon)).plugins == ("gen",)


async def test_an_error_of_the_daemons_own_refuses_the_reload_with_its_place(
    daemon, directories, records, logged_errors
):
    change_everything(directories)
    records.error = AssertionError("never")
    fault = await refusal(daemon)
    assert fault.startswith("AssertionError at front/tokens.py:")
    logged_errors.expect("reload failed")
    records.error = None
    assert (await reload(daemon)).plugins == ("new",)


async def test_local_clients_trust_both_certificates_until_the_old_one_is_out_of_use(
    daemon, directories
):
    """A daemon that begins to stop ends the reload between the file and the use."""
    old = daemon.certificates["api"].pem
    change_everything(directories)
    daemon.begin_draining()
    with pytest.raises(Refused, match="draining"):
        await reload(daemon)
    assert daemon.plugins.services == {}
    assert daemon.certificates["api"].pem == old
    assert trusted(daemon)[0] == old
    assert trusted(daemon)[1] in (FILES / "renewed.pem").read_text()


async def test_a_reload_that_is_cancelled_is_taken_whole_or_not_at_all(daemon, directories):
    change_everything(directories)
    outcomes: set[tuple[bool, ...]] = set()
    for checkpoints in range(0, 400, 8):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reload, daemon)
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        outcomes.add(
            (
                daemon.settings.daemon.log_level == "error",
                "new" in daemon.plugins.services,
                daemon.certificates["api"].pem in (FILES / "renewed.pem").read_text(),
            )
        )
    assert outcomes <= {(False, False, False), (True, True, True)}
    await reload(daemon)
    assert trusted(daemon) == [daemon.certificates["api"].pem]


STUBBORN = """
import trio
from yoi_daemon.sdk import Plugin
plugin = Plugin("stubborn")
released = trio.Event()
@plugin.start
async def start(ctx): ...
@plugin.stop
async def stop(ctx):
    with trio.CancelScope(shield=True):
        await released.wait()
"""


async def test_where_a_replaced_service_ignores_its_end_everything_else_is_taken(
    daemon, directories, mock_clock, logged_errors
):
    module = directories.plugins / "stubborn.py"
    module.write_text(STUBBORN)
    await reload(daemon)
    await daemon.plugins.wait_settled()
    service = daemon.plugins.service("stubborn")
    released = sys.modules[service.installed.loaded.module].released
    change_everything(directories)
    module.write_text(STUBBORN + "changed = True\n")
    refusals: list[Refused] = []

    async def reload_refused() -> None:
        with pytest.raises(Refused) as caught:
            await reload(daemon)
        refusals.append(caught.value)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reload_refused)
            while service.lifecycle.state == "running":
                await service.lifecycle.changed.wait()
            while service.lifecycle.state == "stopping":
                await wait_all_tasks_blocked()
                mock_clock.jump(5)
    finally:
        released.set()
    (refused,) = refusals
    assert refused.detail == "everything was taken but these plugins"
    assert refused.fields["faults"][0].startswith("stubborn: start or stop ignores its cancell")
    assert "new" in daemon.plugins.services
    assert daemon.settings.daemon.log_level == "error"
    assert daemon.status().diagnostics == ()
    logged_errors.expect("wedged")
