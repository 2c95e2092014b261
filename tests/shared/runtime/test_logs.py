import io
import json
import logging
from collections.abc import Iterator

import pytest

from shared.runtime import logs
from shared.runtime.errors import Code, CounterfoilError

log = logging.getLogger("tests.logs")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_its_fields():
    stream = io.StringIO()
    logs.configure("node-a", stream=stream)
    log.info("receipt %s", "sequenced\nand more", extra={"index": 7, "entry": "ab", "odd": b"xx"})
    (line,) = lines(stream)
    assert line["message"] == "receipt sequenced\nand more"
    assert (line["level"], line["service"], line["index"], line["entry"]) == (
        "info",
        "node-a",
        7,
        "ab",
    )
    assert "odd" not in line


@pytest.mark.parametrize("level", ["info", "debug"])
def test_what_says_only_that_a_hint_was_sent_or_taken_logs_nothing(level):
    """An installation at rest sends hints all the time: its logs must not grow by them."""
    logs.configure("beat", stream=(stream := io.StringIO()), level=level)
    for name in ("celery.beat", "celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).info("Task replay.tick[1] received")
    assert stream.getvalue() == ""
    logging.getLogger("celery.app.trace").error("Task replay.tick[1] raised unexpected")
    assert len(lines(stream)) == 1


def test_long_values_are_cut():
    stream = io.StringIO()
    logs.configure("node-a", stream=stream)
    log.warning("x" * 10_000, extra={"field": "y" * 10_000})
    assert len(stream.getvalue()) < 1500


def test_an_exception_s_payload_stays_out_but_its_place_is_shown():
    stream = io.StringIO()
    logs.configure("node-a", stream=stream)
    failure = CounterfoilError(Code.MALFORMED, "thing.x: bad")
    failure.__cause__ = ValueError("bad value\ninput_value='the prompt'")
    try:
        raise failure
    except CounterfoilError:
        log.exception("failed")
    (line,) = lines(stream)
    assert line["exception"] == (
        "CounterfoilError: MALFORMED: thing.x: bad; caused by ValueError: bad value"
    )
    assert "test_logs.py" in str(line["stack"])
    assert "the prompt" not in stream.getvalue()


def test_an_incident_links_the_reported_error_with_the_log():
    stream = io.StringIO()
    logs.configure("node-a", stream=stream)
    failure = logs.incident(log, RuntimeError("inner"), "/svc/Method")
    assert failure.code is Code.INTERNAL
    assert "inner" not in failure.public_detail()
    (line,) = lines(stream)
    assert line["incident"] == failure.metadata["incident"]


def test_text_for_terminals_is_a_line_and_the_level_is_kept():
    stream = io.StringIO()
    logs.configure("node-a", stream=stream, style="text", level="warning")
    log.info("unheard")
    log.warning("two\nlines", extra={"index": 7})
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "WARNING" in text
    assert "node-a: two lines index=7" in text
