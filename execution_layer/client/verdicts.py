"""Verdicts about a client's receipts, from the query API: believed once the witnessed log is proved to have them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from shared.codec.strict_json import strict_json
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.fetching import HttpsFiles
from shared.statements.cose import entry_of, read_as
from shared.statements.verdicts import Verdict
from shared.translog.notes import decode_base64
from shared.translog.policy import LogPolicy
from shared.translog.tlog_proof import verify_tlog_proof

MAX_ANSWER: Final = 2**20


class QueryApi:
    """The query API, as far as a client needs it."""

    def __init__(self, url: str, ca_file: Path, token: str) -> None:
        """Raise CONFIGURATION for an address that is not https:// or a token that no header can carry."""
        self._files = HttpsFiles(url, ca_file, token=token)

    async def ask(self, path: str) -> dict[str, Any]:
        """Return the JSON object that a GET is answered with; MALFORMED for anything else."""
        body = await self._files.get(path, MAX_ANSWER)
        try:
            answer = strict_json(body)
        except (ValueError, RecursionError) as error:
            raise _malformed(path) from error
        if not isinstance(answer, dict):
            raise _malformed(path)
        return answer


async def verdicts_of(
    api: QueryApi, receipts: Sequence[bytes], policy: LogPolicy
) -> list[list[dict[str, Any]]]:
    """Return the proved verdicts about each receipt (its entry): who, outcome, reason, entry, whether the tenant asked for it."""
    return [await _about(api, receipt, policy) for receipt in receipts]


async def _about(api: QueryApi, receipt: bytes, policy: LogPolicy) -> list[dict[str, Any]]:
    account = await api.ask(f"v1/receipts/{receipt.hex()}/account")
    try:
        said = [opinion["verdict"] for opinion in account["opinions"]]
        entries = [(verdict["entry"], bool(verdict["asked"])) for verdict in said if verdict]
    except (KeyError, TypeError) as error:
        raise _malformed("v1/receipts/…/account") from error
    found = []
    for entry, asked in entries:
        shown = await api.ask(f"v1/statements/{entry}")
        raw, proof = shown.get("raw"), shown.get("tlog_proof")
        if not isinstance(raw, str) or not isinstance(proof, str):
            continue  # erased, or not witnessed yet
        statement = decode_base64(raw)
        verify_tlog_proof(proof, entry_of(statement), policy)
        verdict = read_as(Verdict, statement)
        if verdict.receipt != receipt:
            raise CounterfoilError(
                Code.COMMITMENT_MISMATCH, "the query API shows a verdict about another receipt"
            )
        found.append(
            {
                "entry": entry_of(statement).hex(),
                "worker": verdict.worker,
                "outcome": verdict.outcome.value,
                "reason": verdict.reason.value,
                "asked": asked,
            }
        )
    return found


def _malformed(path: str) -> CounterfoilError:
    return CounterfoilError(
        Code.MALFORMED, f"the answer to {path} is not what the query API promises"
    )
