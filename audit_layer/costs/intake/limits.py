"""How large an invoice file may be. Every number here bounds memory or time against a hostile file."""

from typing import Final

MAX_BYTES: Final = 64 * 2**20
"""Of a file, and of what it holds once decompressed."""
MAX_ROWS: Final = 1_000_000
MAX_COLUMNS: Final = 1_000
MAX_CELL: Final = 32_767
"""Characters of one cell; what a spreadsheet itself allows."""
MAX_PARTS: Final = 4_096
"""Files within a workbook's archive."""
MAX_LISTED: Final = 20
"""Problems listed in one refusal."""
MAX_PROBLEMS: Final = 10_000
"""Problems after which no further row is read."""
