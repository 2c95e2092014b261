"""From a request's body to the model's prompt."""

from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import RequestBody
from shared.text.tokenizer import Tokenizer


def prompt_ids(tokenizer: Tokenizer, body: RequestBody) -> tuple[int, ...]:
    """Return the prompt's tokens: the tokenizer's own encoding, under the chat template for messages.

    A plain prompt gets the special tokens that the tokenizer puts around a text (see `tokenizer`).
    """
    if body.messages:
        tokens = tokenizer.encode_chat(body.messages)
    else:
        assert body.prompt is not None
        tokens = tokenizer.encode_prompt(body.prompt)
    if not tokens:
        raise CounterfoilError(Code.INVALID_ARGUMENT, "the prompt is empty")
    return tokens


def most_bytes(tokenizer: Tokenizer, context: int) -> int:
    """Return the maximum size of the contents in bytes: a context full of the longest token (protocol §7.4)."""
    return context * tokenizer.longest_token
