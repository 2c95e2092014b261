"""The operator's folder: its identity key and name, and the rate cards it signs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.codec.ids import check_name
from shared.codec.money import amount_of, check_currency, parse_decimal
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import (
    load_ed25519,
    load_or_create_ed25519,
    private_folder,
    public_bytes,
    write_atomic,
)
from shared.statements.cose import entry_of, sign
from shared.statements.ratecards import Price, RateCard

MAX_SCALE: Final = 12
"""Most decimal places that the price of one token may have."""


@dataclass(frozen=True, slots=True)
class Operator:
    """A node operator: a name and the identity key that clients pin."""

    folder: Path
    name: str
    key: Ed25519PrivateKey

    @classmethod
    def create(cls, folder: Path, name: str) -> "Operator":
        """Create the folder on first use; CONFLICT if it belongs to another operator."""
        check_name(name, "the operator")
        private_folder(folder)
        card = folder / "operator.json"
        if card.exists() and (found := _name_in(card)) != name:
            raise CounterfoilError(Code.CONFLICT, f"{folder} belongs to operator {found}")
        key = load_or_create_ed25519(folder / "operator.pem")
        write_atomic(card, (json.dumps({"operator": name}) + "\n").encode())
        return cls(folder, name, key)

    @classmethod
    def load(cls, folder: Path) -> "Operator":
        """Read the folder."""
        return cls(
            folder, _name_in(folder / "operator.json"), load_ed25519(folder / "operator.pem")
        )

    @property
    def key_file(self) -> Path:
        """The identity key."""
        return self.folder / "operator.pem"

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


def _name_in(path: Path) -> str:
    try:
        name = json.loads(path.read_text("utf-8"))["operator"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{path} does not name an operator",
            remedy="Create the folder with `counterfoil node operator-init`.",
        ) from error
    return check_name(str(name), "the operator")
