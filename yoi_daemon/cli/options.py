"""The options that commands share, gathered into one value and shown under one heading."""

import functools
import os
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import click
import msgspec

from yoi_daemon.client.locate import Location, check_url, locate, locate_by_url
from yoi_daemon.model.directories import Directories, find_directories

P = ParamSpec("P")
R = TypeVar("R")


class ConnectionOption(click.Option):
    """An option that says which daemon a command is about. Help shows these apart."""


class Command(click.Command):
    """A command whose help shows its own options first, then those that most commands have."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the sections Options and Connection."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": [], "Connection": []}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                is_shared = isinstance(parameter, ConnectionOption)
                sections["Connection" if is_shared else "Options"].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """`--config`, `--state` and `--json`, as given."""

    config: str | None
    state: str | None
    as_json: bool

    def directories(self) -> Directories:
        """Returns the directories these options and the environment name. Raises `ConfigurationError`."""
        return find_directories(self.config, self.state, os.environ)


class Client(Common, frozen=True, kw_only=True):
    """The options of a command that talks to a running daemon."""

    url: str | None
    token_file: str | None
    ca_file: str | None = None

    def location(self) -> Location:
        """Returns the daemon to talk to. Raises `Unreachable` or `NotAllowed`, saying what to do."""
        if self.url is not None and self.token_file is not None:
            return locate_by_url(self.url, self.token_file, self.ca_file)
        return locate(self.state, os.environ)


def _option(*names: str, help: str, **settings: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    return click.option(*names, cls=ConnectionOption, help=help, **settings)


_CONFIG = _option("--config", metavar="DIR", help="Directory of the configuration.")
_STATE = _option("--state", metavar="DIR", help="Directory of the daemon's state.")
_JSON = _option("--json", "as_json", is_flag=True, help="Write JSON.")
_URL = _option("--url", metavar="URL", help="URL of the daemon's API; needs --token-file.")
_TOKEN_FILE = _option("--token-file", metavar="FILE", help="File with the token to use.")
_CA_FILE = _option(
    "--ca-file",
    metavar="FILE",
    help="Certificates to trust for an https URL, in place of the system's.",
)


def common_options(command: Callable[Concatenate[Common, P], R]) -> Callable[P, R]:
    """Gives `command` a `Common` as its first argument."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> R:
        common = Common(
            config=kwargs.pop("config"), state=kwargs.pop("state"), as_json=kwargs.pop("as_json")
        )
        return command(common, *args, **kwargs)

    return _CONFIG(_STATE(_JSON(wrapper)))


def client_options(command: Callable[Concatenate[Client, P], R]) -> Callable[P, R]:
    """Gives `command` a `Client` as its first argument."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> R:
        client = Client(
            config=kwargs.pop("config"),
            state=kwargs.pop("state"),
            as_json=kwargs.pop("as_json"),
            url=kwargs.pop("url"),
            token_file=kwargs.pop("token_file"),
            ca_file=kwargs.pop("ca_file"),
        )
        _check(client)
        return command(client, *args, **kwargs)

    return _URL(_TOKEN_FILE(_CA_FILE(_CONFIG(_STATE(_JSON(wrapper))))))


def _check(client: Client) -> None:
    if (client.url is None) != (client.token_file is None):
        raise click.UsageError("--url and --token-file are given together or not at all")
    if client.url is None:
        if client.ca_file is not None:
            raise click.UsageError("--ca-file is for the daemon that --url names")
        return
    if client.state is not None:
        raise click.UsageError("--state finds the daemon, --url names it: give one of them")
    try:
        check_url(client.url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--url") from error
