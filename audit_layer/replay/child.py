"""The replay process: the only part of the audit layer that imports torch.

`python -m audit_layer.replay.child FOLDER… --threads N` reads cases from standard input and writes judgements to
standard output (`audit_layer.replay.framing`). It ends when its input does, so it cannot outlive its worker.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from audit_layer.replay.case import Case
from audit_layer.replay.framing import Arriving, read_case, write_message
from audit_layer.replay.hearing import Replayed
from audit_layer.replay.judge import Judged, judge_chain, judge_header
from shared.codec import cbor
from shared.model.backend import Backend
from shared.model.config import ModelConfig
from shared.model.cpu import CpuBackend, arithmetics_for
from shared.model.decoder import Decoder, load_decoder
from shared.model.profile import numeric_profile, profile_id
from shared.model.replay import check_sequence, replay
from shared.model.root import model_root
from shared.model.unchanged import Snapshot
from shared.runtime.core_dumps import forbid_core_dumps
from shared.runtime.errors import CounterfoilError
from shared.statements.cose import read_as
from shared.statements.receipts import Receipt
from shared.statements.request import RequestBody, SamplingSettings
from shared.statements.verdicts import Reason
from shared.text.opening import open_tokenizer
from shared.text.prompt import prompt_ids
from shared.text.stream import frames_say, stop_length
from shared.verification.judgement import Judgement


class ModelArithmetic:
    """The auditor's own copy of one checkpoint, as the judge needs it."""

    def __init__(self, folder: Path, backend: Backend, profile: bytes) -> None:
        self._decoder: Decoder = load_decoder(folder, backend=backend)
        config = self._decoder.config
        self._tokenizer = open_tokenizer(folder, rows=config.vocab_size, stops=config.eos_token_ids)
        self.profile = profile
        """Hash of the numeric profile, whose probe this process has run."""

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        return self._decoder.config.layers

    def tokenise(self, body: RequestBody) -> tuple[int, ...]:
        """Return the input's tokens."""
        return prompt_ids(self._tokenizer, body)

    def check(self, prompt: Sequence[int], output: Sequence[int]) -> None:
        """Raise INVALID_ARGUMENT unless the model can have such a sequence."""
        check_sequence(self._decoder, prompt, output)

    def replay(
        self,
        prompt: Sequence[int],
        output: Sequence[int],
        settings: SamplingSettings,
        seed: bytes,
        choice: int,
        delivered: int = 0,
        cuts: Sequence[int] = (),
    ) -> Replayed:
        """Replay in one teacher-forced pass."""
        result = replay(
            self._decoder,
            prompt,
            output,
            settings,
            seed,
            choice=choice,
            delivered=delivered,
            cuts=cuts,
        )
        return Replayed(result.activations, result.chosen, result.logprobs, result.boundaries)

    def says(
        self,
        frames: Sequence[tuple[Sequence[int], str]],
        settings: SamplingSettings,
        prefix: Sequence[int] = (),
        *,
        ended: bool,
    ) -> bool:
        """Return whether the frames' text is that of their tokens after a prefix."""
        return frames_say(
            self._tokenizer, frames, settings.stop, settings.stop_token_ids, prefix, ended=ended
        )

    def stops_at(
        self, output: Sequence[int], settings: SamplingSettings, prefix: Sequence[int] = ()
    ) -> int | None:
        """Return the length up to and including the first stop after a prefix; None without one."""
        return stop_length(self._tokenizer, output, settings.stop, settings.stop_token_ids, prefix)


class Bench:
    """All of this process's checkpoints in every arithmetic that it computes, loaded on first use."""

    def __init__(self, folders: Sequence[Path], threads: int) -> None:
        self._given = folders
        self._threads = threads
        self._profiles: dict[tuple[str, str], bytes] = {}
        self._loaded: dict[tuple[bytes, str], ModelArithmetic] = {}

    @cached_property
    def _folders(self) -> dict[bytes, Snapshot]:
        """The folders by model root. One that cannot be read is an error in every case, so that the worker reports why."""
        found = {}
        for folder in self._given:
            known = Snapshot.of(folder)
            found[model_root(folder)] = known
            known.check()
        return found

    def judge(self, case: Case, longest: int | None = None) -> Judgement:
        """Judge one case by itself, replaying at most `longest` tokens; a model that this auditor does not have makes it
        INCONCLUSIVE.
        """
        return self.judge_chain(case, longest).judgement

    def judge_chain(self, case: Case, longest: int | None = None) -> Judged:
        """Judge one case, and the others of its chain where that says who gave it what was wrong."""
        receipt = read_as(Receipt, case.receipt)
        root = receipt.model_root
        known = self._folders.get(root)
        if known is None:
            unavailable = Judgement(Reason.UNAVAILABLE, {"model_root": root.hex()})
            return Judged(judge_header(case) or unavailable)
        dtype = ModelConfig.from_folder(known.folder).dtype
        chosen = self._arithmetic(dtype, receipt.numeric_profile)
        if (root, chosen) not in self._loaded:
            backend = CpuBackend(self._threads, chosen)
            profile = self._profile(dtype, chosen)
            made = ModelArithmetic(known.folder, backend, profile)
            known.check()  # or the root would not be that of these weights
            self._loaded[root, chosen] = made
        return judge_chain(case, self._loaded[root, chosen], longest)

    def _arithmetic(self, dtype: str, profile: bytes) -> str:
        """Return the arithmetic of a numeric profile; for a profile that this process does not compute, any one."""
        names = arithmetics_for(dtype)
        return next((name for name in names if self._profile(dtype, name) == profile), names[0])

    def _profile(self, dtype: str, arithmetic: str) -> bytes:
        """Return the profile under an arithmetic; its probe runs once."""
        if (dtype, arithmetic) not in self._profiles:
            found = numeric_profile(dtype, CpuBackend(self._threads, arithmetic))
            self._profiles[dtype, arithmetic] = profile_id(found)
        return self._profiles[dtype, arithmetic]


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve cases until the input ends."""
    forbid_core_dumps()
    parser = argparse.ArgumentParser(prog="counterfoil-replay")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    bench = Bench(options.folders, options.threads)
    with contextlib.suppress(EOFError):  # the worker was killed between two frames
        while (arriving := read_case(sys.stdin.buffer)) is not None:
            write_message(sys.stdout.buffer, _answer(bench, arriving))
            sys.stdout.buffer.flush()


def _answer(bench: Bench, arriving: Arriving) -> bytes:
    """Judge a case and read it to its end; EOFError if it has none."""
    try:
        judged = bench.judge_chain(arriving.case, arriving.longest)
        others = {entry: found.to_bytes() for entry, found in judged.others.items()}
        answer = cbor.encode({"judgement": judged.judgement.to_bytes(), "others": others})
    except CounterfoilError as error:
        answer = cbor.encode({"error": str(error)})
    arriving.drain()
    return answer


if __name__ == "__main__":
    main()
