"""The names of all fault points of a package, read from its source: none can be forgotten, and none is stale."""

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


def fault_points(package: ModuleType) -> list[str]:
    """Return the names given to `fault_point` anywhere in the package's folder, in alphabetical order."""
    (folder,) = package.__path__
    return sorted({name for file in Path(folder).rglob("*.py") for name in _named(file)})


def _named(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "fault_point"
        ):
            (argument,) = node.args
            assert isinstance(argument, ast.Constant), f"{file}: a fault point has no plain name"
            yield str(argument.value)
