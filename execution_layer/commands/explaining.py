"""How `counterfoil infer --explain` shows what was checked before a prompt leaves the machine."""

from typing import Any, Final

from rich.console import Console
from rich.tree import Tree

from shared.runtime.printable import for_terminal

WHOLE: Final = 100
"""Columns in which an entry in hexadecimal stays in one piece."""


def show(facts: dict[str, Any]) -> None:
    """Print the facts on standard error, for people."""
    console = Console(stderr=True, highlight=False)
    console.width = max(console.width, WHOLE)
    console.print(as_tree(facts))


def as_tree(facts: dict[str, Any]) -> Tree:
    """Return the facts of `execution_layer.client.explain` as a tree; nothing in it controls the terminal."""
    checked = facts["checked"]
    tree = Tree("Before the prompt leaves this machine")
    done = tree.add("Checked")
    for node in checked["nodes"]:
        _node(done, node)
    revocations = checked["revocations"]
    _leaf(
        done,
        f"revocations: none of these is among the {revocations['known']} known here; newer than"
        f" {revocations['unknown_since']} cannot be known",
    )
    custodians = checked["custodians"]
    branch = _leaf(
        done,
        f"custodians: any {custodians['threshold']} of {custodians['of']} can open it, fewer cannot; audit policy:"
        f" {custodians['audit']}",
    )
    for name, key in custodians["pinned_keys"].items():
        _leaf(branch, f"{name}: key {key[:16]}… is pinned in your policy")
    for name, why in custodians.get("left_out", {}).items():
        _leaf(branch, f"{name} gets no share: {why}, as of {custodians['record_as_of']}")
    for name, why in custodians.get("kept_in_spite_of", {}).items():
        _leaf(branch, f"{name} gets a share, since too few would be left, in spite of {why}")
    _price(done, checked["price"])
    _leaf(done, f"model root: {checked['model_root']}, in every key bundle above")
    for title, name in (("Who can read it", "readers"), ("What remains trusted", "trusted")):
        branch = tree.add(title)
        for sentence in facts[name]:
            _leaf(branch, sentence)
    return tree


def _node(tree: Tree, node: dict[str, Any], kind: str = "node") -> None:
    log = node["log"]
    witnesses = ", ".join(f"{name} {at}" for name, at in log["witnesses"].items())
    branch = _leaf(
        tree, f"{kind} {node['name']} at {node['endpoint']}, listed by {node['listed_by']}"
    )
    region = node.get("claimed_region")
    for line in (
        *([f"computes {node['computes']}"] if "computes" in node else ()),
        *([f"says that it is in {region}, which nothing checks"] if region is not None else ()),
        f"key bundle {node['key_bundle']}, valid until {node['valid_until']}",
        f"signed with the operator's key {node['operator_key'][:16]}…, which your policy pins",
        f"index {log['index']} of {log['size']} in {log['origin']}; witnessed by {witnesses}",
        f"witnessed {log['age_s']} s ago; the policy accepts {log['accepted_age_s']} s",
        f"standing {node['standing']}; the policy demands {node['demanded_standing']}",
        f"numeric profile {node['numeric_profile']}"
        + "".join(f"; {name} {value}" for name, value in sorted(node["profile"].items())),
        *(
            f"attestation: {claim['name']} is {claim['value']} ({claim['source']})"
            for claim in node.get("attestation", ())
        ),
    ):
        _leaf(branch, line)
    for place, stage in enumerate(node.get("stages", ()), start=1):
        _node(branch, stage, f"stage {place}:")


def _price(tree: Tree, price: dict[str, Any]) -> None:
    counted = "counted here" if price["counted_here"] else "an upper bound; no tokenizer here"
    branch = _leaf(
        tree,
        f"price: at most {price['max_input_tokens']} input tokens ({counted}) and {price['max_output_tokens']} output"
        " tokens are paid for",
    )
    for name, card in price["rate_cards"].items():
        _leaf(branch, f"{name}: rate card {card}, which your policy accepts")
    for name, bound in price["at_most"].items():
        _leaf(branch, f"{name}: {_money(bound)}")
    if price.get("together") is not None:
        _leaf(branch, f"all parts of the chain together: {_money(price['together'])}")


def _money(bound: dict[str, Any]) -> str:
    if bound["unknown"] is not None:
        return f"in money it is not known: {bound['unknown']}"
    return f"at most {bound['amount']} {bound['currency']} for this attempt, before what a contract changes"


def _leaf(tree: Tree, text: str) -> Tree:
    from rich.text import Text  # noqa: PLC0415  # markup in a name must stay text

    return tree.add(Text(for_terminal(text)))
