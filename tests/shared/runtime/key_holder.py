"""A double of a key store's plug-in, for tests: it keeps keys in this process's memory and hands none out."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from shared.envelope.hpke import generate_hpke_key
from shared.runtime.errors import CounterfoilError

KIND = "double-for-tests"
"""It says in every configuration and reference what it is."""


class DoubleOfAHolder:
    """A double, not a device."""

    def __init__(self):
        self.keys = {}
        self.failing = None
        self.signs_with = None

    def __call__(self, options):
        """Start, as the plug-in's entry point does."""
        self.options = dict(options)
        self.answer()
        return self

    def answer(self):
        if self.failing is not None:
            raise self.failing

    def create(self, algorithm):
        self.answer()
        makers = {
            "ed25519": Ed25519PrivateKey.generate,
            "ml-dsa-44": MLDSA44PrivateKey.generate,
            "mlkem768-x25519": generate_hpke_key,
        }
        label = f"{self.options.get('prefix', '')}{algorithm}-{len(self.keys)}"
        self.keys[label] = makers[algorithm]()
        return label

    def public_key(self, label):
        self.answer()
        key = self.keys[label]
        return key.public_bytes if hasattr(key, "seed") else key.public_key().public_bytes_raw()

    def sign(self, label, data):
        self.answer()
        return (self.signs_with or self.keys[label]).sign(data)

    def open(self, label, info, data):
        self.answer()
        try:
            return self.keys[label].open(info, data)
        except CounterfoilError as error:
            raise ValueError("not sealed for this key") from error
