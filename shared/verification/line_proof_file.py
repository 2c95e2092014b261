"""The format of a proof of one line of an invoice (docs/cost-proof.md); nothing here verifies anything.

`shared.verification.line_proof` checks it. Amounts are decimals as text, hashes and statements base64 in its one canonical
form, names of statements (entries) lower-case hexadecimal.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)

from shared.codec.ids import check_label
from shared.codec.moment import MAX_MS
from shared.codec.strict_json import strict_json
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.reading import read_bounded
from shared.translog.notes import MAX_NOTE_BYTES, decode_base64, encode_base64
from shared.translog.policy_file import MAX_POLICY_BYTES
from shared.translog.tlog_proof import MAX_PATH
from shared.verification.payable import State
from shared.verification.rating import TokenKind

FORMAT: Final = "counterfoil-line-proof/v1"
MAX_FILE: Final = 32 * 2**20
"""Bytes."""
MAX_RECEIPTS: Final = 1_000
"""Receipts in one file, those of the line and those that bear on them together."""
END_INDEX: Final = 2**63
"""Above every log index."""
MAX_VERDICTS: Final = 64
"""About one receipt."""
MAX_SIGNERS: Final = 1_024
"""Key bundles, rate cards, and public keys, each."""
MAX_CLAIMS: Final = 64
MAX_SEALS: Final = 1_024
_MAX_BASE64: Final = 1 << 17


def _decoded(length: int | None) -> Callable[[object], bytes]:
    def decode(value: object) -> bytes:
        if not isinstance(value, bytes):
            if not isinstance(value, str) or len(value) > _MAX_BASE64:
                raise ValueError("must be base64 text of sensible length")
            try:
                value = decode_base64(value)
            except CounterfoilError as error:
                raise ValueError(error.detail) from error
        if length is not None and len(value) != length:
            raise ValueError(f"must be {length} bytes long")
        return value

    return decode


def _label(text: str) -> str:
    try:
        return check_label(text, "the label")
    except CounterfoilError as error:
        raise ValueError(error.detail) from error


_AS_BASE64: Final = PlainSerializer(encode_base64, return_type=str, when_used="json")
Octets = Annotated[bytes, BeforeValidator(_decoded(None)), _AS_BASE64]
Hash = Annotated[bytes, BeforeValidator(_decoded(32)), _AS_BASE64]
Path63 = Annotated[tuple[Hash, ...], Field(max_length=MAX_PATH)]
Hex32 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Unsigned = Annotated[int, Field(ge=0, le=2**63 - 1, strict=True)]
Moment = Annotated[int, Field(ge=0, le=MAX_MS + 1, strict=True)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Label = Annotated[str, AfterValidator(_label)]
Currency = Annotated[str, Field(pattern="^[A-Z][A-Z0-9]{2,11}$")]
Stated = Annotated[str, Field(pattern=r"^-?[0-9]{1,40}(\.[0-9]{1,40})?$", max_length=82)]
"""A decimal in plain notation, as an invoice has it."""
Rate = Annotated[str, Field(pattern=r"^[0-9]{1,26}(\.[0-9]{1,12})?$", max_length=39)]
Amount = Annotated[str, Field(pattern=r"^-?[0-9]{1,60}(\.[0-9]{1,40})?$", max_length=102)]
"""A result: wide enough for whatever prices, tokens, rates and stated amounts come to."""


class Part(BaseModel):
    """Base of the file's parts: every member is there, null where it has nothing to say, and no other."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Invoice(Part):
    """Which invoice it is about."""

    number: Unsigned
    """Its number at the audit server."""
    invoice_id: Label
    operator: Name
    currency: Currency
    sha256: Hex32
    """Of the invoice's file as it was submitted: whoever has the file sees that it is this one."""


class Claim(Part):
    """What a line of the invoice bills for one kind of token: the operator's word."""

    line_id: Label
    place: Label
    """Where it stands in the invoice's file."""
    kind: TokenKind
    quantity: Annotated[int, Field(ge=-(2**63), lt=2**63, strict=True)] | None
    """Negative where a line gives back; absent where it has only an amount."""
    unit_price: Stated | None
    per: Annotated[int, Field(ge=1, lt=2**63, strict=True)]
    amount: Stated


class Scope(Part):
    """Which receipts the file is about: those that ended in [start, end) and are of all that is named."""

    tenant: Name | None
    node: Name | None
    model_root: Hex32 | None
    start: Moment
    end: Moment
    first_index: Unsigned
    end_index: Annotated[int, Field(ge=1, le=END_INDEX, strict=True)]
    """At log indexes [first_index, end_index): a line with many receipts is proved in several files."""


class Log(Part):
    """The one witnessed checkpoint to which every `path` leads."""

    checkpoint: Annotated[str, Field(max_length=MAX_NOTE_BYTES)]
    policy: Annotated[str, Field(max_length=MAX_POLICY_BYTES)]
    """C2SP tlog-policy: the rule by which the file's maker calls it witnessed."""


class Logged(Part):
    """A signed statement, and its place in the log."""

    statement: Octets
    index: Unsigned
    path: Path63


class SealedLine(Part):
    """A receipt's line on the bill of a period that was closed (protocol §8.6)."""

    seal: Annotated[int, Field(ge=0, lt=MAX_SEALS, strict=True)]
    """The place of the period's seal in `seals`, from 0."""
    net: Literal[1, -1]
    index: Unsigned
    path: Path63


class ReceiptPart(Logged):
    """A receipt, its order, every verdict about it, the refusal of its order, and what is said to become of it."""

    order: Octets
    verdicts: Annotated[tuple[Logged, ...], Field(max_length=MAX_VERDICTS)]
    sealed: Annotated[tuple[SealedLine, ...], Field(max_length=MAX_SEALS)]
    state: State
    because: Hex32 | None
    """Entry of the verdict, receipt or refusal that holds it up or refuses it."""
    refusal: Logged | None = None
    """Files from before there were refusals lack it."""


class Term(Part):
    """Tokens of one kind at one price of one rate card: `amount` = `quantity` × `unit_price` / `per`."""

    kind: TokenKind
    rate_card: Hex32
    quantity: Annotated[int, Field(ge=0, le=2**80, strict=True)]
    unit_price: Amount
    per: Annotated[int, Field(ge=1, le=10**9, strict=True)]
    amount: Amount


class Figures(Part):
    """The arithmetic, of the kinds of token that the line bills."""

    currency: Currency
    """Of the rate cards."""
    terms: Annotated[tuple[Term, ...], Field(max_length=3 * MAX_SIGNERS)]
    """What receipts that are payable or held come to."""
    held: Amount
    """The part that awaits another worker's verdict, in `currency`."""
    fx_rate: Rate
    """Units of the invoice's currency for one of `currency`, by the contract; 1 where they are the same."""
    proven: Amount
    """In the invoice's currency."""
    billed: Amount
    difference: Amount
    """Billed − proven."""


class LineProof(Part):
    """A proof of one line."""

    format: Literal["counterfoil-line-proof/v1"] = "counterfoil-line-proof/v1"
    invoice: Invoice
    claims: Annotated[tuple[Claim, ...], Field(min_length=1, max_length=MAX_CLAIMS)]
    """The line, and any other line of the invoice that bills the same tokens."""
    scope: Scope
    log: Log
    keys: Annotated[tuple[Hash, ...], Field(max_length=MAX_SIGNERS)]
    """Ed25519 public keys, found by their key id."""
    key_bundles: Annotated[tuple[Logged, ...], Field(max_length=MAX_SIGNERS)]
    rate_cards: Annotated[tuple[Logged, ...], Field(max_length=MAX_SIGNERS)]
    receipts: Annotated[tuple[ReceiptPart, ...], Field(max_length=MAX_RECEIPTS)]
    """Those behind the line, in order of log index."""
    others: Annotated[tuple[ReceiptPart, ...], Field(max_length=MAX_RECEIPTS)]
    """Other receipts of the same requests, which decide what is payable."""
    seals: Annotated[tuple[Logged, ...], Field(max_length=MAX_SEALS)]
    """Of the closed billing periods that bill or take back one of `receipts`."""
    figures: Figures

    @property
    def is_part(self) -> bool:
        """Whether it is about some of the line's receipts only."""
        return (self.scope.first_index, self.scope.end_index) != (0, END_INDEX)

    def encode(self) -> str:
        """Return the file's text."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def parse_line_proof(data: bytes) -> LineProof:
    """Parse a file's bytes strictly: UTF-8, exactly the format's members, each once; otherwise MALFORMED."""
    if len(data) > MAX_FILE:
        raise _malformed(f"is larger than {MAX_FILE} bytes")
    try:
        values = strict_json(data)
    except (ValueError, RecursionError) as error:
        raise _malformed("is not JSON in UTF-8") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise _malformed(f"is not in the format {FORMAT}")
    try:
        return LineProof.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _malformed(f"cannot be read: {where[:100]!a}: {first['msg'][:200]}") from None


def read_line_proof(path: Path) -> LineProof:
    """Read and parse a file; NOT_FOUND if it cannot be read."""
    return parse_line_proof(read_bounded(path, MAX_FILE, code=Code.NOT_FOUND))


def _malformed(problem: str) -> CounterfoilError:
    return CounterfoilError(
        Code.MALFORMED,
        f"the proof {problem}",
        remedy="Make one with `counterfoil cost prove`.",
    )
