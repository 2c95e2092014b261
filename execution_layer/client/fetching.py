"""A model's tokenizer files, fetched from any node: files that do not lead to the pinned model root are discarded."""

import tempfile
from collections.abc import AsyncIterable
from pathlib import Path
from typing import Final

import grpc

from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc
from shared.runtime.keys import private_folder, write_private
from shared.text.files import LARGEST
from shared.text.model_files import FILES, Place, check_files
from shared.translog.tree import MAX_SIZE

TIMEOUT_S: Final = 120.0
Files = list[tuple[Place, bytes]]


async def fetch_files(channel: grpc.aio.Channel, model_root: bytes) -> Files:
    """Return all files under a model root, proved. BAD_PROOF or MALFORMED if a node sends something else."""
    stub = execution_pb2_grpc.InferenceStub(channel)
    call = stub.GetModelFiles(
        execution_pb2.GetModelFilesRequest(model_root=model_root), timeout=TIMEOUT_S
    )
    try:
        files, size = await _collect(call)
    except grpc.RpcError as error:
        raise error_from_rpc(error) from error
    finally:
        call.cancel()
    check_files(files, size, model_root)
    return files


async def _collect(parts: AsyncIterable[execution_pb2.ModelFilePart]) -> tuple[Files, int]:
    """Assemble the parts; no more is accepted than such files can have."""
    heads: list[execution_pb2.ModelFileHead] = []
    contents: list[bytearray] = []
    async for part in parts:
        if part.WhichOneof("part") == "head":
            if len(heads) >= len(FILES) or part.head.name not in FILES:
                raise CounterfoilError(
                    Code.MALFORMED, "the node sent a file that is not one of a model's"
                )
            heads.append(part.head)
            contents.append(bytearray())
        elif not heads or len(contents[-1]) + len(part.data) > LARGEST[heads[-1].name]:
            raise CounterfoilError(
                Code.MALFORMED, "the node sent more than a model's file can have"
            )
        else:
            contents[-1] += part.data
    sizes = {head.leaves for head in heads}
    if len(sizes) != 1 or not 1 <= (size := sizes.pop()) <= MAX_SIZE:
        raise CounterfoilError(Code.MALFORMED, "the node did not send the files of one model")
    files = [
        (Place(head.name, head.index, tuple(head.path)), bytes(data))
        for head, data in zip(heads, contents, strict=True)
    ]
    return files, size


def keep_files(folder: Path, files: Files) -> None:
    """Put proved files into a folder, atomically; an existing one has the same root."""
    parent = private_folder(folder.parent)
    made = Path(tempfile.mkdtemp(dir=parent, prefix=".fetched-"))
    for place, data in files:
        write_private(made / place.name, data)
    try:
        made.rename(folder)
    except OSError:  # it exists
        for place, _ in files:
            (made / place.name).replace(folder / place.name)
        made.rmdir()
