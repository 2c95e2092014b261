"""The words in which the audit of a receipt is told: of checks, reasons, ends, places and facts."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from shared.statements.verdicts import Reason

HOLDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "profile": "the node computes by a definition that this auditor computes too",
        "secret": "the sealed request opens with the keys that its custodians released",
        "model": "the receipt is for the model that the request asks for",
        "prompt": "the prompt was taken as it was sent",
        "frames": "all parts of the answer are there, in order, and match the receipt",
        "final record": "the record at the end repeats the receipt and the tokens that were sent",
        "delivery": "the record at the end, with the evidence, was handed over",
        "evidence": "the evidence belongs to this receipt and these tokens",
        "replay": "the tokens are ones that this model has",
        "activations": "the inner results, computed again, are those that the node committed to",
        "tokens": "every token of the answer is the one that model, seed and settings choose",
        "log-probabilities": "the log-probabilities are the model's",
        "text": "the text that was shown is that of the tokens",
        "settings": "the receipt is for the settings of the request",
        "finish": "the answer ended where its rules, its tenant or its deadline wanted it to",
        "usage": "the tokens that are billed are those that were computed",
        "claims": "the times, compute and energy that are claimed are possible",
        "nodes": "the nodes are those for which the request was sealed",
        "layers": "the layers of a chain's nodes follow each other through the whole model",
        "receipts of stages": "the final record holds the receipts of the chain's stages",
        "received": "what other nodes of the chain passed to it is what this model computes",
        "sent": "what it passed to the next node of the chain is what this model computes",
        "request": "its order is about the request that its chain answered",
        "tokens counted": "it bills as many tokens as it computed",
        "tokens told": "which of them are the prompt's and the answer's is as the chain's head told it",
    }
)
"""What each check of a judgement establishes, by its name, in the order in which they are made."""

MEANS: Final[Mapping[Reason, str]] = MappingProxyType(
    {
        Reason.EXACT: "The answer was computed again: its tokens, text and counts are exactly as they should be.",
        Reason.ORDER: "The node signed a second receipt for an order that it had answered before.",
        Reason.MODEL: "The node's receipt is for another model than the request asks for.",
        Reason.INPUT: "The node did not work on the prompt that it was sent.",
        Reason.STREAM: "What the node signed about the answer does not fit together.",
        Reason.EVIDENCE: "The node's evidence is not about the answer that it sent.",
        Reason.SETTINGS: "The node's receipt is for other settings than the request has.",
        Reason.ACTIVATIONS: "The answer was not computed as this model computes it.",
        Reason.TOKENS: "The node sent tokens that this model, with this seed and these settings, does not choose.",
        Reason.LOGPROBS: "The node sent log-probabilities that are not the model's.",
        Reason.TEXT: "The client was shown a text that is not that of the tokens.",
        Reason.FINISH: "The answer does not end where it has to, or for another reason than the receipt says.",
        Reason.USAGE: "The receipt bills other tokens than were computed.",
        Reason.IMPLAUSIBLE: "The receipt claims something that is physically impossible.",
        Reason.PROFILE: "The node computes by a definition that no auditor of this log can repeat.",
        Reason.WITHHELD: "Nobody handed over what the audit needs, although the node was asked in time.",
        Reason.UNAVAILABLE: "The audit could not get what it needs (custodians' keys or the model), which is not the node's fault.",
        Reason.UNREPLAYABLE: "The audit's own process failed several times, or lacks the time. A person has to look into it.",
        Reason.BOUNDARY: "Another node of its chain gave it something wrong. A verdict about that one says so.",
        Reason.ESCROW: "The sealed request could not be opened by those who should be able to, which is not the node's fault.",
    }
)
"""Each reason code in a sentence."""

COMPUTED: Final = frozenset({Reason.ACTIVATIONS, Reason.TOKENS, Reason.LOGPROBS})
"""Reasons that rest on computing the answer again; other FAILs rest on comparing what was signed."""

ENDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "stop": "which ended by itself",
        "length": "which ended at the length that was asked for",
        "cancelled": "which the receipt calls cancelled by the tenant",
        "deadline": "which the receipt calls ended by the order's deadline",
        "failed": "which the node calls failed",
    }
)

PLACES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "prompt_block": "block {} of the prompt",
        "output_block": "block {} of the answer",
        "prompt_position": "position {} of the prompt",
        "output_position": "token {} of the answer",
        "frame": "part {} of the answer",
        "boundary": "what passed behind place {} of the chain",
        "place": "place {} of the chain",
    }
)


FACTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "why": "What the sources answered",
        "answered_by": "The receipt that answered the order first",
        "failures": "Attempts that failed",
        "model_root": "The model that this auditor does not have",
    }
)
"""Facts of a judgement that are worth a line of their own."""

NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "primary": "first",
        "confirm": "second",
        "third": "third",
        "asked": "asked-for first",
        "asked-confirm": "asked-for second",
        "asked-third": "asked-for third",
        "found": "beside another receipt of its chain, own",
    }
)
"""Opinions in words, by their kind."""
