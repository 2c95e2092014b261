"""A node whose key bundle names two models, and which serves the wrong one of them."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from safetensors.torch import save_file

from execution_layer.node import session as session_module
from execution_layer.node.identity import BundleKeys, KeyRing, NodeFacts
from execution_layer.node.request_records import AcceptedRecord
from shared.model.config import ModelConfig
from shared.model.decoder import load_decoder
from shared.model.root import model_root
from shared.model.weights import Weights, load_weights
from shared.runtime.errors import Code
from shared.statements.verdicts import Reason
from tests.adversaries.adversary import Adversary, patched
from tests.adversaries.weights import one_matrix


def write_other_model(folder: Path, original: Path) -> Path:
    """Write the node's other checkpoint, one matrix of which differs; return its folder."""
    config = ModelConfig.from_folder(original)
    shutil.copytree(original, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    weights = {
        name: w.contiguous() for name, w in one_matrix(load_weights(original, config)).items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@contextmanager
def other_model() -> Iterator[None]:
    """Serve the other model, and say so in key bundle and receipt."""
    ordinary = KeyRing.renew
    roots: list[bytes] = []

    def load(folder: Path, config: ModelConfig) -> Weights:
        with tempfile.TemporaryDirectory() as made:
            roots.append(model_root(write_other_model(Path(made) / "other", folder)))
        return one_matrix(load_weights(folder, config))

    def renew(self: KeyRing, facts: NodeFacts, now_ms: int) -> BundleKeys | None:
        return ordinary(self, replace(facts, model_roots=(*facts.model_roots, roots[-1])), now_ms)

    def accepted(**known: Any) -> AcceptedRecord:
        return AcceptedRecord(**{**known, "model_root": roots[-1]})

    with (
        mock.patch.dict(load_decoder.__kwdefaults__, weights_loader=load),
        patched((KeyRing, "renew", renew), (session_module, "AcceptedRecord", accepted)),
    ):
        yield


ADVERSARIES = (
    Adversary(
        "other-model",
        "serves another model of its key bundle than the request asks for",
        other_model,
        frozenset({Reason.MODEL}),
        frozenset({Code.COMMITMENT_MISMATCH}),
    ),
)
