"""A year under one setting, and what each strategy made of it."""

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from benchmarks.incentives.nodes import Bools, Floats, Nodes
from benchmarks.incentives.parties import Auditors, Griefers
from benchmarks.incentives.scenario import (
    BASELINE,
    NODES,
    Setting,
    Size,
    Strategy,
    counts,
)
from shared.statements.request import PPM

Z: Final = 1.96
POINTS: Final = 74
"""Of a curve of detection: every five epochs of a year."""
Progress = Callable[[int], None]


def year(setting: Setting, size: Size, seed: int, progress: Progress) -> dict[str, Any]:
    """Simulate, and return profit, detection and losses by strategy. The same seed gives the same figures."""
    amounts = counts(size.parties)
    auditors = sum(amounts[name] for name in (Strategy.DILIGENT, Strategy.LAZY, Strategy.BOUGHT))
    shares = amounts[Strategy.LAZY] / auditors, amounts[Strategy.BOUGHT] / auditors
    streams = [np.random.default_rng(each) for each in np.random.SeedSequence(seed).spawn(3)]
    nodes = Nodes(amounts, setting, shares, streams[0])
    judges = Auditors(amounts[Strategy.DILIGENT], amounts[Strategy.LAZY], setting, streams[1])
    griefers = Griefers(amounts[Strategy.GRIEFING], setting, shares[1], streams[2])
    for now in range(size.epochs):
        accused = griefers.epoch(nodes.size, nodes.slash)
        nodes.epoch(now, accused)
        judges.epoch(nodes.audits, auditors)
        progress(now + 1)
    nodes.close(size.epochs)
    rows = {name: _node_row(nodes, setting, name, size.epochs) for name in NODES}
    rows |= _auditor_rows(judges)
    rows[Strategy.QUIET] = _row(np.zeros(amounts[Strategy.QUIET]), None)
    rows[Strategy.GRIEFING] = {**_row(griefers.profit, None), "won": int(griefers.won.sum())}
    honest = nodes.strategy == NODES.index(Strategy.HONEST)
    return {
        "divided": setting.divided,
        "policy": _policy(setting),
        "strategies": rows,
        "honest": {
            "nodes": int(honest.sum()),
            "slashed": int((nodes.wrongly[honest] > 0).sum()),
            "framed": int((nodes.framed[honest] > 0).sum()),
            "lost": float((nodes.slash * nodes.wrongly)[honest].sum()),
        },
        "audits": int(judges.audits.sum() / (1 - shares[1])),
        "verdict": _verdict(rows),
    }


def _policy(setting: Setting) -> dict[str, Any]:
    policy = setting.policies[0]
    return {
        "rates": {each.value: setting.rate(each) for each in policy.rates},
        "rate_ppm": policy.rate_ppm,
        "stakes": [float(each.stake) for each in setting.policies],
        "unsettled": [each.terms.unsettled for each in setting.policies],
        "bonds": setting.bonds,
        "planted_ppm": setting.planted * PPM,
    }


def _row(profit: Floats, advantage: Floats | None) -> dict[str, Any]:
    """Return means per party: of the profit, and of the difference to honesty with its 95 % interval."""
    against = profit if advantage is None else advantage
    half = Z * float(against.std(ddof=1)) / math.sqrt(len(against))
    mean = float(against.mean())
    return {
        "parties": len(profit),
        "profit": float(profit.mean()),
        "advantage": {"mean": mean, "low": mean - half, "high": mean + half},
    }


def _node_row(nodes: Nodes, setting: Setting, strategy: Strategy, epochs: int) -> dict[str, Any]:
    """Return one strategy's figures. What it gained by it is the difference to serving the same requests honestly."""
    terms = setting.terms
    own: Bools = np.asarray(nodes.strategy == NODES.index(strategy))
    profit = nodes.profit[own]
    honestly = nodes.served[own] * float(terms.price - terms.honest_cost)
    row = _row(profit, profit - honestly) | {"slashes": int(nodes.slashes[own].sum())}
    if strategy is Strategy.HONEST:
        return row
    found = nodes.found[own]
    unpaid = nodes.cheats[own] - nodes.convicted[own]
    paid = float(unpaid.sum()) * float(terms.price)
    times = np.where(found < 0, np.inf, found)
    middle = float(np.median(times))
    grid = [round(epochs * place / (POINTS - 1)) for place in range(POINTS)]
    return row | {
        "found": float((found >= 0).mean()),
        "epochs_until_found": None if math.isinf(middle) else middle,
        "cheats": float(nodes.cheats[own].mean()),
        "paid_for_cheats": paid / len(profit),
        "covered": float(nodes.covered[own].mean()),
        "curve": [[at, float((times <= at).mean())] for at in grid],
    }


def _auditor_rows(judges: Auditors) -> dict[Strategy, dict[str, Any]]:
    """Return the auditors' figures: per year, and against what the same audits bring who looks."""
    rows = {}
    terms = judges.terms
    assert terms.auditor_fee is not None
    margin = float(terms.auditor_fee - terms.audit_cost)
    for name, which in ((Strategy.DILIGENT, ~judges.lazy), (Strategy.LAZY, judges.lazy)):
        profit = judges.profit[which]
        rows[name] = {
            **_row(profit, profit - judges.audits[which] * margin),
            "audits": float(judges.audits[which].mean()),
            "planted": int(judges.missed[which].sum()),
        }
    return rows


def _verdict(rows: dict[Strategy, dict[str, Any]]) -> dict[str, str]:
    """Return for each dishonest strategy whether it earned `less` or `more` than the honest one, or too little to tell."""
    said = {}
    for name, honest in BASELINE.items():
        ours, theirs = rows[name]["advantage"], rows[honest]["advantage"]
        less, more = ours["high"] < theirs["low"], ours["low"] > theirs["high"]
        said[name.value] = "less" if less else "more" if more else "unclear"
    return said


def dominant(found: dict[str, Any]) -> bool:
    """Return whether every dishonest strategy earned less than honesty."""
    return set(found["verdict"].values()) == {"less"}


def profitable(found: dict[str, Any]) -> bool:
    """Return whether every dishonest strategy earned more than honesty."""
    return set(found["verdict"].values()) == {"more"}
