"""Rules about who may call what. `grpc_access` and `http_access` enforce them in front of methods and routes.

The rules themselves are one table (`shared.parties.permissions`); a method or route without one is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.party import Party, PartyRole


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call one method or route: everybody, unless it is for the parties or tokens of some roles."""

    parties: frozenset[PartyRole] = frozenset()
    """By certificate."""
    tokens: frozenset[str] = frozenset()
    """By bearer token."""
    signed: str = ""
    """What in the call itself is signed by whoever it concerns, where everybody may bring it; the use case checks that."""


PUBLIC: Final = Rule()
Rules = Mapping[str, Rule]
"""By gRPC method (`/package.Service/Method`), or by HTTP method and route (`GET /v1/receipts`)."""


def by_parties(*roles: PartyRole) -> Rule:
    """Return the rule of what is for parties of these roles."""
    return Rule(parties=frozenset(roles))


def by_tokens(*roles: str) -> Rule:
    """Return the rule of what is for tokens of these roles."""
    return Rule(tokens=frozenset(roles))


def signed_by(what: str) -> Rule:
    """Return the rule of what anybody may bring, because it is signed."""
    return Rule(signed=what)


def rule_of(rules: Rules, what: str) -> Rule:
    """Return the rule of a method or route; FORBIDDEN to everybody if there is none."""
    rule = rules.get(what)
    if rule is None:
        raise CounterfoilError(Code.FORBIDDEN, f"nobody is permitted to call {what}")
    return rule


def check_party(rule: Rule, what: str, party: Party | None) -> None:
    """Raise FORBIDDEN unless the rule lets a caller with this certificate, or with none, pass."""
    if not rule.parties or (party is not None and party.role in rule.parties):
        return
    shown = f"the certificate of {party}" if party is not None else "no party's certificate"
    wanted = " or ".join(sorted(rule.parties))
    raise CounterfoilError(
        Code.FORBIDDEN,
        f"{what} is for parties of role {wanted}; the call shows {shown}",
        remedy="Call the address for parties with a certificate that names one: [party] in the caller's configuration.",
    )


def check_token_role(rule: Rule, role: str) -> None:
    """Raise FORBIDDEN unless the rule is for tokens of this role."""
    if role not in rule.tokens:
        raise CounterfoilError(Code.FORBIDDEN, f"a token of role {role} does not permit this")
