"""`yoi-daemon check`: what would keep the daemon or a plugin from starting, without starting it."""

import os

import click
import msgspec

from yoi_daemon.cli.exits import CONFIGURATION
from yoi_daemon.cli.options import Common, common_options
from yoi_daemon.cli.output import write_json, write_table
from yoi_daemon.cli.printable import printable
from yoi_daemon.daemon.checking import CheckedPlugin, CheckReport
from yoi_daemon.daemon.checking import check as check_configuration


@click.command()
@click.option(
    "--import",
    "import_modules",
    is_flag=True,
    help="Also run the modules of enabled plugins, and hold their settings against them.",
)
@common_options
def check(options: Common, import_modules: bool) -> int:
    """Say what is wrong with the configuration and the plugins.

    Everything is told at once. Exits with 78 when there is anything to correct. Needs no daemon, and starts none.
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
