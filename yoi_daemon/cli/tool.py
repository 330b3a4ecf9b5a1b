"""`yoi-daemon tool`: calls a plugin's tool, or lists the tools."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from yoi_daemon.cli.listing import get_whole_list
from yoi_daemon.cli.options import Client, Command, client_options
from yoi_daemon.cli.output import write_json, write_table
from yoi_daemon.cli.payload import read_payload
from yoi_daemon.cli.requests import Progress, run_requests
from yoi_daemon.cli.service import timeout_option
from yoi_daemon.cli.views import ToolAnswerView, ToolsView, view
from yoi_daemon.client.rest import DaemonClient, path_of
from yoi_daemon.model.errors import Refused

Schema = Mapping[str, Any]
"""A JSON Schema, as msgspec makes it."""


@click.command(cls=Command)
@click.argument("plugin", required=False)
@click.argument("name", metavar="[TOOL]", required=False)
@click.option(
    "--data",
    metavar="JSON|@FILE|-",
    help="Arguments: JSON, a file, or standard input. Default: {}.",
)
@click.option("--list", "lists", is_flag=True, help="List the tools and their arguments.")
@timeout_option
@client_options
def tool(
    options: Client,
    plugin: str | None,
    name: str | None,
    data: str | None,
    lists: bool,
    timeout_s: float,
) -> None:
    """Call a plugin's tool, or list the tools.

    Prints the result as JSON. Without TOOL, or with --list, lists the tools of every plugin or of PLUGIN.
    """
    if lists or plugin is None:
        if name is not None or data is not None:
            raise click.UsageError("--list calls nothing: leave TOOL and --data out")
        _list(options, plugin)
        return
    if name is None:
        raise click.UsageError(
            f"name the tool to call; 'yoi-daemon tool --list {plugin}' shows which there are"
        )
    arguments = read_payload("{}" if data is None else data)
    path = path_of("tools", plugin, name)

    async def call(daemon: DaemonClient) -> ToolAnswerView:
        try:
            return await daemon.post(path, ToolAnswerView, content=arguments)
        except Refused as refused:
            if refused.code == "invalid_request":
                refused.detail += f"; 'yoi-daemon tool --list {plugin}' shows what it takes"
            raise

    progress = Progress(f"waiting for {plugin} to answer")
    write_json(run_requests(options, call, deadline_s=timeout_s, progress=progress).result)


def _list(options: Client, plugin: str | None) -> None:
    answer = run_requests(options, lambda daemon: get_whole_list(daemon, path_of("tools")))
    if plugin is not None:
        items = [item for item in answer["items"] if item.get("plugin_id") == plugin]
        answer = {**answer, "items": items}
    if options.as_json:
        write_json(answer)
        return
    write_table(
        ("PLUGIN", "TOOL", "ARGUMENTS", "DESCRIPTION"),
        [
            (
                row.plugin_id,
                row.tool,
                describe(row.arguments),
                row.description.partition("\n")[0],
            )
            for row in view(answer, ToolsView).items
        ],
        empty="no tools; a plugin declares one with @plugin.tool",
    )


def describe(schema: Schema) -> str:
    """Returns a JSON Schema in a few words: the members of an object, each with its type, or the type alone."""
    known: Mapping[str, Schema] = schema.get("$defs", {})
    resolved = _resolve(schema, known)
    members: Mapping[str, Schema] | None = resolved.get("properties")
    if not members:
        return _type(schema, known)
    required: Sequence[str] = resolved.get("required", ())
    parts = [
        f"{name}{'' if name in required else '?'}: {_type(member, known)}"
        for name, member in members.items()
    ]
    return "{" + ", ".join(parts) + "}"


def _type(schema: Schema, known: Mapping[str, Schema]) -> str:
    schema = _resolve(schema, known)
    choices: Sequence[Schema] = schema.get("anyOf", ())
    if choices:
        return " | ".join(_type(choice, known) for choice in choices)
    values: Sequence[Any] = schema.get("enum", ())
    if values:
        return " | ".join(map(str, values))
    items = schema.get("items")
    if schema.get("type") == "array" and items:
        return f"[{_type(items, known)}]"
    if schema.get("type") == "object" and "title" in schema:
        return str(schema["title"])
    return str(schema.get("type", "any"))


def _resolve(schema: Schema, known: Mapping[str, Schema]) -> Schema:
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    return known.get(name, schema)
