"""FOCUS in Parquet, as rows. A process of its own decodes it, within limits of memory and time.

A Parquet reader is a large program in C++, and a few hundred bytes can ask it for gigabytes. The child holds only the
file; whatever becomes of it (out of memory, out of time, a crash), the file is refused and this process goes on.
"""

import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final

from audit_layer.costs.intake import parquet_child
from audit_layer.costs.intake.csv_table import csv_table
from audit_layer.costs.intake.faults import refused
from audit_layer.costs.intake.limits import MAX_BYTES, MAX_CELL, MAX_COLUMNS, MAX_ROWS
from audit_layer.costs.intake.table import Table
from shared.runtime.printable import printable

_MEMORY: Final = 2 * 2**30
_CPU_S: Final = 120
_WALL_S: Final = 300
"""For a child that waits instead of computing."""


def parquet_table(content: bytes) -> Table:
    """Return the rows, with a header of column names; numbers and times as FOCUS writes them in CSV. Row 1 is the first.

    MALFORMED when it cannot be decoded within the limits, or holds columns of types that FOCUS does not have.
    """
    limits = (_MEMORY, _CPU_S, MAX_BYTES, MAX_ROWS, MAX_COLUMNS, MAX_CELL)
    script = str(Path(parquet_child.__file__).resolve())
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        command = [sys.executable, "-I", script, *map(str, limits)]
        with subprocess.Popen(
            command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child:
            assert child.stdout is not None and child.stderr is not None  # noqa: PT018
            end = threading.Timer(_WALL_S, child.kill)
            end.daemon = True
            end.start()
            try:
                rows = child.stdout.read(MAX_BYTES + 1)
                large = len(rows) > MAX_BYTES
                why = "" if large else child.stderr.read(1000).decode("utf-8", "replace")
            except BaseException:
                child.kill()
                raise
            finally:
                end.cancel()
            if large:
                child.kill()
    if large:
        raise refused(f"holds more than {MAX_BYTES // 2**20} MiB once decompressed")
    if child.returncode == parquet_child.REFUSED:
        raise refused(printable(why, 200))
    if child.returncode != 0:
        raise refused("is damaged, or asks for far more memory or time than its size explains")
    return csv_table(rows, encoding="utf-8", delimiter=",", quote='"', by_record=True)
