"""Several parties asked at once: answers as they come, within a time that no party can extend."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

T = TypeVar("T")

THREAD: Final = "asking a party"


def as_they_come(asking: Sequence[Callable[[], T]], *, within_s: float) -> Iterator[T]:
    """Call each function in a thread of its own; yield what they return as it comes, for at most `within_s` seconds.

    What one of them raises is raised here. Whoever stops iterating, or has waited long enough, leaves the rest behind:
    those threads end with the timeouts of what they do, and hold up no end of the process.
    """
    answers: SimpleQueue[Future[T]] = SimpleQueue()
    until = time.monotonic() + within_s
    for ask in asking:
        threading.Thread(target=_put, args=(ask, answers), name=THREAD, daemon=True).start()
    for _ in asking:
        try:
            answer = answers.get(timeout=max(0.0, until - time.monotonic()))
        except Empty:
            return
        yield answer.result()


def _put(ask: Callable[[], T], answers: "SimpleQueue[Future[T]]") -> None:
    answer: Future[T] = Future()
    try:
        answer.set_result(ask())
    except Exception as error:  # noqa: BLE001  # the thread's boundary: raised where the answer is read
        answer.set_exception(error)
    answers.put(answer)
