"""Chat templates: Jinja as Hugging Face uses it, made deterministic and bounded.

A template comes with a model, and so from a stranger. It runs in Jinja's sandbox, has neither clock nor chance (a prompt must be
the same on the node and at the auditor), and takes a bounded number of steps: each turn of a loop and each call of a macro is one.
What a single expression may cost is bounded only roughly; a template is as trusted as the folder that the operator chose.
"""

import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from jinja2 import Environment, TemplateError, UndefinedError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from shared.runtime.errors import Code, CounterfoilError

MAX_STEPS = 20_000
MAX_PRODUCT = 1 << 20
"""Largest product that a template may compute, or length that it may make by repetition."""
MAX_RENDERED = 4 << 20
CLOCK = "strftime_now"
"""Hugging Face's only way to the clock. It is not defined here; a template may ask whether it is."""


class ChatTemplate:
    """A compiled template; safe to share between threads."""

    def __init__(self, source: str, names: Mapping[str, str]) -> None:
        """Compile; MALFORMED for what is not Jinja, or uses chance. `names` are special tokens' spellings."""
        self._names = dict(names)
        environment = _Sandbox()
        try:
            self._template = environment.from_string(_counted(environment, source))
        except (TemplateError, RecursionError) as error:
            raise CounterfoilError(
                Code.MALFORMED, "the chat template is not valid Jinja"
            ) from error

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the text that asks for the assistant's answer.

        UNSUPPORTED for a template that wants the time; INVALID_ARGUMENT for one that refuses these messages, fails, or is too
        long about it.
        """
        budget = _steps.set([MAX_STEPS])
        try:
            text = self._template.render(
                **self._names,
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=True,
            )
        except Exception as error:  # a template can make any operation fail
            if isinstance(error, UndefinedError) and CLOCK in str(error):
                raise CounterfoilError(
                    Code.UNSUPPORTED, f"the chat template uses the clock ({CLOCK})"
                ) from error
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, "the chat template does not take these roles in this order"
            ) from error
        finally:
            _steps.reset(budget)
        if len(text) > MAX_RENDERED:
            raise CounterfoilError(Code.INVALID_ARGUMENT, "the chat template writes too much")
        return text


class _Sandbox(ImmutableSandboxedEnvironment):
    """Hugging Face's environment without clock and chance, with bounded products and no powers."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,  # the output is no HTML
            extensions=["jinja2.ext.loopcontrols", _Extension],
        )
        del self.filters["random"]
        del self.globals["lipsum"]
        self.filters["tojson"] = _tojson
        self.globals["raise_exception"] = _raise_exception
        self.globals["namespace"] = _Namespace

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: ARG002  # as Jinja has it
        """Multiply within bounds; refuse powers and the old formatting."""
        if operator == "%" and not isinstance(left, str):
            return left % right
        if operator == "*":
            sizes = [
                value if isinstance(value, int | float) else len(value) for value in (left, right)
            ]
            if abs(sizes[0] * sizes[1]) <= MAX_PRODUCT:
                return left * right
        raise TemplateError(f"the operator {operator} is not permitted here")


class _Extension(Extension):
    """Counts steps, and takes the mark `generation`, which trainers put around answers."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def step(self) -> str:
        """Take one step; called for each turn of a loop, each item that its condition is asked about, each call of a macro."""
        left = _steps.get()
        left[0] -= 1
        if left[0] < 0:
            raise TemplateError("the template takes too many steps")
        return ""


class _Namespace(Namespace):
    """Names without underscore only, so that nothing of Python's own is reached."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise TemplateError(f"{name} is not permitted here")
        super().__setitem__(name, value)


_steps: ContextVar[list[int]] = ContextVar("steps left of the rendering")


def _counted(environment: Environment, source: str) -> nodes.Template:
    """Return the parsed template with a step at the beginning of every body that can be entered again."""
    tree = environment.parse(source)
    step = environment.extensions[_Extension.identifier]
    for kind in (nodes.For, nodes.Macro, nodes.CallBlock):
        for node in list(tree.find_all(kind)):
            assert isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock)
            node.body.insert(0, nodes.ExprStmt(step.call_method("step")))
            if isinstance(node, nodes.For) and node.test is not None:
                node.test = nodes.And(nodes.Not(step.call_method("step")), node.test)
    tree.set_environment(environment)
    return tree


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Write plain JSON: Jinja's own filter escapes what HTML would take for markup."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
