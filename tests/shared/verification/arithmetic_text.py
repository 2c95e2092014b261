"""Recomputes what a finding's arithmetic says, from its text alone."""

import math
import re

_WORD = re.compile(r"(?<![\w.])(?!max\b|ceil\b)[A-Za-z]+(?![\w.])")


def recomputed(text):
    """Return (stated, computed) for each `name: expression = value unit` of the text."""
    pairs = []
    for part in text.split("; "):
        if " = " not in part:
            continue
        expression, _, stated = part.partition(": ")[2].rpartition(" = ")
        for sign, code in (("×", "*"), ("−", "-"), ("⌈", "ceil("), ("⌉", ")")):
            expression = expression.replace(sign, code)
        expression = _WORD.sub("", re.sub(r"(\d),(?=\d{3})", r"\1", expression))
        computed = eval(expression, {"__builtins__": {}}, {"max": max, "ceil": math.ceil})  # noqa: S307  # our own text
        pairs.append((float(stated.split()[0].replace(",", "")), computed))
    return pairs
