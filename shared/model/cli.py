"""`counterfoil model`: fetch a checkpoint, and see what it is. Heavy imports wait for their command."""

from dataclasses import fields
from pathlib import Path

import click

from shared.runtime.output import emit, json_option

_folder = click.Path(file_okay=False, path_type=Path)
_file = click.Path(dir_okay=False, path_type=Path)


@click.group("model")
def model() -> None:
    """Get models: from a folder, or from the Hugging Face hub."""


@model.command("fetch")
@click.argument("model")
@click.option("--into", type=_folder, help="Folder that becomes the model folder.")
@click.option("--root", "root_hex", help="Model root (hex) that it must have.")
@json_option
def fetch(model: str, into: Path | None, root_hex: str | None, as_json: bool) -> None:
    """Fetch MODEL, hf:owner/name[@revision], and print its folder and model root.

    The revision is a branch, tag or commit; the commit that it stands for is printed. Give the folder
    to `counterfoil node init --model` or to an audit worker. When run again, it fetches only what is missing.
    A MODEL that is a folder is not fetched; its root is printed.
    """
    from shared.codec.ids import parse_hex32  # noqa: PLC0415  # --help stays light
    from shared.model.hub import resolve  # noqa: PLC0415

    root = None if root_hex is None else parse_hex32(root_hex, "--root")
    found = resolve(model, into=into, root=root)
    facts = {
        "folder": found.folder.absolute(),
        "model_root": found.root,
        "source": found.source,
    }
    emit(facts, as_json, lambda: f"{found.folder.absolute()}\nmodel root {found.root.hex()}")


@model.command("part")
@click.argument("source")
@click.argument("target", type=_folder)
@click.option("--layers", help="FIRST:LAST, without LAST: 4:8 are layers 4 to 7.")
@click.option("--ends", is_flag=True, help="The embedding and the head too, for a node.")
@click.option("--root", "root_hex", help="Model root (hex) that it must have.")
@click.option("--ca", type=_file, help="An address's authority, if not one of the system's (PEM).")
@json_option
def part(
    source: str,
    target: Path,
    layers: str | None,
    ends: bool,
    root_hex: str | None,
    ca: Path | None,
    as_json: bool,
) -> None:
    """Copy to TARGET what a stage or a node needs of a model: a part with the same model root.

    SOURCE is a model folder, or the https:// address at which a larger part is served, of which only this one's
    tensors are transferred. A part holds the tensors of the layers, the model's other files, and in part.json the
    leaves of the whole model root. Give it to `counterfoil node stage init --model`, or with --ends and the node's
    own layers, if it has any, to `counterfoil node init --model`. TARGET must not exist; it appears when it is complete.
    """
    from shared.codec.ids import parse_hex32  # noqa: PLC0415  # --help stays light
    from shared.model.cut import Cut, layers_of  # noqa: PLC0415
    from shared.model.part import FolderSource, make_part  # noqa: PLC0415
    from shared.model.part_fetch import TIMEOUT_S, HttpsSource  # noqa: PLC0415
    from shared.runtime.errors import Code, CounterfoilError  # noqa: PLC0415
    from shared.runtime.fetching import HttpsFiles  # noqa: PLC0415

    if layers is None and not ends:
        raise click.UsageError("Give --layers, --ends or both.")
    try:
        first, last = (0, 0) if layers is None else layers_of(layers)
    except ValueError as error:
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"--layers: {error}") from error
    cut = Cut(first, last, ends)
    root = None if root_hex is None else parse_hex32(root_hex, "--root")
    if source.startswith("https://"):
        made = make_part(
            HttpsSource(HttpsFiles(source, ca, timeout_s=TIMEOUT_S)), target, cut, root
        )
    else:
        made = make_part(FolderSource(Path(source)), target, cut, root)
    facts = {
        "folder": target.absolute(),
        "model_root": made.root,
        "layers": layers,
        "ends": ends,
        "tensors": made.tensors,
        "bytes": made.size,
    }
    emit(
        facts,
        as_json,
        lambda: (
            f"{target.absolute()}\n{cut}: {made.tensors} tensors, {made.size} bytes\n"
            f"model root {made.root.hex()}"
        ),
    )


@model.command("show")
@click.argument("folder", type=_folder)
@json_option
def show(folder: Path, as_json: bool) -> None:
    """Print a model folder's root, shape, and the sampling settings that its makers recommend.

    The recommendation is never applied: only what a request says counts.
    """
    from shared.model.config import ModelConfig  # noqa: PLC0415  # --help stays light
    from shared.model.part_file import read_part  # noqa: PLC0415
    from shared.model.root import model_root  # noqa: PLC0415
    from shared.text.generation import GenerationDefaults  # noqa: PLC0415

    config, root = ModelConfig.from_folder(folder), model_root(folder)
    recommended = GenerationDefaults.from_folder(folder)
    part = read_part(folder)
    held = None if part is None else list(part.held)
    facts = {"model_root": root, "config": config, "recommended": recommended, "held": held}

    def lines() -> str:
        settings = [
            f"{field.name} {getattr(recommended, field.name)}"
            for field in fields(recommended)
            if getattr(recommended, field.name) is not None
        ]
        return (
            f"model root   {root.hex()}\n"
            f"shape        {config.layers} layers, width {config.hidden_size}, {config.dtype}\n"
            f"tensors      {'all' if held is None else f'{len(held)}, a part'}\n"
            f"recommended  {', '.join(settings) or 'nothing'}"
        )

    emit(facts, as_json, lines)


@model.command("profile")
@click.argument("folder", type=_folder)
@click.option(
    "--arithmetic", help="Default: that of this machine's own matrix unit; `all` for every one."
)
@json_option
def profile(folder: Path, arithmetic: str | None, as_json: bool) -> None:
    """Print the numeric profile under which this machine serves a model folder, and its hash.

    The probe is run, so this takes a moment. The hash is what key bundles, receipts and verdicts call
    numeric_profile: an auditor can judge a node exactly when it prints the same one. It depends on
    the folder's dtype alone; no weight is read.
    """
    from shared.model.config import ModelConfig  # noqa: PLC0415  # --help stays light
    from shared.model.cpu import CpuBackend, arithmetics_for, own_arithmetic  # noqa: PLC0415
    from shared.model.profile import numeric_profile, profile_id  # noqa: PLC0415

    dtype = ModelConfig.from_folder(folder).dtype
    chosen = (
        arithmetics_for(dtype) if arithmetic == "all" else (arithmetic or own_arithmetic(dtype),)
    )
    profiles = [numeric_profile(dtype, CpuBackend(arithmetic=name)) for name in chosen]
    facts = [{"numeric_profile": profile_id(each), "profile": each} for each in profiles]

    def lines() -> str:
        return "\n\n".join(
            "\n".join(
                f"{name:<15}  {value}"
                for name, value in (("numeric profile", profile_id(each).hex()), *each.items())
            )
            for each in profiles
        )

    emit(facts if arithmetic == "all" else facts[0], as_json, lines)
