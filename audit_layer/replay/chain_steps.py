"""The judge's steps that are about chains of nodes, each a function of the hearing as those of `steps` (protocol §6.3.1)."""

from collections.abc import Iterator

from audit_layer.replay.hearing import Hearing
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, read_as
from shared.statements.keys import KeyBundle
from shared.statements.receipts import Finish
from shared.verification.judgement import Difference


def answered_by(hearing: Hearing) -> Difference | None:
    """(2) A chain answered if the sealed header names stages, as many as that, and no chain otherwise."""
    stages, chain = hearing.opened.header.stages or (), hearing.receipt.chain
    receipt = hearing.receipt
    if receipt.finish is Finish.FAILED or not receipt.usage.output:
        return None
    found = len(() if chain is None else chain.stages or ())
    return None if found == len(stages) else Difference(f"{len(stages)} stages", f"{found} stages")


def same_request(hearing: Hearing) -> Difference | None:
    """(2) The stage's order is about the head's request: whoever handed it another one did so on purpose."""
    for name in ("ctx", "kc", "envelope"):
        own, theirs = getattr(hearing.receipt, name), getattr(hearing.head, name)
        if own != theirs:
            return Difference(theirs.hex(), own.hex())
    return None


def ordered_from(hearing: Hearing) -> Difference | None:
    """(2) A stage's key bundle is the one that the sealed header names at its place."""
    stages, place = hearing.opened.header.stages or (), hearing.place
    if place > len(stages):
        return Difference(f"a chain of {len(stages)} stages", f"place {place}")
    named, own = stages[place - 1].bundle, hearing.receipt.bundle
    return None if named == own else Difference(named.hex(), own.hex())


def layout(hearing: Hearing) -> Difference | None:
    """(2) The stages' layers follow each other up to the last of the model, which all of them compute in one arithmetic."""
    case, named = hearing.case.chain, [each.bundle for each in hearing.opened.header.stages or ()]
    if case is None or not named:
        return None
    if [entry_of(raw) for raw in case.bundles] != named:
        raise CounterfoilError(Code.CORRUPT, "a chain comes with other key bundles than its own")
    bundles = [read_as(KeyBundle, raw) for raw in case.bundles]
    cuts = []
    for at, fault in enumerate(_unfit(hearing, bundles), start=1):
        if fault is not None:
            return Difference(found=fault, where={"place": at})
        layers = bundles[at - 1].layers
        assert layers is not None
        cuts.append(layers.first)
    hearing.cuts = (*cuts, hearing.arithmetic.layers)
    return None


def _unfit(hearing: Hearing, bundles: list[KeyBundle]) -> Iterator[str | None]:
    """Yield, for each stage, why its key bundle does not fit; None if it does."""
    head, last = hearing.head, None
    for bundle in bundles:
        layers = bundle.layers
        if layers is None:
            yield "it has no layers"
            return
        if bundle.model_roots != (head.model_root,):
            yield "it is of another model"
        elif bundle.numeric_profile != head.numeric_profile:
            yield "it has another numeric profile"
        elif last is not None and layers.first != last:
            yield f"it begins at layer {layers.first}, not {last}"
        else:
            final = bundle is bundles[-1]
            ends = layers.last == hearing.arithmetic.layers or not final
            within = layers.last <= hearing.arithmetic.layers
            yield (
                None
                if ends and within
                else f"it ends at layer {layers.last} of the model's {hearing.arithmetic.layers}"
            )
        last = layers.last


def tokenised(hearing: Hearing) -> Difference | None:
    """(3) The head had a prompt that can be encoded; that it took it for this one, a stage does not know."""
    try:
        hearing.prompt = hearing.arithmetic.tokenise(hearing.opened.body)
    except CounterfoilError as error:
        return Difference("a prompt that can be encoded", error.code.name)
    hearing.facts["prompt_tokens"] = len(hearing.prompt)
    return None


def listed(hearing: Hearing) -> Difference | None:
    """(4) The final record holds the stages' receipts that the head's lists."""
    chain, final = hearing.receipt.chain, hearing.final
    if final is None:
        return None
    named = () if chain is None else chain.stages or ()
    try:
        shown = tuple(entry_of(raw) for raw in final.stages or ())
    except CounterfoilError as error:
        return Difference("receipts of stages", error.code.name)
    return None if shown == named else Difference("the receipts that the head's lists", "others")


def received(hearing: Hearing) -> Difference | None:
    """(7) What the place was given are the states at the boundary before it; of a head, what came back behind the last stage."""
    last = len(hearing.cuts) - 1
    return _held(hearing, "received", hearing.place - 1 if hearing.place else last)


def sent(hearing: Hearing) -> Difference | None:
    """(7) What the place passed on are the states at the boundary behind it."""
    return _held(hearing, "sent", hearing.place)


def _held(hearing: Hearing, side: str, index: int) -> Difference | None:
    chain = hearing.receipt.chain
    if chain is None:
        return None
    if hearing.boundary(index) == getattr(chain, side):
        return None
    return Difference("the states of this model", "other states", {"boundary": index})


def counted(hearing: Hearing) -> Difference | None:
    """(10) A stage bills as many positions as it computed: those of prompt and output."""
    own, said = len(hearing.prompt) + len(hearing.tokens), hearing.receipt.usage
    found = said.input + said.output
    return (
        None
        if own == found or hearing.receipt.chain is None
        else Difference(f"{own} tokens", f"{found} tokens")
    )


def told(hearing: Hearing) -> Difference | None:
    """(10) The head told a stage which of the tokens are the prompt's and the output's, and not too many that a cache held."""
    prompt, said = len(hearing.prompt), hearing.receipt.usage
    bound = max(0, prompt - 1)
    if hearing.receipt.chain is None or (said.input == prompt and said.cached <= bound):
        return None
    return Difference(
        f"{prompt} input tokens, at most {bound} of them cached",
        f"{said.input} input tokens, {said.cached} of them cached",
    )
