"""Streaming text: only whole characters, nothing lost, and an end that node and auditor find at the same token."""

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import RequestBody, SamplingSettings
from shared.text.prompt import prompt_ids
from shared.text.stream import (
    REPLACEMENT,
    SaidText,
    TextStream,
    frames_say,
    stop_length,
    text_of,
)
from tests.shared.model import tiny
from tests.shared.text.backends import NAMES, SAMPLES, TEXT, byte_tokens, special, tokenizer

either = pytest.mark.parametrize("name", NAMES)
some = settings(max_examples=80, deadline=None)
USER = special("tiny", "<|user|>")
TOKENS = st.lists(
    st.one_of(
        st.integers(0, tiny.VOCABULARY + 20).filter(lambda token: token != tiny.END),
        # Bytes that begin, continue and break characters of two to four bytes, and tokens without text.
        st.sampled_from([*byte_tokens("tiny", b"\xc3\xe2\xf0\x9f\x98\x80\xa9\xff"), USER]),
    ),
    max_size=40,
)
STOPS = st.lists(
    st.text("the an\u00e9", min_size=1, max_size=4), min_size=1, max_size=3, unique=True
).map(tuple)


def pushed(stream: TextStream, tokens: list[int]) -> list[str]:
    """Push until the end; return what each token settled and what was held back, last."""
    parts = []
    for token in tokens:
        parts.append(stream.push(token))
        if stream.stopped:
            break
    return [*parts, stream.flush()]


@either
@some
@given(text=TEXT, split=st.booleans())
def test_pieces_are_whole_characters_and_together_the_text(name, text, split):
    chosen = tokenizer(name)
    tokens = byte_tokens(name, text.encode()) if split else list(chosen.encode(text))
    parts = pushed(TextStream(chosen), tokens)
    assert "".join(parts) == text
    if REPLACEMENT not in text:
        assert not any(REPLACEMENT in part for part in parts)
        assert parts[-1] == ""


@either
def test_a_character_is_shown_with_its_last_byte_and_not_before(name):
    stream = TextStream(tokenizer(name))
    parts = [stream.push(token) for token in byte_tokens(name, "a😀é漢".encode())]
    assert parts == ["a", "", "", "", "😀", "", "é", "", "", "漢"]


@some
@given(tokens=TOKENS)
@example(
    tokens=[*byte_tokens("tiny", b"\xf0\x9f\x98"), *[USER] * 9, *byte_tokens("tiny", b"\x80a")]
)
@example(tokens=[*byte_tokens("tiny", b"\xf0"), *[USER] * 20])
@example(tokens=[*byte_tokens("tiny", b"\xe2\x82"), *[tiny.VOCABULARY + 3] * 12, 5])
def test_any_tokens_stream_to_what_they_decode_to_at_once(tokens):
    chosen = tokenizer("tiny")
    assert "".join(pushed(TextStream(chosen), tokens)) == chosen.decode(tokens)
    assert text_of(chosen, tokens, ()) == chosen.decode(tokens)


def test_bytes_that_never_become_a_character_are_shown_at_the_end():
    stream = TextStream(tokenizer("tiny"))
    assert [stream.push(token) for token in byte_tokens("tiny", b"ok\xf0\x9f")] == [
        "o",
        "k",
        "",
        "",
    ]
    assert stream.flush() == REPLACEMENT
    assert stream.flush() == ""
    assert stream.text == "ok" + REPLACEMENT


def settled(tokens: list[int]) -> str:
    """Return all text but a character at the end that could still change."""
    return tokenizer("tiny").decode(tokens).rstrip(REPLACEMENT)


def naive(tokens: list[int], stop: tuple[str, ...]) -> tuple[int | None, str]:
    """Apply the rule to the whole text after every token."""
    for count in range(1, len(tokens) + 1):
        if tokens[count - 1] == tiny.END:
            return count, tokenizer("tiny").decode(tokens[:count])
        text = settled(tokens[:count])
        places = [text.find(item) for item in stop if item in text]
        if places:
            return count, text[: min(places)]
    return None, tokenizer("tiny").decode(tokens)


@some
@given(
    tokens=st.lists(
        st.one_of(
            st.sampled_from(
                [*tokenizer("tiny").encode("the an "), *byte_tokens("tiny", "thean é".encode())]
            ),
            st.sampled_from([256, 257, 258, 259, 260, 261, 262, tiny.END]),
        ),
        max_size=25,
    ),
    stop=STOPS,
)
def test_the_end_is_the_first_token_that_completes_a_stop_and_no_stop_is_shown(tokens, stop):
    chosen = tokenizer("tiny")
    count, text = naive(tokens, stop)
    assert stop_length(chosen, tokens, stop) == count
    assert text_of(chosen, tokens, stop) == text
    stream = TextStream(chosen, stop)
    shown = ""
    for part in pushed(stream, tokens):
        shown += part
        assert text.startswith(shown)
    assert shown == stream.text == text
    assert stream.stopped == (count is not None)
    assert not any(item in shown for item in stop)


def test_what_may_begin_a_stop_string_is_held_until_it_does_not():
    stream = TextStream(tokenizer("tiny"), ("abc", "bd"))
    assert [stream.push(token) for token in byte_tokens("tiny", b"xababbd")] == [
        "x", "", "", "ab", "", "ab", "",
    ]  # fmt: skip
    assert stream.stopped
    assert stream.text == "xabab"
    assert stream.flush() == ""


def test_a_stop_token_ends_the_text_and_frees_what_was_held():
    stream = TextStream(tokenizer("tiny"), ("abc",))
    assert [stream.push(token) for token in byte_tokens("tiny", b"ab")] == ["", ""]
    assert stream.push(tiny.END) == "ab"
    assert stream.stopped
    assert stream.text == "ab"


def test_a_stop_token_of_the_request_ends_the_text_as_the_models_own_does():
    chosen, tokens = tokenizer("tiny"), byte_tokens("tiny", b"abc")
    assert stop_length(chosen, tokens, (), [tokens[1]]) == 2
    assert text_of(chosen, tokens, (), [tokens[1]]) == "a"  # a stop token has no text
    assert stop_length(chosen, [*tokens, tiny.END], (), [2**32 - 1]) == 4  # one that never occurs
    assert stop_length(chosen, tokens, ("b",), [tokens[2]]) == 2
    stream = TextStream(chosen, ("abz",), [tokens[2]])
    assert [stream.push(token) for token in tokens] == ["", "", "ab"]
    assert stream.stopped


def test_a_stop_string_may_be_one_character_of_several_tokens():
    stream = TextStream(tokenizer("tiny"), ("😀",))
    parts = [stream.push(token) for token in byte_tokens("tiny", "a😀".encode())]
    assert "".join(parts) == "a"
    assert stream.stopped


@pytest.mark.parametrize("text", [text for text in SAMPLES if text])
def test_every_sample_can_be_a_stop_string(text):
    tokens = byte_tokens("tiny", ("x" + text + "y").encode())
    stream = TextStream(tokenizer("tiny"), (text,))
    assert "".join(pushed(stream, tokens)) == "x"
    assert stream.stopped


# -- what frames say ---------------------------------------------------------------------------------------


@either
@some
@given(data=st.data())
def test_frames_cut_anywhere_say_what_their_tokens_say(name, data):
    """However a node groups tokens into frames, and whatever it holds back at their end."""
    backend = tokenizer(name)
    tokens = backend.encode(data.draw(TEXT))
    stop = data.draw(st.lists(st.sampled_from(("a", "the", "é", " ")), max_size=2))
    stream, frames, gathered, text = TextStream(backend, stop), [], [], ""
    for token in tokens:
        gathered.append(token)
        text += stream.push(token)
        if stream.stopped:
            break
        if data.draw(st.booleans()):
            frames.append((tuple(gathered), text))
            gathered, text = [], ""
    rest = stream.flush()
    frames += [(tuple(gathered), text + rest)] if data.draw(st.booleans()) else [
        (tuple(gathered), text),
        ((), rest),
    ]  # fmt: skip
    assert frames_say(backend, frames, stop, ended=True)
    whole = "".join(text for _, text in frames)
    told = [
        (tokens, text + "!" * (place == len(frames) - 1))
        for place, (tokens, text) in enumerate(frames)
    ]
    assert not frames_say(backend, told, stop, ended=True)
    assert not frames_say(backend, told, stop, ended=False)
    silent = [(tokens, "") for tokens, _ in frames]
    assert frames_say(backend, silent, stop, ended=True) == (whole == "")
    assert frames_say(backend, silent, stop, ended=False)


def test_a_frame_does_not_run_ahead_of_its_tokens():
    backend = tokenizer(NAMES[0])
    first, second = backend.encode("one")[:1], backend.encode("one two")[1:]
    early = [(first, "one two"), (second, "")]
    assert not frames_say(backend, early, (), ended=False)


def test_no_token_comes_after_a_stop():
    backend = tokenizer(NAMES[0])
    tokens = backend.encode("one two")
    assert not frames_say(backend, [(tokens, "o")], ("n",), ended=True)


def test_what_is_held_back_is_sent_only_at_the_end():
    """A character that is never completed, or the beginning of a stop string, arrives after the last token."""
    backend = tokenizer("tiny")
    first, rest = byte_tokens("tiny", "é".encode())
    for held, text, stop in (([first], REPLACEMENT, ()), (backend.encode("a"), "a", ("ab",))):
        assert frames_say(backend, [(held, ""), ((), text)], stop, ended=True)
        assert frames_say(backend, [(held, text)], stop, ended=True)
        assert not frames_say(backend, [(held, text), ([rest], "")], stop, ended=False)
        assert not frames_say(backend, [(held, "")], stop, ended=True)
        assert frames_say(backend, [(held, "")], stop, ended=False)


def test_text_is_judged_frame_by_frame_as_it_arrives():
    backend = tokenizer("tiny")
    said = SaidText(backend, ("z",))
    assert said.take(backend.encode("the "), "the")
    assert not said.whole()
    said = SaidText(backend)
    assert said.take(backend.encode("the "), "the")
    assert said.take(backend.encode("inn"), " in")
    assert said.take((), "n")
    assert said.whole()
    assert not SaidText(backend).take(backend.encode("the"), "thé")


# -- an answer that goes on from a prefix ------------------------------------------------------------------


@some
@given(tokens=TOKENS, stop=STOPS, data=st.data())
def test_what_goes_on_after_a_prefix_is_what_would_have_gone_on(tokens, stop, data):
    """Wherever an answer is cut: in a character, in what may begin a stop string, or between them."""
    chosen = tokenizer("tiny")
    whole = pushed(TextStream(chosen, stop), tokens)
    taken = tokens[: len(whole) - 1]
    stops = stop_length(chosen, taken, stop) is not None
    place = data.draw(st.integers(0, len(taken) - stops))
    stream = TextStream(chosen, stop, (), taken[:place])
    assert pushed(stream, taken[place:]) == whole[place:]
    assert stream.stopped == stops
    assert stop_length(chosen, taken[place:], stop, (), taken[:place]) == (
        len(taken) - place if stops else None
    )
    frames = [((token,), text) for token, text in zip(taken[place:], whole[place:], strict=False)]
    frames.append(((), whole[-1]))
    assert frames_say(chosen, frames, stop, (), taken[:place], ended=True)
    if "".join(whole[:place]):
        again = [((), "".join(whole[:place])), *frames]
        assert not frames_say(chosen, again, stop, (), taken[:place], ended=True)


def test_a_character_that_a_prefix_began_comes_with_its_last_byte():
    first, last = byte_tokens("tiny", "é".encode())
    stream = TextStream(tokenizer("tiny"), (), (), [*tokenizer("tiny").encode("a"), first])
    assert stream.push(last) == "é"
    never = TextStream(tokenizer("tiny"), (), (), [first])
    assert never.flush() == REPLACEMENT


def test_a_stop_string_that_a_prefix_began_ends_the_answer_and_is_in_no_text():
    chosen = tokenizer("tiny")
    prefix = chosen.encode("xab")
    stream = TextStream(chosen, ("abc",), (), prefix)
    assert stream.push(*chosen.encode("c")) == ""
    assert stream.stopped
    assert stream.flush() == ""
    other = TextStream(chosen, ("abc",), (), prefix)
    assert other.push(*chosen.encode("d")) == "abd"  # it was held back, and belongs to nobody else


@pytest.mark.parametrize(
    ("stop", "stop_ids", "tokens"),
    [
        (("bc",), (), [*tokenizer("tiny").encode("abc")]),
        (("bc",), (), [*tokenizer("tiny").encode("abcde")]),
        ((), (), [5, tiny.END]),
        ((), (7,), [7, 5]),
    ],
)
def test_a_prefix_that_comes_to_an_end_is_refused(stop, stop_ids, tokens):
    chosen = tokenizer("tiny")
    settings = SamplingSettings(4, stop=stop, stop_token_ids=stop_ids)
    body = RequestBody(settings, prompt="a", seed=bytes(32), prefix=tuple(tokens))
    with pytest.raises(CounterfoilError) as caught:
        prompt_ids(chosen, body)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.metadata == {"prefix": "complete"}
    free = replace(body, settings=SamplingSettings(4), prefix=(5, 6))
    assert prompt_ids(chosen, free) == (*chosen.encode("a"), 5, 6)
