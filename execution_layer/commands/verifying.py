"""What `counterfoil verify` does: an attempt in the archive, a bundle, or a shared answer; what holds, and on whose word."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from execution_layer.client.policy import ClientPolicy
from execution_layer.client.reading import Texts
from execution_layer.client.share import as_text, verify_share
from execution_layer.client.verify import is_of_its_log, trust_given, verify_entry
from shared.envelope.hpke import load_hpke_key
from shared.runtime.errors import Code
from shared.runtime.output import emit
from shared.runtime.printable import for_terminal
from shared.runtime.reading import read_bounded
from shared.verification import steps as steps_of
from shared.verification.bundle import parse_bundle
from shared.verification.bundle_check import verify_bundle
from shared.verification.share import MAX_SHARE, is_share, parse_share

FAILED = 3


def verify_archived(config: Path, which: str, as_json: bool) -> int:
    """Recheck what the archive holds for an attempt; return the exit code."""
    steps = verify_entry(config, which)
    holds = all(step.holds for step in steps)
    emit({"verified": holds, "steps": steps}, as_json, lambda: steps_of.as_text(steps))
    return 0 if holds else FAILED


def verify_file(
    file: Path,
    config: Path | None,
    policy_file: Path | None,
    signers: Sequence[str],
    recipient_key: Path | None,
    *,
    implied: bool,
    as_json: bool,
) -> int:
    """Verify a bundle or a share and show it; return the exit code. A configuration that is `implied`, because the environment
    names it, is ignored for another log.
    """
    data = read_bounded(file, MAX_SHARE, code=Code.NOT_FOUND)
    shared = is_share(data)
    key = None if recipient_key is None else load_hpke_key(recipient_key)
    share = parse_share(data, key) if shared else None
    bundle = parse_bundle(data) if share is None else share.bundle
    remarks = []
    if config is not None and implied and not is_of_its_log(config, bundle):
        remarks = [f"The policy in {config} is for another log, so it was ignored."]
        config = None
    trust = trust_given(config, policy_file, signers)
    shown: dict[str, Any] | None = None
    if share is None:
        report = verify_bundle(bundle, trust)
    else:
        texts = None if config is None else Texts(ClientPolicy.load(config))
        opened = verify_share(share, trust, texts)
        report, shown = opened.report, opened.shown
    report = replace(report, rests_on=[*remarks, *report.rests_on])
    told = {
        "verified": report.verified,
        "steps": report.steps,
        "rests_on": report.rests_on,
        "facts": report.facts,
        **({"shown": shown} if shared else {}),
    }

    def text() -> str:
        content = [] if shown is None else [for_terminal(as_text(shown))]
        return "\n".join([*content, report.as_text()])

    emit(told, as_json, text)
    return 0 if report.verified else FAILED
