"""A node over a small real checkpoint, beside which the judge uses another copy."""

from pathlib import Path

from audit_layer.replay.child import ModelArithmetic
from shared.model.config import ModelConfig
from shared.model.cpu import CpuBackend
from shared.model.profile import numeric_profile, profile_id
from shared.model.root import model_root
from shared.statements.request import SamplingSettings
from shared.text.stream import TextStream
from tests.hostile.forge import Node


class GeneratingArithmetic(ModelArithmetic):
    """The auditor's arithmetic, which also generates what it will replay: token by token, by the same definition."""

    def generate(self, prompt, count, seed, delivered=0):
        """Return `count` tokens, or fewer that end with a stop token: a text takes none after it."""
        output: list[int] = []
        for _ in range(count):
            settings = SamplingSettings(max_tokens=count)
            chosen = self.replay(prompt, [*output, 0], settings, seed, 0, delivered)
            output.append(chosen.chosen[-1])
            if output[-1] in self._tokenizer.stop_tokens:
                break
        self.generated = tuple(output)
        return self.generated

    def frame_texts(self, frames, settings, prefix=()):
        """Return the text of each frame."""
        stream = TextStream(self._tokenizer, settings.stop, settings.stop_token_ids, prefix)
        texts = ["".join(stream.push(token) for token in tokens) for tokens in frames]
        return [*texts[:-1], texts[-1] + stream.flush()] if texts else []

    def activations(self, prompt, output):
        """Return the commitment blocks."""
        settings = SamplingSettings(max_tokens=max(1, len(output)))
        return self.replay(prompt, output, settings, bytes(32), 0).activations


def tiny_node(folder: Path) -> Node:
    """Return a node that serves a checkpoint's folder honestly."""
    backend = CpuBackend(1)
    dtype = ModelConfig.from_folder(folder).dtype
    profile = profile_id(numeric_profile(dtype, backend))
    return Node(GeneratingArithmetic(folder, backend, profile), profile, model_root(folder))
