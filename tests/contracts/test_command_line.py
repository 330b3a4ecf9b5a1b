"""Every command and every option says in a sentence what it is for, and shared options stand apart."""

import re
from collections.abc import Iterator

import click
import pytest

from yoi_daemon.cli.main import COMMANDS, cli

SENTENCE = re.compile(r"[A-Z-].*[.]", re.DOTALL)
SHARED = {"--config", "--state", "--json", "--url", "--token-file", "--ca-file"}


def walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from walk(found, f"{name} {below}")


TREE = dict(walk(cli, "yoi-daemon"))


def options_of(command: click.Command) -> list[click.Option]:
    return [
        one for one in command.get_params(click.Context(command)) if isinstance(one, click.Option)
    ]


@pytest.mark.parametrize("name", TREE)
def test_a_command_says_what_it_does_in_a_sentence(name):
    assert SENTENCE.fullmatch((TREE[name].help or "").partition("\n\n")[0].strip())


@pytest.mark.parametrize("name", TREE)
def test_an_option_says_what_it_is_for_in_a_sentence(name):
    wordless = [
        option.opts
        for option in options_of(TREE[name])
        if not SENTENCE.fullmatch(option.help or "")
    ]
    assert wordless == []


@pytest.mark.parametrize("name", TREE)
def test_the_shared_options_of_a_command_stand_under_connection(name):
    command = TREE[name]
    shown = command.get_help(click.Context(command, info_name=name))
    own, _, connection = shown.partition("\nConnection:\n")
    for option in options_of(command):
        is_shared = bool(SHARED & set(option.opts))
        assert (option.opts[0] in connection, option.opts[0] in own.partition("Options:")[2]) == (
            is_shared,
            not is_shared,
        )


def test_the_list_of_commands_says_what_each_command_says_of_itself():
    for name, lazy in COMMANDS.items():
        assert lazy.summary == (TREE[f"yoi-daemon {name}"].help or "").partition("\n\n")[0].strip()


def test_the_control_a_fragment_is_no_sentence():
    assert not SENTENCE.fullmatch("what it does")
    assert not SENTENCE.fullmatch("")
