"""The operator's folder: its identity key and name, and the rate cards it signs."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shared.codec.ids import check_name
from shared.codec.money import amount_of, check_currency, parse_decimal
from shared.runtime.config import checked
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.key_store import KeyStoreSettings, open_store
from shared.runtime.keys import (
    Signer,
    load_ed25519,
    load_or_create_ed25519,
    private_folder,
    public_bytes,
    write_atomic,
)
from shared.statements.cose import entry_of, sign
from shared.statements.ratecards import Price, RateCard

KEY, CARD = "operator.pem", "operator.json"
MAX_SCALE: Final = 12
"""Most decimal places that the price of one token may have."""


@dataclass(frozen=True, slots=True)
class Operator:
    """A node operator: a name and the identity key that clients pin."""

    folder: Path
    name: str
    key: Signer
    key_store: KeyStoreSettings = field(default_factory=KeyStoreSettings)
    """Where the identity key is."""

    @classmethod
    def create(
        cls, folder: Path, name: str, key_store: KeyStoreSettings | None = None
    ) -> "Operator":
        """Create the folder on first use; CONFLICT if it belongs to another operator.

        An operator that exists keeps its key store unless another is given.
        """
        check_name(name, "the operator")
        private_folder(folder)
        card, chosen = folder / CARD, key_store or KeyStoreSettings()
        if card.exists():
            found, known = _read(card)
            if found != name:
                raise CounterfoilError(Code.CONFLICT, f"{folder} belongs to operator {found}")
            chosen = key_store or known
        key = load_or_create_ed25519(folder / KEY, open_store(chosen))
        shown = {"operator": name, "key_store": chosen.model_dump(exclude_none=True)}
        write_atomic(card, (json.dumps(shown) + "\n").encode())
        return cls(folder, name, key, chosen)

    @classmethod
    def load(cls, folder: Path) -> "Operator":
        """Read the folder."""
        name, key_store = _read(folder / CARD)
        return cls(folder, name, load_ed25519(folder / KEY, open_store(key_store)), key_store)

    @property
    def key_file(self) -> Path:
        """The identity key."""
        return self.folder / KEY

    @property
    def public_hex(self) -> str:
        """The public key that clients and the audit layer pin."""
        return public_bytes(self.key).hex()

    def sign_rate_card(self, card: RateCard) -> tuple[bytes, bytes]:
        """Return (statement, entry)."""
        statement = sign(card, key=self.key, issuer=self.name)
        return statement, entry_of(statement)


def price(model_root: bytes, *, fresh: str, cached: str, output: str, per: int) -> Price:
    """Return a price whose amounts are exact to 12 decimal places for any number of tokens."""
    for text in (fresh, cached, output):
        amount = parse_decimal(text, "price")
        amount_of(0, amount, per)  # refuses anything but a power of ten
        exponent = amount.as_tuple().exponent
        assert isinstance(exponent, int)
        if len(str(per)) - 1 - exponent > MAX_SCALE or amount < 0:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"the price {text} per {per} tokens has more than {MAX_SCALE} decimal places per token",
            )
    return Price(model_root, fresh, cached, output, per)


def rate_card(
    operator: Operator, name: str, currency: str, prices: tuple[Price, ...], valid_from: int
) -> RateCard:
    """Return an open-ended rate card."""
    return RateCard(
        name=name,
        operator=operator.name,
        currency=check_currency(currency),
        valid_from=valid_from,
        prices=prices,
    )


def _read(path: Path) -> tuple[str, KeyStoreSettings]:
    """Return an operator's name and key store, from the folder's description."""
    try:
        shown = json.loads(path.read_text("utf-8"))
        name, key_store = shown["operator"], shown.get("key_store", {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{path} does not name an operator",
            remedy="Create the folder with `counterfoil node operator-init`.",
        ) from error
    if not isinstance(key_store, dict):
        raise CounterfoilError(Code.CONFIGURATION, f"{path}: key_store is not an object")
    found = checked(KeyStoreSettings, key_store, f"{path}: key_store")
    return check_name(str(name), "the operator"), found
