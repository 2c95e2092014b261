"""When a client is to blame for its escrow: protocol §6.2.2, step 4. Pure."""

from collections.abc import Iterable

from shared.envelope.header import Header
from shared.statements.disclosures import EscrowReport


def escrow_is_bad(
    header: Header, receipt: bytes, envelope: bytes, reports: Iterable[EscrowReport]
) -> bool:
    """Whether so many custodians report their wraps that fewer than the threshold are left.

    `receipt` is its entry, `envelope` the hash of the envelope with this header. The caller has verified each report's
    signature as its custodian's. Reports about anything else do not count, nor does a second one by one custodian or
    about one wrap.
    """
    about = [
        report
        for report in reports
        if (report.receipt, report.envelope) == (receipt, envelope)
        and report.key in header.custodians
    ]
    by = min(len({report.custodian for report in about}), len({report.key for report in about}))
    return by > len(header.custodians) - header.threshold
