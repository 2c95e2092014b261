"""What the engine gets from a node's settings, and settings that cannot hold the model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from execution_layer.node.settings import AuditServer, NodeSettings, Quotas
from execution_layer.wiring import node
from execution_layer.wiring.node import MIB, engine_limits
from shared.model.cpu import KVCache
from shared.model.cuda.backend import CudaBackend
from shared.model.decoder import load_decoder
from shared.model.shards import INDEX
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.tls import TlsFiles
from tests.shared.model import tiny

BACKEND = tiny.BACKEND
HERE = Path()


def node_settings(**changes):
    paths = ("model", "keys", "operator_key_file", "tenants_file", "rate_card_file", "spool")
    return NodeSettings(
        operator="o",
        node="n",
        tls=TlsFiles(cert=HERE, key=HERE, ca=HERE),
        audit=AuditServer.model_construct(target="localhost:1", ca_file=HERE),  # not looked at
        **dict.fromkeys(paths, HERE),
        **changes,
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_bytes_of_a_block_are_those_that_the_cache_takes(dtype):
    config = tiny.config(dtype=dtype)
    cache = BACKEND.cache(config, 3)
    assert isinstance(cache, KVCache)
    taken = sum(each.numel() * each.element_size() for each in (*cache.keys, *cache.values))
    assert taken == 4 * BACKEND.block_bytes(config)  # the null block and three more


def test_memory_becomes_blocks_and_the_settings_become_limits():
    config = tiny.config(dtype="bfloat16")
    settings = node_settings(
        kv_memory_mib=4,
        max_batch=7,
        prefill_rows=33,
        quotas=Quotas(queue=20, queue_per_tenant=5),
    )
    limits = engine_limits(settings, config, BACKEND)
    assert (limits.blocks + 1) * BACKEND.block_bytes(config) <= 4 * MIB
    assert (limits.blocks + 2) * BACKEND.block_bytes(config) > 4 * MIB
    assert (limits.sequences, limits.prefill_rows, limits.context) == (7, 33, 256)
    assert (limits.queue, limits.queue_per_tenant) == (20, 5)


@pytest.mark.parametrize(("blocks", "held"), [(128, True), (127, False)])
def test_memory_that_cannot_hold_one_sequence_is_refused_with_what_would_do(blocks, held):
    config = tiny.config(dtype="float32", max_position_embeddings=127 * BACKEND.block)
    mib = blocks * BACKEND.block_bytes(config) // MIB
    settings = node_settings(kv_memory_mib=mib)
    if held:
        assert engine_limits(settings, config, BACKEND).blocks == 127
        return
    with pytest.raises(CounterfoilError, match=f"kv_memory_mib = {mib} cannot hold") as caught:
        engine_limits(settings, config, BACKEND)
    assert caught.value.code is Code.CONFIGURATION
    most = (mib * MIB // BACKEND.block_bytes(config) - 1) * BACKEND.block
    assert caught.value.remedy == (
        f"Set kv_memory_mib to {mib + 1} or more, or max_model_len to {most} or less."
    )
    shorter = node_settings(kv_memory_mib=mib, max_model_len=most)
    limits = engine_limits(shorter, config, BACKEND)
    assert (limits.context, limits.blocks * BACKEND.block) == (most, most)


def test_memory_for_no_block_at_all_is_not_mended_by_a_shorter_context():
    config = tiny.config(hidden_size=4096, head_dim=4096, dtype="float32")
    with pytest.raises(CounterfoilError) as caught:
        engine_limits(node_settings(kv_memory_mib=1), config, BACKEND)
    assert "max_model_len" not in (caught.value.remedy or "")


def test_a_context_longer_than_the_models_is_refused():
    config = tiny.config()
    assert engine_limits(node_settings(max_model_len=256), config, BACKEND).context == 256
    with pytest.raises(CounterfoilError, match="max_model_len = 257") as caught:
        engine_limits(node_settings(max_model_len=257), config, BACKEND)
    assert caught.value.code is Code.CONFIGURATION


def test_a_node_admits_what_its_own_context_holds(tmp_path, monkeypatch):
    """Admission gets the shorter one, and so does the engine."""
    folder = tiny.write_folder(tmp_path / "model")
    made = {}
    monkeypatch.setattr(node, "Node", lambda _settings, model, _energy: made.update(model=model))
    settings = node_settings(max_model_len=100).model_copy(update={"model": folder})
    node.build_node(settings)
    assert made["model"].served.max_positions == 100
    assert made["model"].engine.limits.context == 100


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "generation_config.json", "model.safetensors", INDEX),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    ],
)
def test_a_node_does_not_wait_for_what_is_not_a_regular_file(tmp_path, name):
    folder = tiny.write_folder(tmp_path / "model")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    settings = node_settings().model_copy(update={"model": folder})
    with pytest.raises(CounterfoilError, match=name) as caught:
        node.build_node(settings)
    assert caught.value.code is Code.CONFIGURATION


def test_a_folder_that_changes_while_a_node_starts_is_refused(tmp_path):
    """The node would sign for the root of the new files with the weights of the old ones."""
    folder = tiny.write_folder(tmp_path / "model")

    def load_then_write(of, *, backend):
        loaded = load_decoder(of, backend=backend)
        tiny.write_folder(folder, rms_norm_eps=1e-6)
        return loaded

    settings = node_settings().model_copy(update={"model": folder})
    with pytest.raises(CounterfoilError, match=r"changed after the folder was first") as caught:
        node.build_node(settings, load_decoder=load_then_write)
    assert caught.value.code is Code.CORRUPT


def test_settings_choose_the_backend_and_a_gpus_arithmetic_is_its_own(monkeypatch):
    config = tiny.config(dtype="bfloat16")
    asked = []

    def open_card(arithmetic):
        asked.append(arithmetic)
        return CudaBackend("fused-16", torch.device("cpu"))

    monkeypatch.setattr("shared.model.cuda.device.open_card", open_card)
    monkeypatch.setattr("shared.model.cuda.memory.free_memory", lambda: 2 << 30)
    backend = node.backend_of(node_settings(device="cuda"), config)
    assert (backend.device, backend.arithmetic, asked) == ("cuda", "fused-16", ["auto"])
    backend = node.backend_of(node_settings(arithmetic="fused-8"), config)
    assert (backend.device, backend.arithmetic) == ("cpu", "fused-8")


def test_a_gpu_without_room_is_refused_before_the_model_is_loaded(monkeypatch):
    monkeypatch.setattr("shared.model.cuda.device.open_card", lambda _arithmetic: tiny.BACKEND)
    monkeypatch.setattr("shared.model.cuda.memory.free_memory", lambda: 2 << 30)
    settings = node_settings(device="cuda", kv_memory_mib=1024)
    with pytest.raises(CounterfoilError, match=r"1\.0 GiB of keys and values") as caught:
        node.backend_of(settings, tiny.config(dtype="bfloat16"))
    assert caught.value.code is Code.CONFIGURATION


def test_a_node_on_the_cpu_imports_no_triton():
    code = "import sys, execution_layer.wiring.node; print('triton' in sys.modules, 'torch' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=100
    )
    assert ended.stdout.split() == ["False", "True"]
