"""Proofs that are made together are those that are made one by one, under one checkpoint."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.tlog_proof import TlogProof, verify_tlog_proof
from tests.audit_layer.log.world import make_world, numbered


async def test_entries_are_proved_together_under_the_newest_checkpoint(
    engine: Engine, tmp_path: Path
):
    world = make_world(engine, tmp_path, names=["w1.example"], threshold=1)
    world.append(0, 300)
    await world.publisher().publish()
    proofs = world.proofs()
    places = {numbered(at).entry: at for at in (0, 7, 255, 256, 299)}
    together = proofs.prove_together(places)
    assert together.paths.keys() == places.keys()
    for entry, index in places.items():
        proof = TlogProof(index, together.paths[entry], together.note)
        assert proof == proofs.prove(entry)
        assert verify_tlog_proof(proof.encode(), entry, world.policy).index == index
    assert proofs.prove_together({}).note == together.note
    world.append(300, 301)
    for wrong, code in (
        ({numbered(300).entry: 300}, Code.NOT_WITNESSED),
        ({numbered(3).entry: 4}, Code.CORRUPT),
    ):
        with pytest.raises(CounterfoilError) as caught:
            proofs.prove_together(wrong)
        assert caught.value.code is code
    world.close()
