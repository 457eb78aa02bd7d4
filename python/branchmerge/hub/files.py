"""Which files of a repository a merge needs, and which names are refused: what a server says of files is hostile."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import TYPE_CHECKING

from branchmerge.errors import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"
TEMPLATES = "additional_chat_templates/"
LARGEST_INDEX = 50_000_000
LARGEST_SMALL = 100_000_000
"""Bytes of the largest small file that a result carries."""
MOST_FILES = 100_000
WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".npz", ".pkl", ".ot",
    ".index.json", ".lock",
)  # fmt: skip
"""Endings of what holds weights, or tells of them."""
OWN = {"branchmerge.json", "branch.json", "mergekit_config.yml", "trainer_state.json", "training_args.bin"}
"""What tells of a checkpoint's own making, which is not true of a result."""
DRIVE = re.compile(r"[A-Za-z]:")


class Refused(Exception):  # noqa: N818 (it is told, not raised further)
    """A repository that nothing is fetched from, and why."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def sound(listing: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The files of a listing with their bytes; raises `Refused` where a name would lead out of its directory."""
    found: dict[str, int] = {}
    alike: dict[str, str] = {}
    for name, size in listing:
        check_name(name)
        same = alike.setdefault(unicodedata.normalize("NFC", name), name)
        if same != name or name in found:
            raise Refused(f"its file `{shown(name)}` is there twice")
        if type(size) is not int or not 0 <= size < 1 << 63:
            raise Refused(f"its file `{shown(name)}` has {shown(str(size))} bytes")
        found[name] = size
        if len(found) > MOST_FILES:
            raise Refused(f"it has more than {MOST_FILES} files")
    return found


def check_name(name: object) -> None:
    """Refuse a file name that is no plain path below its directory."""
    if not isinstance(name, str):
        raise Refused(f"the name of a file is {shown(repr(name))}")
    steps = name.split("/")
    leads_out = any(step in {"", ".", ".."} or step.rstrip(". ").lower() == ".git" for step in steps)
    if leads_out or "\\" in name or not name.isprintable() or DRIVE.match(name) or len(name.encode()) > 1000:  # noqa: PLR2004
        raise Refused(f"its file `{shown(name)}` has a name that is refused: it could lead out of its directory")


def small(files: Mapping[str, int]) -> list[str]:
    """The small files of a checkpoint: config, tokenizer, templates, and the index of its weights."""
    found = [name for name in files if _carried(name) and files[name] <= LARGEST_SMALL]
    found += [INDEX] if files.get(INDEX, LARGEST_INDEX + 1) <= LARGEST_INDEX else []
    return sorted(found)


def too_large(files: Mapping[str, int]) -> list[str]:
    """Files that a result would carry if they were small."""
    return sorted(name for name in files if _carried(name) and files[name] > LARGEST_SMALL)


def weights(files: Mapping[str, int], *, adapter: bool, index: Path | None) -> list[str]:
    """The weight files: those of the index, or the only one, or all at the top; `Refused` where there are none."""
    if adapter and ADAPTER in files:
        return [ADAPTER]
    if not adapter and index is not None:
        return indexed(index, files)
    if not adapter and SINGLE in files:
        return [SINGLE]
    top = sorted(name for name in files if "/" not in name and name.endswith(".safetensors") and name != ADAPTER)
    if top and not adapter:
        return top
    if ADAPTER in files:
        return [ADAPTER]
    raise Refused(
        "it has no adapter in safetensors" if adapter else "it has no weights in safetensors", _way_out(files)
    )


def indexed(path: Path, files: Mapping[str, int]) -> list[str]:
    """The files that an index names. What is no index names none here: the engine says what is wrong with it."""
    try:
        said = json.loads(path.read_bytes())["weight_map"]
        names = sorted({str(name) for name in said.values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    for name in names:
        check_name(name)
        if name not in files:
            raise Refused(f"its index names `{shown(name)}`, which it does not have")
    return names


def _carried(name: str) -> bool:
    if name.startswith(TEMPLATES):
        return name.count("/") == 1 and name.endswith(".jinja")
    lower = name.lower()
    hidden = name.startswith(".") or lower.startswith("readme")
    return "/" not in name and not hidden and not lower.endswith(WEIGHTS) and name not in OWN


def _way_out(files: Iterable[str]) -> str:
    endings = {name[name.rfind(".") :] for name in files if "/" not in name}
    if endings & {".bin", ".pt", ".pth", ".ckpt"}:
        return "it holds pickled weights: load it with transformers and save it with `safe_serialization=True`"
    if ".gguf" in endings:
        return "it holds GGUF weights: merge the safetensors they were made from"
    return "a checkpoint holds `model.safetensors`, or shards with `model.safetensors.index.json`"
