"""The HTTPS interface: the query API for auditors, tenants, operators and finance, and the published log."""

from importlib import metadata

from fastapi import Depends, FastAPI

from audit_layer.api.parts import Parts
from audit_layer.api.permissions import ExpiryWarning, access_to, asking
from audit_layer.api.public import public_router
from audit_layer.api.public_statements import public_statements_router
from audit_layer.api.routes import query_router
from audit_layer.api.timestamps import timestamp_router
from audit_layer.costs.api.routes import cost_router
from shared.runtime.http import install_problem_handlers
from shared.runtime.queries import STRICT

DESCRIPTION = (
    "Receipts, verdicts, disclosures and costs of sealed inference, each with the signed statement"
    " and the proof that it is in the public log. Errors are problem documents (RFC 9457)."
)


def create_app(parts: Parts) -> FastAPI:
    """Return the application; its schema is at `/openapi.json`."""
    app = FastAPI(
        title="Counterfoil audit",
        version=_version(),
        description=DESCRIPTION,
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
        dependencies=[Depends(access_to(parts.tokens))],
    )
    install_problem_handlers(app)
    app.add_middleware(ExpiryWarning)
    strict = [STRICT]
    app.include_router(query_router(parts), dependencies=strict)
    app.include_router(cost_router(parts.engine, parts.proofs, asking), dependencies=strict)
    app.include_router(public_router(parts))  # unknown parameters change no file
    app.include_router(timestamp_router(parts), dependencies=strict)
    app.include_router(public_statements_router(parts), dependencies=strict)
    return app


def _version() -> str:
    try:
        return metadata.version("counterfoil")
    except metadata.PackageNotFoundError:
        return "0"
