"""What a client with a model's tokenizer checks itself: the prompt's tokens, and the text of an answer's tokens.
Without one, both are the node's word until an audit. The tokenizer needs packages that a client may lack (extra `text`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from execution_layer.client.policy import ClientPolicy
from execution_layer.client.response_check import Said, Tokenise
from shared.runtime.config import read_json
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import RequestBody

if TYPE_CHECKING:
    from shared.text.tokenizer import Tokenizer

FETCHED: Final = "tokenizers"
"""Folder next to the archive, with a folder for each model root whose files were fetched with proof."""


@dataclass(frozen=True, slots=True)
class ModelText:
    """One model's tokenizer."""

    tokenizer: "Tokenizer"

    def tokenise(self, body: RequestBody) -> Tokenise:
        """Return a function that gives the tokens of a request's input."""
        from shared.text.prompt import prompt_ids  # noqa: PLC0415  # packages that a client may lack

        return lambda: prompt_ids(self.tokenizer, body)

    def settled(self, body: RequestBody, tokens: Sequence[int]) -> str:
        """Return the text that is certain after an answer's first tokens; INVALID_ARGUMENT if the answer ends with them."""
        from shared.text.stream import TextStream  # noqa: PLC0415  # packages that a client may lack

        settings = body.settings
        return TextStream(self.tokenizer, settings.stop, settings.stop_token_ids, tokens).settled

    def said(self, body: RequestBody) -> Callable[[], Said]:
        """Return a factory for readers of one answer's frames."""
        from shared.text.stream import SaidText  # noqa: PLC0415  # likewise

        settings = body.settings
        return lambda: SaidText(self.tokenizer, settings.stop, settings.stop_token_ids, body.prefix)


class Texts:
    """A client's tokenizers, each loaded once."""

    def __init__(self, policy: ClientPolicy) -> None:
        self._policy = policy
        self._read: dict[Path, ModelText] = {}

    def of(self, model_root: bytes) -> ModelText | None:
        """Return a model's tokenizer: the policy's, or else the one fetched for this root; None if there is neither."""
        folder = self._policy.tokenizer or fetched_folder(self._policy, model_root)
        if self._policy.tokenizer is None and not folder.is_dir():
            return None
        if folder not in self._read:
            self._read[folder] = ModelText(_tokenizer(folder))
        return self._read[folder]


def layers_of(policy: ClientPolicy, model_root: bytes) -> int | None:
    """Return how many layers a model has by its configuration, if the client has fetched that with proof; else None."""
    file = fetched_folder(policy, model_root) / "config.json"
    layers = read_json(file).get("num_hidden_layers") if file.is_file() else None
    return layers if type(layers) is int else None


def fetched_folder(policy: ClientPolicy, model_root: bytes) -> Path:
    """Return the folder for a model's files that were fetched with proof."""
    return policy.archive.parent / FETCHED / model_root.hex()


def _tokenizer(folder: Path) -> "Tokenizer":
    try:
        from shared.text.generation import stop_tokens  # noqa: PLC0415  # packages that a client may lack
        from shared.text.tokenizer import Tokenizer  # noqa: PLC0415  # likewise
    except ImportError as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{folder} cannot be read without the package {error.name}",
            remedy="pip install 'counterfoil[text]'",
        ) from error
    return Tokenizer.from_folder(folder, stop_tokens(folder))
