"""Who may call what: the one table that decides, for every gRPC method and every HTTP route of every server.

A method or route that is not in it is refused to everybody (`shared.runtime.access`). What a caller sees of others' on a
route that it may call is the use case's business; here is only whether it may call. Protocol §9 says it for other
implementations.
"""

from typing import Final

from shared.runtime.access import PUBLIC, Rules, by_parties, by_tokens, signed_by
from shared.runtime.party import PartyRole

TENANT, AUDITOR, FINANCE, OPERATOR = "tenant", "auditor", "finance", "operator"
"""Roles of tokens."""
_HEALTH: Final[Rules] = {
    "/grpc.health.v1.Health/Check": PUBLIC,
    "/grpc.health.v1.Health/Watch": PUBLIC,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": PUBLIC,  # if the operator offers it at all
}
_ANYONES: Final = by_tokens(TENANT, AUDITOR, FINANCE, OPERATOR)
_AUDITED: Final = by_tokens(TENANT, AUDITOR, OPERATOR)
_TENANTS: Final = by_tokens(TENANT, AUDITOR)
_MONEY: Final = by_tokens(TENANT, AUDITOR, FINANCE)
_BOOKS: Final = by_tokens(FINANCE)

AUDIT_GRPC: Final[Rules] = {
    **_HEALTH,
    "/counterfoil.audit.v1.Intake/Submit": signed_by(
        "each statement's issuer"
    ),  # see BROUGHT_BY_ANYBODY
    "/counterfoil.audit.v1.Intake/Deposit": signed_by(
        "the receipt and the final record, by the node"
    ),
    "/counterfoil.audit.v1.Log/GetCheckpoint": PUBLIC,
    "/counterfoil.audit.v1.Log/GetProof": PUBLIC,
    "/counterfoil.audit.v1.Log/GetConsistency": PUBLIC,
    "/counterfoil.audit.v1.Directory/ListKeyBundles": PUBLIC,
    "/counterfoil.audit.v1.Directory/ListIdentityKeys": PUBLIC,
    "/counterfoil.audit.v1.Directory/GetRateCards": PUBLIC,
}
BROUGHT_BY_ANYBODY: Final = frozenset(
    {
        "receipt",
        "refusal",
        "revocation",
        "identity-key",
        "identity-key-end",
        "audit-request",
        "disclosure-release",
        "escrow-report",
        "share-report",
    }
)
"""The types of statement that `Submit` takes from callers without a party's certificate: what tenants, and operators' own
commands, hand in. All others come from nodes and workers, which show theirs."""
BRINGERS: Final = frozenset({PartyRole.NODE, PartyRole.WORKER})
"""Whose certificates let a caller bring any statement; its issuer's signature is checked all the same."""

NODE_GRPC: Final[Rules] = {
    **_HEALTH,
    "/counterfoil.execution.v1.Inference/GetKeyBundle": PUBLIC,
    "/counterfoil.execution.v1.Inference/Generate": signed_by("the order, by its tenant"),
    "/counterfoil.execution.v1.Inference/Resume": signed_by("the call, by the order's tenant"),
    "/counterfoil.execution.v1.Inference/Cancel": signed_by("the call, by the order's tenant"),
    "/counterfoil.execution.v1.Inference/GetModelFiles": PUBLIC,
    "/counterfoil.execution.v1.Evidence/GetEvidence": by_parties(PartyRole.WORKER),
}

STAGE_GRPC: Final[Rules] = {
    **_HEALTH,
    "/counterfoil.execution.v1.Stages/Join": by_parties(PartyRole.NODE),
    "/counterfoil.execution.v1.Stages/Push": by_parties(PartyRole.NODE),
    "/counterfoil.execution.v1.Stages/Accept": by_parties(PartyRole.NODE),
    "/counterfoil.execution.v1.Stages/Close": by_parties(PartyRole.NODE),
}
"""Of the nodes, only those that the stage's operator names."""

STAGE_NODE_GRPC: Final[Rules] = {**NODE_GRPC, **STAGE_GRPC}
"""Of a stage that accounts for itself; it answers no requests."""

_BEACON: Final[Rules] = {
    "POST /beacon/commitment": by_parties(PartyRole.WORKER),
    "POST /beacon/reveal": by_parties(PartyRole.WORKER),
}
WITNESS_HTTP: Final[Rules] = {
    **_BEACON,
    "POST /add-checkpoint": by_parties(PartyRole.AUDIT),
    "GET /checkpoint/{origin_hash}": PUBLIC,
    "GET /health": PUBLIC,
}
CUSTODIAN_HTTP: Final[Rules] = {
    **_BEACON,
    "POST /release": by_parties(PartyRole.WORKER),
    "POST /share": by_parties(PartyRole.WORKER),
    "GET /reports": PUBLIC,
    "GET /health": PUBLIC,
}

AUDIT_HTTP: Final[Rules] = {
    "GET /checkpoint": PUBLIC,
    "GET /tile/{path:path}": PUBLIC,
    "GET /healthz": PUBLIC,
    "GET /metrics": PUBLIC,
    "GET /openapi.json": PUBLIC,
    "GET /timestamps": PUBLIC,
    "GET /timestamp/{size}": PUBLIC,
    "GET /v1/public/statements": PUBLIC,
    "GET /v1/receipts": _ANYONES,
    "GET /v1/statements/{entry}": _AUDITED,
    "GET /v1/receipts/{entry}/account": _AUDITED,
    "GET /v1/standings": _ANYONES,
    "GET /v1/refusals": _AUDITED,
    "GET /v1/verdicts": _AUDITED,
    "GET /v1/tenants/{tenant}/completeness": _TENANTS,
    "GET /v1/tenants/{tenant}/disclosures": _TENANTS,
    "GET /v1/epochs": _AUDITED,
    "GET /v1/disclosures": _TENANTS,
    "GET /v1/findings": by_tokens(AUDITOR),
    "GET /v1/status": by_tokens(AUDITOR),
    "GET /v1/costs/totals": _MONEY,
    "GET /v1/costs/unpaid": _MONEY,
    "GET /v1/costs/fsck": _BOOKS,
    "GET /v1/costs/periods": _MONEY,
    "GET /v1/costs/periods/{number}/bill": _MONEY,
    "GET /v1/costs/contracts": _MONEY,
    "GET /v1/costs/models": _MONEY,
    "GET /v1/costs/ledger/balances": _BOOKS,
    "GET /v1/costs/ledger/statement": _BOOKS,
    "GET /v1/costs/invoices": _BOOKS,
    "GET /v1/costs/invoices/{number}/letter": _BOOKS,
    "GET /v1/costs/invoices/{number}/lines/{line:path}/proof": _BOOKS,
    "GET /v1/costs/export": _MONEY,
    "GET /v1/costs/centres": _MONEY,
    "GET /v1/costs/budgets": _MONEY,
    "GET /v1/costs/budget-status": _MONEY,
    "POST /v1/costs/rate": _BOOKS,
    "POST /v1/costs/periods/{number}/state": _BOOKS,
    "POST /v1/costs/contracts": _BOOKS,
    "PUT /v1/costs/models/{name}": _BOOKS,
    "POST /v1/costs/plausibility": _BOOKS,
    "PUT /v1/costs/budgets/{name}": _BOOKS,
    "POST /v1/costs/budgets/{name}/end": _BOOKS,
    "POST /v1/costs/ledger/operations": _BOOKS,
    "POST /v1/costs/ledger/journals/{number}/mirror": _BOOKS,
    "POST /v1/costs/invoices/preview": _BOOKS,
    "POST /v1/costs/invoices": _BOOKS,
    "POST /v1/costs/invoices/{number}/reconcile": _BOOKS,
    "POST /v1/costs/invoices/{number}/state": _BOOKS,
}
