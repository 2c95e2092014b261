"""A part from an address: only its bytes are transferred, and nothing counts that has not its leaf."""

import json
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from shared.model import part_fetch
from shared.model.cli import model as model_command
from shared.model.cut import Cut
from shared.model.part import FolderSource, make_part
from shared.model.part_fetch import HttpsSource
from shared.model.part_file import PART
from shared.model.root import model_root
from shared.model.shards import MAX_HEADER
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.fetching import HttpsFiles
from tests.shared.model import tiny
from tests.shared.model.range_server import Answer, serving

WEIGHTS = "model.safetensors"
LAYERS = 4
SMALL = {"hidden_size": 32, "intermediate_size": 32, "head_dim": 32, "num_hidden_layers": LAYERS}
MIDDLE = Cut(1, 3, ends=False)


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A part that has everything, as it is served."""
    place = tmp_path_factory.mktemp("complete")
    whole = tiny.write_folder(place / "model", **SMALL)
    make_part(FolderSource(whole), place / "all", Cut(0, LAYERS, ends=True))
    return place / "all"


@pytest.fixture
def served(complete, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(part_fetch, "PAUSE_S", 0.0)
    monkeypatch.setattr(part_fetch, "PIECE", 3000)  # a tensor takes more than one request
    files = {path.name: path.read_bytes() for path in complete.iterdir()}
    with serving(files, tmp_path_factory.mktemp("tls")) as found:
        yield found


def fetch(served, target: Path, cut: Cut = MIDDLE, root: bytes | None = None):
    return make_part(HttpsSource(HttpsFiles(served.url, served.ca)), target, cut, root)


def refused(code: Code, saying: str, served, tmp_path: Path, *rest) -> CounterfoilError:
    with pytest.raises(CounterfoilError, match=saying) as caught:
        fetch(served, tmp_path / "part", *rest)
    assert caught.value.code is code
    assert list(tmp_path.iterdir()) == []
    return caught.value


@pytest.mark.parametrize("cut", [MIDDLE, Cut(0, 1, ends=True), Cut(0, 0, ends=True)])
def test_a_fetched_part_is_the_one_that_is_cut_from_the_folder(served, complete, tmp_path, cut):
    made = fetch(served, tmp_path / "part", cut, model_root(complete))
    assert made == make_part(FolderSource(complete), tmp_path / "cut", cut)
    for path in (tmp_path / "cut").iterdir():
        assert (tmp_path / "part" / path.name).read_bytes() == path.read_bytes()


def test_only_the_header_and_the_tensors_of_the_part_are_transferred(served, tmp_path):
    made = fetch(served, tmp_path / "part")
    header = struct.unpack("<Q", served.files[WEIGHTS][:8])[0]
    assert served.sent[WEIGHTS] == 8 + 8 + header + made.size  # its length is asked for twice
    assert made.size < len(served.files[WEIGHTS]) / 2


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_changed_tensor_is_refused_before_the_next_is_asked_for(served, tmp_path):
    data = served.files[WEIGHTS]
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    first = min(name for name in header if name.startswith("model.layers.1."))
    at = 8 + struct.unpack("<Q", data[:8])[0] + header[first]["data_offsets"][0]
    served.files[WEIGHTS] = flip(data, at)
    refused(Code.CORRUPT, f"tensor {first} is not", served, tmp_path)
    size = header[first]["data_offsets"][1] - header[first]["data_offsets"][0]
    assert served.sent[WEIGHTS] == 16 + at - 8 - header[first]["data_offsets"][0] + size


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_changed_file_is_refused_before_any_tensor_is_asked_for(served, tmp_path, name):
    served.files[name] += b" "
    refused(Code.CORRUPT, name, served, tmp_path)
    assert WEIGHTS not in served.sent


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", PART, WEIGHTS])
def test_what_is_not_served_is_named(served, tmp_path, name):
    del served.files[name]
    refused(Code.NOT_FOUND, name, served, tmp_path)


def test_another_root_is_refused_before_any_tensor_is_asked_for(served, complete, tmp_path):
    root = model_root(complete)
    refused(Code.COMMITMENT_MISMATCH, root.hex(), served, tmp_path, MIDDLE, bytes(32))
    assert served.sent.get(WEIGHTS, 0) < 8192


def test_what_a_served_part_lacks_is_named(complete, served, tmp_path):
    make_part(FolderSource(complete), tmp_path / "less", Cut(2, 4, ends=False))
    served.files |= {path.name: path.read_bytes() for path in (tmp_path / "less").iterdir()}
    (tmp_path / "empty").mkdir()
    error = refused(
        Code.CONFIGURATION, r"lacks the tensor model\.layers\.1", served, tmp_path / "empty"
    )
    assert "--layers 1:3" in (error.remedy or "")


HOSTILE = {
    "a header longer than any": (
        struct.pack("<Q", MAX_HEADER + 1) + bytes(MAX_HEADER + 9),
        "header",
    ),
    "a header longer than the file": (struct.pack("<Q", 2**63) + b"{}", "header"),
    "no header": (b"\0" * 7, "header"),
    "not JSON": (struct.pack("<Q", 2) + b"[}", "not JSON"),
    "a tensor outside the file": (
        struct.pack("<Q", 58) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}   ',
        "do not end where the file does",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_safetensors_file_is_corrupt(served, tmp_path, case):
    served.files[WEIGHTS], saying = HOSTILE[case]
    refused(Code.CORRUPT, saying, served, tmp_path)
    assert served.sent[WEIGHTS] < 100


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000])
def test_a_list_that_is_none_is_malformed(served, tmp_path, data):
    served.files[PART] = data
    refused(Code.MALFORMED, PART, served, tmp_path)


def test_a_file_larger_than_any_checkpoint_is_refused(served, tmp_path):
    def vast(_name: str, answer: Answer) -> Answer:
        if answer.status == 206:
            answer.headers["Content-Range"] = f"bytes 0-7/{1 << 50}"
        return answer

    served.lie = vast
    refused(Code.MALFORMED, "more than any checkpoint", served, tmp_path)


def test_a_server_without_ranges_is_not_asked_for_the_whole(served, tmp_path):
    def plain(name: str, answer: Answer) -> Answer:
        return Answer(200, {}, served.files[name]) if answer.status == 206 else answer

    served.lie = plain
    refused(Code.UNSUPPORTED, "whole only", served, tmp_path)


LIES = {
    "other bytes": lambda answer: answer.headers.update(
        {"Content-Range": answer.headers["Content-Range"].replace("bytes ", "bytes 1")}
    ),
    "no range": lambda answer: answer.headers.clear(),
    "no numbers": lambda answer: answer.headers.update({"Content-Range": "bytes */*"}),
    "numbers without end": lambda answer: answer.headers.update(
        {"Content-Range": f"bytes {'9' * 10_000}-1/2"}
    ),
    "fewer": lambda answer: setattr(answer, "body", answer.body[:-1]),
    "an encoding": lambda answer: answer.headers.update({"Content-Encoding": "gzip"}),
    "an error": lambda answer: setattr(answer, "status", 503),
    "elsewhere": lambda answer: setattr(answer, "status", 302),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_with_other_bytes_than_those_asked_for_is_none(served, tmp_path, lie):
    def lying(_name: str, answer: Answer) -> Answer:
        if answer.status == 206:
            LIES[lie](answer)
        return answer

    served.lie = lying
    refused(Code.UNAVAILABLE, WEIGHTS, served, tmp_path)


def test_more_bytes_than_those_asked_for_are_not_taken(served, tmp_path):
    def longer(_name: str, answer: Answer) -> Answer:
        if answer.status == 206:
            answer.body += bytes(200_000)
        return answer

    served.lie = longer
    refused(Code.MALFORMED, "longer than 8 bytes", served, tmp_path)


def test_what_is_not_answered_is_asked_for_again(served, tmp_path):
    """The server fails at every other request."""
    count = 0

    def failing(_name: str, answer: Answer) -> Answer:
        nonlocal count
        count += 1
        return Answer(503, {}, b"") if count % 2 else answer

    served.lie = failing
    fetch(served, tmp_path / "part")
    assert len(load_file(tmp_path / "part" / WEIGHTS)) == 18


def test_the_command_fetches_from_an_address(served, complete, tmp_path):
    words = ["part", served.url, str(tmp_path / "part"), "--layers", "1:3", "--json"]
    root = model_root(complete).hex()
    done = CliRunner().invoke(model_command, [*words, "--ca", str(served.ca), "--root", root])
    assert json.loads(done.stdout)["model_root"] == root
    assert model_root(tmp_path / "part").hex() == root
    done = CliRunner().invoke(model_command, ["part", f"{served.url}?x", *words[2:]])
    assert "without a user, a query" in str(getattr(done.exception, "remedy", ""))
