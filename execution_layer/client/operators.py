"""The operators' identity keys as this client knows them: those that the policy pins, continued by the log."""

from collections.abc import Iterable

from execution_layer.client.policy import ClientPolicy
from shared.parties.identity_book import IdentityBook
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import SignedStatement, verify_signature
from shared.statements.identities import Holder
from shared.verification.identities import KeyHistory

BOOK = "identities.json"


class Operators:
    """Pins and what the log has made of them; it is kept beside the archive."""

    def __init__(self, policy: ClientPolicy) -> None:
        self._policy = policy
        self._book = IdentityBook(policy.archive.with_name(BOOK), policy.log.policy())

    def learn(self, shown: Iterable[tuple[bytes, str]]) -> None:
        """Keep the (statement, tlog-proof) pairs that the log proves, by whomever they are shown."""
        self._book.learn(shown)

    def history(self, operator: str) -> KeyHistory:
        """Return an operator's keys; UNTRUSTED_KEY if the policy does not pin it."""
        pinned = self._policy.operator_keys(operator)
        if not pinned:
            raise CounterfoilError(
                Code.UNTRUSTED_KEY, f"the policy does not pin operator {operator[:64]}"
            )
        return self._book.history(Holder.OPERATOR, operator, pinned)

    def verify(self, statement: SignedStatement, operator: str) -> None:
        """Check that a key which the operator ever had signed a statement; `check_place` says whether it had it then."""
        life = self.history(operator).life(statement.kid)
        if life is None:
            raise CounterfoilError(
                Code.UNTRUSTED_KEY,
                f"the {statement.type} is not signed with the key that is trusted for it",
            )
        verify_signature(statement, life.key)

    def check_place(self, statement: SignedStatement, operator: str, index: int) -> None:
        """UNTRUSTED_KEY if the log has it at an `index` at which its signer's key was not one of the operator's."""
        self.history(operator).key(statement.kid, index)


def known_operators(policy: ClientPolicy, operator: str | None = None) -> list[KeyHistory]:
    """Return the keys of all pinned operators, or of one if it is pinned."""
    operators = Operators(policy)
    return [operators.history(name) for name in policy.operators if operator in {None, name}]
