"""The listeners' TLS certificates, from the secrets directory."""

from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from yoi_daemon.front.tls import BadCertificate, Certificate, Loaded
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import ConfigFault, ConfigurationError
from yoi_daemon.model.settings import ListenerSettings, Settings

ListenerName = Literal["api", "observe"]
Certificates = Mapping[ListenerName, Certificate]

T = TypeVar("T")


def open_certificates(settings: Settings, directories: Directories) -> Certificates:
    """Opens the certificate of each listener with TLS. Raises `ConfigurationError` with every fault."""
    makers: dict[ListenerName, Callable[[], Certificate]] = {}
    sections: Mapping[ListenerName, ListenerSettings] = {
        "api": settings.api,
        "observe": settings.observe,
    }
    for name, section in sections.items():
        if section.tls_certificate is not None and section.tls_key is not None:
            chain = directories.secrets / section.tls_certificate
            key = directories.secrets / section.tls_key
            makers[name] = lambda chain=chain, key=key: Certificate(chain, key)
    return _all_or_faults(makers, directories)


def load_certificates(
    certificates: Certificates, directories: Directories
) -> Mapping[ListenerName, Loaded]:
    """Reads the files again and changes nothing. Raises `ConfigurationError` with every fault."""
    return _all_or_faults(
        {name: certificate.load for name, certificate in certificates.items()}, directories
    )


def _all_or_faults(
    makers: Mapping[ListenerName, Callable[[], T]], directories: Directories
) -> dict[ListenerName, T]:
    made: dict[ListenerName, T] = {}
    faults: list[ConfigFault] = []
    for name, make in makers.items():
        try:
            made[name] = make()
        except BadCertificate as bad:
            file, key = str(directories.config_file), f"{name}.tls_{bad.part}"
            faults.append(ConfigFault(file=file, key=key, expected=bad.reason))
    if faults:
        raise ConfigurationError(faults)
    return made
