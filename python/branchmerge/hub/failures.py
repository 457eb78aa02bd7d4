"""What goes wrong between names and files, or directories and repositories, as sentences with ways out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants
from huggingface_hub import errors as said_by_hub

from branchmerge.errors import Problem, shown
from branchmerge.hub.files import Refused

if TYPE_CHECKING:
    from branchmerge.hub.names import Name

HTTP_ERROR: type[Exception] = said_by_hub.HfHubHTTPError.__mro__[1]
"""What the HTTP library raises; which library that is changes with huggingface_hub."""
UNREACHED = 500
"""The first status by which a server says that it cannot answer now."""
LOG_IN = "log in with `hf auth login`, as a user who may read it"


def problem(error: BaseException | None, name: Name, at: str | None = None) -> Problem:
    """What went wrong between a name and its files, as a sentence with a way out."""
    repo = f"`{name.repo}`"
    if isinstance(error, said_by_hub.LocalEntryNotFoundError):
        # Not in the cache either: what counts is why the hub did not give it.
        error = error.__cause__ or error
    status = getattr(getattr(error, "response", None), "status_code", None)
    match error:
        case Refused():
            return Problem(f"{repo}: {error}", error.hint, at=at, kind="recipe")
        case said_by_hub.RevisionNotFoundError():
            hint = "a revision is a branch, a tag or a commit"
            return Problem(f"{repo} has no revision `{shown(name.revision or 'main')}`", hint, at=at)
        case said_by_hub.GatedRepoError():
            return Problem(f"{repo} is gated", f"accept its terms on its page, then {LOG_IN}", at=at)
        case said_by_hub.RepositoryNotFoundError():
            hint = f"see whether the name is right; where it is private, {LOG_IN}"
            return Problem(f"neither a directory nor a model of the hub is called {repo}", hint, at=at)
        case said_by_hub.HfHubHTTPError() if status in {401, 403}:
            return Problem(f"the hub does not let you read {repo} ({status})", LOG_IN, at=at)
        case said_by_hub.HfHubHTTPError():
            return Problem(f"the hub answers {status} for {repo}", "try again later", at=at, kind="os")
        case OSError() if error.errno is not None:
            text = f"{repo}: {error.strerror or error}"
            return Problem(text, getattr(error, "hint", None), at=at, path=_text(error.filename), kind="os")
    if unreached(error):
        return _unreachable(repo, at)
    text = shown(f"{type(error).__name__}: {error}")
    return Problem(f"what the hub answers for {repo} cannot be understood: {text}", None, at=at, kind="os")


def push_problem(error: Exception, name: Name) -> Problem:
    """What went wrong with an upload."""
    repo = f"`{name.repo}`"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in {401, 403} or isinstance(error, said_by_hub.LocalTokenNotFoundError):
        return Problem(f"the hub does not let you write to {repo}", "log in with `hf auth login`, as a user who may")
    if unreached(error):
        hint = "unset `HF_HUB_OFFLINE`" if constants.is_offline_mode() else "see whether the network is up"
        return Problem(f"{repo} cannot be written to: the hub cannot be reached", hint, kind="os")
    told = getattr(error, "server_message", None) or f"{type(error).__name__}: {error}"
    return Problem(f"{repo} cannot be written to: {shown(told)}", kind="os")


def _unreachable(repo: str, at: str | None) -> Problem:
    if constants.is_offline_mode():
        hint = "unset `HF_HUB_OFFLINE` to fetch it, or name a directory"
        return Problem(
            f"{repo} is neither a directory nor whole in the hub's cache, and the hub is offline", hint, at=at
        )
    hint = "see whether the network is up; what is in the hub's cache needs none"
    what = f"{repo} is neither a directory nor whole in the hub's cache, and the hub cannot be reached"
    return Problem(what, hint, at=at, kind="os")


def unreached(error: BaseException | None) -> bool:
    """Whether nobody answered."""
    if isinstance(error, said_by_hub.HfHubHTTPError):
        return error.response.status_code >= UNREACHED
    nobody = (HTTP_ERROR, ConnectionError, TimeoutError, said_by_hub.LocalEntryNotFoundError)
    return isinstance(error, (*nobody, said_by_hub.RevisionResolutionError))


def _text(path: Any) -> str | None:
    return os.fsdecode(path) if isinstance(path, str | bytes) else None
