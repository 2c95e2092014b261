"""The grammar: conversations and plain prose about a small world, in four languages.

A conversation has an optional system prompt, which fixes the style, and one to three turns. A turn asks
about an entity; a follow-up omits the entity, so that the answer has to look it up in an earlier
turn. Answers are made of sentences that use the entity's facts from `world/*.toml`.

Choices are assigned to the part of the document whose text shows them ("system", "user", "assistant",
"frame", "prose"), so the log-probability of the assistant's text given all before it is known exactly.
"""

import random
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from benchmarks.training.derivation import Derivation, Tape, derivations, sample

LANGUAGES = ("en", "de", "fr", "es")
BOS, SYSTEM, USER, ASSISTANT, END, PAD = SPECIALS = (
    "<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>",
)  # fmt: skip
MARKERS = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
STYLES = ("plain", "short", "friendly", "formal")
TOPICS = ("animal", "dish", "weather", "travel", "shop", "term", "story", "talk")
TOPIC_WEIGHTS = (4.0, 4.0, 3.0, 3.0, 4.0, 5.0, 2.0, 1.5)
_DESCRIBED = ("animal", "dish", "weather", "travel", "shop", "term")
_SLOT = re.compile(r"\{([^{}]+)\}")
_RANGES = {
    "degrees": range(-5, 31),
    "speed": range(5, 60, 5),
    "hours": range(2, 15),
    "qty": range(2, 10),
}
Entity = Mapping[str, str]
World = Mapping[str, Any]


def load_world(language: str) -> World:
    """Return the tables of one language."""
    path = resources.files("benchmarks.training") / "world" / f"{language}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _record(row: str, columns: Sequence[str]) -> Entity:
    values = row.split("|")
    assert len(values) == len(columns) + 1, row
    return dict(zip(("", *columns), values, strict=True))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


@dataclass
class Subject:
    """What a turn is about; a follow-up keeps it and changes the intent."""

    topic: str
    intent: str
    bound: dict[str, Entity] = field(default_factory=dict)
    choices_before_answer: int = 0


class Conversation:
    """One document being written in one language."""

    def __init__(self, tape: Tape, world: World) -> None:
        self._tape = tape
        self._world = world
        self.subjects: list[Subject] = []

    def chat(self) -> None:
        """Write a whole conversation, control tokens included."""
        tape = self._tape
        style = STYLES[tape.choose([5.0, 1.5, 1.5, 1.5])]
        if style != "plain" or tape.maybe(0.25):
            tape.part = "system"
            tape.write(SYSTEM)
            tape.write(tape.pick(self._world["system"][style]))
            tape.write(END)
        subject: Subject | None = None
        for chance in (0.4, 0.35, None):
            tape.part = "user"
            tape.write(USER)
            subject = self.question(subject)
            tape.write(END)
            tape.part = "assistant"
            tape.write(ASSISTANT)
            subject.choices_before_answer = len(tape.choices)
            self.subjects.append(subject)
            self.answer(subject, style)
            tape.write(END)
            tape.part = "frame"
            if chance is None or not tape.maybe(chance):
                break

    def prose(self) -> None:
        """Write a plain text without roles."""
        tape = self._tape
        tape.part = "prose"
        topic = tape.pick((*_DESCRIBED, "story"))
        subject = Subject(topic, "tell")
        self._bind(subject)
        self._body(subject)
        tape.write(END)

    def question(self, previous: Subject | None) -> Subject:
        """Write the user's text and return what it asks."""
        tape = self._tape
        followable = previous is not None and previous.topic in _DESCRIBED
        if previous is not None and followable and tape.maybe(0.7):
            intents = [name for name in self._intents(previous.topic) if name != previous.intent]
            subject = Subject(previous.topic, tape.pick(intents), dict(previous.bound))
            self._fill(tape.pick(self._table(subject)["follow"]), subject)
            return subject
        topic = TOPICS[tape.choose(TOPIC_WEIGHTS)]
        if topic == "story":
            intent = ""
        elif topic == "talk":
            intent = tape.pick(("hello", "thanks", "who", "unknown"))
        else:
            intent = tape.pick((*self._intents(topic), "tell"))
        subject = Subject(topic, intent)
        self._bind(subject)
        self._fill(tape.pick(self._table(subject)["ask"]), subject)
        return subject

    def answer(self, subject: Subject, style: str) -> None:
        """Write the assistant's text."""
        tape = self._tape
        if style == "short":
            self._brief(subject)
            return
        if subject.topic != "talk" and (style != "plain" or tape.maybe(0.35)):
            tape.write(tape.pick(self._world["opening"][style]) + " ")
        self._body(subject)
        if tape.maybe(0.3 if style == "plain" else 0.8):
            tape.write(" " + tape.pick(self._world["closing"][style]))

    def _brief(self, subject: Subject) -> None:
        if subject.topic == "story":
            self._say(self._world["story"]["begin"], subject)
            self._say(self._world["story"]["end"], subject, space=True)
        elif subject.intent == "tell":
            self._say_intent(self._tape.pick(self._tellable(subject.topic)), subject)
        else:
            self._say_intent(subject.intent, subject)

    def _body(self, subject: Subject) -> None:
        tape = self._tape
        if subject.topic == "story":
            self._story(subject)
            return
        if subject.intent == "tell":
            rest = self._tellable(subject.topic)
            first, count = tape.pick(rest), len(rest) - 1
        else:
            first, rest = subject.intent, self._tellable(subject.topic)
            if subject.topic == "talk":
                count = 0
            else:
                # No more than exist: two counts that write the same would make texts ambiguous.
                count = tape.choose([3.0, 2.0, 1.0][: len([x for x in rest if x != first]) + 1])
        self._say_intent(first, subject)
        for _ in range(count):
            rest = [name for name in rest if name != first]
            first = tape.pick(rest)
            self._say_intent(first, subject, space=True)

    def _story(self, subject: Subject) -> None:
        tape, story = self._tape, self._world["story"]
        self._say(story["begin"], subject)
        last = -1
        for _ in range(tape.choose([1.0] * 6) + 2):
            options = [index for index in range(len(story["middle"])) if index != last]
            last = tape.pick(options)
            self._say(story["middle"][last : last + 1], subject, space=True)
        self._say(story["end"], subject, space=True)

    def _intents(self, topic: str) -> list[str]:
        return [name for name, table in self._world[topic].items() if "say" in table]

    def _tellable(self, topic: str) -> list[str]:
        # A total needs the quantity, which only its own question names.
        return [name for name in self._intents(topic) if name != "total"]

    def _table(self, subject: Subject) -> Mapping[str, Any]:
        topic = self._world[subject.topic]
        table: Mapping[str, Any] = topic[subject.intent] if subject.intent else topic
        return table

    def _bind(self, subject: Subject) -> None:
        home = self._world["animal"] if subject.topic == "story" else self._world[subject.topic]
        if subject.topic == "talk":
            home = self._table(subject)
        rows = [_record(row, home.get("columns", ())) for row in home.get("entities", ())]
        if rows:
            subject.bound["e"] = self._tape.pick(rows)
        if subject.topic == "travel":
            subject.bound["f"] = self._tape.pick([row for row in rows if row != subject.bound["e"]])

    def _say_intent(self, intent: str, subject: Subject, *, space: bool = False) -> None:
        self._say(self._world[subject.topic][intent]["say"], subject, space=space)

    def _say(self, templates: Sequence[str], subject: Subject, *, space: bool = False) -> None:
        self._fill((" " if space else "") + self._tape.pick(templates), subject)

    def _fill(self, template: str, subject: Subject) -> None:
        for index, piece in enumerate(_SLOT.split(template)):
            self._tape.write(self._slot(piece, subject) if index % 2 else piece)

    def _slot(self, slot: str, subject: Subject) -> str:
        drawn, slot = slot.startswith("*"), slot.removeprefix("*")
        capital, slot = slot.startswith("^"), slot.removeprefix("^")
        name, _, column = slot.partition(".")
        if drawn:
            subject.bound[name] = self._draw(name)
        if name in {"price", "total"}:
            count = int(subject.bound["qty"][""]) if name == "total" else 1
            text = self._money(count * int(subject.bound["e"]["cents"]))
        else:
            text = subject.bound[name][column]
        return _capital(text) if capital else text

    def _draw(self, name: str) -> Entity:
        if name in _RANGES:
            return {"": str(self._tape.pick(_RANGES[name]))}
        if name == "clock":
            return {
                "": f"{self._tape.pick(range(6, 22))}:{self._tape.pick(('00', '15', '30', '45'))}"
            }
        if name == "fare":
            return {"": self._money(100 * self._tape.pick(range(15, 96)))}
        return _record(
            self._tape.pick(self._world["draws"][name]), ("hint",) if name == "sky" else ()
        )

    def _money(self, cents: int) -> str:
        return f"{cents // 100}{self._world['decimal']}{cents % 100:02}"


class Grammar:
    """The whole grammar over the given languages."""

    def __init__(self, languages: Sequence[str] = LANGUAGES) -> None:
        self.languages = tuple(languages)
        self._worlds = [load_world(language) for language in self.languages]

    def document(self, tape: Tape) -> Conversation:
        """Write one document: nine conversations to one piece of prose."""
        tape.part = "frame"
        tape.write(BOS)
        chat = tape.maybe(0.9)
        conversation = Conversation(tape, tape.pick(self._worlds))
        if chat:
            conversation.chat()
        else:
            conversation.prose()
        return conversation

    def sample(self, rng: random.Random) -> Derivation:
        """Return one document drawn at random."""
        return sample(self.document, rng)

    def parse(self, text: str, start: Sequence[int] = ()) -> Iterator[Derivation]:
        """Yield the derivations of a document that begin with the choices `start`; at most one."""
        return derivations(self.document, text, start)

    def subjects(self, derivation: Derivation) -> list[Subject]:
        """Return what each turn of a document asks."""
        tape = Tape(lambda _weights, position: derivation.choices[position])
        return self.document(tape).subjects

    def language_of(self, derivation: Derivation) -> str:
        """Return the language that a derivation chose."""
        return self.languages[derivation.choices[1] if len(self.languages) > 1 else 0]


def documents(seed: int, grammar: Grammar | None = None) -> Iterator[Derivation]:
    """Yield an endless stream of documents that the seed determines."""
    grammar = grammar or Grammar()
    rng = random.Random(seed)
    while True:
        yield grammar.sample(rng)


def messages_of(text: str) -> list[tuple[str, str]]:
    """Return a conversation's (role, content) pairs; prose has none."""
    pattern = re.compile(r"<\|(system|user|assistant)\|>(.*?)<\|end\|>", re.DOTALL)
    return pattern.findall(text)
