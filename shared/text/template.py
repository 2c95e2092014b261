"""Chat templates: Jinja as Hugging Face uses it, made deterministic and bounded.

A template comes with a model, and so from a stranger. It runs in a sandbox on the true contents, has neither clock nor
randomness (a prompt must be the same at the node and the auditor), and its output distinguishes what it wrote from its
input (`marked`).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from jinja2 import TemplateError, UndefinedError

from shared.runtime.errors import Code, CounterfoilError
from shared.text.budget import TooMuchError, with_budget
from shared.text.marked import Marked
from shared.text.sandbox import CLOCK, NotPermittedError, Sandbox

REMEDY: Final = "You can put a template of your own into the model folder as chat_template.jinja."


class TemplateRefusesError(CounterfoilError):
    """A template raised an exception, deliberately or not, for the given messages."""

    def __init__(self) -> None:
        super().__init__(
            Code.INVALID_ARGUMENT, "the chat template does not accept these roles in this order"
        )


class ChatTemplate:
    """A compiled template; safe to share between threads."""

    def __init__(self, source: str, names: Mapping[str, str]) -> None:
        """Compile; MALFORMED if it is not Jinja, UNSUPPORTED for anything that templates may not do here.
        `names` are the spellings of special tokens.
        """
        self._names = {name: Marked.written(spelling) for name, spelling in names.items()}
        environment = Sandbox()
        try:
            self._template = environment.from_string(environment.parsed(source))
        except NotPermittedError as error:
            raise _not_permitted(error) from error
        except (TemplateError, RecursionError, MemoryError, OverflowError, SyntaxError) as error:
            raise CounterfoilError(
                Code.MALFORMED, "the chat template is not valid Jinja"
            ) from error

    def render(self, messages: Sequence[Mapping[str, str]]) -> Marked:
        """Return the text that prompts for the assistant's answer, marked where the template wrote it; roles count as its own.
        UNSUPPORTED for a template that does something not permitted; INVALID_ARGUMENT for one that refuses these messages, or
        fails.
        """
        given = [
            {"role": Marked.written(message["role"]), "content": Marked(message["content"])}
            for message in messages
        ]
        try:
            text = with_budget(
                lambda: self._template.render(
                    **self._names,
                    messages=given,
                    tools=None,
                    documents=None,
                    add_generation_prompt=True,
                )
            )
        except CounterfoilError:
            raise
        except NotPermittedError as error:
            raise _not_permitted(error) from error
        except TooMuchError as error:
            raise CounterfoilError(Code.INVALID_ARGUMENT, f"the chat template {error}") from error
        except Exception as error:  # a template can make any operation fail
            if isinstance(error, UndefinedError) and CLOCK in str(error):
                raise _not_permitted(f"uses the clock ({CLOCK})") from error
            raise TemplateRefusesError from error
        return Marked(text)


def _not_permitted(what: object) -> CounterfoilError:
    return CounterfoilError(Code.UNSUPPORTED, f"the chat template {what}", remedy=REMEDY)
