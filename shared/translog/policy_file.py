"""Log policies as text files (C2SP tlog-policy), which we can exchange with any standard verifier.

    log <vkey> [<url>]
    witness <name> <vkey> [<url>]
    group <name> <all|any|k> <name>...
    quorum <name|none>

Empty lines and lines that begin with `#` are ignored. Names are octets without meaning outside the
file: text here is UTF-8 in which other octets are lone surrogates ("surrogateescape"). We are stricter
than C2SP on two points, and both only refuse more: if a file lists several keys of one origin,
each of them must have signed; and `quorum none` is not a valid policy, since nothing could be called
witnessed under it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.reading import read_bounded
from shared.translog.checkpoint import parse_decimal
from shared.translog.notes import SignatureType, Verifier, parse_vkey
from shared.translog.policy import Group, LogPolicy

MAX_POLICY_BYTES: Final = 256 * 1024
MAX_DEFINED: Final = 64
"""Most logs, witnesses and groups, each; C2SP requires at least 32."""
NONE: Final = "none"
_OTHER_OCTETS: Final = re.compile(rb"[^\t\n\x20-\x7e\x80-\xff]")
T = TypeVar("T")
_BLANK: Final = re.compile(r"[ \t]+")


@dataclass(frozen=True, slots=True)
class LogLine:
    """A log whose checkpoints are accepted."""

    key: Verifier
    url: str | None = None


@dataclass(frozen=True, slots=True)
class WitnessLine:
    """A witness under the name by which groups and quorum refer to it."""

    name: str
    key: Verifier
    url: str | None = None


@dataclass(frozen=True, slots=True)
class GroupLine:
    """`threshold` of the named members, each defined on an earlier line."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy file's content, without its comments and the order of logs and witnesses relative to groups."""

    logs: tuple[LogLine, ...]
    witnesses: tuple[WitnessLine, ...]
    groups: tuple[GroupLine, ...]
    quorum: str

    @classmethod
    def of(cls, policy: LogPolicy) -> "PolicyFile":
        """Return the file that expresses a policy.
        A witness line is named after the head of its vkey, so that one name may have several keys.
        """
        witnesses = tuple(WitnessLine(_head(key), key) for key in policy.witnesses)
        groups: list[GroupLine] = []

        def name_of(member: Verifier | Group, name: str | None = None) -> str:
            if isinstance(member, Verifier):
                return _head(member)
            names = tuple(name_of(inner) for inner in member.members)
            groups.append(
                GroupLine(name or f"group-{len(groups) + 1}", member.threshold, tuple(names))
            )
            return groups[-1].name

        quorum = name_of(policy.quorum, "quorum")
        return cls(tuple(LogLine(key) for key in policy.logs), witnesses, tuple(groups), quorum)

    def encode(self) -> str:
        """Return the file's text."""
        lines = [_line("log", item.key.vkey(), item.url) for item in self.logs]
        lines += [_line("witness", item.name, item.key.vkey(), item.url) for item in self.witnesses]
        for group in self.groups:
            words = {len(group.members): "all", 1: "any"}
            threshold = words.get(group.threshold, str(group.threshold))
            lines.append(_line("group", group.name, threshold, *group.members))
        return "".join([*lines, _line("quorum", self.quorum)])

    def policy(self) -> LogPolicy:
        """Return the rule; CONFIGURATION for a file without a log or with `quorum none`."""
        if self.quorum == NONE:
            raise CounterfoilError(
                Code.CONFIGURATION,
                "the policy requires no witness, and nothing counts as witnessed without one",
                remedy="Name a witness or a group in its quorum line.",
            )
        known: dict[str, Verifier | Group] = {item.name: item.key for item in self.witnesses}
        for line in self.groups:
            known[line.name] = Group(line.threshold, tuple(known[name] for name in line.members))
        quorum = known[self.quorum]
        rule = quorum if isinstance(quorum, Group) else Group(1, (quorum,))
        logs = tuple(item.key for item in self.logs)
        return LogPolicy(
            logs, tuple(item.key for item in self.witnesses), rule.threshold, rule.members
        )


def parse_policy_file(data: bytes | str) -> PolicyFile:
    """Parse a policy file strictly; MALFORMED with the line number, UNSUPPORTED for a key of unknown type."""
    text = _decode(data)
    reader = _Reader()
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        words = [word for word in _BLANK.split(line) if word]
        if not words or words[0].startswith("#"):
            continue
        try:
            reader.read(words[0], words[1:])
        except CounterfoilError as error:
            raise CounterfoilError(
                error.code, f"line {number} of the policy: {error.detail}"
            ) from error
    if reader.quorum is None:
        raise _malformed("the policy has no quorum line")
    return PolicyFile(
        tuple(reader.logs), tuple(reader.witnesses), tuple(reader.groups), reader.quorum
    )


def read_policy_file(path: Path) -> PolicyFile:
    """Read and parse a file; CONFIGURATION if it cannot be read."""
    return parse_policy_file(read_bounded(path, MAX_POLICY_BYTES))


@dataclass(slots=True)
class _Reader:
    """What has been read so far."""

    logs: list[LogLine] = field(default_factory=list)
    witnesses: list[WitnessLine] = field(default_factory=list)
    groups: list[GroupLine] = field(default_factory=list)
    quorum: str | None = None
    free: set[str] = field(default_factory=set)
    """Names that are not yet a member of any group."""
    names: set[str] = field(default_factory=lambda: {NONE})

    def read(self, keyword: str, words: list[str]) -> None:
        """Read one line's words after its keyword."""
        readers: dict[str, Callable[[list[str]], None]] = {
            "log": self._log,
            "witness": self._witness,
            "group": self._group,
            "quorum": self._quorum,
        }
        if keyword not in readers:
            raise _malformed(f"{keyword[:20]!a} is not one of log, witness, group, quorum")
        readers[keyword](words)

    def _log(self, words: list[str]) -> None:
        if not 1 <= len(words) <= 2:
            raise _malformed("a log line is `log <vkey> [<url>]`")
        key = parse_vkey(words[0])
        if key.kind is SignatureType.COSIGNATURE_ED25519:
            raise _malformed("the key is of type 0x04, with which witnesses sign but logs do not")
        _add(self.logs, LogLine(key, *words[1:]))
        _distinct([item.key for item in self.logs])

    def _witness(self, words: list[str]) -> None:
        if not 2 <= len(words) <= 3:
            raise _malformed("a witness line is `witness <name> <vkey> [<url>]`")
        key = parse_vkey(words[1])
        if key.kind is SignatureType.ED25519:
            raise _malformed("the key is of type 0x01, which is not a cosignature")
        self._define(words[0])
        _add(self.witnesses, WitnessLine(words[0], key, *words[2:]))
        _distinct([item.key for item in self.witnesses])

    def _group(self, words: list[str]) -> None:
        if len(words) < 3:
            raise _malformed("a group line is `group <name> <all|any|k> <name>...`")
        members = tuple(words[2:])
        threshold = {"all": len(members), "any": 1}.get(words[1]) or parse_decimal(words[1])
        if not 1 <= threshold <= len(members):
            raise _malformed(f"{threshold} of {len(members)} members cannot be required")
        for member in members:
            if member not in self.free:
                raise _malformed(
                    "a member is not defined on an earlier line, or is already a member of a group"
                )
            self.free.remove(member)
        self._define(words[0])
        _add(self.groups, GroupLine(words[0], threshold, members))

    def _quorum(self, words: list[str]) -> None:
        if len(words) != 1:
            raise _malformed("a quorum line is `quorum <name>`")
        if self.quorum is not None:
            raise _malformed("there are two quorum lines")
        if words[0] not in self.names:
            raise _malformed("the quorum is not defined on an earlier line")
        self.quorum = words[0]

    def _define(self, name: str) -> None:
        if name in self.names:
            raise _malformed("a name is defined twice, or is `none`")
        self.names.add(name)
        self.free.add(name)


def _decode(data: bytes | str) -> str:
    try:
        raw = data.encode() if isinstance(data, str) else data
    except UnicodeError as error:
        raise _malformed("the policy is not text") from error
    if len(raw) > MAX_POLICY_BYTES:
        raise _malformed(f"the policy is larger than {MAX_POLICY_BYTES} bytes")
    if _OTHER_OCTETS.search(raw):
        raise _malformed("the policy has a control character other than tab and newline")
    if not raw.endswith(b"\n"):
        raise _malformed(
            "the policy's last line does not end in a newline: the file may be truncated"
        )
    return raw.decode("utf-8", "surrogateescape")


def _line(*words: str | None) -> str:
    return " ".join(word for word in words if word is not None) + "\n"


def _head(key: Verifier) -> str:
    return f"{key.name}+{key.key_id.hex()}"


def _add(items: list[T], item: T) -> None:
    if len(items) == MAX_DEFINED:
        raise _malformed(f"there are more than {MAX_DEFINED} lines of this kind")
    items.append(item)


def _distinct(keys: list[Verifier]) -> None:
    if len({key.public_key for key in keys}) != len(keys):
        raise _malformed("a public key is listed twice")


def _malformed(problem: str) -> CounterfoilError:
    return CounterfoilError(Code.MALFORMED, problem)
