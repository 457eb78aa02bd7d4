"""A directory becomes a repository of the hub."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from branchmerge.errors import RecipeError, from_problems, shown
from branchmerge.hub import files, names

if TYPE_CHECKING:
    import os

MESSAGE = "Upload with branchmerge"
LEFT_OUT = [".*", "*/.*", "*.partial", "*.partial/*"]
"""What is never uploaded: hidden files and folders, and what is not whole."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What an upload made."""

    repo: str
    commit: str
    url: str
    """Of the commit, the last one where huggingface_hub made several."""


def target(repo: str, revision: str | None = None) -> names.Name:
    """Where to push; raises `RecipeError` where that is no name of the hub."""
    name = names.parsed(repo)
    if name is None:
        raise RecipeError(f"`{shown(repo)}` is no name of the hub", hint="write `org/name`, or `org/name@branch`")
    if revision is None:
        return name
    if name.revision not in {None, revision} or names.parsed(f"{name.repo}@{revision}") is None:
        raise RecipeError(f"`{shown(revision)}` is no branch of `{name}`", hint="name one branch: `org/name@branch`")
    return names.Name(name.repo, revision)


def check(directory: str | os.PathLike[str]) -> Path:
    """The directory to push; raises `RecipeError` where it is none, or is not whole."""
    path = Path(directory)
    if path.name.endswith(".partial"):
        hint = "run the merge again: it goes on where it stopped"
        raise RecipeError(f"`{shown(str(path))}` is what an unfinished run left", hint=hint, path=str(path))
    if not path.is_dir():
        raise RecipeError(f"`{shown(str(path))}` is no directory", path=str(path))
    if not any(one.is_file() and not one.name.startswith(".") for one in path.iterdir()):
        raise RecipeError(f"`{shown(str(path))}` holds no file to push", path=str(path))
    return path


def push(path: Path, to: names.Name, *, private: bool, message: str | None) -> Pushed:
    """Upload a directory; weights of another checkpoint do not stay beside its own."""
    from branchmerge.hub import failures
    from branchmerge.hub.parallel import in_parallel

    try:
        # In a thread of its own: a signal ends the wait for it at once.
        (pushed,) = in_parallel([partial(_pushed, path, to, private=private, message=message or MESSAGE)])
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, failures.HTTP_ERROR):
            raise
        raise from_problems([failures.push_problem(error, to)]) from error
    return pushed


def _pushed(path: Path, to: names.Name, *, private: bool, message: str) -> Pushed:
    from branchmerge.hub import client

    api = client.api()
    api.create_repo(to.repo, private=private or None, exist_ok=True)
    if to.revision is not None:
        api.create_branch(to.repo, branch=to.revision, exist_ok=True)
    old = api.list_repo_files(to.repo, revision=to.revision)
    stale = [name for name in old if _tells_of_weights(name) and not (path / name).is_file()]
    done = api.upload_folder(
        repo_id=to.repo,
        folder_path=path,
        revision=to.revision,
        commit_message=message,
        ignore_patterns=list(LEFT_OUT),
        delete_patterns=[glob.escape(name) for name in stale] or None,
    )
    return Pushed(to.repo, done.oid, done.commit_url)


def _tells_of_weights(name: str) -> bool:
    """Whether a file would be wrong beside other weights: weights, their index, their manifest."""
    return "/" not in name and (name.endswith(".safetensors") or name == files.INDEX or name in files.OWN)
