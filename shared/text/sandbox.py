"""The Jinja of chat templates: Hugging Face's environment without clock and randomness, bounded, with marked strings.

Every string that a template sees is `Marked`: its own text and constants as written by it. It takes a bounded number of steps
(each loop iteration and each macro call is one), processes a bounded amount of text and lists in total (`work`), and creates
strings, lists and numbers of bounded size. Anything not listed here (a filter, a method, an operator, other files) is refused
by name when the template is compiled.
"""

import json
from collections.abc import Callable, Iterable
from functools import wraps
from itertools import chain
from typing import Any

from jinja2 import Environment, TemplateError, Undefined, nodes, pass_environment
from jinja2.ext import Extension
from jinja2.filters import do_indent, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

from shared.text.budget import LISTED, TooMuchError, made, spend, step, touched, weighed, within
from shared.text.marked import Marked, concat


def _names(names: str) -> list[str]:
    return names.split()


MAX_PRODUCT = 1 << 20
"""Largest product that a template may compute, and longest list that it may create."""
MAX_INDENT = 100
CLOCK = "strftime_now"
"""Hugging Face's only access to the clock. It is not defined here; a template may ask whether it is."""
FILTERS = frozenset(
    _names(
        "abs attr capitalize count d default dictsort e escape first float forceescape groupby indent int items join last "
        "length list lower map max min reject rejectattr replace reverse safe select selectattr sort string title tojson "
        "trim truncate unique upper wordcount"
    )
)
"""Filters that are deterministic and whose cost is linear in their input."""
METHODS = frozenset(
    _names(
        "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit islower isnumeric "
        "isprintable isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex "
        "rpartition rsplit rstrip split splitlines startswith strip swapcase title upper"
    )
)
"""String methods for which the same holds."""
DEEP = frozenset(_names("dictsort groupby join max min sort string tojson unique"))
"""Filters that visit the characters of a list's items."""
PRINTED = (str, int, float, type(None), Undefined, range, *LISTED)
"""Types whose text is the same in every process."""
NOT_OF_STRINGS = frozenset(name for name in dir(str) if name not in METHODS)


class NotPermittedError(TemplateError):
    """The template uses something that is not permitted here; the text says what."""


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment for one template."""

    intercepted_binops = frozenset({"+", "*", "%"})
    concat = staticmethod(concat)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,  # the output is not HTML
            extensions=["jinja2.ext.loopcontrols", Own],
            finalize=_text,
        )
        self.filters = {name: self.filters[name] for name in FILTERS}
        self.filters |= {"tojson": _tojson, "join": _join, "indent": _indent}
        self.filters = {name: _charged(self.filters[name], name in DEEP) for name in self.filters}
        tests: Any = {name: _charged(test, True) for name, test in self.tests.items()}
        self.tests = tests
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise_exception
        self.globals["namespace"] = _Namespace

    def parsed(self, source: str) -> nodes.Template:
        """Parse a template and mark what it writes; TemplateError if it is not a template, NotPermittedError by name."""
        tree = self.parse(source)
        _check(tree)
        _Rewriter(self).visit(tree)
        tree.set_environment(self)
        return tree

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Get an attribute; strings that lost their marks have the same bounded methods."""
        return super().getattr(_string(obj), attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Get an item or an attribute, likewise."""
        return super().getitem(_string(obj), argument)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call what the template may call; a string's method processes the string and its arguments."""
        if isinstance(owner := getattr(obj, "__self__", None), str):
            for value in (owner, *args, *kwargs.values()):
                weighed(value)
        return made(super().call(context, obj, *args, **kwargs))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Permit string methods by name."""
        if isinstance(obj, str) and attr not in METHODS:
            return False
        return bool(super().is_safe_attribute(obj, attr, value))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: ARG002  # Jinja's name
        """Add and multiply within bounds; `%` is for numbers only."""
        if operator == "%" and not isinstance(left, str):
            return left % right
        if operator == "+":
            return made(_sum(left, right))
        if operator == "*":
            sizes = [
                value if isinstance(value, int | float) else len(value) for value in (left, right)
            ]
            if abs(sizes[0] * sizes[1]) <= MAX_PRODUCT:
                return made(left * right)
            raise TooMuchError("multiplies beyond the limit")
        raise NotPermittedError(f"uses the operator {operator} on strings")


class Own(Extension):
    """The template's own strings, its step count, and the tag `generation`, which trainers put around answers."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's name

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.strings: list[Marked] = []
        """What it writes, by the numbers that replace it in the parsed template."""

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse what is between the tags as a block of its own, as Hugging Face does."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("generation"), [], [], body).set_lineno(line)

    def generation(self, caller: Callable[[], Marked]) -> Marked:
        """Return what is between the tags."""
        return caller()

    def step(self, size: int) -> str:
        """Take one step; called for each loop iteration, each item that a loop's condition tests, and each macro call."""
        step(size)
        return ""

    def made(self, value: Any) -> Any:
        """Count what was made."""
        return made(value)

    def weighed(self, value: Any) -> Any:
        """Count what is compared."""
        return weighed(value)

    def tilde(self, *parts: Any) -> Marked:
        """Join what `~` joins."""
        return concat(_text(part) for part in parts)


class _Rewriter(NodeTransformer):
    """Replaces constants with marked strings, and puts a step at the beginning of every body that can be re-entered."""

    def __init__(self, environment: Sandbox) -> None:
        own = environment.extensions[Own.identifier]
        assert isinstance(own, Own)
        self._own = own

    def visit_Const(self, node: nodes.Const) -> nodes.Node:  # noqa: N802  # Jinja's name
        """Replace a string constant."""
        return self._written(node, node.value) if isinstance(node.value, str) else node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:  # noqa: N802
        """Replace text."""
        return self._written(node, node.data)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """Replace `~`, which would drop marks."""
        self.generic_visit(node)
        return self._own.call_method("tilde", node.nodes, lineno=node.lineno)

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        """Count iterations, and the items that the condition tests."""
        self._enter(node)
        if node.test is not None:
            node.test = nodes.And(nodes.Not(self._step(node.test)), node.test)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        """Count slices."""
        self.generic_visit(node)
        return self._counted("made", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        """Count lists."""
        self.generic_visit(node)
        return self._counted("made", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        """Count tuples, but not those that are assigned to."""
        self.generic_visit(node)
        return self._counted("made", node) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        """Count mappings, and their keys before they are hashed."""
        self.generic_visit(node)
        for pair in node.items:
            pair.key = self._counted("weighed", pair.key)
        return self._counted("made", node)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        """Count what is compared."""
        self.generic_visit(node)
        node.expr = self._counted("weighed", node.expr)
        for side in node.ops:
            side.expr = self._counted("weighed", side.expr)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        """Count calls."""
        return self._enter(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        """Count calls."""
        return self._enter(node)

    def _enter(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(self._step(node)))
        return node

    def _step(self, node: nodes.Node) -> nodes.Expr:
        size = nodes.Const(sum(1 for _ in node.find_all(nodes.Node)) + 1)
        return self._own.call_method("step", [size])

    def _counted(self, how: str, node: nodes.Expr) -> nodes.Expr:
        return self._own.call_method(how, [node], lineno=node.lineno)

    def _written(self, node: nodes.Node, text: str) -> nodes.Node:
        self._own.strings.append(Marked.written(text))
        strings = nodes.ExtensionAttribute(self._own.identifier, "strings")
        place = nodes.Const(len(self._own.strings) - 1)
        return nodes.Getitem(strings, place, "load", lineno=node.lineno)


def _check(tree: nodes.Template) -> None:
    """Raise NotPermittedError for constructs that would be refused whenever they are reached."""
    for kind in (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends):
        if tree.find(kind) is not None:
            raise NotPermittedError("refers to another file")
    if tree.find(nodes.Pow) is not None:
        raise NotPermittedError("uses the operator **")
    for found in tree.find_all(nodes.Filter):
        if found.name not in FILTERS:
            raise NotPermittedError(f"uses the filter {found.name[:40]!r}")
    for call in tree.find_all(nodes.Call):
        method = call.node
        if isinstance(method, nodes.Getattr) and method.attr in NOT_OF_STRINGS:
            raise NotPermittedError(f"uses the method {method.attr[:40]!r}")


class _Namespace(Namespace):
    """Only names without a leading underscore, so that Python's internals are out of reach."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise NotPermittedError(f"names something {name[:40]!r}")
        super().__setitem__(name, value)


def _string(value: Any) -> Any:
    return Marked(value) if type(value) is str else value


def _text(value: Any) -> str:
    """Return a value's text; NotPermittedError if it has none, or a different one in every process."""
    if isinstance(value, str):
        spend(len(value))
    elif not all(isinstance(item, PRINTED) for item in within(weighed(value))):
        raise NotPermittedError("writes something that has no fixed text")
    return str(value)


def _charged(function: Any, deep: bool) -> Callable[..., Any]:
    """Return a filter or test that charges its own work."""

    @wraps(function)
    def charged(*args: Any, **kwargs: Any) -> Any:
        for value in chain(args, kwargs.values()):
            (weighed if deep else touched)(value)
        return made(function(*args, **kwargs))

    return charged


def _sum(left: Any, right: Any) -> Any:
    if isinstance(left, str) and isinstance(right, str):
        plain = not isinstance(left, Markup) and not isinstance(right, Markup)
        return concat((left, right)) if plain else left + right
    return left + right


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Write plain JSON: Jinja's own filter escapes what HTML would treat as markup."""
    if isinstance(indent, int) and indent > MAX_INDENT:
        raise TooMuchError("indents beyond the limit")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@pass_environment
def _join(
    environment: Environment, value: Iterable[Any], d: str = "", attribute: str | int | None = None
) -> Marked:
    """Like Jinja's own, with marks."""
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    return Marked(d).join(_text(item) for item in value)


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    if isinstance(width, int) and width > MAX_INDENT:
        raise TooMuchError("indents beyond the limit")
    return do_indent(s, width, first, blank)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
