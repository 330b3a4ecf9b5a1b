"""`yoi-daemon check`: what would keep the daemon or a plugin from starting, without starting it."""

import os

import click
import msgspec

from yoi_daemon.cli.exits import CONFIGURATION
from yoi_daemon.cli.options import Command, Common, common_options
from yoi_daemon.cli.output import write_json, write_table
from yoi_daemon.cli.printable import printable
from yoi_daemon.daemon.checking import CheckedPlugin, CheckReport
from yoi_daemon.daemon.checking import check as check_configuration


@click.command(cls=Command)
@click.option(
    "--import",
    "import_modules",
    is_flag=True,
    help="Also import enabled plugins, and check their settings.",
)
@common_options
def check(options: Common, import_modules: bool) -> int:
    """Check the configuration and the plugins.

    Reports every fault at once, and exits with 78 if there is one. Does not need a running daemon.
    """
    report = check_configuration(options.directories(), os.environ, import_modules=import_modules)
    if options.as_json:
        write_json({"good": report.is_good} | msgspec.to_builtins(report))
    else:
        _write(report)
    return 0 if report.is_good else CONFIGURATION


def _write(report: CheckReport) -> None:
    for fault in report.faults:
        click.echo(printable(str(fault)))
    if report.plugins:
        write_table(
            ("PLUGIN", "VERDICT"),
            [(plugin.plugin_id, _verdict(plugin)) for plugin in report.plugins],
            empty="",
        )
    for warning in report.warnings:
        click.echo(printable(f"warning: {warning}"))
    if report.is_good:
        click.echo(
            f"nothing to correct in {printable(report.config_file)} and the plugins beside it"
        )


def _verdict(plugin: CheckedPlugin) -> str:
    if plugin.code is not None:
        return f"{plugin.code}: {plugin.message}"
    return "good" if plugin.enabled else "good, not enabled"
