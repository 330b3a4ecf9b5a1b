"""What `yoi-daemon plugin new` writes: a plugin that works, and a test of it that passes."""

MODULE = '''\
"""The NAME plugin: what it is for, in one line."""

from typing import Any

from yoi_daemon.sdk import Config, Context, IngressEvent, Plugin


class Settings(Config):
    """[plugins.NAME.config] in yoi-daemon.toml; unknown keys there are errors."""

    greeting: str = "Hello"


plugin = Plugin("NAME", config=Settings)


@plugin.start
async def start(ctx: Context[Settings]) -> None:
    """Initialise and return; what is entered with ctx.enter is closed by the daemon."""
    ctx.log.info("started", greeting=ctx.config.greeting)


# Feed it with:  yoi-daemon ingress NAME hello --data '{"name": "World"}'
@plugin.ingress("hello")
async def on_hello(ctx: Context[Settings], event: IngressEvent[dict[str, Any]]) -> None:
    """Handles one event at a time; raise Retry to see the same event again."""
    text = f"{ctx.config.greeting}, {event.payload.get('name', 'stranger')}!"
    await ctx.emit("greeting", {"text": text})
'''

TEST = '''\
"""Run with:  python -m pytest tests/test_NAME.py"""

from pathlib import Path

from yoi_daemon.testing import open_plugin, run

PLUGIN = Path(__file__).resolve().parent.parent / "plugins" / "NAME.py"


def test_hello_is_answered_with_a_greeting() -> None:
    async def story() -> None:
        async with open_plugin(PLUGIN, config={"greeting": "Good day"}) as harness:
            result = await harness.ingress("hello", {"name": "World"})
            assert result.outcome == "handled"
            assert harness.emitted == [("NAME.greeting", {"text": "Good day, World!"})]

    run(story)
'''


def fill(template: str, plugin_id: str) -> str:
    """Returns the template for one plugin. An id is safe in Python source by its own rule."""
    return template.replace("NAME", plugin_id)
