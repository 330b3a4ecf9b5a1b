"""`yoi-daemon worker …`: the workers of every runtime, addressed as `[RUNTIME/]WORKER`."""

import sys

import click

from yoi_daemon.cli.addresses import WorkerAddress, parse_worker
from yoi_daemon.cli.listing import get_whole_list, write_diagnostics
from yoi_daemon.cli.options import Client, Group, client_options
from yoi_daemon.cli.output import local_time, write_json, write_record, write_table
from yoi_daemon.cli.printable import printable
from yoi_daemon.cli.requests import Progress, run_requests
from yoi_daemon.cli.views import Answer, TranscriptView, WorkersView, view
from yoi_daemon.client.rest import DaemonClient, path_of
from yoi_daemon.model.ids import EMBEDDED_RUNTIME_ID

_RUNTIME = click.option(
    "--runtime",
    metavar="ID",
    default=EMBEDDED_RUNTIME_ID,
    show_default=True,
    help="Runtime that runs it.",
)


@click.group(cls=Group)
def worker() -> None:
    """List, create, command and stop workers."""


@worker.command("list")
@click.option("--runtime", metavar="ID", help="Only workers of this runtime.")
@client_options
def list_workers(options: Client, runtime: str | None) -> None:
    """List the workers of every runtime, or of one."""
    path = path_of("workers") if runtime is None else path_of("runtimes", runtime, "workers")
    answer = run_requests(options, lambda daemon: get_whole_list(daemon, path))
    if options.as_json:
        write_json(answer)
        return
    shown = view(answer, WorkersView)
    write_table(
        ("WORKER", "STATE", "PROFILE", "LABEL", "TURNS", "CREATED"),
        [
            (row.address, row.state, row.profile, row.label, row.generation, row.created_at)
            for row in shown.items
        ],
        empty="no workers; make one with 'yoi-daemon worker create --profile builtin:echo'",
    )
    write_diagnostics(shown.diagnostics)


@worker.command()
@click.argument("address", metavar="WORKER", callback=parse_worker)
@client_options
def show(options: Client, address: WorkerAddress) -> None:
    """Show everything about one worker."""

    async def get(daemon: DaemonClient) -> Answer:
        return await daemon.get(address.path(), Answer)

    _write(options, run_requests(options, get))


@worker.command()
@click.option(
    "--profile",
    metavar="NAME",
    default="builtin:echo",
    show_default=True,
    help="Profile that says which engine runs it.",
)
@click.option("--label", metavar="TEXT", default="", help="Label shown in lists.")
@click.option("--input", "text", metavar="TEXT", help="First input to send.")
@_RUNTIME
@click.option("--key", metavar="KEY", help="Idempotency key: one worker is created for each key.")
@client_options
def create(
    options: Client, profile: str, label: str, text: str | None, runtime: str, key: str | None
) -> None:
    """Create a worker."""
    body = {"profile": profile, "label": label} | ({} if text is None else {"input": text})

    async def post(daemon: DaemonClient) -> Answer:
        path = path_of("runtimes", runtime, "workers")
        return await daemon.post(path, Answer, body=body, idempotency_key=key)

    _write(options, run_requests(options, post))


@worker.command()
@click.argument("address", metavar="WORKER", callback=parse_worker)
@click.argument("text")
@click.option(
    "--when-busy",
    type=click.Choice(["reject", "queue", "interrupt"]),
    help="What to do if the worker is busy.",
)
@click.option("--key", metavar="KEY", help="Idempotency key: one input is sent for each key.")
@client_options
def send(
    options: Client, address: WorkerAddress, text: str, when_busy: str | None, key: str | None
) -> None:
    """Send an input to a worker.

    A TEXT of '-' is read from standard input.
    """
    if text == "-":
        text = sys.stdin.read()
    body = {"text": text} | ({} if when_busy is None else {"when_busy": when_busy})

    async def post(daemon: DaemonClient) -> Answer:
        return await daemon.post(address.path("input"), Answer, body=body, idempotency_key=key)

    _write(options, run_requests(options, post))


@worker.command()
@click.argument("address", metavar="WORKER", callback=parse_worker)
@click.option("--key", metavar="KEY", help="Idempotency key: one turn is cancelled for each key.")
@client_options
def cancel(options: Client, address: WorkerAddress, key: str | None) -> None:
    """Cancel a worker's turn, and keep the worker.

    Waits until the turn has ended. Its further output is refused at once.
    """

    async def post(daemon: DaemonClient) -> Answer:
        return await daemon.post(address.path("cancel"), Answer, idempotency_key=key)

    _write(options, run_requests(options, post, progress=Progress("the turn is ending")))


@worker.command()
@click.argument("address", metavar="WORKER", callback=parse_worker)
@click.option(
    "--grace",
    "grace_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Time for its turn to end. Default: the daemon's setting.",
)
@click.option("--key", metavar="KEY", help="Idempotency key: one stop is requested for each key.")
@client_options
def stop(options: Client, address: WorkerAddress, grace_s: float | None, key: str | None) -> None:
    """Stop a worker.

    Waits until it has ended. Its transcript stays readable for a while.
    """
    body = {} if grace_s is None else {"grace_s": grace_s}

    async def post(daemon: DaemonClient) -> Answer:
        return await daemon.post(address.path("stop"), Answer, body=body, idempotency_key=key)

    _write(options, run_requests(options, post, progress=Progress("the worker is stopping")))


@worker.command()
@click.argument("address", metavar="WORKER", callback=parse_worker)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Maximum number of items.")
@click.option(
    "--max-bytes", type=click.IntRange(min=1), metavar="N", help="Maximum size of the text."
)
@click.option("--before", metavar="ITEM", help="Show items before this one.")
@click.option("--after", metavar="ITEM", help="Show items after this one.")
@client_options
def transcript(
    options: Client,
    address: WorkerAddress,
    limit: int | None,
    max_bytes: int | None,
    before: str | None,
    after: str | None,
) -> None:
    """Print a worker's transcript.

    Prints one page: the latest, or the one that --before or --after selects.
    """
    params = {"limit": limit, "max_bytes": max_bytes, "before": before, "after": after}

    async def get(daemon: DaemonClient) -> Answer:
        return await daemon.get(address.path("transcript"), Answer, params=params)

    answer = run_requests(options, get)
    if options.as_json:
        write_json(answer)
        return
    page = view(answer, TranscriptView)
    if page.let_go and page.before is None:
        click.echo(f"(the {page.let_go} oldest items are no longer kept)")
    if page.before is not None:
        click.echo(f"(earlier items: --before {printable(page.before)})")
    for item in page.items:
        _write_item(local_time(item.time), item.role, item.text)
        if item.truncated:
            whole = "" if item.full_bytes is None else f" of {item.full_bytes} bytes"
            click.echo(f"  (cut; --json --max-bytes N shows more{whole})")
    if page.after is not None:
        click.echo(f"(later items: --after {printable(page.after)})")
    if not page.items:
        click.echo("no items")


def _write_item(time: str, role: str, text: str) -> None:
    lines = printable(text, keep="\n\t").split("\n")
    head = click.style(printable(role), bold=True)
    click.echo(f"{printable(time)} {head}: {lines[0]}")
    for line in lines[1:]:
        click.echo(f"  {line}")


def _write(options: Client, answer: Answer) -> None:
    if options.as_json:
        write_json(answer)
        return
    # A mutation answers with the worker and the cursor at which the change became visible.
    record = answer.get("worker")
    if isinstance(record, dict):
        rest = {name: value for name, value in answer.items() if name != "worker"}
        write_record({**record, **rest})
    else:
        write_record(answer)
