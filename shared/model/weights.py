"""Loads a checkpoint's tensors and checks them against its configuration."""

import math
import os
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from shared.model.config import ModelConfig
from shared.model.cut import Cut
from shared.model.part_file import PartFile, read_part
from shared.model.shards import Entry, open_shard, read_exactly, read_headers
from shared.runtime.errors import Code, CounterfoilError
from shared.text.files import shown

Weights = Mapping[str, Tensor]
WeightsLoader = Callable[[Path, ModelConfig], Weights]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""As safetensors names them."""
TORCH = {name: DTYPES[dtype] for dtype, name in NAMES.items()}
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
PIECE = 1 << 24
"""Values checked at once: what is only checked is not copied whole."""
WIDEST: Final = 32
"""To multiples of this the arithmetics pad widths, at most."""


def dtype_of(config: ModelConfig) -> torch.dtype:
    """Return the dtype that the configuration names."""
    return DTYPES[config.dtype]


def compute_dtype(config: ModelConfig) -> torch.dtype:
    """Return the dtype of products' inputs, hidden states, keys and values."""
    return computed_in(config.dtype)


def computed_in(dtype: str) -> torch.dtype:
    """Return the dtype in which a checkpoint's dtype is computed: float16 weights in float32."""
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return every tensor's name (Hugging Face's) and shape."""
    width, inner = config.hidden_size, config.intermediate_size
    attention = config.heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config.vocab_size, width),
        NORM: (width,),
    }
    if not config.tie_word_embeddings:
        shapes[HEAD] = (config.vocab_size, width)
    projections = {"q": attention, "k": config.kv_width, "v": config.kv_width}
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "input_layernorm.weight": (width,),
            prefix + "post_attention_layernorm.weight": (width,),
            prefix + "self_attn.o_proj.weight": (width, attention),
            prefix + "mlp.gate_proj.weight": (inner, width),
            prefix + "mlp.up_proj.weight": (inner, width),
            prefix + "mlp.down_proj.weight": (width, inner),
        }
        for name, out in projections.items():
            shapes[f"{prefix}self_attn.{name}_proj.weight"] = (out, width)
            if config.qkv_bias:
                shapes[f"{prefix}self_attn.{name}_proj.bias"] = (out,)
        if config.qk_norm:
            shapes[prefix + "self_attn.q_norm.weight"] = (config.head_dim,)
            shapes[prefix + "self_attn.k_norm.weight"] = (config.head_dim,)
    return shapes


class FileWeights(Mapping[str, Tensor]):
    """The tensors of a checkpoint's files, each read when it is asked for, into memory of its own, and kept by nobody else.

    So loading a part of a model reads that part, and what happens to the files later changes nothing that is in use. Asking
    for a tensor raises CORRUPT if its values are not finite or its file has become shorter, CONFIGURATION if the file cannot be
    read any more.
    """

    def __init__(self, places: Mapping[str, tuple[Path, Entry]]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> Tensor:
        path, entry = self._places[name]
        raw = torch.empty(entry.stop - entry.start, dtype=torch.uint8)
        with open_shard(path) as file:
            read_exactly(file, entry.start, raw.numpy().data)
        tensor = raw.view(TORCH[entry.dtype]).view(entry.shape)
        if not all(torch.isfinite(piece).all() for piece in tensor.reshape(-1).split(PIECE)):
            raise CounterfoilError(
                Code.CORRUPT, f"tensor {name} holds values that are not finite numbers"
            )
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def load_weights(folder: Path, config: ModelConfig, cut: Cut | None = None) -> Weights:
    """Return the tensors of a checkpoint or a part of one, of which nothing but names, shapes and dtypes was read (`FileWeights`).

    `cut` is what will be asked for (None: everything). CORRUPT, MALFORMED or CONFIGURATION names the file or tensor that is wrong,
    or what a part lacks; CONFIGURATION unless what will be asked for fits in memory. A tied checkpoint may hold the output head as
    well; it must equal the embedding, and is not returned.
    """
    cut = cut or whole(config)
    places = tensor_places(folder, config, cut)
    check_memory(config, cut)
    if config.tie_word_embeddings and HEAD in places:
        both = FileWeights(places)
        if cut.ends and not torch.equal(both[HEAD], both[EMBEDDING]):
            raise CounterfoilError(
                Code.MALFORMED,
                f"tensor {HEAD} is not the embedding, although tie_word_embeddings says that it is",
            )
        del places[HEAD]
    return FileWeights(places)


def whole(config: ModelConfig) -> Cut:
    """Return the cut that is all of a model."""
    return Cut(0, config.layers, ends=True)


def tensor_places(folder: Path, config: ModelConfig, cut: Cut) -> dict[str, tuple[Path, Entry]]:
    """Return where the tensors of a checkpoint are, or of a part that has those of a cut; errors as `load_weights`."""
    shards = read_headers(folder)
    places = {
        name: (path, entry) for path, found in shards.items() for name, entry in found.items()
    }
    part = read_part(folder)
    entries = {name: entry for name, (_, entry) in places.items()}
    check_entries(entries, config, part)
    if part is not None:
        check_cut(str(folder), entries, config, cut)
    return places


def check_cut(where: str, names: Container[str], config: ModelConfig, cut: Cut) -> None:
    """Raise CONFIGURATION unless a part has the tensors of a cut; it names one that it lacks, and the command for a better part."""
    lacking = next((name for name in cut.of(expected_shapes(config)) if name not in names), None)
    if lacking is None:
        return
    layers = f" --layers {cut.first}:{cut.last}" if cut.first < cut.last else ""
    ends = " --ends" if cut.ends else ""
    raise CounterfoilError(
        Code.CONFIGURATION,
        f"{where} is a part of a checkpoint and lacks the tensor {lacking}, which {cut} need",
        remedy=f"Make one that has it: counterfoil model part{layers}{ends} SOURCE TARGET.",
    )


def check_entries(
    entries: Mapping[str, Entry], config: ModelConfig, part: PartFile | None = None
) -> None:
    """Raise MALFORMED unless these are exactly the configuration's tensors, or in a part those of them that it lists."""
    expected = expected_shapes(config)
    if config.tie_word_embeddings and HEAD in entries:
        expected[HEAD] = expected[EMBEDDING]
    if part is not None:
        part.check_names(entries)
    for name, shape in expected.items():
        if name not in entries:
            if part is not None:
                continue
            raise CounterfoilError(Code.MALFORMED, f"the checkpoint has no tensor {name}")
        entry = entries[name]
        if entry.shape != shape or entry.dtype != NAMES[config.dtype]:
            raise CounterfoilError(
                Code.MALFORMED,
                f"tensor {name} is {entry.shape} {entry.dtype}, not {shape} {NAMES[config.dtype]}",
            )
    for name in sorted(entries.keys() - expected.keys())[:1]:
        raise CounterfoilError(Code.MALFORMED, f"the checkpoint has a surplus tensor {shown(name)}")


def check_memory(config: ModelConfig, cut: Cut) -> None:
    """Raise CONFIGURATION unless the tensors of a cut fit in memory."""
    needed = memory_needed(config, cut)
    if needed > memory_bytes():
        what = "the model takes" if cut == whole(config) else f"{cut} take"
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{what} {needed / 2**30:.1f} GiB of memory, "
            f"and this machine has {memory_bytes() / 2**30:.1f} GiB",
        )


def memory_needed(config: ModelConfig, cut: Cut | None = None) -> int:
    """Return the bytes that the tensors of a cut (None: of all of a model) take, with their padding: much more than the files where
    heads are narrow.
    """

    def filled(width: int) -> int:
        return -(-width // WIDEST) * WIDEST

    wide = replace(
        config,
        hidden_size=filled(config.hidden_size),
        head_dim=filled(config.head_dim),
        intermediate_size=filled(config.intermediate_size),
    )
    shapes = expected_shapes(wide)
    values = sum(math.prod(shapes[name]) for name in (cut or whole(config)).of(shapes))
    return compute_dtype(config).itemsize * values


def memory_bytes() -> int:
    """Return the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
