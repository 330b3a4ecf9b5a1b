"""`cli`: every command and option, as `--help` has them."""

import inspect
from collections.abc import Iterator

import click

from scripts.reference.text import sentence, table
from yoi_daemon.cli.main import PROGRAM, cli


def render(root: click.Group = cli) -> str:
    return "\n\n".join(part for path, command in commands(root) for part in _parts(path, command))


def commands(group: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that can be run, by its words."""
    if not isinstance(group, click.Group):
        yield path, group
        return
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield from commands(command, *path, name)


def shared_options(root: click.Group = cli) -> set[str]:
    """The options that every command takes."""
    taken = [
        {option for parameter in command.params for option in parameter.opts}
        for _, command in commands(root)
    ]
    return set.intersection(*taken)


def _parts(path: tuple[str, ...], command: click.Command) -> Iterator[str]:
    words = " ".join(path)
    context = click.Context(command, info_name=f"{PROGRAM} {words}")
    yield f"## `{words}`"
    first, _, rest = inspect.cleandoc(command.help or "").partition("\n\n")
    yield sentence(first, words)
    if rest:
        yield rest.strip()
    usage = command.get_usage(context).removeprefix("Usage: ")
    yield f"```text\n{usage}\n```"
    shared = shared_options()
    options = [
        (
            f"`{', '.join(option.opts + option.secondary_opts)}`",
            _value(option, context),
            sentence(option.help, f"{words} {option.opts[0]}"),
        )
        for option in command.params
        if isinstance(option, click.Option) and not shared & set(option.opts)
    ]
    if options:
        yield table(("option", "value", "meaning"), options)


def _value(option: click.Option, context: click.Context) -> str:
    if option.is_flag:
        return "flag"
    value = option.make_metavar(context)
    shown = option.default if option.show_default and option.default is not None else None
    return f"`{value}`" + (f", default `{shown}`" if shown is not None else "")
