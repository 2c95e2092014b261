"""The log watch: deaths that only a parent sees are reported once, and nothing older than the watch."""

import json

from shared.installation.logwatch import LogWatch

POSTGRES = (
    "2026-01-01 10:00:00 UTC [7] LOG:  client backend (PID 42) was terminated by signal 9: Killed\n"
)


def test_only_new_lines_that_report_a_death_are_reported(tmp_path):
    log = tmp_path / "postgres.log"
    log.write_text(POSTGRES)
    watch = LogWatch({"postgres": log})
    assert list(watch.deaths()) == []
    with log.open("a") as file:
        file.write("LOG:  checkpoint starting\n" + POSTGRES)
    told = [("postgres", "client backend (PID 42) was terminated by signal 9: Killed")]
    assert list(watch.deaths()) == told
    assert list(watch.deaths()) == []


def test_a_line_is_read_when_it_is_whole(tmp_path):
    log = tmp_path / "worker.log"
    watch = LogWatch({"worker": log})
    line = json.dumps({"level": "warning", "message": "the replay process died by signal 9"})
    log.write_text(line[:30])
    assert list(watch.deaths()) == []
    log.write_text(line + "\n")
    assert list(watch.deaths()) == [("worker", "the replay process died by signal 9")]


def test_a_file_that_was_put_aside_is_read_from_its_new_beginning(tmp_path):
    log = tmp_path / "postgres.log"
    log.write_text("x" * 1000 + "\n")
    watch = LogWatch({"postgres": log})
    log.write_text(POSTGRES)
    assert len(list(watch.deaths())) == 1
    assert list(watch.deaths()) == []
