from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from yoi_daemon.cli.tool import describe


class Inner(msgspec.Struct):
    x: int


class Arguments(msgspec.Struct):
    text: Annotated[str, msgspec.Meta(max_length=10)]
    inner: Inner
    times: int = 1
    mood: Literal["good", "bad"] | None = None
    tags: list[str] = []
    more: "Arguments | None" = None


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (
            Arguments,
            "{text: string, inner: Inner, times?: integer, mood?: bad | good | null,"
            " tags?: [string], more?: Arguments | null}",
        ),
        (dict[str, int], "object"),
        (None, "null"),
        (list[Inner], "[Inner]"),
        (tuple[int, str], "array"),
        (Any, "any"),
    ],
)
def test_a_schema_in_a_few_words(kind: Any, shown: str) -> None:
    assert describe(msgspec.json.schema(kind)) == shown


@pytest.fixture
def tools(run: Any, daemon: Any) -> Any:
    daemon.answers["GET /api/tools"] = (
        200,
        {
            "items": [
                {
                    "plugin_id": "gen",
                    "tool": "say",
                    "description": "Says it.\n\nAgain.",
                    "arguments": msgspec.json.schema(Inner),
                    "result": {},
                },
                {"plugin_id": "other", "tool": "do"},
            ]
        },
    )

    def tools(*arguments: str) -> Any:
        return run("tool", *arguments, "--state", str(daemon.state))

    return tools


def test_the_list(tools: Any) -> None:
    lines = tools().out.splitlines()
    assert lines[1] == "gen     say   {x: integer}  Says it."
    assert tools("--list").out.splitlines() == lines
    assert len(tools("--list", "gen").out.splitlines()) == 2
    assert tools("--list", "none").out.startswith("no tools")
    assert [item["tool"] for item in tools("--list", "other", "--json").json["items"]] == ["do"]


def test_the_result_is_the_json_it_was(tools: Any, daemon: Any, tmp_path: Path) -> None:
    daemon.answers["POST /api/tools/gen/say"] = (200, b'{"result": {"n":1.10} }')
    file = tmp_path / "arguments.json"
    file.write_bytes(b'{"x": 1.0}')
    assert tools("gen", "say") == (0, '{"n":1.10}\n', "")
    assert tools("gen", "say", "--data", f"@{file}", "--json").out == '{"n":1.10}\n'
    assert [r.body for r in daemon.requests] == [b"{}", b'{"x": 1.0}']


def test_arguments_that_do_not_fit_say_where_to_look(tools: Any, daemon: Any) -> None:
    problem = {"code": "invalid_request", "detail": "the arguments do not fit: x"}
    daemon.answers["POST /api/tools/gen/say"] = (400, problem)
    outcome = tools("gen", "say")
    assert outcome.code == 1
    assert "'yoi-daemon tool --list gen' shows what it takes" in outcome.err


def test_a_failure_names_the_place(tools: Any, daemon: Any) -> None:
    problem = {"code": "tool_failed", "detail": "ValueError: no", "where": "plugins/gen.py:3"}
    daemon.answers["POST /api/tools/gen/say"] = (502, problem)
    assert "at plugins/gen.py:3" in tools("gen", "say").err
