"""Models on the Hugging Face hub, or a mirror of it (HF_ENDPOINT).

huggingface_hub downloads, into its own cache, with its tokens and offline mode; it resumes interrupted downloads. It
compares sizes alone, so what came is compared here with the hashes that the hub publishes. Knows which files of a
repository the engine reads, and what can go wrong. The configuration is checked before weights are downloaded.
"""

from __future__ import annotations

import errno
import hashlib
import json
import socket
import ssl
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import attrs

from bitrl.core.errors import BitrlError, RunFailed, UsageError
from bitrl.core.files import cannot_write
from bitrl.core.wording import pip
from bitrl.plugins.backbones.catalogue.entries import Hub
from bitrl.plugins.backbones.catalogue.receipts import FileRecord, Pulled
from bitrl.plugins.backbones.files.hugging_face import CheckpointConfig, architecture, check_quantization, text_part
from bitrl.plugins.backbones.files.hugging_face_file import (
    CHAT_TEMPLATE,
    CONFIG,
    GENERATION_CONFIG,
    INDEX,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
)
from bitrl.plugins.backbones.files.model_file import ModelFileError
from bitrl.plugins.backbones.files.safetensors_file import parse_json, read_bytes
from bitrl.plugins.backbones.files.split_file import sibling_names
from bitrl.plugins.backbones.files.tokenizer import check_model_file, check_vocabulary, tokenizer_from_json

_CHUNK = 1 << 20
_MOST_JSON = 256 << 20
_NETWORK = (ConnectionError, TimeoutError, socket.gaierror, ssl.SSLError)
"""What is an OSError with a number, and says nothing of the disk."""
_HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "requests", "urllib3")
_SHOWN = 3


@attrs.frozen
class Published:
    """What the hub says of a file: its SHA-256 if it is stored as a large file, its git blob's SHA-1 if not."""

    sha256: str | None = None
    blob: str | None = None


def fetch(name: str, source: Hub) -> Pulled:
    """What the engine reads of a repository, downloaded and checked.

    Raises UsageError for a repository, revision or file that does not exist or cannot be used, or that needs a login;
    RunFailed when the hub cannot be reached, a file is not what the hub says, or the disk is full.
    """
    try:
        import huggingface_hub  # noqa: F401
        from huggingface_hub.utils import logging
    except ImportError:
        raise UsageError(f"{source}: models of the hub need huggingface_hub: " + pip("install 'bitrl[hub]'")) from None
    logging.set_verbosity_error()  # failures are reported here, in one line
    with _explaining(source):
        commit, listing = _listing(source)
        before = _files_of_cache(source)
        if source.file is None and (small := _checkpoint(source, listing)):
            folder = path = _download(source, commit, small)
            _check(folder, small, listing, before, source)
            _check_configuration(folder, source)
            files = [*small, *_weights(folder, listing, source)]
            _download(source, commit, files)
        else:
            files = _model_files(source, listing)
            folder = _download(source, commit, files)
            path = folder / files[0]
        checked = _check(folder, files, listing, before, source)
    if path.is_file():
        check_model_file(path)
    return Pulled(name, str(path), f"hf:{source.repository}@{commit}", checked)


def _listing(source: Hub) -> tuple[str, Mapping[str, Published]]:
    """The commit that the revision means, and its files; offline, those in the cache."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        info = HfApi().model_info(source.repository, revision=source.revision, files_metadata=True)
    except OfflineModeIsEnabled:
        folder = Path(  # with no pattern at all it would insist on the whole repository
            snapshot_download(source.repository, revision=source.revision, allow_patterns=[], local_files_only=True)
        )
        paths = [path for path in folder.rglob("*") if path.is_file()]
        if not any(path.name.endswith((".safetensors", ".gguf")) for path in paths):
            raise
        return folder.name, {path.relative_to(folder).as_posix(): _of_blob(path) for path in paths}
    return info.sha or "", {
        file.rfilename: Published(file.lfs.sha256 if file.lfs else None, file.blob_id) for file in info.siblings or []
    }


def _download(source: Hub, commit: str, files: Sequence[str]) -> Path:
    """The directory with these files in it, of that commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import tqdm

    class Bars(tqdm):  # on a terminal alone
        def __init__(self, *arguments: Any, **options: Any) -> None:
            shown = options if sys.stderr.isatty() else options | {"disable": True}
            super().__init__(*arguments, **shown)  # type: ignore[no-untyped-call]

    folder = Path(
        snapshot_download(
            source.repository, revision=source.revision, allow_patterns=[*map(_literal, files)], tqdm_class=Bars
        )
    )
    if folder.name != commit:
        raise RunFailed(f"{source} has changed while it was pulled: pull again")
    return folder


def _of_blob(path: Path) -> Published:
    """What the cache knows of a file: it is a link to a blob that is called by its hash."""
    name = path.resolve().name
    return Published(name if len(name) == 64 else None, name if len(name) == 40 else None)


def _checkpoint(source: Hub, listing: Mapping[str, Published]) -> list[str]:
    """The small files of a safetensors checkpoint; none if the repository holds no such thing."""
    if WEIGHTS not in listing and INDEX not in listing:
        return []
    for needed in (CONFIG, TOKENIZER):
        if needed not in listing:
            raise UsageError(f"{source} has no {needed}, without which its weights cannot be used")
    small = (CONFIG, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE)
    return [file for file in (*small, *([] if WEIGHTS in listing else [INDEX])) if file in listing]


def _weights(folder: Path, listing: Mapping[str, Published], source: Hub) -> list[str]:
    if WEIGHTS in listing:
        return [WEIGHTS]
    shards = parse_json(read_bytes(folder / INDEX, _MOST_JSON), folder / INDEX, "it").get("weight_map")
    names = {str(name) for name in shards.values()} if isinstance(shards, dict) else set()
    strange = sorted(names - listing.keys())
    if strange or not names:
        what = f"names {strange[0][:80]!r}, which is not among its files" if strange else "names no files"
        raise UsageError(f"{source} is broken: its {INDEX} {what}")
    return sorted(names)


def _model_files(source: Hub, listing: Mapping[str, Published]) -> list[str]:
    """The GGUF file meant; of a split one all its parts, in order."""
    named = PurePosixPath(_model_file(source, listing))
    parts = [str(named.with_name(name)) for name in sibling_names(named.name)]
    missing = [part for part in parts if part not in listing]
    if missing:
        raise UsageError(f"{source}: the repository has {named}, a part of a split model, but not {missing[0]}")
    return parts


def _model_file(source: Hub, listing: Mapping[str, Published]) -> str:
    """The GGUF file meant, or one of its parts."""
    found = sorted(name for name in listing if name.endswith(".gguf"))
    if source.file is not None and source.file in listing:
        published = listing[source.file].sha256
        if source.sha256 and published and published != source.sha256:
            raise RunFailed(
                f"{source} is now another file (SHA-256 {published}) than the one this catalogue knows "
                f"({source.sha256}): nothing was downloaded"
            )
        return source.file
    if source.file is None and found and len({sibling_names(name)[0] for name in found}) == 1:
        return found[0]
    shown = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
    if source.file is not None:
        raise UsageError(f"{source}: the repository has no such file; its GGUF files: {shown or 'none'}")
    if found:
        raise UsageError(
            f"{source} holds {len(found)} GGUF files ({shown}): name one, as hf:{source.repository}/{found[0]}"
        )
    raise UsageError(f"{source} holds neither {WEIGHTS} nor a GGUF file, and nothing else is read")


def _check_configuration(folder: Path, source: Hub) -> None:
    """Refuses a model that the engine cannot run, or whose tokenizer does not fit, by its small files."""
    shown = Path(f"{source}/{CONFIG}")
    config = CheckpointConfig(
        text_part(parse_json(read_bytes(folder / CONFIG, _MOST_JSON), folder / CONFIG, "it")), shown
    )
    architecture(config)
    check_quantization(config)
    try:
        text = read_bytes(folder / TOKENIZER, _MOST_JSON).decode()
    except UnicodeDecodeError:
        raise ModelFileError(f"{source}/{TOKENIZER}", "is damaged: it is not UTF-8") from None
    check_vocabulary(tokenizer_from_json(text, str(source)), config.count("vocab_size"), str(source))


def _check(
    folder: Path, files: Sequence[str], listing: Mapping[str, Published], before: set[Path], source: Hub
) -> list[FileRecord]:
    """The facts of files whose hashes are right. Of a wrong one, what this pull brought is removed."""
    checked = []
    for name in files:
        path, published = folder / name, listing[name]
        expected = (source.sha256 if name == source.file else None) or published.sha256 or published.blob
        sha256, blob = _digests(path)
        if expected not in (None, sha256, blob):
            if path.resolve() in before:
                raise RunFailed(
                    f"{path}: has a wrong hash (expected {expected}, got {sha256}); it was there "
                    "before this pull and is left unchanged: remove it and pull again"
                )
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            raise RunFailed(
                f"{source}: {name} has a wrong hash (expected {expected}, got {sha256}) and was discarded: pull again; "
                "if it happens again, the server or a proxy is broken"
            )
        checked.append(FileRecord(str(path), path.stat().st_size, sha256))
    return checked


def _digests(path: Path) -> tuple[str, str]:
    """A file's SHA-256, and the SHA-1 that git has for it."""
    sha256, blob = hashlib.sha256(), hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            blob.update(chunk)
    return sha256.hexdigest(), blob.hexdigest()


def _files_of_cache(source: Hub) -> set[Path]:
    """Everything that the cache holds of a repository."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=source.repository, repo_type="model")
    return {path.resolve() for path in folder.rglob("*") if path.is_file()}


def _literal(file: str) -> str:
    """A pattern that matches this name alone."""
    return file.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")


@contextmanager
def _explaining(source: Hub) -> Iterator[None]:
    """Turns what huggingface_hub raises into one line for the user."""
    try:
        yield
    except BitrlError:
        raise
    except Exception as error:
        explained = _explained(error, source)
        if explained is None:
            raise
        raise explained from None


def _explained(error: BaseException, source: Hub) -> BitrlError | None:
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # "not in the cache either" is no news
    if isinstance(error, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)):
        return RunFailed(
            f"{source} is not in the hub's cache ({constants.HF_HUB_CACHE}), and offline mode is on: unset "
            "HF_HUB_OFFLINE, or copy the cache of a machine that has it"
        )
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"{source}: not a repository name: expected hf:OWNER/NAME")
    if isinstance(error, errors.RevisionNotFoundError):
        return UsageError(f"{source}: the repository has no revision {source.revision}: name a branch, tag or commit")
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return UsageError(
            f"{source} is gated: accept its terms at {hub}/{source.repository}, and log in (hf auth login, or HF_TOKEN)"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return UsageError(
            f"{source}: there is no such repository at {hub}, or it is private: check the name, or log in (hf auth "
            "login, or HF_TOKEN)"
        )
    if status == 401:
        return UsageError(f"{source}: {hub} does not accept your token: log in anew (hf auth login, or HF_TOKEN)")
    if status:
        return RunFailed(f"{source}: {hub} answered {status}: try again later; files that came whole are kept")
    if "No space left on device" in str(error) or (
        isinstance(error, OSError) and error.errno is not None and not isinstance(error, _NETWORK)
    ):
        full = OSError(errno.ENOSPC, "") if "No space left on device" in str(error) else error
        assert isinstance(full, OSError)
        return cannot_write(Path(constants.HF_HUB_CACHE), full, "choose another place for the hub's cache with HF_HOME")
    if isinstance(error, json.JSONDecodeError):
        return RunFailed(f"{source}: {hub} did not answer as a hub does: check HF_ENDPOINT and your proxy")
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _HTTP_LIBRARIES:
        why = " ".join(str(error).split())[:160] or type(error).__name__
        return RunFailed(
            f"{source}: {hub} cannot be reached, or broke off ({why}): check the network, your proxy and HF_ENDPOINT, "
            "and pull again; files that came whole are kept"
        )
    return None
