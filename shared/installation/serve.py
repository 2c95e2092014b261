"""`counterfoil up` without the demonstration: keep the platform running for use from elsewhere."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from shared.installation.layout import MODEL, TENANT, NodePlan, Plan, as_installed
from shared.installation.platform import running
from shared.runtime.printable import command_line, export_line

NODES = (
    NodePlan("node-a", "operator-a"),
    NodePlan("node-b", "operator-b"),
    NodePlan("node-c", "operator-c"),
)


class Narrator:
    """Prints what happens to processes, with the time since the start."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._begun = time.monotonic()
        self.deaths: list[str] = []
        """What died and was restarted."""

    def __call__(self, who: str, what: str) -> None:
        """Take one event."""
        if any(word in what for word in ("died", "by signal", "ended with")):
            self.deaths.append(f"{who} {what}")
            self._print(who, f"[bold red]{escape(what)}[/]")
        elif not what.startswith(("starting", "stopped", "running", "done")):
            self._print(who, escape(what))

    def _print(self, who: str, what: str) -> None:
        elapsed = time.monotonic() - self._begun
        self.console.print(f"[dim]{elapsed:6.1f} s[/]  [cyan]{who:<12}[/] {what}", highlight=False)


def how_to_use(folder: Path, settings: Mapping[str, str | Path]) -> str:
    """Return what to type into another terminal: the settings as lines for a shell, and first commands."""
    look = command_line("counterfoil", "doctor", "--folder", folder)
    exports = "\n".join(export_line(name, value) for name, value in settings.items())
    return (
        f"In another terminal:\n\n{exports}\n\n"
        "counterfoil client tokenizer fetch\n"
        'counterfoil infer --temperature 0 "Where does the fox live?"\n'
        "counterfoil client proofs\n"
        "counterfoil audit receipts\n"
        "counterfoil cost report\n"
        f"{look}\n"
    )


def console_of(*, stderr: bool = False) -> Console:
    """Return a console as wide as the terminal, or 120 columns for a file."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = 120
    return console


async def keep_up(*, folder: Path, model: Path | None, stop: asyncio.Event) -> int:
    """Run until stopped."""
    console = console_of(stderr=True)
    plan = Plan(folder, as_installed(folder, NODES), model or MODEL, epoch_seconds=60.0)
    async with running(plan, Narrator(console)) as platform:
        settings: dict[str, str | Path] = {
            "COUNTERFOIL_CLIENT_CONFIG": plan.path("client", "client.toml"),
            "COUNTERFOIL_AUDIT_URL": f"https://{platform.ports['audit-http']}",
            "COUNTERFOIL_AUDIT_TOKEN_FILE": plan.path("audit", "auditor.token"),
            "COUNTERFOIL_CA": plan.path("ca", "ca.pem"),
            "COUNTERFOIL_AUDIT_CONFIG": platform.audit_config,
            "COUNTERFOIL_FINANCE_TOKEN_FILE": plan.path("audit", "finance.token"),
        }
        console.print(f"\n[bold]Counterfoil is up[/] for tenant {TENANT}. Ctrl-C stops it.\n")
        console.print(
            how_to_use(plan.folder, settings), markup=False, soft_wrap=True
        )  # lines can be copied
        await stop.wait()
        console.print("stopping …")
    return 0
