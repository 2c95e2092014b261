"""One HTTPS request to an audit server with a bearer token, for every command that asks one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit_layer.commands.options import warn_of_expiry

if TYPE_CHECKING:
    import httpx


@contextmanager
def answered(
    url: str,
    token_file: Path,
    ca: Path,
    method: str,
    path: str,
    parameters: Mapping[str, Any],
    body: Any = None,
    *,
    timeout_s: float,
) -> Iterator["httpx.Response"]:
    """Yield the answer as it comes; parameters that are None are left out.

    Raises the server's error, INVALID_ARGUMENT for anything but https, and UNAVAILABLE, also while the answer is read.
    """
    import httpx  # noqa: PLC0415  # --help stays light

    from shared.runtime.certificates import how_it_failed  # noqa: PLC0415
    from shared.runtime.config import read_secret  # noqa: PLC0415
    from shared.runtime.errors import Code, CounterfoilError  # noqa: PLC0415
    from shared.runtime.problems import from_problem  # noqa: PLC0415
    from shared.runtime.tls import client_context  # noqa: PLC0415

    if not url.startswith("https://"):
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"{url!r} is not https://")
    given = {name: value for name, value in parameters.items() if value is not None}
    # Nothing is packed, so that no small answer can become a large one here.
    headers = {
        "authorization": f"Bearer {read_secret(token_file).strip()}",
        "accept-encoding": "identity",
    }
    context = client_context(ca)
    try:
        with (
            httpx.Client(
                base_url=url, verify=context, timeout=timeout_s, trust_env=False
            ) as client,
            client.stream(method, path, params=given, json=body, headers=headers) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                answer.read()
                raise from_problem(answer.status_code, answer.content, url)
            warn_of_expiry(answer.headers)
            yield answer
    except httpx.HTTPError as error:
        raise CounterfoilError(
            Code.UNAVAILABLE,
            f"{url} does not answer ({how_it_failed(error)})",
            remedy="Check the address, and that the server is running (`counterfoil doctor`).",
        ) from error
