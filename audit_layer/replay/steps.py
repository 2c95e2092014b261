"""The judge's steps, each a function of the hearing: None if what it checks holds, else the difference (protocol §6.3)."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import zip_longest

from audit_layer.replay.hearing import Answer, Hearing
from shared.commitments.exact import COMMITMENT_BLOCK, Activations
from shared.envelope.delivered import receipt_context
from shared.envelope.evidence import Evidence, open_evidence
from shared.envelope.sealing import open_with_secret
from shared.envelope.stream import FrameOpener
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.receipts import Finish
from shared.verification.judgement import Difference
from shared.verification.receipt_claims import implausible, unfounded_end

IMPOSSIBLE = frozenset({Code.INVALID_ARGUMENT, Code.MALFORMED})
"""What the arithmetic says about tokens that no sequence of its model has."""


def profile(hearing: Hearing) -> Difference | None:
    """The receipt's numeric profile is one that this auditor computes."""
    theirs, ours = hearing.receipt.numeric_profile, hearing.arithmetic.profile
    return None if theirs == ours else Difference(ours.hex(), theirs.hex())


def secret(hearing: Hearing) -> Difference | None:
    """(1, 2) The secret opens the envelope: share commitments, key commitment and body recompute."""
    try:
        hearing.opened = open_with_secret(hearing.case.envelope, hearing.case.secret)
    except CounterfoilError as error:
        return _refused("an envelope that opens", error)
    return None


def model(hearing: Hearing) -> Difference | None:
    """(2) The receipt's model is the one that the sealed header asks for."""
    asked, served = hearing.opened.header.model_root, hearing.receipt.model_root
    return None if asked == served else Difference(asked.hex(), served.hex())


def prompt(hearing: Hearing) -> Difference | None:
    """(3) `input` is the tokenizer's own encoding of the prompt, and the prefix from which the answer goes on."""
    hearing.tokens = ()
    try:
        hearing.prompt = hearing.arithmetic.tokenise(hearing.opened.body)
    except CounterfoilError as error:
        return _refused("a prompt that can be encoded", error)
    hearing.facts["prompt_tokens"] = len(hearing.prompt)
    same = hearing.blinded().input == hearing.receipt.input
    return None if same else Difference(f"{len(hearing.prompt)} tokens", "other tokens")


def frames(hearing: Hearing) -> Difference | None:
    """(4) Every frame of the head opens along the chain, which ends at its `h_final`; together they hold no more than was ordered.

    Frames beyond the order are not opened: 64 MiB of them can hold tokens that take gigabytes.
    """
    context = receipt_context(hearing.head)
    opener, opened = FrameOpener(hearing.opened.keys, context, hearing.opened.shape), []
    most, count = hearing.order.max_output_tokens, 0
    for number, ciphertext in enumerate(hearing.case.frames):
        try:
            opened.append(opener.open(ciphertext))
        except CounterfoilError as error:
            return _refused("a frame that opens", error, {"frame": number})
        count += len(opened[-1].tokens)
        if count > most:
            return Difference(f"at most {most} tokens", f"{count} or more", {"frame": number})
    hearing.answer = Answer(tuple(opened))
    hearing.tokens = hearing.answer.tokens
    hearing.facts["output_tokens"] = len(hearing.tokens)
    if opener.h_final != hearing.head.h_final:
        return Difference(hearing.head.h_final.hex(), opener.h_final.hex())
    if not hearing.case.final_record or hearing.place:
        return None
    try:
        hearing.final = opener.open_final(hearing.case.final_record)
    except CounterfoilError as error:
        return _refused("a final record that opens", error)
    return None


def final_record(hearing: Hearing) -> Difference | None:
    """(4) The final record repeats the receipt, and the tokens of the frames."""
    final = hearing.final
    if final is None:
        return None
    if final.receipt != hearing.case.receipt:
        return Difference("the receipt in the log", "another receipt")
    return _first_other("output_position", hearing.tokens, final.tokens)


def delivered(hearing: Hearing) -> Difference | None:
    """(5) The final record is there if the receipt names evidence, which is in it."""
    missing = hearing.receipt.evidence is not None and hearing.final is None
    return Difference("a final record with the evidence", "none") if missing else None


def evidence(hearing: Hearing) -> Difference | None:
    """(5) The evidence is the receipt's, and about the same tokens and commitment blocks."""
    receipt, final = hearing.receipt, hearing.final
    if hearing.blinded().output != receipt.output:
        return Difference(f"{len(hearing.tokens)} output tokens as in the frames", "other tokens")
    if receipt.evidence is None:
        bare = receipt.finish is Finish.FAILED and receipt.activation_root is None
        return None if bare else Difference("evidence", "none")
    if final is None:
        return None
    sealed = final.evidence or b""
    if sha256(sealed).digest() != receipt.evidence:
        return Difference(receipt.evidence.hex(), sha256(sealed).hexdigest())
    try:
        found = open_evidence(sealed, hearing.opened.keys, receipt_context(receipt))
    except CounterfoilError as error:
        return _refused("evidence that opens", error)
    hearing.evidence = found
    return (
        _first_other("prompt_position", hearing.prompt, found.input_tokens)
        or _first_other("output_position", hearing.tokens, found.output_tokens)
        or _root_of(hearing, found)
    )


def _root_of(hearing: Hearing, found: Evidence) -> Difference | None:
    root = hearing.blinded(_blocks(found)).activation_root
    if root == hearing.receipt.activation_root:
        return None
    return Difference("the receipt's activation root", "that of other blocks")


def replay(hearing: Hearing) -> Difference | None:
    """(6) The tokens are a sequence of the model: the pass can be made."""
    body = hearing.opened.body
    try:
        hearing.replayed = hearing.arithmetic.replay(
            hearing.prompt,
            hearing.tokens,
            body.settings,
            hearing.seed,
            body.choice,
            len(body.prefix),
            hearing.cuts,
        )
    except CounterfoilError as error:
        if error.code in IMPOSSIBLE:
            return _refused("a sequence of this model", error)
        raise
    hearing.facts["blocks"] = len(hearing.replayed.activations.leaves())
    return None


def sequence(hearing: Hearing) -> Difference | None:
    """(6) The tokens are a sequence of the model, for a case whose pass is not made."""
    try:
        hearing.arithmetic.check(hearing.prompt, hearing.tokens)
    except CounterfoilError as error:
        if error.code in IMPOSSIBLE:
            return _refused("a sequence of this model", error)
        raise
    return None


def activations(hearing: Hearing) -> Difference | None:
    """(7) The activation root is that of our own states. Only what failed may have none."""
    receipt = hearing.receipt
    if receipt.evidence is None:  # step 5 has seen that it failed, and commits to nothing
        return None
    ours, theirs = hearing.replayed.activations, None
    if hearing.evidence is not None:
        theirs = _blocks(hearing.evidence)
    if not hearing.tokens:
        if theirs is None:
            return None  # how far the prompt was computed stands in the evidence only
        ours = _begun(ours, len(theirs.prompt_blocks))
    if hearing.blinded(ours).activation_root == receipt.activation_root:
        return None
    return _diverging(ours, theirs)


def _begun(whole: Activations, count: int) -> Activations:
    """Return what a sequence commits to that ended before its first token, after `count` of its prompt's blocks."""
    return Activations(whole.prompt_blocks[:count], ())


def _diverging(ours: Activations, theirs: Activations | None) -> Difference:
    """Return the first commitment block that differs, and the first position that it covers."""
    if theirs is not None:
        for side, mine, given in (
            ("prompt", ours.prompt_blocks, theirs.prompt_blocks),
            ("output", ours.output_blocks, theirs.output_blocks),
        ):
            for block, (one, other) in enumerate(zip_longest(mine, given)):
                if one != other:
                    places = {
                        f"{side}_block": block,
                        f"{side}_position": COMMITMENT_BLOCK * block,
                    }
                    return Difference("the states of this model", "other states", places)
    return Difference("the states of this model", "other states")


def tokens(hearing: Hearing) -> Difference | None:
    """(8) Every output token is the one that the sampler chooses."""
    chosen = hearing.replayed.chosen
    wrong = sum(a != b for a, b in zip(chosen, hearing.tokens, strict=True))
    hearing.facts["tokens_not_chosen"] = wrong
    difference = _first_other("output_position", chosen, hearing.tokens)
    if difference is None:
        return None
    return Difference("the sampler's choice", "another token", {**difference.where, "wrong": wrong})


def logprobs(hearing: Hearing) -> Difference | None:
    """(8) The log-probabilities are there exactly if they were asked for, and are ours."""
    ours, theirs = hearing.replayed.logprobs, hearing.answer.logprobs
    return _first_other("output_position", ours, theirs)


def text(hearing: Hearing) -> Difference | None:
    """(9) Every frame's text is that of its tokens, since the client was shown it as it arrived; so is what repeats it."""
    says, answer = hearing.arithmetic.says, hearing.answer
    told = [(frame.tokens, frame.text) for frame in answer.frames]
    ended = hearing.receipt.finish in {Finish.STOP, Finish.LENGTH}
    if not says(told, hearing.settings, hearing.prefix, ended=ended):
        return Difference("the text of the tokens", "another text", _first_frame(hearing, told))
    for name, repeated in (("final record", hearing.final), ("evidence", hearing.evidence)):
        if repeated is not None and repeated.text != answer.text:
            return Difference("the text of the frames", f"another text in the {name}")
    return None


def _first_frame(hearing: Hearing, told: Sequence[tuple[Sequence[int], str]]) -> dict[str, int]:
    """Return the first frame whose text is not that of the tokens so far; nothing if only the end lacks some."""
    low, high = 0, len(told)
    while low < high:
        middle = (low + high) // 2
        part = told[: middle + 1]
        if hearing.arithmetic.says(part, hearing.settings, hearing.prefix, ended=False):
            low = middle + 1
        else:
            high = middle
    return {"frame": low} if low < len(told) else {}


def settings(hearing: Hearing) -> Difference | None:
    """(10) `settings` commits to the settings, seed, choice and length of the prefix of the sealed body."""
    same = hearing.blinded().settings == hearing.receipt.settings
    return None if same else Difference("the settings of the request", "other settings")


def finish(hearing: Hearing) -> Difference | None:
    """(10) The answer ends where its rules or its tenant want it to, and says which (protocol §4.7)."""
    said, count, most = hearing.receipt.finish, len(hearing.tokens), hearing.settings.max_tokens
    if hearing.final is not None and hearing.final.finish is not said:
        return Difference(said.value, f"{hearing.final.finish.value} in the final record")
    stop = hearing.arithmetic.stops_at(hearing.tokens, hearing.settings, hearing.prefix)
    if stop is not None and stop < count:
        return Difference(f"an end after {stop} tokens", f"{count} tokens")
    if count > most:
        return Difference(f"at most {most} tokens", f"{count} tokens")
    if said is Finish.FAILED:  # it is never paid, so it may be less than the truth
        return None
    by_rule = Finish.STOP if stop is not None else Finish.LENGTH if count == most else None
    if by_rule is not None:
        return None if said is by_rule else Difference(by_rule.value, said.value)
    if said in {Finish.STOP, Finish.LENGTH}:
        return Difference("an answer that goes on", said.value)
    unfounded = unfounded_end(hearing.order, hearing.receipt)
    return None if unfounded is None else Difference(found=unfounded)


def usage(hearing: Hearing) -> Difference | None:
    """(10) The counts are those of the tokens."""
    said, input_tokens = hearing.receipt.usage, len(hearing.prompt)
    if hearing.final is not None and hearing.final.usage != said:
        return Difference("the receipt's usage", "another one in the final record")
    for kind, counted, found in (
        ("output", len(hearing.tokens), said.output),
        ("input", input_tokens, said.input),
        ("cached", min(said.cached, max(0, input_tokens - 1)), said.cached),
    ):
        if counted != found:
            return Difference(f"{counted} {kind} tokens", f"{found} {kind} tokens")
    return None


def claims(hearing: Hearing) -> Difference | None:
    """(10) What is claimed about times, compute and energy is possible (protocol §4.8)."""
    impossible = implausible(hearing.order, hearing.receipt)
    return None if impossible is None else Difference(found=impossible)


def _blocks(evidence: Evidence) -> Activations:
    return Activations(tuple(evidence.prompt_blocks), tuple(evidence.output_blocks))


def _refused(
    expected: str, error: CounterfoilError, where: Mapping[str, int] | None = None
) -> Difference:
    """Return a difference that names the error by its code: its words may quote the request."""
    return Difference(expected, error.code.name, where or {})


def _first_other(
    place: str, expected: Sequence[object], found: Sequence[object]
) -> Difference | None:
    """Return where two sequences begin to differ; None if they are equal."""
    for position, (one, other) in enumerate(zip(expected, found, strict=False)):
        if one != other:
            return Difference(where={place: position})
    if len(expected) == len(found):
        return None
    return Difference(len(expected), len(found), {place: min(len(expected), len(found))})
