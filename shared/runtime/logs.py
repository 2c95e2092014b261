"""Structured logs on the standard library's logging: JSON lines, or lines for a terminal.
Facts are logged as fields (`log.info("receipt sequenced", extra={"index": 7})`), and only plain values are
written, each truncated. Payloads do not belong here: of an exception that is not ours only the type
and first line are shown, since libraries put the values that they choked on into the rest.
"""

import json
import logging
import secrets
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Literal, TextIO

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.printable import for_terminal, json_for_terminal

MAX_TEXT: Final = 500
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LIBRARIES: Final = (
    "alembic.runtime.plugins",
    "asyncio",
    "celery.app.trace",
    "celery.beat",
    "celery.worker.strategy",
    "httpcore",
    "httpx",
    "hpack",
    "urllib3",
    "uvicorn",
)
"""Loggers kept at WARNING whatever our own level is: Celery reports every hint that it sends, takes and finishes."""

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def configure(
    service: str,
    *,
    level: str = "INFO",
    style: Literal["auto", "json", "text"] = "auto",
    stream: TextIO | None = None,
) -> None:
    """Send this process's logs to `stream` (default: standard error), one record per line; replaces earlier handlers.

    `auto` writes text on a terminal and JSON elsewhere.
    """
    target = stream or sys.stderr
    as_text = style == "text" or (style == "auto" and target.isatty())
    handler = logging.StreamHandler(target)
    handler.setFormatter(TextFormatter(service) if as_text else JsonFormatter(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def incident_id() -> str:
    """Return a fresh id that links what a peer sees to our log."""
    return secrets.token_hex(6)


def incident(log: logging.Logger, error: BaseException, where: str) -> CounterfoilError:
    """Log an unexpected exception; return the INTERNAL error that may leave the process."""
    number = incident_id()
    log.error("incident in %s", where, exc_info=error, extra={"incident": number})
    return CounterfoilError(
        Code.INTERNAL, f"incident {number} in {where}", metadata={"incident": number}
    )


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, service, message, then the record's own fields."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "service": self._service,
            "message": _cut(record.getMessage()),
            **_fields(record),
        }
        if (raised := _raised(record)) is not None:
            line["exception"] = _summary(raised[1])
            line["stack"] = _frames(raised[2])
        return json_for_terminal(json.dumps(line, ensure_ascii=False))


class TextFormatter(logging.Formatter):
    """One line for people, followed by the frames of an exception."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line."""
        message = _cut(record.getMessage()).replace("\n", " ")
        facts = "".join(f" {key}={value}" for key, value in _fields(record).items())
        text = f"{_time(record)} {record.levelname:<7} {self._service}: {message}{facts}"
        if (raised := _raised(record)) is not None:
            frames = "".join(f"\n    at {frame}" for frame in _frames(raised[2]))
            text += f"\n  {_summary(raised[1])}{frames}"
        return for_terminal(text)


class News:
    """Tells what is worth a line in a log: a text that differs from the last one about its subject."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def about(self, subject: str, text: str) -> bool:
        """Return whether this is news, and remember it."""
        known = self._last.get(subject)
        self._last[subject] = text
        return known != text

    def over(self, subject: str) -> None:
        """Forget a subject: whatever is said of it next is news."""
        self._last.pop(subject, None)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {
        key: value if isinstance(value, int | float | None) else _cut(str(value))
        for key, value in vars(record).items()
        if key not in _STANDARD and isinstance(value, str | int | float | None)
    }


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}… ({len(text)} characters)"


def _raised(record: logging.LogRecord) -> _ExcInfo | None:
    found = record.exc_info
    if not isinstance(found, tuple) or found[0] is None:
        return None
    return found


def _summary(error: BaseException) -> str:
    """Return the type and first line of the exception and of its causes."""
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(parts) < 4:
        lines = [str(seen)] if isinstance(seen, CounterfoilError) else str(seen).splitlines()
        parts.append(f"{type(seen).__name__}: {_cut(lines[0])}" if lines else type(seen).__name__)
        seen = seen.__cause__
    return "; caused by ".join(parts)


def _frames(trace: TracebackType | None) -> list[str]:
    """Return the innermost frames as `file:line function`, without source text."""
    frames = traceback.extract_tb(trace)[-12:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
