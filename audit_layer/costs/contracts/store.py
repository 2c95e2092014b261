"""Contracts in the books: bitemporal, append-only. In the caller's transaction."""

from dataclasses import dataclass

from sqlalchemy import or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from audit_layer.costs.contracts.terms import Terms, default_terms
from audit_layer.costs.models import ContractRow
from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError


@dataclass(frozen=True, slots=True)
class Contract:
    """Recorded terms."""

    id: int
    terms: Terms
    supersedes: int | None
    superseded_by: int | None
    recorded_at: int
    recorded_by: str


def record(db: Session, document: bytes, *, by: str, supersedes: int | None = None) -> Contract:
    """Record terms and return them; the same terms again are the same contract.

    Errors: MALFORMED; NOT_FOUND when there is no contract to supersede; CONFLICT when they overlap others of the same
    parties, when what they would supersede is superseded already, or when they were recorded before as superseding
    something else.
    """
    terms = Terms.parse(document)
    known = db.scalar(select(ContractRow).where(ContractRow.digest == terms.digest))
    if known is not None:
        return _again(_contract(db, known), supersedes)
    if supersedes is not None and db.get(ContractRow, supersedes) is None:
        raise CounterfoilError(Code.NOT_FOUND, f"there is no contract {supersedes}")
    start, end = terms.valid
    row = ContractRow(
        tenant=terms.tenant,
        operator=terms.operator,
        valid_from=start,
        valid_to=end,
        document=terms.canonical,
        digest=terms.digest,
        supersedes=supersedes,
        recorded_at=now_ms(),
        recorded_by=by,
    )
    db.add(row)
    try:
        db.flush()
        db.connection().exec_driver_sql("SET CONSTRAINTS costs_contracts_alone IMMEDIATE")
    except IntegrityError as error:
        raise CounterfoilError(
            Code.CONFLICT,
            f"the contract of {terms.tenant} with {terms.operator} overlaps one that is recorded, or supersedes one that "
            "is superseded already",
            remedy="`counterfoil cost contract list` shows what is in force; name the one that it replaces.",
        ) from error
    return _contract(db, row)


def contracts(
    db: Session, tenant: str | None = None, operator: str | None = None
) -> list[Contract]:
    """Return every contract ever recorded, in that order."""
    query = select(ContractRow).order_by(ContractRow.id)
    if tenant is not None:
        query = query.where(ContractRow.tenant == tenant)
    if operator is not None:
        query = query.where(ContractRow.operator == operator)
    return [_contract(db, row) for row in db.scalars(query)]


def terms_at(db: Session, tenant: str, operator: str, at: int) -> Terms:
    """Return the terms in force at a time (ms), as far as is known now."""
    later = aliased(ContractRow)
    row = db.scalar(
        select(ContractRow).where(
            ContractRow.tenant == tenant,
            ContractRow.operator == operator,
            ContractRow.valid_from <= at,
            or_(ContractRow.valid_to.is_(None), ContractRow.valid_to > at),
            ~select(later).where(later.supersedes == ContractRow.id).exists(),
        )
    )
    return default_terms(tenant, operator) if row is None else Terms.parse(row.document)


def time_zone_at(db: Session, tenant: str, operator: str, at: int) -> str:
    """Return the time zone of the billing period that holds a time."""
    return terms_at(db, tenant, operator, at).time_zone


def terms_by_digest(db: Session, digest: bytes) -> Terms | None:
    """Return terms that were recorded, by their digest."""
    row = db.scalar(select(ContractRow).where(ContractRow.digest == digest))
    return None if row is None else Terms.parse(row.document)


def _again(known: Contract, supersedes: int | None) -> Contract:
    """Return terms that are recorded already, if it is the same step that was repeated."""
    if supersedes in {None, known.supersedes}:
        return known
    now = f", which contract {known.superseded_by} superseded" if known.superseded_by else ""
    raise CounterfoilError(
        Code.CONFLICT,
        f"these very terms are recorded as contract {known.id}{now}",
        remedy="Terms come into force once; to return to earlier ones, give them another `valid_from`.",
    )


def _contract(db: Session, row: ContractRow) -> Contract:
    successor = db.scalar(select(ContractRow.id).where(ContractRow.supersedes == row.id))
    return Contract(
        id=row.id,
        terms=Terms.parse(row.document),
        supersedes=row.supersedes,
        superseded_by=successor,
        recorded_at=row.recorded_at,
        recorded_by=row.recorded_by,
    )
