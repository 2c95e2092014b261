"""Fetches a checkpoint from the Hugging Face hub into a folder: one commit, only the files that a model consists of. No torch.

Fetching is a step of its own, before a node or audit worker is configured with the folder; nothing is fetched while serving.
What arrives is checked against the hub's own list of that commit: names, sizes and hashes. The hub could still serve a model
other than the one meant; a caller that knows the model root gives it, and the folder must have it.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha1, sha256
from pathlib import Path
from typing import TYPE_CHECKING

from shared.model.part_file import PART
from shared.model.root import MAX_CHECKPOINT, REQUIRED, model_root
from shared.model.shards import INDEX, WHOLE, weight_files
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import PUBLIC_FILE, PUBLIC_FOLDER, make_folder
from shared.text.files import LARGEST
from shared.text.model_files import FILES

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

PREFIX = "hf:"
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
REFERENCE = re.compile(rf"hf:({_NAME}/{_NAME})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,199}}))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model folder that is complete, and where it comes from."""

    folder: Path
    root: bytes
    source: str | None
    """hf:owner/name@commit, or None for a folder that already existed."""


def resolve(
    model: str, *, into: Path | None, root: bytes | None = None, endpoint: str | None = None
) -> Fetched:
    """Return the folder of a model: a local one as it is, or `hf:owner/name[@revision]` fetched to `into`.

    `root` is the model root that it must have (COMMITMENT_MISMATCH otherwise). `endpoint` is the hub's URL; by default
    Hugging Face's, or that of the environment variable HF_ENDPOINT. When run again, it fetches only what is missing.
    """
    source = None
    if model.startswith(PREFIX):
        folder, source = _fetch(model, into, endpoint)
    else:
        folder = Path(model)
        if into is not None and into.absolute() != folder.absolute():
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, f"{model} is already a folder; nothing is fetched to {into}"
            )
    found = model_root(folder)
    if root is not None and found != root:
        raise CounterfoilError(
            Code.COMMITMENT_MISMATCH,
            f"{folder} has the model root {found.hex()}, not {root.hex()}",
        )
    return Fetched(folder, found, source)


def _fetch(model: str, into: Path | None, endpoint: str | None) -> tuple[Path, str]:
    match = REFERENCE.fullmatch(model)
    if match is None or ".." in model:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, f"{model[:200]!r} is not of the form hf:owner/name[@revision]"
        )
    if into is None:
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"{model} needs a folder to be fetched to")
    repository, revision = match[1], match[2]
    with _translated(model):
        from huggingface_hub import HfApi  # noqa: PLC0415  # slow to import

        api = HfApi(endpoint=endpoint)
        commit = str(api.model_info(repository, revision=revision).sha)
        if not COMMIT.fullmatch(commit):
            raise CounterfoilError(Code.MALFORMED, f"the hub names no commit for {model}")
        listed = _listing(api, repository, commit)
        make_folder(into, PUBLIC_FOLDER)
        _check_sizes(entry for name, entry in listed.items() if name in LARGEST)
        names = [name for name in FILES if name in listed]
        for name in [INDEX] if INDEX in listed else []:
            _download(api, repository, commit, listed[name], into)
        weights = _weights(listed, into)
        _check_sizes(listed[name] for name in weights)
        names += weights
        _check_folder(into, {*names, INDEX} & listed.keys())
        for name in names:
            _download(api, repository, commit, listed[name], into)
    return into, f"{PREFIX}{repository}@{commit}"


def _listing(api: "HfApi", repository: str, commit: str) -> dict[str, "RepoFile"]:
    """Return the files of the repository's top folder; NOT_FOUND names one that every model has and this one lacks."""
    from huggingface_hub.hf_api import RepoFile  # noqa: PLC0415  # slow to import

    tree = api.list_repo_tree(repository, revision=commit, recursive=False)
    listed = {str(entry.path): entry for entry in tree if isinstance(entry, RepoFile)}
    missing = sorted(REQUIRED - listed.keys())
    if missing or (WHOLE not in listed and INDEX not in listed):
        raise CounterfoilError(
            Code.NOT_FOUND, f"{repository} has no {missing[0] if missing else WHOLE} at {commit}"
        )
    return listed


def _weights(listed: dict[str, "RepoFile"], into: Path) -> list[str]:
    """Return the safetensors files that make up the checkpoint; NOT_FOUND names a shard that is not there."""
    if INDEX not in listed:
        return [WHOLE]
    names = [path.name for path in weight_files(into)]
    for name in names:
        if name not in listed:
            raise CounterfoilError(Code.NOT_FOUND, f"{INDEX} names {name}, which is not there")
    return names


def _check_sizes(entries: Iterable["RepoFile"]) -> None:
    """Raise MALFORMED, naming a file, for what no folder's reader would accept: it is not fetched."""
    total = 0
    for entry in entries:
        total += entry.size
        if total > MAX_CHECKPOINT or entry.size > LARGEST.get(entry.path, MAX_CHECKPOINT):
            raise CounterfoilError(
                Code.MALFORMED,
                f"{entry.path} has {entry.size} bytes, more than any file of its kind",
            )


def _check_folder(folder: Path, names: set[str]) -> None:
    """Raise CONFLICT for a file of another checkpoint, which would become a part of this one."""
    there = {path.name for path in folder.iterdir() if path.name in {*FILES, INDEX, PART}}
    there |= {path.name for path in folder.glob("*.safetensors")}
    if strangers := sorted(there - names):
        raise CounterfoilError(
            Code.CONFLICT,
            f"{folder} holds {strangers[0]}, which is not part of this checkpoint",
            remedy="Fetch to an empty folder.",
        )


def _download(api: "HfApi", repository: str, commit: str, entry: "RepoFile", into: Path) -> None:
    """Fetch one file, unless it is there, and check it against the listing; CORRUPT names it."""
    path = into / entry.path
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise CounterfoilError(
            Code.CONFLICT, f"{path} is not a regular file", remedy="Fetch to an empty folder."
        )
    if path.exists() and not _is_listed(path, entry):
        path.unlink()
    if not path.exists():
        api.hf_hub_download(repository, entry.path, revision=commit, local_dir=into)
        path.chmod(PUBLIC_FILE)  # a model is no secret, and other users' nodes may serve it
    if not _is_listed(path, entry):
        path.unlink(missing_ok=True)
        raise CounterfoilError(
            Code.CORRUPT,
            f"{entry.path} is not the file that the hub lists for this commit",
            remedy="It was removed; fetch again.",
        )


def _is_listed(path: Path, entry: "RepoFile") -> bool:
    """Compare size and hash: SHA-256 for large files, git's own for those that are in the repository itself."""
    size = path.stat().st_size
    if size != entry.size:
        return False
    large = entry.lfs is not None
    digest = sha256() if large else sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    expected = entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
    return digest.hexdigest() == expected


@contextmanager
def _translated(model: str) -> Iterator[None]:
    """Turn the library's errors into those of the catalogue."""
    import httpx2  # noqa: PLC0415  # comes with huggingface_hub
    from huggingface_hub import errors  # noqa: PLC0415  # slow to import

    try:
        yield
    except CounterfoilError:
        raise
    except errors.GatedRepoError as error:
        raise CounterfoilError(
            Code.FORBIDDEN,
            f"{model} is available only to those who have accepted its terms",
            remedy="Accept them on its page, and set HF_TOKEN to your token.",
        ) from error
    except (
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.RemoteEntryNotFoundError,
    ) as error:
        raise CounterfoilError(
            Code.NOT_FOUND,
            f"the hub has no {model}, or does not show it to you",
            remedy="Check name and revision; for a private model set HF_TOKEN to your token.",
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise CounterfoilError(
            Code.UNAVAILABLE,
            "HF_HUB_OFFLINE forbids asking the hub",
            remedy="Unset it, or name a folder that was fetched before.",
        ) from error
    except (
        httpx2.HTTPError,
        errors.HfHubHTTPError,
        errors.LocalEntryNotFoundError,
        errors.FileMetadataError,
    ) as error:
        raise CounterfoilError(
            Code.UNAVAILABLE,
            f"the hub does not answer for {model}: {type(error).__name__}",
            remedy="Check the network and HF_ENDPOINT and run again: what has arrived is kept. "
            "A folder that was fetched before needs no hub.",
        ) from error
    except OSError as error:
        if error.errno is not None:
            raise CounterfoilError(
                Code.CONFIGURATION, f"a file of {model} cannot be written: {error.strerror}"
            ) from error
        raise _senseless(model) from error
    except Exception as error:  # what a server sends can make any operation of the library fail
        raise _senseless(model) from error


def _senseless(model: str) -> CounterfoilError:
    return CounterfoilError(
        Code.CORRUPT,
        f"what the hub sends for {model} is cut off or makes no sense",
        remedy="Run again; what has arrived is kept.",
    )
