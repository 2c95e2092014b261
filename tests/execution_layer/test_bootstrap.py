"""What the engine is given of a node's settings, and settings that cannot hold the model."""

from pathlib import Path

import pytest

from execution_layer.bootstrap import MIB, engine_limits
from execution_layer.node.settings import AuditServer, NodeSettings, Quotas
from shared.model.kv import BLOCK, KVCache, block_bytes
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.tls import TlsFiles
from tests.shared.model import tiny

HERE = Path()


def node_settings(**changes):
    paths = ("model", "keys", "operator_key_file", "tenants_file", "rate_card_file", "spool")
    return NodeSettings(
        operator="o",
        node="n",
        tls=TlsFiles(cert=HERE, key=HERE, ca=HERE),
        audit=AuditServer(target="localhost:1", ca_file=HERE),
        **dict.fromkeys(paths, HERE),
        **changes,
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_bytes_of_a_block_are_those_that_the_cache_takes(dtype):
    config = tiny.config(dtype=dtype)
    cache = KVCache(config, 3)
    taken = sum(each.numel() * each.element_size() for each in (*cache.keys, *cache.values))
    assert taken == 4 * block_bytes(config)  # the null block beside three


def test_memory_becomes_blocks_and_the_settings_become_limits():
    config = tiny.config(dtype="bfloat16")
    settings = node_settings(
        kv_memory_mib=4,
        max_batch=7,
        prefill_rows=33,
        quotas=Quotas(queue=20, queue_per_tenant=5),
    )
    limits = engine_limits(settings, config)
    assert (limits.blocks + 1) * block_bytes(config) <= 4 * MIB
    assert (limits.blocks + 2) * block_bytes(config) > 4 * MIB
    assert (limits.sequences, limits.prefill_rows, limits.context) == (7, 33, 256)
    assert (limits.queue, limits.queue_per_tenant) == (20, 5)


@pytest.mark.parametrize(("blocks", "held"), [(128, True), (127, False)])
def test_memory_that_cannot_hold_one_sequence_is_refused_with_what_would_do(blocks, held):
    config = tiny.config(dtype="float32", max_position_embeddings=127 * BLOCK)
    mib = blocks * block_bytes(config) // MIB
    settings = node_settings(kv_memory_mib=mib)
    if held:
        assert engine_limits(settings, config).blocks == 127
        return
    with pytest.raises(CounterfoilError, match=f"kv_memory_mib = {mib} does not hold") as caught:
        engine_limits(settings, config)
    assert caught.value.code is Code.CONFIGURATION
    assert caught.value.remedy == f"Set kv_memory_mib to {mib + 1} or more."
