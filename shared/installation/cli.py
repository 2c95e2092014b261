"""`counterfoil up`: the whole platform on one machine."""

import asyncio
from pathlib import Path
from typing import Any

import click

DEFAULT_FOLDER = Path(".counterfoil")


@click.command("up")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Where everything is kept.",
)
@click.option("--demo", is_flag=True, help="Run the demonstration, report, and stop.")
@click.option(
    "--prompts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON Lines file of requests for the demonstration.",
)
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Checkpoint folder to serve instead of the shipped model (at first start).",
)
@click.option(
    "--dishonest-node",
    "wrapper",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Demonstration: program that stands in for the third node (default: the repository's, if present).",
)
@click.option(
    "--cheat",
    metavar="NAME",
    help="Demonstration: how the third node cheats (default: int8). docs/adversaries.md has the names.",
)
@click.option(
    "--arithmetic",
    help="Demonstration: serve under this arithmetic, honestly and dishonestly, beside a node under chain-1.",
)
@click.option(
    "--faults",
    is_flag=True,
    help="Demonstration: roll keys, and kill the audit server, custodians and a node while requests are under way.",
)
@click.option(
    "--pipeline",
    is_flag=True,
    help="Demonstration: the second node is the head of a chain of four stages of two operators on slow links; one of them"
    " cheats (a --cheat that changes weights), and one is killed.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the demonstration's report here.",
)
def up(
    folder: Path,
    demo: bool,
    prompts: Path | None,
    model: Path | None,
    wrapper: Path | None,
    cheat: str | None,
    arithmetic: str | None,
    faults: bool,
    pipeline: bool,
    json_file: Path | None,
) -> int:
    """Start Postgres, audit server, workers, witness, custodians and nodes, and keep them up.

    Use the platform from another terminal; Ctrl-C stops everything. With --demo it runs the whole job on real input,
    prints the results, and exits with 0 only if every fact in its summary holds.
    """
    from shared.installation.demo import run as demonstrate  # noqa: PLC0415
    from shared.installation.serve import keep_up  # noqa: PLC0415
    from shared.runtime.readiness import run_service  # noqa: PLC0415  # --help stays light

    options: dict[str, Any] = {"folder": folder.absolute(), "model": model}

    program = None if wrapper is None else wrapper.absolute()

    async def main(stop: asyncio.Event) -> int:
        if demo:
            return await demonstrate(
                **options,
                prompts=prompts,
                wrapper=program,
                cheat=cheat,
                arithmetic=arithmetic,
                faults=faults,
                pipelined=pipeline,
                json_file=json_file,
                stop=stop,
            )
        return await keep_up(**options, stop=stop)

    return run_service(main)
