"""What the cost commands share: the query API with a token of finance, and how money is shown."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from audit_layer.commands.https import answered
from audit_layer.commands.options import query_api_options

if TYPE_CHECKING:
    import httpx

F = TypeVar("F", bound=Callable[..., Any])
TIMEOUT_S: Final = 900.0
"""Rating or reconciling a month of receipts takes minutes."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer that is still coming."""

    headers: Mapping[str, str]
    chunks: Iterator[bytes]


class Api:
    """The cost routes of one audit server."""

    def __init__(self, url: str, token_file: Path, ca: Path) -> None:
        self._url, self._token_file, self._ca = url, token_file, ca

    def get(self, path: str, **parameters: Any) -> Any:
        """Return the JSON answer to GET `path` under /v1/costs; raise the server's error, or UNAVAILABLE."""
        return self.answer("GET", path, parameters).json()

    def post(self, path: str, body: Any = None) -> Any:
        """Return the JSON answer to POST."""
        return self.answer("POST", path, {}, body or {}).json()

    def put(self, path: str, body: Any) -> Any:
        """Return the JSON answer to PUT."""
        return self.answer("PUT", path, {}, body).json()

    def answer(
        self, method: str, path: str, parameters: dict[str, Any], body: Any = None
    ) -> "httpx.Response":
        """Return the answer; raise the server's error, or UNAVAILABLE."""
        with self._asked(method, path, parameters, body) as answer:
            answer.read()
        return answer

    @contextmanager
    def stream(self, path: str, parameters: dict[str, Any]) -> Iterator[Streamed]:
        """Yield the answer to GET as it comes; errors as in `answer`, also while it is read."""
        with self._asked("GET", path, parameters) as answer:
            yield Streamed(answer.headers, answer.iter_bytes())

    def _asked(
        self, method: str, path: str, parameters: dict[str, Any], body: Any = None
    ) -> AbstractContextManager["httpx.Response"]:
        at = (self._url, self._token_file, self._ca)
        return answered(*at, method, f"/v1/costs{path}", parameters, body, timeout_s=TIMEOUT_S)


def with_api(command: F) -> F:
    """Give a command `api`, from the options --url, --token-file and --ca, and `as_json` from --json."""
    return _with_api(command, required=True)


def with_optional_api(command: F) -> F:
    """Do the same for a command that can do without: `api` is None where one of the options is missing."""
    return _with_api(command, required=False)


def _with_api(command: F, *, required: bool) -> F:
    import functools  # noqa: PLC0415  # next to its only use

    @functools.wraps(command)
    def wrapped(*, url: str | None, token_file: Path | None, ca: Path | None, **others: Any) -> Any:
        api = None if url is None or token_file is None or ca is None else Api(url, token_file, ca)
        return command(api=api, **others)

    return query_api_options(
        wrapped,
        variable="COUNTERFOIL_FINANCE_TOKEN_FILE",
        whose="File with a bearer token of role finance.",
        required=required,
    )  # type: ignore[return-value]  # click's decorators keep it a function


def shown(amount: str, places: int = 6) -> str:
    """Return an exact number rounded for people."""
    from fractions import Fraction  # noqa: PLC0415  # next to its only use

    from audit_layer.costs.reporting import rounded  # noqa: PLC0415  # --help stays light

    return rounded(Fraction(amount), places)


def day(milliseconds: int, zone: str = "UTC") -> str:
    """Return the day on which a time falls."""
    from shared.codec.moment import day_of  # noqa: PLC0415  # --help stays light

    return day_of(milliseconds, zone).isoformat()
