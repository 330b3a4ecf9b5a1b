import shutil
from pathlib import Path

import pytest

from yoi_daemon.daemon.certificates import load_certificates, open_certificates
from yoi_daemon.model.directories import Directories, find_directories
from yoi_daemon.model.errors import ConfigurationError
from yoi_daemon.model.settings import ApiSettings, ObserveSettings, Settings

FILES = Path(__file__).parents[1] / "data" / "tls"
BOTH = Settings(
    api=ApiSettings(tls_certificate="cert", tls_key="key"),
    observe=ObserveSettings(tls_certificate="cert", tls_key="key"),
)


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    return find_directories(str(tmp_path / "config"), str(tmp_path / "state"), {})


def _install(directories: Directories, certificate: str, key: str) -> None:
    directories.secrets.mkdir(parents=True, exist_ok=True)
    shutil.copy(FILES / f"{certificate}.pem", directories.secrets / "cert")
    shutil.copy(FILES / f"{key}.key", directories.secrets / "key")


def test_only_listeners_that_name_one_have_one(directories: Directories) -> None:
    _install(directories, "server", "server")
    assert open_certificates(Settings(), directories) == {}
    assert [*open_certificates(BOTH, directories)] == ["api", "observe"]


def test_every_fault_is_told_with_its_key_and_no_place(directories: Directories) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_certificates(BOTH, directories)
    assert [fault.key for fault in caught.value.faults] == [
        "api.tls_certificate",
        "observe.tls_certificate",
    ]
    assert all(str(directories.secrets) not in fault.expected for fault in caught.value.faults)


def test_what_is_half_renewed_changes_nothing(directories: Directories) -> None:
    _install(directories, "server", "server")
    certificates = open_certificates(BOTH, directories)
    before = certificates["api"].context, certificates["api"].pem
    _install(directories, "renewed", "server")
    with pytest.raises(ConfigurationError, match=r"api\.tls_key: is the key of another"):
        load_certificates(certificates, directories)
    assert (certificates["api"].context, certificates["api"].pem) == before
    _install(directories, "renewed", "renewed")
    loaded = load_certificates(certificates, directories)
    assert certificates["api"].pem == before[1]
    certificates["api"].use(loaded["api"])
    assert certificates["api"].pem != before[1]
