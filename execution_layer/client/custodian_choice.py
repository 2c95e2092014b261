"""Which custodians of the policy get shares: all, but for those whose record in the log is worse than the policy accepts.

The record is a document that the tenant fetched (`counterfoil audit disclosures --tenant T --out FILE`); it is checked here
under the policy's own log, so nobody's word is taken for it. Whoever is left out learns less and can open less; the
threshold stays, so no fewer custodians can open a request than before.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from execution_layer.client.policy import ClientPolicy, Custodian, CustodianStanding
from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.reading import read_bounded
from shared.verification.custodian_record import CustodianRecord
from shared.verification.disclosure_check import Wrong
from shared.verification.disclosure_record import Answer, judge_record, parse_record
from shared.verification.trust import Trust

MAX_RECORD: Final = 256 << 20
UNPROVED: Final = frozenset({Wrong.PROOF, Wrong.SIGNATURE, Wrong.SEAL, Wrong.HIDDEN, Wrong.RELEASE})
"""Faults of a document that make what it shows of custodians worthless; others are about the authority or workers."""


@dataclass(frozen=True, slots=True)
class CustodianChoice:
    """Who gets shares, in the policy's order, and who does not."""

    kept: tuple[Custodian, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    """By name: why."""
    spared: Mapping[str, str] = field(default_factory=dict)
    """Kept in spite of this, because too few would be left."""
    as_of: int | None = None
    """When the log was witnessed at the record's size (ms); None without a record."""


def choose_custodians(policy: ClientPolicy) -> CustodianChoice:
    """Read and check the record that the policy names, and choose by it.

    CONFIGURATION if it cannot be used: it is another tenant's, it has a fault, or it is not under the policy's log.
    """
    demanded = policy.custodian_standing
    if demanded is None:
        return CustodianChoice(policy.custodians)
    answer = _record(policy, demanded)
    records = {one.custodian: one for one in answer.custodians}
    wrong = {
        item.name: told
        for item in policy.custodians
        if (told := _wrong(records.get(item.name), demanded)) is not None
    }
    worst = sorted(wrong, key=lambda name: -records[name].missing)
    room = max(0, len(policy.custodians) - demanded.least(policy.threshold))
    left_out = {name: wrong[name] for name in worst[:room]}
    return CustodianChoice(
        kept=tuple(item for item in policy.custodians if item.name not in left_out),
        left_out=left_out,
        spared={name: wrong[name] for name in worst[room:]},
        as_of=answer.witnessed_at,
    )


def _record(policy: ClientPolicy, demanded: CustodianStanding) -> Answer:
    path = demanded.record
    remedy = f"Fetch it again: counterfoil audit disclosures --tenant {policy.tenant} --out {path}"
    try:
        document = parse_record(read_bounded(path, MAX_RECORD, code=Code.NOT_FOUND))
        known = document.trust.trust()
        trust = Trust(policy.log.policy(), known.pins)
        answer = judge_record(document, trust, now=now_ms(), threshold=policy.threshold)
    except CounterfoilError as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"the custodians' record {path} cannot be used: {error.detail}",
            remedy=remedy,
        ) from error
    fault = next((fault for fault in answer.faults if fault.wrong in UNPROVED), None)
    if answer.tenant != policy.tenant or fault is not None:
        problem = f"it is about {answer.tenant}" if fault is None else fault.detail
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"the custodians' record {path} cannot be used: {problem}",
            remedy=remedy,
        )
    return answer


def _wrong(record: CustodianRecord | None, demanded: CustodianStanding) -> str | None:
    """Say what is worse than the policy accepts; a custodian without a record has not been asked yet."""
    if record is None:
        return None
    told = [
        f"{count} {what} of {record.asked} releases"
        for what, count, most in (
            ("missing", record.missing, demanded.most_missing),
            ("late", record.late, demanded.most_late),
        )
        if most is not None and count > most
    ]
    return ", ".join(told) or None
