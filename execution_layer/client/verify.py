"""Offline verification after the fact: numbered steps over the archive, or over an exported bundle."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from execution_layer.client.archive import Archive, Transcript
from execution_layer.client.operators import known_operators
from execution_layer.client.own_keys import book_of, own_history, own_keys
from execution_layer.client.part_records import Part
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.reading import Texts
from execution_layer.client.reopening import sent_of
from execution_layer.client.response_check import STEPS, Response, Sent, StreamReader, run_steps
from execution_layer.client.setup import pairs
from shared.codec.ids import parse_hex32
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import key_id
from shared.statements.cose import entry_of, parse_statement
from shared.statements.identities import Holder
from shared.translog.policy import LogPolicy
from shared.translog.policy_file import PolicyFile, read_policy_file
from shared.translog.tlog_proof import parse_tlog_proof
from shared.verification.bundle import MAX_IDENTITIES, Bundle, OrderContext
from shared.verification.bundle_check import included, key_bundle_steps
from shared.verification.steps import Step, Verification
from shared.verification.trust import Role, Trust, key_for


def trust_of(policy: ClientPolicy) -> Trust:
    """Return what a client's policy pins: the log's quorum, the operators, as far as it has read on in the log, and the tenant's
    own keys."""
    pins = {
        Role.OPERATOR: {name: policy.operator_keys(name) for name in policy.operators},
        Role.TENANT: {policy.tenant: own_keys(policy)},
    }
    histories = [*known_operators(policy), own_history(policy)]
    return Trust(policy.log.policy(), pins).continued(histories)


def trust_given(config: Path | None, policy_file: Path | None, signers: Sequence[str]) -> Trust:
    """Return the trust of `verify`'s options; `signers` are NAME=KEY (hex) and add to the configuration's pins."""
    configured = Trust() if config is None else trust_of(ClientPolicy.load(config))
    named: dict[str, set[bytes]] = {}
    for signer in signers:
        for name, key in pairs([signer], "--signer").items():
            named.setdefault(name, set()).add(parse_hex32(key, "a signer's key"))
    log = configured.log if policy_file is None else read_policy_file(policy_file).policy()
    return replace(configured.with_signers(named), log=log)


def is_of_its_log(config: Path, bundle: Bundle) -> bool:
    """Return whether a bundle claims to be from the log in a client's policy."""
    origin = parse_tlog_proof(bundle.tlog_proof).claimed.origin
    return origin in {key.name for key in ClientPolicy.load(config).log.policy().logs}


def export(archive: Archive, transcript: Transcript | Part, policy: ClientPolicy) -> Bundle:
    """Return what a third party needs to check a receipt (the node's, or that of a stage), or else a refusal; nothing in it opens
    the request.
    NOT_FOUND without one that passed the checks, NOT_WITNESSED until its proof has been fetched.
    """
    if transcript.evidence is None:
        raise CounterfoilError(
            Code.NOT_FOUND, "this attempt has no receipt or refusal that passed the checks"
        )
    if transcript.proof is None:
        raise _no_proof()
    statement, proof = archive.bundle(transcript.bundle)
    operator = parse_statement(statement)
    signers = {operator.kid, parse_statement(transcript.order_statement).kid}
    known = {
        key
        for history in known_operators(policy, operator.issuer)
        for key in (*history.ever, *own_keys(policy))
    }
    book = book_of(policy)
    identities = (
        *book.shown(Holder.OPERATOR, operator.issuer),
        *book.shown(Holder.TENANT, policy.tenant),
    )
    return Bundle(
        statement=transcript.evidence[0],
        tlog_proof=transcript.proof,
        policy=PolicyFile.of(policy.log.policy()).encode(),
        keys=tuple(key for key in sorted(known) if key_id(key) in signers),
        context=OrderContext(transcript.order_statement, statement, proof),
        identities=identities[:MAX_IDENTITIES],
    )


def verify_entry(config: Path, which: str) -> list[Step]:
    """Check everything that a client's archive holds for a receipt or order, by its entry or as `latest`."""
    policy = ClientPolicy.load(config)
    archive = Archive(policy.archive)
    try:
        return verify_transcript(archive, archive.whole(which), policy)
    finally:
        archive.close()


def verify_transcript(archive: Archive, transcript: Transcript, policy: ClientPolicy) -> list[Step]:
    """Recheck everything that the archive holds for one attempt: stream, receipt and proof."""
    run = Verification()
    statement, proof = archive.bundle(transcript.bundle)
    log = policy.log.policy()
    bundle = key_bundle_steps(run, statement, proof, log, trust_of(policy))
    own = key_for(parse_statement(transcript.order_statement), own_keys(policy))
    stages = [
        key_bundle_steps(run, *archive.bundle(part.bundle), log, trust_of(policy), of=part.node)
        for part in transcript.parts
    ]
    sent = run.step(
        "order and envelope are ours and belong together",
        lambda: sent_of(transcript, bundle[0], bundle[1], own, stages),
    )
    response = run.step(
        "every frame opens in order under its AAD and is signed",
        lambda: _response(transcript, sent, Texts(policy)),
    )
    if response is not None:
        checks = run_steps(response, transcript.finished or transcript.created)
        for title in STEPS:
            run.step(title, lambda: _advance(checks))
    run.step("the receipt is in the witnessed log", lambda: _proved(transcript, log))
    for part in transcript.parts:
        run.step(
            f"the receipt of stage {part.place}, {part.node}, is in the witnessed log",
            partial(_proved, part, log),
        )
    return run.steps


def _response(transcript: Transcript, sent: Sent, texts: Texts) -> Response:
    if transcript.node_nonce is None or transcript.final_record is None:
        raise CounterfoilError(
            Code.NOT_FOUND,
            f"the archive has no complete response: the attempt is {transcript.state}",
        )
    text = texts.of(sent.opened.header.model_root)
    said = None if text is None else text.said(sent.opened.body)()
    reader = StreamReader(sent, transcript.node_nonce, transcript.accepted_signature or b"", said)
    for index, (ciphertext, signature) in enumerate(
        zip(transcript.frames, transcript.signatures, strict=True), start=1
    ):
        reader.frame(index, ciphertext, signature)
    final = reader.final(transcript.final_record, transcript.final_signature or b"")
    return Response.of(sent, reader, final)


def _advance(checks: Iterator[None]) -> None:
    next(checks)


def _proved(kept: Transcript | Part, log: LogPolicy) -> str:
    if kept.proof is None or kept.receipt is None:
        raise _no_proof()
    return included(kept.proof, entry_of(kept.receipt), log)[1]


def _no_proof() -> CounterfoilError:
    return CounterfoilError(
        Code.NOT_WITNESSED,
        "there is no proof for the receipt yet",
        remedy="Run `counterfoil client proofs`.",
    )
