"""`yoi-daemon systemd …`: the units, made for the interpreter that runs this."""

import os
import re
import shutil
import sys
from collections.abc import Iterable
from functools import partial
from importlib import resources
from pathlib import Path

import click
import trio

import yoi_daemon
from yoi_daemon.children.child import inherited
from yoi_daemon.children.failures import ChildError
from yoi_daemon.children.running import run
from yoi_daemon.cli.options import Common, Group, common_options
from yoi_daemon.cli.output import write_json
from yoi_daemon.model.errors import NotAllowed

UNITS = ("yoi-daemon.service", "yoi-daemon.socket")
UNIT_DIRECTORY = "/etc/systemd/system"
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""What `ProtectHome=` and `PrivateTmp=` of the service's sandbox hide."""
COMMAND_TIMEOUT_S = 60.0


@click.group(cls=Group)
def systemd() -> None:
    """Install the daemon as a systemd service."""


@systemd.command(name="print")
@common_options
def print_units(options: Common) -> None:
    """Print the units, which start the interpreter that runs this command."""
    units = make_units()
    if options.as_json:
        write_json(units)
        return
    for name, text in units.items():
        click.echo(f"# {UNIT_DIRECTORY}/{name}\n{text}")


@systemd.command()
@click.option(
    "--to",
    "directory",
    metavar="DIR",
    default=UNIT_DIRECTORY,
    show_default=True,
    help="Directory to write the units to.",
)
@common_options
def install(options: Common, directory: str) -> None:
    """Write the units, and have systemd read them.

    Enables and starts nothing. Keep changes of yours in drop-ins ('systemctl edit yoi-daemon'), which stay.
    """
    refuse_hidden([sys.executable, sys.prefix, sys.base_prefix, *yoi_daemon.__path__])
    written: list[str] = []
    for name, text in make_units().items():
        file = Path(directory) / name
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise NotAllowed(
                f"{file} cannot be written: {error.strerror}; run this as root, or give another "
                "directory with --to DIR"
            ) from error
        written.append(str(file))
    if directory == UNIT_DIRECTORY:
        _daemon_reload()
    if options.as_json:
        write_json({"written": written})
        return
    for file in written:
        click.echo(file)
    click.echo("now: systemctl enable --now yoi-daemon.socket yoi-daemon.service")


def make_units() -> dict[str, str]:
    """Returns the units' texts by file name; the service starts this interpreter."""
    templates = resources.files("yoi_daemon.cli") / "units"
    units = {name: (templates / name).read_text(encoding="utf-8") for name in UNITS}
    start = f"ExecStart={_word(sys.executable)} -m yoi_daemon run"
    service, count = re.subn(
        r"^ExecStart=.*$", lambda _: start, units["yoi-daemon.service"], flags=re.MULTILINE
    )
    assert count == 1, "the template has one ExecStart"
    return {**units, "yoi-daemon.service": service}


def refuse_hidden(places: Iterable[str]) -> None:
    """Raises `NotAllowed` where the service's sandbox would hide one of `places`, links followed."""
    for place in places:
        for path in (Path(os.path.abspath(place)), Path(place).resolve()):
            hidden = next((root for root in HIDDEN if path.is_relative_to(root)), None)
            if hidden is not None:
                raise NotAllowed(
                    f"{path} is under {hidden}, which the service's sandbox hides; install where "
                    "services may read, with Python of the system:\n"
                    "  python3 -m venv /opt/yoi-daemon\n"
                    "  /opt/yoi-daemon/bin/pip install 'yoi-daemon[observe]'   # or a clone's path\n"
                    "  /opt/yoi-daemon/bin/yoi-daemon systemd install"
                )


def _word(path: str) -> str:
    """Returns a path as one word of a unit's command line; see systemd.syntax(7) and specifiers."""
    escaped = path.replace("%", "%%")
    if re.fullmatch(r"[\w/.%+-]+", escaped):
        return escaped
    escaped = escaped.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _daemon_reload() -> None:
    program = shutil.which("systemctl")
    # Without a running systemd, as in an image that is being built, it reads them when it starts.
    if program is None or not Path("/run/systemd/system").is_dir():
        return
    command = partial(
        run,
        [program, "daemon-reload"],
        environment=inherited(os.environ),
        timeout_s=COMMAND_TIMEOUT_S,
    )
    try:
        completed = trio.run(command)
    except ChildError as error:
        raise NotAllowed(f"systemd did not read the units: {error}") from error
    if not completed.exit.is_success:
        reason = completed.stderr.strip() or completed.exit
        raise NotAllowed(f"systemd did not read the units: {reason}")
