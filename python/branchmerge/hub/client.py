"""The one place where this package meets huggingface_hub: what names mean, what repositories hold, bytes of files.

What a server or the cache may answer wrongly is refused here; `failures` makes sentences of it. huggingface_hub takes
half a second to import, so both files are imported only when a recipe has a name of the hub.
"""

from __future__ import annotations

import contextlib
import glob
import re
import struct
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import (
    HfApi,
    constants,
    get_cached_repo_tree,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub import errors as said_by_hub
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    hf_raise_for_status,
    http_stream_backoff,
    tqdm,
)

from branchmerge.errors import shown
from branchmerge.hub.failures import HTTP_ERROR, unreached
from branchmerge.hub.files import MOST_FILES, Refused, check_name, sound

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from branchmerge.hub.names import Name

LIBRARY = "branchmerge"
COMMIT = re.compile(r"[0-9a-f]{40}")
LONGEST_HEADER = 100_000_000
"""Bytes of the longest header of a safetensors file."""
TRIES = 4
"""How often a file is asked for while the connection breaks."""
PATIENCE = 30.0
"""Seconds after which a hub that says nothing cannot be reached."""


def api() -> HfApi:
    """The hub as it may be asked."""
    return HfApi(library_name=LIBRARY)


def commit_of(name: Name) -> tuple[str, bool]:
    """The commit that a name means, and whether it means it now: without the hub it is what the cache last saw."""
    if name.revision and COMMIT.fullmatch(name.revision):
        return name.revision, True
    hub = api()
    try:
        known: str | None = hub.resolve_revision(name.repo, revision=name.revision, local_files_only=True).resolved
    except said_by_hub.RevisionResolutionError:
        known = None
    fresh = True
    try:
        commit = hub.model_info(name.repo, revision=name.revision, expand=["sha"], timeout=PATIENCE).sha
        if commit != known:
            # Asked once more, so that the cache remembers it.
            commit = hub.resolve_revision(name.repo, revision=name.revision).resolved
    except Exception as error:
        if known is None or not unreached(error):
            raise
        commit, fresh = known, constants.is_offline_mode()
    if commit is None or not COMMIT.fullmatch(commit):
        raise Refused(f"its commit is `{shown(str(commit))}`, which is none")
    return commit, fresh


def files_of(repo: str, commit: str) -> tuple[dict[str, int], Exception | None]:
    """The files at a commit with their bytes; without the hub those in the cache, and why the hub was not asked."""
    try:
        listed = get_cached_repo_tree(repo, revision=commit)
        return sound((one.path, one.size) for one in listed), None
    except said_by_hub.CachedRepoTreeNotFoundError:
        pass
    try:
        found = api().list_repo_tree(repo, recursive=True, revision=commit)
        return sound((one.path, one.size) for one in islice(found, 2 * MOST_FILES) if isinstance(one, RepoFile)), None
    except Exception as error:
        if not unreached(error):
            raise
        why = error
        try:
            folder = Path(snapshot_download(repo, revision=commit, local_files_only=True))
        except said_by_hub.LocalEntryNotFoundError:
            raise error from None
    there = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return sound((path.relative_to(folder).as_posix(), path.stat().st_size) for path in there), why


def cache() -> Path:
    """The cache's directory, or the nearest one above it that is there."""
    path = Path(constants.HF_HUB_CACHE).absolute()
    return next(one for one in (path, *path.parents) if one.is_dir())


def cached(repo: str, commit: str, file: str) -> Path | None:
    """Where the cache has a file."""
    found = try_to_load_from_cache(repo, file, revision=commit)
    return Path(found).absolute() if isinstance(found, str) else None


def fetch_small(repo: str, commit: str, files: list[str]) -> dict[str, Path]:
    """Bring small files into the cache, where they are not there yet, and tell where they lie."""
    missing = [file for file in files if cached(repo, commit, file) is None]
    if missing:
        patterns = [glob.escape(file) for file in missing]
        snapshot_download(
            repo, revision=commit, allow_patterns=patterns, library_name=LIBRARY, tqdm_class=counting(lambda _: None)
        )
    found = {file: cached(repo, commit, file) for file in files}
    for file, path in found.items():
        if path is None:
            raise Refused(f"its file `{shown(file)}` is listed and not there")
    return {file: path for file, path in found.items() if path is not None}


def fetch(repo: str, commit: str, file: str, *, bar: type[tqdm]) -> Path:
    """Bring a weight file into the cache; a broken connection is taken up where it broke."""
    for attempt in range(1, TRIES + 1):
        try:
            path = hf_hub_download(repo, file, revision=commit, library_name=LIBRARY, tqdm_class=bar)
            return Path(path).absolute()
        except HTTP_ERROR as error:
            if attempt == TRIES or isinstance(error, said_by_hub.HfHubHTTPError):
                raise
            time.sleep(attempt / 2)
    raise AssertionError


def fetch_header(repo: str, commit: str, file: str, *, size: int, to: Path) -> None:
    """Write a file of the true size that begins with the weight file's header and holds nothing else."""
    check_name(file)
    url = hf_hub_url(repo, file, revision=commit)
    with to.open("wb") as out:
        if size >= 8:  # noqa: PLR2004 (bytes that tell the header's length)
            _fetch_range(url, 0, 8, out)
            out.flush()
            (length,) = struct.unpack("<Q", to.read_bytes())
            # A header that cannot be is not fetched: the engine says what is wrong with its length.
            if length <= min(LONGEST_HEADER, size - 8):
                _fetch_range(url, 8, length, out)
        out.truncate(size)


def _fetch_range(url: str, start: int, length: int, out: Any) -> None:
    """Append some bytes of a file."""
    headers = {**build_hf_headers(library_name=LIBRARY), "Accept-Encoding": "identity"}
    begin = out.tell()
    for attempt in range(1, TRIES + 1):
        try:
            done = out.tell() - begin
            if done == length:
                return
            headers["Range"] = f"bytes={start + done}-{start + length - 1}"
            with http_stream_backoff(
                "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, retry_on_exceptions=()
            ) as response:
                hf_raise_for_status(response)
                # A server that knows no ranges begins at the beginning.
                skip = start + done if response.status_code == 200 else 0  # noqa: PLR2004
                for chunk in response.iter_bytes():
                    out.write(chunk[skip:][: begin + length - out.tell()])
                    skip = max(0, skip - len(chunk))
                    if out.tell() - begin == length:
                        return
        except HTTP_ERROR as error:
            if attempt == TRIES or isinstance(error, said_by_hub.HfHubHTTPError):
                raise
            time.sleep(attempt / 2)
    raise Refused(f"{length} bytes from {start} on were asked for, {out.tell() - begin} came")


def discard_unfinished(repos: set[str]) -> None:
    """Delete what downloads of this process hold half written: huggingface_hub never takes it up again."""
    blobs = {cache() / f"models--{repo.replace('/', '--')}" / "blobs" for repo in repos}
    opened = Path("/proc/self/fd")
    for descriptor in opened.iterdir() if opened.is_dir() else ():
        with contextlib.suppress(OSError):
            path = descriptor.readlink()
            if path.suffix == ".incomplete" and path.parent in blobs:
                path.unlink()


class Ended(Exception):  # noqa: N818 (nobody sees it)
    """Something else ended the work."""


def counting(add: Callable[[int], object], stop: Event | None = None) -> type[tqdm]:
    """What huggingface_hub takes for a progress bar: nothing is shown, bytes are counted."""

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **{**keywords, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            if stop is not None and stop.is_set():
                raise Ended
            add(int(n or 0))

        def update_transfer(self, n: float | None = 1) -> None:
            """Bytes on the wire, which are not those of the files."""

        def set_transfer_postfix_str(self, *_: Any, **__: Any) -> None:
            """Their rate."""

    return Bar
