"""From a request's body to the model's input."""

from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import RequestBody
from shared.text.stream import TextStream
from shared.text.tokenizer import Tokenizer


def prompt_ids(tokenizer: Tokenizer, body: RequestBody) -> tuple[int, ...]:
    """Return the model's input: the tokenizer's own encoding of the prompt, under the chat template for messages, and what
    earlier attempts delivered.

    A plain prompt gets the special tokens that the tokenizer puts around a text (see `tokenizer`). INVALID_ARGUMENT for an
    empty prompt, and for a prefix that is a whole answer (protocol §3.3.1).
    """
    if body.messages:
        tokens = tokenizer.encode_chat(body.messages)
    else:
        assert body.prompt is not None
        tokens = tokenizer.encode_prompt(body.prompt)
    if not tokens:
        raise CounterfoilError(Code.INVALID_ARGUMENT, "the prompt is empty")
    TextStream(tokenizer, body.settings.stop, body.settings.stop_token_ids, body.prefix)
    return (*tokens, *body.prefix)


def most_bytes(tokenizer: Tokenizer, context: int) -> int:
    """Return the maximum size of the contents in bytes: a context full of the longest token (protocol §7.4)."""
    return context * tokenizer.longest_token
