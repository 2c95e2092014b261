"""Log policy files: what is written can be read back, and groups count as C2SP tlog-policy says."""

import contextlib
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint
from shared.translog.cosignature import cosign
from shared.translog.notes import SignatureType, Signer
from shared.translog.policy import Group, LogPolicy, verify_witnessed
from shared.translog.policy_file import (
    MAX_DEFINED,
    MAX_POLICY_BYTES,
    GroupLine,
    LogLine,
    PolicyFile,
    WitnessLine,
    parse_policy_file,
    read_policy_file,
)
from shared.translog.signed_checkpoint import sign

ED, CO, PQ = SignatureType


def signer(name: str, kind: SignatureType = CO) -> Signer:
    return Signer(name, kind, sha256(f"{name} {kind}".encode()).digest())


LOG = signer("log.example", ED)
KEYS = [signer(f"w{n}.example").verifier for n in range(70)]
HEAD = Checkpoint("log.example", 5, sha256(b"root").digest())


def code_of(function, *arguments) -> Code:
    with pytest.raises(CounterfoilError) as caught:
        function(*arguments)
    return caught.value.code


octets = (
    st.binary(min_size=1, max_size=9)
    .map(lambda raw: bytes(x for x in raw if x > 0x20 and x != 0x7F))
    .filter(bool)
)
words = octets.map(lambda raw: raw.decode("utf-8", "surrogateescape"))
urls = st.none() | words


@st.composite
def files(draw: st.DrawFn) -> PolicyFile:
    """Any file: names are any octets, each name is a member of at most one group."""
    names = draw(
        st.lists(words.filter(lambda word: word != "none"), min_size=2, max_size=14, unique=True)
    )
    count = draw(st.integers(1, len(names)))
    witnesses = tuple(
        WitnessLine(name, KEYS[n], draw(urls)) for n, name in enumerate(names[:count])
    )
    free = names[:count]
    groups = []
    for name in names[count:]:
        if not free:
            break
        members = draw(st.lists(st.sampled_from(free), min_size=1, unique=True))
        free = [other for other in free if other not in members] + [name]
        groups.append(GroupLine(name, draw(st.integers(1, len(members))), tuple(members)))
    known = [*names[:count], *(group.name for group in groups)]
    return PolicyFile(
        (LogLine(LOG.verifier, draw(urls)),), witnesses, tuple(groups), draw(st.sampled_from(known))
    )


@given(files())
def test_a_file_that_is_written_is_read_again(file: PolicyFile):
    assert parse_policy_file(file.encode().encode("utf-8", "surrogateescape")) == file


@given(files(), st.sets(st.integers(0, 13)))
def test_groups_are_met_as_their_lines_say(file: PolicyFile, signed: set[int]):
    """Against a second reading of the rule: names, one line after the other."""
    met = {item.name for n, item in enumerate(file.witnesses) if n in signed}
    for group in file.groups:
        if len(met & set(group.members)) >= group.threshold:
            met.add(group.name)
    keys = {KEYS[n] for n in signed}
    counting = file.policy().quorum.met_by(keys)
    assert bool(counting) is (file.quorum in met)
    assert set(counting) <= keys


def flat(count: int, threshold: int, kinds: tuple[SignatureType, ...]) -> LogPolicy:
    witnesses = [signer(f"w{n}.example", kind).verifier for n in range(count) for kind in kinds]
    return LogPolicy((LOG.verifier,), tuple(witnesses), threshold)


@pytest.mark.parametrize("kinds", [(CO,), (CO, PQ)])
@pytest.mark.parametrize(("count", "threshold"), [(1, 1), (3, 1), (3, 2), (3, 3)])
def test_a_policy_of_names_says_the_same_as_a_file(count, threshold, kinds):
    policy = flat(count, threshold, kinds)
    again = parse_policy_file(PolicyFile.of(policy).encode()).policy()
    assert (again.logs, again.witnesses) == (policy.logs, policy.witnesses)
    assert again.quorum == policy.quorum
    assert PolicyFile.of(again) == PolicyFile.of(policy)


@given(files())
def test_a_policy_from_a_file_can_be_written_as_another_file(file: PolicyFile):
    policy = file.policy()
    again = parse_policy_file(PolicyFile.of(policy).encode()).policy()
    assert again.quorum == policy.quorum


def test_a_checkpoint_is_witnessed_by_nested_groups():
    ours, theirs, alone = signer("ours.example"), signer("theirs.example"), signer("alone.example")
    text = (
        f"log {LOG.verifier.vkey()}\nwitness a {ours.verifier.vkey()}\n"
        f"witness b {theirs.verifier.vkey()}\nwitness c {alone.verifier.vkey()}\n"
        "group either any a b\ngroup both all either c\nquorum both\n"
    )
    policy = parse_policy_file(text).policy()

    def note(*signers: Signer) -> str:
        lines = tuple(cosign(each, HEAD, time_s=7 + n) for n, each in enumerate(signers))
        return sign(HEAD, [LOG], time_s=1).with_signatures(lines).encode()

    found = verify_witnessed(note(theirs, alone), policy)
    assert found.times == {"theirs.example": 7, "alone.example": 8}
    for too_few in (note(), note(ours), note(ours, theirs), note(alone)):
        assert code_of(verify_witnessed, too_few, policy) is Code.NOT_WITNESSED


def test_signatures_outside_the_groups_that_were_met_do_not_count():
    a, b, c, d = KEYS[:4]
    rule = Group(1, (Group(2, (a, b)), Group(2, (c, d))))
    assert rule.met_by({a, c, d}) == (c, d)
    assert rule.met_by({a, c}) == ()


def test_a_quorum_of_other_keys_or_of_one_key_twice_is_refused():
    a, b = KEYS[:2]
    for members in ((b,), (a, a), (Group(1, (a,)), a)):
        assert code_of(LogPolicy, (LOG.verifier,), (a,), 1, members) is Code.CONFIGURATION


def test_limits_are_those_that_are_documented(tmp_path):
    def text(count: int, padding: int = 0) -> str:
        lines = [f"witness w{n} {key.vkey()}\n" for n, key in enumerate(KEYS[:count])]
        return f"log {LOG.verifier.vkey()}\n{''.join(lines)}quorum w0\n#{' ' * padding}\n"

    assert len(parse_policy_file(text(MAX_DEFINED)).witnesses) == MAX_DEFINED
    assert code_of(parse_policy_file, text(MAX_DEFINED + 1)) is Code.MALFORMED
    room = MAX_POLICY_BYTES - len(text(1))
    assert parse_policy_file(text(1, room))
    path = tmp_path / "policy"
    path.write_text(text(1, room + 1))
    assert code_of(read_policy_file, path) is Code.MALFORMED
    assert code_of(read_policy_file, tmp_path / "nowhere") is Code.CONFIGURATION


def test_an_error_names_the_line():
    with pytest.raises(CounterfoilError) as caught:
        parse_policy_file(f"# first\nlog {LOG.verifier.vkey()}\nwitness x\n")
    assert "line 3" in caught.value.detail


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_no_input_breaks_the_parser(data):
    with contextlib.suppress(CounterfoilError):
        file = parse_policy_file(data)
        assert parse_policy_file(file.encode().encode("utf-8", "surrogateescape")) == file


def test_lone_surrogates_in_text_are_malformed():
    assert code_of(parse_policy_file, "#\udc80\n") is Code.MALFORMED
