"""The directories that stand for names of the hub while a plan is made and carried out.

Each is a temporary directory with links to files of huggingface_hub's cache, exactly those that a merge needs, whatever
else lies there. A weight file that is not in the cache yet is stood in for by a file of its true size that begins with
its header and takes no room: the engine plans from it as from the file itself. Once a plan has no problem, `fetch`
brings the weights and puts links in their place.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from branchmerge.errors import Problem, from_problems, shown
from branchmerge.hub import files, names
from branchmerge.hub.parallel import in_parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from branchmerge.hub.names import Name, Said

    Report = Callable[[int, int, int, int], object]
    """Bytes done and in all, files done and in all."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A weight file that only its header stands for."""

    repo: str
    commit: str
    file: str
    size: int
    to: Path


@dataclass(slots=True)
class Checkout:
    """A repository at one commit, as a directory."""

    name: Name
    commit: str
    directory: Path
    waiting: list[Weights] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What it is called in the manifest: the commit is pinned there."""
        return f"{self.name.repo}@{self.commit}"


class Checkouts:
    """A recipe with directories instead of names; the directories go with it."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content: dict[str, Any] = dict(content)
        self.labels: dict[str, str] = {}
        """What each path of the recipe is called."""
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.waiting: list[Weights] = []
        self.root = Path(tempfile.mkdtemp(prefix="branchmerge-")).resolve()
        self._finalizer = weakref.finalize(self, shutil.rmtree, self.root, ignore_errors=True)
        try:
            self._fill(names.said(content))
        except BaseException:
            self._finalizer()
            raise

    @property
    def bytes_waiting(self) -> int:
        """Bytes of weights that are still to be fetched."""
        return sum(one.size for one in self.waiting)

    def readable(self, text: str) -> str:
        """A text of the engine with names instead of these directories."""
        for path, label in sorted(self.labels.items(), reverse=True):
            text = text.replace(path, label)
        return text

    def fetch(self, report: Report | None = None) -> None:
        """Bring the weights into the cache, some files at a time, and link them in."""
        from branchmerge.hub import client

        total, count = self.bytes_waiting, len(self.waiting)
        counted: list[int] = []
        linked: list[Path] = []
        stop = threading.Event()

        def bring(one: Weights) -> None:
            path = client.fetch(one.repo, one.commit, one.file, bar=client.counting(counted.append, stop))
            one.to.unlink()
            one.to.symlink_to(path)
            linked.append(one.to)

        def tick() -> None:
            if report is not None:
                report(min(max(sum(counted), 0), total), total, len(linked), count)

        jobs = [partial(_named, partial(bring, one), one) for one in self.waiting]
        try:
            in_parallel(jobs, stop=stop, tick=tick)
        except BaseException as error:
            client.discard_unfinished({one.repo for one in self.waiting})
            if not isinstance(error, Exception):
                # Threads that are cut off still know this object, which would keep its directories.
                self._finalizer()
                error.hint = "files that were fetched whole stay in the hub's cache"  # type: ignore[attr-defined]
            raise
        self.waiting = []

    def _fill(self, said: list[Said]) -> None:
        """Make the directories; what cannot be is a problem at each place where its name stands."""
        wanted = list(dict.fromkeys((part.name, part.adapter) for one in said for part in one.parts if part.name))
        commits = dict(
            zip(wanted, in_parallel([partial(_commit, name, self.warnings) for name, _ in wanted]), strict=True)
        )
        keys = {key: (key[0].repo, commit, key[1]) for key, commit in commits.items() if isinstance(commit, str)}
        # Two names of one commit are one model.
        first = {whole: key[0] for key, whole in reversed(keys.items())}
        jobs = [
            partial(_checkout, name, self.root / f"{number:03}", commit, adapter=adapter)
            for number, ((_, commit, adapter), name) in enumerate(first.items())
        ]
        made = dict(zip(first, in_parallel(jobs), strict=True))
        results = {key: made[keys[key]] if key in keys else commits[key] for key in wanted}
        for checkout in made.values():
            if isinstance(checkout, Checkout):
                self.waiting += checkout.waiting
                self.warnings += checkout.warnings
        self.warnings.sort()
        self.content = names.replaced(self.content, dict(self._paths(said, results)))

    def _paths(self, said: list[Said], results: Mapping[Any, Any]) -> list[tuple[str, str]]:
        """Words of the recipe and the paths that they stand for."""
        from branchmerge.hub import failures

        found = []
        for one in said:
            paths, labels = [], []
            for part in one.parts:
                result = results.get((part.name, part.adapter))
                if isinstance(result, Checkout):
                    paths.append(str(result.directory))
                    labels.append(result.label)
                    self.labels[paths[-1]] = result.label
                elif part.name is None:
                    paths.append(part.said)
                    labels.append(Path(part.said).name)
                else:
                    self.problems.append(failures.problem(result, part.name, one.at))
            if len(paths) == len(one.parts):
                found.append((one.word, "+".join(paths)))
                self.labels["+".join(paths)] = "+".join(labels)
        return found


def _commit(name: Name, warnings: list[str]) -> str | Exception:
    """The commit of a name, or why there is none."""
    from branchmerge.hub import client

    try:
        commit, fresh = client.commit_of(name)
    except Exception as error:  # noqa: BLE001 (a server may answer anything: it is told as the name's problem)
        return error
    if not fresh:
        warnings.append(f"the hub cannot be reached: `{name}` is what it was when the hub's cache last saw it")
    return commit


def _checkout(name: Name, directory: Path, commit: str, *, adapter: bool) -> Checkout | Exception:
    """The directory of a repository, or why there is none."""
    try:
        return _filled(Checkout(name, commit, directory), adapter=adapter)
    except Exception as error:  # noqa: BLE001 (as above)
        return error


def _filled(checkout: Checkout, *, adapter: bool) -> Checkout:
    from branchmerge.hub import client

    repo, commit, directory = checkout.name.repo, checkout.commit, checkout.directory
    there, unasked = client.files_of(repo, commit)
    if unasked is not None:
        checkout.warnings.append(
            f"`{checkout.label}` is taken as it lies in the hub's cache: what else it has is not known"
        )
    for name in files.too_large(there):
        checkout.warnings.append(f"`{shown(name)}` of `{checkout.label}` has {there[name]} bytes and is not carried")
    small = client.fetch_small(repo, commit, files.small(there))
    try:
        wanted = files.weights(there, adapter=adapter, index=small.get(files.INDEX))
    except files.Refused as error:
        # What the cache lacks the hub may have.
        raise unasked or error from None
    jobs = []
    for name in [*small, *wanted]:
        to = directory / name
        to.parent.mkdir(parents=True, exist_ok=True)
        path = small.get(name) or client.cached(repo, commit, name)
        if path is not None:
            to.symlink_to(path)
            continue
        checkout.waiting.append(Weights(repo, commit, name, there[name], to))
        jobs.append(partial(client.fetch_header, repo, commit, name, size=there[name], to=to))
    in_parallel(jobs)
    return checkout


def _named(job: Callable[[], None], one: Weights) -> None:
    """Do a job of fetching; what goes wrong names the repository."""
    from branchmerge.hub import client, failures

    try:
        job()
    except client.Ended:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, failures.HTTP_ERROR):
            raise
        raise from_problems([failures.problem(error, names.Name(one.repo, one.commit))]) from error
