"""The client policy (`client.toml`): whom a client trusts, and where it keeps its own files. Nothing else is believed."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from shared.codec.ids import NAME
from shared.envelope.hpke import PUBLIC_BYTES, check_hpke_public_key
from shared.runtime.config import Settings, load
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.fetching import checked_url
from shared.runtime.key_store import KeyStoreSettings, open_store
from shared.runtime.keys import Signer, load_ed25519
from shared.statements.keys import KeyBundle
from shared.translog.policy import LogPolicy
from shared.verification.standing import Standing

Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
NodeOrOperator = Annotated[str, Field(pattern=f"^{NAME.pattern}(/{NAME.pattern})?$")]
MAX_CUSTODIANS = 16


class Custodian(Settings):
    """A holder of one escrow share. The order of custodians is that of the shares."""

    name: Name
    hpke_key: str | None = None
    """Its public HPKE key in hex (1216 bytes), or instead:"""
    hpke_key_file: Path | None = None
    """A file that contains it, in hex."""

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if (self.hpke_key is None) == (self.hpke_key_file is None):
            raise ValueError("give either hpke_key or hpke_key_file")
        return self

    def public_key(self) -> bytes:
        """Return the raw key; CONFIGURATION if it is invalid."""
        try:
            text = self.hpke_key or self.hpke_key_file.read_text("ascii")  # type: ignore[union-attr]  # one is given
            key = bytes.fromhex(text.strip())
            check_hpke_public_key(key)
        except (OSError, ValueError, CounterfoilError) as error:
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"custodian {self.name}: an HPKE public key of {PUBLIC_BYTES} bytes in hex is needed",
            ) from error
        return key


class Log(Settings):
    """When a checkpoint counts as witnessed."""

    keys: tuple[str, ...]
    """The log's own keys (vkeys): all of them must have signed."""
    witnesses: tuple[str, ...]
    """The witnesses' keys (vkeys)."""
    quorum: Annotated[int, Field(ge=1, le=64)] = 1
    """How many witnesses must have cosigned."""

    def policy(self) -> LogPolicy:
        """Return the log policy by which proofs are checked."""
        return LogPolicy.from_vkeys(logs=self.keys, witnesses=self.witnesses, threshold=self.quorum)


class AttestationPolicy(Settings):
    """What a client demands of the evidence that nodes' key bundles carry (docs/protocol.md, 2.4)."""

    require: Annotated[tuple[Name, ...], Field(max_length=64)] = ()
    """Claims that must be affirmed, by a verifier that is installed, for a node to be used; with any of them, also that the
    evidence is about these keys (`bound`) and counts now (`fresh`)."""
    development: bool = False
    """Whether nodes with a development attester's evidence, which proves nothing, are used. Only for tests."""


class NodesPolicy(Settings):
    """Which nodes of pinned operators a client uses. It holds for every stage of a chain as it does for a whole node, since
    the states that stages see can be inverted to text (docs/protocol.md, 4.10)."""

    forbidden_operators: tuple[Name, ...] = ()
    """Operators that get no requests, though they are pinned: so that their earlier receipts can still be verified."""
    regions: tuple[Name, ...] = ()
    """If there are any, only nodes that say they are in one of these. It is their word, and nothing checks it."""
    forbidden_regions: tuple[Name, ...] = ()
    arithmetics: tuple[Name, ...] = ()
    """If there are any, only nodes that compute in one of these."""
    most_operators: Annotated[int, Field(ge=0, le=64)] | None = None
    """How many operators may see the states of one request; 1: only chains of one operator, 0: no chains."""

    def check(self, bundle: KeyBundle) -> None:
        """UNTRUSTED_KEY with the reason if a node is not to be used."""
        region = None if bundle.offer is None else bundle.offer.region
        arithmetic = bundle.profile.get("arithmetic")
        problem = None
        if bundle.operator in self.forbidden_operators:
            problem = "its operator is forbidden"
        elif self.regions and region not in self.regions:
            problem = "it does not say where it is" if region is None else f"it is in {region}"
        elif region in self.forbidden_regions:
            problem = f"it is in {region}, which is forbidden"
        elif self.arithmetics and arithmetic not in self.arithmetics:
            problem = f"it computes in {arithmetic}"
        if problem is not None:
            raise CounterfoilError(
                Code.UNTRUSTED_KEY,
                f"the policy does not use {bundle.issuer}: {problem}",
                remedy="[nodes] in client.toml says which nodes are used.",
            )


class CustodianStanding(Settings):
    """What a client demands of custodians (docs/protocol.md, 6.2.10): those that fall short get no shares of new requests."""

    record: Path
    """A document of `counterfoil audit disclosures --tenant T --out FILE`, fetched from time to time; it is checked under `log`."""
    most_missing: Annotated[int, Field(ge=0)] = 0
    """Releases that may be missing after their deadline."""
    most_late: Annotated[int, Field(ge=0)] | None = None
    """Releases that may be late; any number, if it is not given."""
    at_least: Annotated[int, Field(ge=1, le=MAX_CUSTODIANS)] | None = None
    """How many custodians are kept in any case, the best ones; one more than the threshold, if it is not given: so that one
    that is away, or reports falsely, decides nothing alone."""

    def least(self, threshold: int) -> int:
        """Return how many custodians are kept in any case."""
        return max(threshold, threshold + 1 if self.at_least is None else self.at_least)


class ClientPolicy(Settings):
    """A tenant's client: identity, pins, archive."""

    tenant: Name
    tenant_key_file: Path
    """The private key that signs orders."""
    tag_key_file: Path | None = None
    """The key under which the tags of orders are blinded, if it is to be a file that you provide: one key for all machines
    of the tenant. Without it, `tags.key` beside the key that signs orders is used, and made at the first tag."""
    archive: Path
    """Transcript secrets, envelopes, frames, receipts, proofs (sqlite, 0600)."""
    audit_target: str
    """host:port of the audit server's gRPC."""
    ca_file: Path
    """The authority that must have issued the certificates of the audit server and the nodes."""
    model_root: Hex32 | None = None
    """The default model of a call."""
    audit: Literal["sampled", "always", "never"] = "sampled"
    """The audit policy that the custodians get for these requests."""
    threshold: Annotated[int, Field(ge=1, le=MAX_CUSTODIANS)] = 1
    """How many custodians together can open a request."""
    expiry_s: Annotated[int, Field(ge=1, le=86_400)] = 600
    """How long an order and its envelope are valid."""
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """The default deadline of a request."""
    max_checkpoint_age_s: Annotated[int, Field(ge=60, le=7 * 86_400)] = 900
    """The maximum age of the witnessed checkpoint under which a node's keys are proved: revocations since then are
    unknown."""
    mirrors: Annotated[tuple[str, ...], Field(max_length=16)] = ()
    """https:// addresses of copies of the log (`counterfoil log mirror`). They are asked for key bundles, revocations and
    consistency while the audit server does not answer, and are believed in nothing. Their certificates are checked by the
    system's authorities and that of `ca_file`."""
    max_listing_age_s: Annotated[int, Field(ge=0, le=90_000)] = 3600
    """The same maximum age while the audit server does not answer and a mirror's listing, or one that was kept, is used
    (0: none is). A revocation since then can be unknown to this client: for as long, whoever has stolen a node's keys and
    keeps the audit server away from this client reads its requests."""
    min_standing: Standing = Standing.WATCHED
    """The worst standing of a node that still gets requests: `suspended` (any), `watched`, `new` or `good`. It follows from
    the verdicts in the log (docs/protocol.md, 6.4); the directory's word is taken for it."""
    accept_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    """If a node has not accepted a request within these seconds, another node is tried."""
    resume_patience_s: Annotated[float, Field(ge=0, le=86_400)] = 15.0
    """If an accepted answer's stream breaks, its rest is asked for on the same node for so many seconds without anything
    new, before another node is tried; 0: not at all."""
    max_attempts: Annotated[int, Field(ge=1, le=16)] = 4
    candidates: Annotated[int, Field(ge=1, le=8)] = 1
    """For how many nodes a request is sealed at once. Each of them can read it; a retry at one of them needs no other envelope."""
    failover: Literal["again", "continue"] = "again"
    """What the next attempt is when a node breaks off in the middle of an answer. `again`: the whole answer, from its
    beginning. `continue`: the rest of it, after the tokens that were delivered and verified; the next node gets these as
    input, which is billed, and the application's stream goes on."""
    slots_ms: Annotated[int, Field(ge=20, le=10_000)] | None = None
    """If it is set, answers come in frames of one size, one in every so many milliseconds, so that an observer of the
    network learns less from sizes and times (docs/traffic-analysis.md)."""
    tokenizer: Path | None = None
    """Folder of the checkpoint's tokenizer, if the client is to read prompts and answers itself (extra `text`).
    Without it, the files fetched by `counterfoil client tokenizer fetch` are used."""
    operators: dict[Name, Hex32 | Annotated[tuple[Hex32, ...], Field(min_length=1)]]
    """Identity keys of the operators trusted to name their nodes' keys, one or several each: where the client begins. Keys that
    they add or end in the log are followed."""
    rate_cards: dict[NodeOrOperator, tuple[Hex32, ...]]
    """Entries of each operator's accepted rate cards, or of one node's (`operator/node`), such as a stage's; orders name the
    first."""
    custodians: Annotated[tuple[Custodian, ...], Field(min_length=1, max_length=MAX_CUSTODIANS)]
    custodian_standing: CustodianStanding | None = None
    """Which of them are left out; without it, none."""
    log: Log
    nodes: NodesPolicy = NodesPolicy()
    """Which of the operators' nodes are used, and for which chains."""
    attestation: AttestationPolicy = AttestationPolicy()
    key_store: KeyStoreSettings = KeyStoreSettings()
    """Where the key that signs orders is."""

    @field_validator("mirrors")
    @classmethod
    def _addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(checked_url(url) for url in urls)
        except CounterfoilError as error:
            raise ValueError(error.detail) from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read `client.toml`."""
        return load(cls, Path(path))

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.threshold > len(self.custodians):
            raise ValueError(
                f"a threshold of {self.threshold} cannot be met by {len(self.custodians)} custodians"
            )
        return self

    def tenant_key(self) -> Signer:
        """Return the key that signs orders; CONFIGURATION says why it cannot be used."""
        return load_ed25519(self.tenant_key_file, open_store(self.key_store))

    def operator_keys(self, operator: str) -> tuple[bytes, ...]:
        """Return an operator's pinned identity keys; none for one that is not trusted."""
        pinned = self.operators.get(operator, ())
        return tuple(
            bytes.fromhex(key) for key in ((pinned,) if isinstance(pinned, str) else pinned)
        )

    def card_name(self, node: str) -> str:
        """Return the name in `rate_cards` by which a node (`operator/node`) has its prices: its own, or else its operator's."""
        return node if node in self.rate_cards else node.partition("/")[0]

    def rate_card(self, node: str) -> bytes:
        """Return the entry of the rate card that orders to a node (`operator/node`) must name."""
        name = self.card_name(node)
        cards = self.rate_cards.get(name)
        if not cards:
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"the policy accepts no rate card of operator {name}",
                remedy="Add the card's entry to rate_cards in client.toml.",
            )
        return bytes.fromhex(cards[0])
