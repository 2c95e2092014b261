"""Configuration: one TOML file per process, read into a frozen pydantic model.

Unknown keys are errors, and all problems in a file are reported together. Secrets are never inline: a
setting names a file (`read_secret`). Relative paths are relative to the file's folder.
"""

import difflib
import json
import os
import stat
import tomllib
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.printable import command_line, is_text
from shared.runtime.reading import read_bounded

MAX_BYTES: Final = 1 << 20
_OTHERS: Final = stat.S_IWGRP | stat.S_IRWXO


class Settings(BaseModel):
    """Base of every configuration model; nested models are tables. Docstrings of fields become comments."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )

    @field_validator("*", mode="after")
    @classmethod
    def _resolve(cls, value: Any, info: ValidationInfo) -> Any:
        """Resolve relative paths against the folder of the file being loaded."""
        folder = (info.context or {}).get("folder")
        return value if folder is None else _anchored(value, folder)


S = TypeVar("S", bound=Settings)


def load(kind: type[S], path: Path, *, env_prefix: str | None = None) -> S:
    """Read `path` as a `kind`; raise CONFIGURATION listing all problems.

    With `env_prefix` = "COUNTERFOIL", the variable COUNTERFOIL_<SECTION>_<KEY> overrides `key` in the
    table `section`, and COUNTERFOIL_<KEY> a top-level key; arrays are written as in TOML.
    """
    values = _read_toml(path)
    if env_prefix is not None:
        for variable, keys in _variables(kind, env_prefix):
            if (text := os.environ.get(variable)) is not None:
                _override(values, keys, _literal(text))
    return checked(kind, values, str(path), folder=path.absolute().parent)


def checked(
    kind: type[S], values: Mapping[str, Any], source: str, *, folder: Path | None = None
) -> S:
    """Return the settings in `values`; CONFIGURATION lists their problems and names their `source`.
    Relative paths are resolved against `folder`, or left as they are if there is none.
    """
    try:
        return kind.model_validate(dict(values), context={"folder": folder})
    except ValidationError as error:
        problems = [_problem(kind, detail) for detail in error.errors(include_input=False)]
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{source} cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems),
            remedy="Correct it and start again.",
        ) from None  # the cause would repeat the values, which must not be shown


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file named on the command line; CONFIGURATION for anything else."""
    data = read_bounded(path, MAX_BYTES)
    try:
        found = json.loads(data) if len(data) <= MAX_BYTES else None
    except (ValueError, RecursionError) as error:
        raise CounterfoilError(Code.CONFIGURATION, f"{path} cannot be read as JSON") from error
    if not isinstance(found, dict):
        raise CounterfoilError(Code.CONFIGURATION, f"{path} is not a JSON object of at most 1 MiB")
    return found


def read_secret(path: Path) -> str:
    """Return the text of a secret file without its trailing newline; other users must have no access to it."""
    check_private(path)
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CounterfoilError(Code.CONFIGURATION, f"{path} cannot be read as text") from error


def check_private(path: Path) -> None:
    """Raise CONFIGURATION unless `path` is a file that only its owner can write and no stranger can read."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{path} cannot be read: {error.strerror}",
            remedy="Create it with the command's `init`, or correct its name in the configuration.",
        ) from error
    if not stat.S_ISREG(mode) or mode & _OTHERS:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{path} holds a secret and is open to other users (mode {stat.S_IMODE(mode):04o})",
            remedy=f"Run: {command_line('chmod', '600', path)}",
        )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{path} cannot be read: {error.strerror}",
            remedy="Create a configuration with the command's `init`.",
        ) from error
    if len(data) > MAX_BYTES:
        raise CounterfoilError(Code.CONFIGURATION, f"{path} is longer than {MAX_BYTES} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise CounterfoilError(Code.CONFIGURATION, f"{path} is not TOML: {reason}") from error


def _anchored(value: Any, folder: Path) -> Any:
    if isinstance(value, Path):
        expanded = value.expanduser()
        return expanded if expanded.is_absolute() else folder / expanded
    if isinstance(value, list | tuple):
        return type(value)(_anchored(item, folder) for item in value)
    if isinstance(value, dict):
        return {key: _anchored(item, folder) for key, item in value.items()}
    return value


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that a field's annotation names, including within unions and lists."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in {Union, types.UnionType, Annotated, list, tuple, dict}:
        return [model for part in get_args(annotation) for model in _models(part)]
    return []


def _variables(
    kind: type[BaseModel], prefix: str, keys: tuple[str, ...] = ()
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield (variable, key path) for every setting that is not in an array."""
    for name, field in kind.model_fields.items():
        path = (*keys, field.alias or name)
        tables = [] if get_origin(field.annotation) is list else _models(field.annotation)
        for table in tables:
            yield from _variables(table, prefix, path)
        if not tables:
            yield "_".join((prefix, *path)).upper().replace("-", "_"), path


def _override(values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    *tables, last = keys
    for table in tables:
        nested = values.setdefault(table, {})
        if not isinstance(nested, dict):
            return  # validation reports what is wrong with the file
        values = nested
    values[last] = value


def _literal(text: str) -> Any:
    """Parse arrays and inline tables as TOML; return anything else as text for the model to convert."""
    if text.startswith(("[", "{")):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    return text


def _problem(kind: type[BaseModel], detail: ErrorDetails) -> str:
    *parents, last = detail["loc"] or ("",)
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "missing":
        return f"{where}: is missing"
    if detail["type"] != "extra_forbidden":
        return f"{where}: {detail['msg']}"
    known = [name for model in _tables_at(kind, parents) for name in model.model_fields]
    nearest = difflib.get_close_matches(str(last), known, n=1, cutoff=0.0)
    hint = f"; the nearest known one is {nearest[0]}" if nearest else ""
    return f"{where}: unknown key{hint}"


def _tables_at(kind: type[BaseModel], parents: Sequence[int | str]) -> list[type[BaseModel]]:
    found = [kind]
    for part in parents:
        fields = [model.model_fields.get(str(part)) for model in found]
        inner = [model for field in fields if field for model in _models(field.annotation)]
        found = inner or found  # an index, or a union's member, is not a field
    return found


def to_toml(settings: Settings) -> str:
    """Return a complete configuration file that `load` reads back as `settings`, with comments."""
    return "\n".join(_table(settings, ())).strip() + "\n"


def _table(settings: BaseModel, keys: tuple[str, ...]) -> Iterator[str]:
    """Yield lines: plain values first, then tables, as TOML requires. Absent settings are omitted."""
    kind = type(settings)
    tables: list[tuple[str, BaseModel, bool]] = []
    for name, field in kind.model_fields.items():
        value, key = getattr(settings, name), field.alias or name
        if isinstance(value, BaseModel):
            tables.append((key, value, False))
        elif isinstance(value, list | tuple) and value and isinstance(value[0], BaseModel):
            tables += [(key, item, True) for item in value]
        elif value is not None:
            yield from (f"# {line}" for line in (field.description or "").splitlines())
            yield f"{_toml_key(key)} = {_toml(value)}"
    for key, value, repeated in tables:
        path = (*keys, key)
        header = ".".join(_toml_key(part) for part in path)
        yield ""
        yield f"[[{header}]]" if repeated else f"[{header}]"
        yield from _table(value, path)


def _toml_key(key: str) -> str:
    bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if bare else _toml(key)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_toml_key(str(k))} = {_toml(v)}" for k, v in value.items())
        return f"{{ {inner} }}"
    if not is_text(str(value)):
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{os.fsencode(str(value))!r} is not UTF-8 text, so no configuration can name it",
            remedy="Rename the folder, or choose another.",
        )
    escaped = "".join(
        {"\\": "\\\\", '"': '\\"'}.get(c, c) if c.isprintable() else f"\\U{ord(c):08x}"
        for c in str(value)
    )
    return f'"{escaped}"'
