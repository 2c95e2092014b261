"""The committed vectors are what the generator writes, and splices are what they say."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vectors.files import FOLDER, apply, load, splice
from tests.vectors.generate_protocol import files


def test_the_generator_writes_what_is_committed():
    written = files(load("envelope")["frozen"])
    assert set(written) == {path.name for path in FOLDER.iterdir()}
    for name, text in written.items():
        assert (FOLDER / name).read_text("utf-8") == text, f"{name} differs"


@settings(max_examples=50)
@given(st.binary(max_size=8), st.binary(max_size=8))
def test_a_splice_turns_one_object_into_the_other(good, bad):
    assert apply(good, splice(good, bad)) == bad
