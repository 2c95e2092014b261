"""What a process says about itself: another author's parser reads it, nothing hides anything else, and it stays small."""

import threading
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared.runtime.metrics import (
    FRESH_S,
    MOST_SERIES,
    Counter,
    Exposition,
    Histogram,
    Kind,
    Metric,
)

DEPTH = Metric("counterfoil_test_depth", Kind.GAUGE, 'How deep; "quoted" and \\ kept.', ("queue",))
DONE = Metric("counterfoil_test_done_total", Kind.COUNTER, "Done.", ("code",))
TOOK = Metric("counterfoil_test_took_seconds", Kind.HISTOGRAM, "Took.")


def parsed(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def scrape(address: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return what a process says at `/metrics`."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/metrics", timeout=60) as response:
        return parsed(response.read())


def exposition(**sources):
    return Exposition("test", "operator/name", sources)


def test_gauges_counters_and_histograms_are_read_as_they_were_counted():
    took, done = Histogram((0.1, 1.0)), Counter()
    for seconds in (0.05, 0.1, 0.5, 7.0):
        took.observe(seconds)
    done.add("OK")
    done.add("QUOTA", amount=2)
    strange = 'a"b\\c\nd'
    samples = parsed(
        exposition(
            one=lambda: [DEPTH(3, strange)],
            two=lambda: [*done.readings(DONE), TOOK(took.counts())],
        ).text()
    )
    assert samples["counterfoil_test_depth", frozenset({("queue", strange)})] == 3
    assert samples["counterfoil_test_done_total", frozenset({("code", "QUOTA")})] == 2
    buckets = {
        dict(labels)["le"]: value
        for (name, labels), value in samples.items()
        if name == "counterfoil_test_took_seconds_bucket"
    }
    assert buckets == {"0.1": 2, "1.0": 3, "+Inf": 4}
    assert samples["counterfoil_test_took_seconds_sum", frozenset()] == pytest.approx(7.65)
    assert samples["counterfoil_test_took_seconds_count", frozenset()] == 4
    who = dict(next(labels for name, labels in samples if name == "counterfoil_process_info"))
    assert (who["process"], who["name"]) == ("test", "operator/name")
    assert samples["process_resident_memory_bytes", frozenset()] > 0


def test_a_source_that_fails_is_missing_is_counted_and_is_logged_once(caplog):
    broken = [True]

    def fails():
        yield DEPTH(1, "a")
        if broken[0]:
            raise OSError("the database went away: secret")

    now = [0.0]
    shown = exposition(bad=fails, good=lambda: [DEPTH(2, "b")])
    shown.clock = lambda: now[0]

    def look():
        now[0] += FRESH_S
        return parsed(shown.text())

    for _ in range(3):
        samples = look()
        assert samples["counterfoil_metrics_failed_sources", frozenset()] == 1
        depths = [labels for name, labels in samples if name == DEPTH.name]
        assert depths == [frozenset({("queue", "b")})]
    assert len([one for one in caplog.records if "metrics of bad" in one.message]) == 1
    broken[0] = False
    assert look()["counterfoil_metrics_failed_sources", frozenset()] == 0
    broken[0] = True
    look()
    assert len([one for one in caplog.records if "metrics of bad" in one.message]) == 2


def test_many_scrapes_at_once_read_the_process_once():
    reads, now = [], [5.0]
    shown = exposition(one=lambda: reads.append(1) or [DEPTH(len(reads), "a")])
    shown.clock = lambda: now[0]
    threads = [threading.Thread(target=shown.text) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1
    now[0] += FRESH_S
    shown.text()
    assert len(reads) == 2


def test_labels_that_grow_without_bound_do_not_grow_the_text():
    many = [DEPTH(1, str(number)) for number in range(MOST_SERIES + 500)]
    samples = parsed(exposition(one=lambda: many).text())
    assert sum(name == DEPTH.name for name, _ in samples) == MOST_SERIES


def test_counting_from_many_threads_loses_nothing():
    took, done = Histogram((1.0,)), Counter()

    def work():
        for _ in range(2000):
            took.observe(0.5)
            done.add("OK")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert took.counts().buckets == ((1.0, 8000), (float("inf"), 8000))
    assert [reading.value for reading in done.readings(DONE)] == [8000]
