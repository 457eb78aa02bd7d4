"""Models of the hub: planned from headers, fetched once the plan is sound, pinned; against a hub on this machine."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints
import hub_server
import program
import pytest
from branchmerge.hub import names
from hub_server import Hub

SHAPES = checkpoints.SHAPES | {f"model.layers.{n}.self_attn.q_proj.weight": (512, 513) for n in range(4)}
Shapes = dict[str, tuple[int, ...]]
TOKENIZER = {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}


class World:
    """A hub, its models as directories too, and a place to work in."""

    def __init__(self, hub: Hub, directory: Path) -> None:
        self.hub = hub
        self.local = directory / "local"
        self.work = directory / "work"
        self.home = directory / "home"
        self.scratch = directory / "scratch"
        for path in (self.local, self.work, self.scratch):
            path.mkdir()
        self.environment = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "5",
            "HF_TOKEN": "hf_test",
            "TMPDIR": str(self.scratch),
        }

    def model(self, name: str, seed: int, *, shards: int = 1, shapes: Shapes = SHAPES) -> Path:
        """A model `org/NAME` of the hub that is a directory here as well."""
        tensors = checkpoints.weights(seed, of=1, shapes=shapes)
        path = checkpoints.write(self.local / name, tensors, shards=shards)
        (path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
        self.hub.add(f"org/{name}", path)
        return path

    def run(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return program.run(*arguments, cwd=self.work, **{**self.environment, **environment})

    def python(self, script: str, **environment: str) -> str:
        told = subprocess.run(
            [sys.executable, "-W", "error", "-c", script],
            cwd=self.work,
            env={**program.ENVIRONMENT, **self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert told.returncode == 0, told.stderr
        return told.stdout

    def recipe(self, *models: str, **keys: Any) -> Path:
        """A recipe in the working directory, one model a line from line 2 on."""
        lines = ["models:", *(f"  - model: {model}" for model in models)]
        lines += [f"{key}: {value}" for key, value in {"merge_method": "linear", **keys}.items()]
        lines += ["parameters: {weight: 1}"]
        path = self.work / "recipe.yml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def left_behind(self) -> list[str]:
        return [path.name for path in self.scratch.iterdir()]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A hub with `org/a`, and `org/b` in three shards."""
    with hub_server.running() as hub:
        made = World(hub, tmp_path.resolve())
        made.model("a", 2)
        made.model("b", 3, shards=3)
        yield made


def header_bytes(path: Path) -> int:
    with path.open("rb") as file:
        return 8 + int(struct.unpack("<Q", file.read(8))[0])


def weights(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.glob("*.safetensors"))}


def test_a_plan_fetches_headers_and_no_weights(world: World) -> None:
    said = world.run("fuse", "org/a", "org/b", "--dry-run", "--json")
    assert (said.returncode, said.stderr) == (0, "")
    files = [path for name in "ab" for path in (world.local / name).glob("*.safetensors")]
    assert world.hub.weights_served() == sum(map(header_bytes, files))
    plan = json.loads(said.stdout)
    assert plan["fetch_bytes"] == sum(path.stat().st_size for path in files)
    commits = [world.hub.repos[f"org/{name}"].branches["main"] for name in "ab"]
    assert [one["label"] for one in plan["inputs"]] == [f"org/{n}@{c}" for n, c in zip("ab", commits, strict=True)]
    assert str(world.scratch) not in said.stdout
    assert world.left_behind() == []
    assert "from the hub" in world.run("plan", world.recipe("org/a", "org/b")).stdout


def test_a_merge_is_that_of_the_directories(world: World) -> None:
    said = world.run("fuse", "org/a", "org/b")
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith("a-b-arcee: done\n")
    here = world.run("fuse", world.local / "a", world.local / "b", "-o", "here")
    assert here.returncode == 0
    fused = world.work / "a-b-arcee"
    assert weights(fused) == weights(world.work / "here")
    for file in ("config.json", "tokenizer.json"):
        assert (fused / file).read_bytes() == (world.work / "here" / file).read_bytes()
    manifest = json.loads((fused / "branchmerge.json").read_text())
    for name, one in zip("ab", manifest["inputs"], strict=True):
        assert one["label"] == f"org/{name}@{world.hub.repos[f'org/{name}'].branches['main']}"
    card = (fused / "README.md").read_text()
    assert "base_model:\n- org/a\n- org/b\n" in card
    assert not [path for path in fused.iterdir() if str(world.scratch).encode() in path.read_bytes()]
    assert world.left_behind() == []
    assert world.run("verify", fused).returncode == 0


def test_what_is_cached_needs_no_hub(tmp_path: Path) -> None:
    with hub_server.running() as hub:
        world = World(hub, tmp_path.resolve())
        for seed, name in enumerate("ab", 2):
            world.model(name, seed)
        commit = hub.repos["org/b"].branches["main"]
        assert world.run("fuse", "org/a", "org/b").returncode == 0
        hub.asked.clear()
        assert "up to date" in world.run("fuse", "org/a", "org/b").stdout
        assert not [one for one in hub.asked if "/resolve/" in one or "/tree/" in one]
        hub.asked.clear()
        pinned = [f"org/{name}@{hub.repos[f'org/{name}'].branches['main']}" for name in "ab"]
        assert world.run("fuse", *pinned, "-o", "pinned").returncode == 0
        assert not [one for one in hub.asked if "org/" in one]
    away = world.run("fuse", "org/a", "org/b")
    assert (away.returncode, "up to date" in away.stdout) == (0, True)
    assert away.stderr.count("when the hub's cache last saw it") == 2
    offline = world.run("fuse", "org/a", f"org/b@{commit}", "-o", "offline", HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stderr) == (0, "")
    assert weights(world.work / "offline") == weights(world.work / "a-b-arcee")
    # What other programs leave in the cache: no listing, and perhaps not all files.
    for path in world.home.rglob("trees/*.json"):
        path.unlink()
    bare = world.run("fuse", "org/a", "org/b", "-o", "bare", HF_HUB_OFFLINE="1")
    assert (bare.returncode, bare.stderr.count("what else it has is not known")) == (0, 2)
    assert weights(world.work / "bare") == weights(world.work / "a-b-arcee")
    next(world.home.glob("hub/models--org--b/snapshots/*/*.safetensors")).unlink()
    for name in ("org/b", "org/c"):
        missing = world.run("fuse", "org/a", name, HF_HUB_OFFLINE="1")
        assert (missing.returncode, missing.stdout) == (2, "")
        assert f"`{name}` is neither a directory nor whole in the hub's cache, and the hub is offline" in missing.stderr


def test_a_broken_connection_is_taken_up_where_it_broke(world: World) -> None:
    files = [f"org/a/{name}" for name in weights(world.local / "a")]
    files += [f"org/b/{name}" for name in weights(world.local / "b")]
    for file in files[:2]:
        world.hub.breaking[file] = 1
    said = world.run("fuse", "org/a", "org/b")
    assert (said.returncode, said.stderr) == (0, "")
    assert sum(world.hub.breaking.values()) == 0
    whole = sum(path.stat().st_size for name in "ab" for path in (world.local / name).glob("*.safetensors"))
    assert world.hub.weights_served() < 1.5 * whole
    assert world.run("fuse", world.local / "a", world.local / "b", "-o", "here").returncode == 0
    assert weights(world.work / "a-b-arcee") == weights(world.work / "here")


def test_an_interrupted_run_keeps_what_it_fetched(world: World) -> None:
    assert world.run("fuse", "org/a", "org/b", "--dry-run").returncode == 0
    world.hub.slow = 0.1
    command = [program.PROGRAM, "fuse", "org/a", "org/b"]
    environment = {**program.ENVIRONMENT, **world.environment}
    running = subprocess.Popen(command, cwd=world.work, env=environment, stderr=subprocess.PIPE, text=True)
    snapshots = world.home / "hub/models--org--b/snapshots"
    deadline = time.monotonic() + 60
    while not list(snapshots.glob("*/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, told = running.communicate(timeout=30)
    assert running.returncode == 130
    assert time.monotonic() - start < 3
    assert "hint: files that were fetched whole stay in the hub's cache" in told
    assert "Traceback" not in told
    world.hub.slow = 0.0
    assert not list(world.home.rglob("*.incomplete"))
    assert world.left_behind() == []
    kept = {f"org/b/{path.name}": path.stat().st_size for path in snapshots.glob("*/*.safetensors")}
    assert kept
    world.hub.served.clear()
    assert world.run("fuse", "org/a", "org/b").returncode == 0
    assert not set(kept) & set(world.hub.served)


def test_a_wrong_recipe_is_told_before_weights_are_fetched(world: World) -> None:
    world.model("c", 4, shapes=SHAPES | {"model.norm.weight": (25,)})
    said = world.run("merge", world.recipe("org/a", "org/c", "org/d", sead="1"), "out")
    assert (said.returncode, said.stdout) == (2, "")
    assert "recipe.yml:4: neither a directory nor a model of the hub is called `org/d`" in said.stderr
    assert "`sead`" in said.stderr
    said = world.run("merge", world.recipe("org/a", "org/c"), "out")
    assert (said.returncode, said.stdout) == (2, "")
    assert f"org/c@{world.hub.repos['org/c'].branches['main']}" in said.stderr
    assert "model.norm.weight" in said.stderr
    assert str(world.scratch) not in said.stderr
    assert world.hub.weights_served() < 6000
    assert world.left_behind() == []
    assert [path.name for path in world.work.iterdir()] == ["recipe.yml"]


@pytest.mark.parametrize(
    ("model", "denied", "message", "hint"),
    [
        ("org/none", None, "neither a directory nor a model of the hub is called `org/none`", "hf auth login"),
        ("org/b@none", None, "`org/b` has no revision `none`", "a branch, a tag or a commit"),
        ("org/b", (403, "GatedRepo"), "`org/b` is gated", "accept its terms"),
        ("org/b", (401, "GatedRepo"), "`org/b` is gated", "hf auth login"),
        ("org/b", (401, ""), "the hub does not let you read `org/b`", "hf auth login"),
        ("org/b", (403, ""), "the hub does not let you read `org/b`", "hf auth login"),
    ],
)
def test_what_the_hub_refuses(
    world: World, model: str, denied: tuple[int, str] | None, message: str, hint: str
) -> None:
    if denied is not None:
        world.hub.denied["org/b"] = denied
    said = world.run("merge", world.recipe("org/a", model), "out")
    assert (said.returncode, said.stdout) == (2, "")
    assert f"recipe.yml:3: {message}" in said.stderr
    assert hint in said.stderr
    assert len(said.stderr.splitlines()) == 2
    assert not (world.work / "out").exists()


def test_a_hub_that_is_away(world: World) -> None:
    said = world.run("merge", world.recipe("org/a", "org/b"), "out", HF_ENDPOINT="http://127.0.0.1:9")
    assert (said.returncode, said.stdout) == (1, "")
    for line, name in ((2, "org/a"), (3, "org/b")):
        assert f"recipe.yml:{line}: `{name}` is neither a directory nor whole in the hub's cache" in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/x",
        "a\\b",
        "a/../../x",
        ".git/config",
        "x/.GIT/hooks",
        "a\nb",
        "a//b",
        "C:x",
        "config.json",
        "e\u0301",
    ],
)
def test_hostile_names_are_refused(world: World, name: str) -> None:
    world.hub.extra = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40}]
    if name == "e\u0301":
        world.hub.extra += [{**world.hub.extra[0], "path": "\u00e9"}]
    said = world.run("merge", world.recipe("org/a", "org/b"), "out")
    assert (said.returncode, said.stdout) == (2, "")
    assert "recipe.yml:2: `org/a`: its file `" in said.stderr
    assert "recipe.yml:3: `org/b`: its file `" in said.stderr
    assert not [one for one in world.hub.asked if "/resolve/" in one]


@pytest.mark.parametrize(("name", "message"), [("../x.safetensors", "is refused"), ("y.safetensors", "does not have")])
def test_an_index_leads_nowhere_else(world: World, name: str, message: str) -> None:
    index = world.local / "b/model.safetensors.index.json"
    said = json.loads(index.read_text())
    said["weight_map"]["lm_head.weight"] = name
    index.write_text(json.dumps(said))
    world.hub.add("org/b", world.local / "b")
    told = world.run("fuse", "org/a", "org/b", "-o", "out")
    assert told.returncode == 2
    assert "`org/b`: " in told.stderr
    assert message in told.stderr


def test_headers_that_lie_are_the_engines_to_tell(world: World) -> None:
    path = world.local / "a/model.safetensors"
    data = path.read_bytes()
    for start, message in ((struct.pack("<Q", 1 << 60), "header"), (data[: len(data) // 2], "bytes")):
        path.write_bytes(start + data[len(start) : len(start) + 1000])
        commit = world.hub.add("org/a", path.parent)
        told = world.run("fuse", "org/a", "org/b", "-o", "out")
        assert told.returncode == 1
        assert f"org/a@{commit}" in told.stderr
        assert message in told.stderr


@pytest.mark.parametrize(
    ("file", "hint"),
    [("pytorch_model.bin", "safe_serialization"), ("x.gguf", "GGUF"), ("notes.txt", "a checkpoint holds")],
)
def test_a_repository_without_safetensors(world: World, file: str, hint: str) -> None:
    (world.local / "p").mkdir()
    (world.local / "p" / file).write_bytes(b"x" * 100)
    world.hub.add("org/p", world.local / "p")
    told = world.run("fuse", "org/a", "org/p")
    assert told.returncode == 2
    assert "`org/p`: it has no weights in safetensors" in told.stderr
    assert hint in told.stderr
    assert world.hub.served[f"org/p/{file}"] in {0, 100 * (file == "notes.txt")}


def test_a_server_that_knows_no_ranges(world: World) -> None:
    world.hub.ranges = False
    said = world.run("fuse", "org/a", "org/b")
    assert (said.returncode, said.stderr) == (0, "")
    assert world.run("fuse", world.local / "a", world.local / "b", "-o", "here").returncode == 0
    assert weights(world.work / "a-b-arcee") == weights(world.work / "here")


def test_a_cache_without_room_is_told_by_the_plan(world: World) -> None:
    script = """
import shutil
import branchmerge as bm
shutil.disk_usage = lambda path: type("Usage", (), {"free": 1000})
models = [{"model": name, "parameters": {"weight": 1}} for name in ("org/a", "org/b")]
print(bm.plan({"merge_method": "linear", "models": models}).problems[0].message)
"""
    assert "the disk of the hub's cache has 1000 free" in world.python(script)
    assert world.hub.weights_served() < 6000


def test_what_lies_here_is_not_asked_for(world: World) -> None:
    (world.work / "org").mkdir()
    (world.work / "org/a").symlink_to(world.local / "a")
    for name in ("./org/b", "/org/b", "../org/b", "org/b/c", "b", "~/org/b"):
        assert world.run("fuse", "org/a", name).returncode == 2
    assert world.run("fuse", "org/a", world.local / "b", "-o", "out").returncode == 0
    assert not world.hub.asked


def test_local_merges_know_no_network(world: World) -> None:
    script = f"""
import sys, branchmerge as bm
bm.fuse({str(world.local / "a")!r}, {str(world.local / "b")!r}, out="out")
print(sorted(set(sys.modules) & {{"huggingface_hub", "httpx", "httpx2", "ssl", "socket"}}))
"""
    assert world.python(script) == "[]\n"


def test_in_python(world: World) -> None:
    world.model("c", 4)
    script = """
import branchmerge as bm, json
models = [{"model": name, "parameters": {"weight": 1}} for name in ("org/a", "org/b")]
plan = bm.plan({"merge_method": "linear", "models": models})
phases = []
result = bm.fuse("org/a", "org/b", progress=lambda done: phases.append((done.phase, done.bytes_done, done.bytes_total)))
first = [one for one in phases if one[0] == "fetching"]
print(json.dumps([plan.ok, plan.fetch_bytes, result.status, first[-1][1:], max(one[1] for one in first)]))
def stop(done):
    raise ZeroDivisionError
try:
    bm.fuse("org/a", "org/c", out="none", progress=stop)
except ZeroDivisionError:
    pass
try:
    bm.fuse("org/a", "org/none")
except bm.RecipeError as error:
    print(error.problems[0].at, error.hint)
"""
    first, second = world.python(script).splitlines()
    total = sum(path.stat().st_size for name in "ab" for path in (world.local / name).glob("*.safetensors"))
    assert json.loads(first) == [True, total, "done", [total, total], total]
    assert second.startswith("models[1].model ")


def test_two_names_of_one_commit_are_one_model(world: World) -> None:
    recipe = world.recipe("org/a", "org/b", tokenizer_source="org/b", base_model="org/a@main")
    said = world.run("merge", recipe, "out")
    assert said.returncode == 0, said.stderr
    manifest = json.loads((world.work / "out/branchmerge.json").read_text())
    assert len(manifest["inputs"]) == 2
    commit = world.hub.repos["org/b"].branches["main"]
    told = {key: value for key, value in manifest["recipe"].items() if key.startswith("tokenizer")}
    assert f"org/b@{commit}" in json.dumps(told)


def test_adapters_are_fetched_with_their_models(world: World) -> None:
    adapter = world.local / "lora"
    adapter.mkdir()
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_"
    thin = checkpoints.weights(9, dtype="F32", shapes={f"{name}A.weight": (2, 24), f"{name}B.weight": (65, 2)})
    checkpoints.write_file(adapter / "adapter_model.safetensors", thin)
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    commit = world.hub.add("org/lora", adapter)
    script = f"""
import json, os
from branchmerge.hub.checkouts import Checkouts
words = ["org/a+org/lora", "{world.local}/a+org/lora@main", "{world.local}/a+{world.local}/lora"]
checkouts = Checkouts({{"models": [{{"model": word}} for word in words]}})
paths = [one["model"] for one in checkouts.content["models"]]
print(json.dumps([paths, [sorted(os.listdir(path)) for path in paths[0].split("+")], checkouts.labels]))
"""
    paths, listed, labels = json.loads(world.python(script))
    own, added = paths[0].split("+")
    assert listed == [
        ["config.json", "model.safetensors", "tokenizer.json"],
        ["adapter_config.json", "adapter_model.safetensors"],
    ]
    assert paths[1:] == [f"{world.local}/a+{added}", f"{world.local}/a+{world.local}/lora"]
    model = f"org/a@{world.hub.repos['org/a'].branches['main']}"
    assert labels[own] == model
    assert labels[paths[0]] == f"{model}+org/lora@{commit}"
    assert labels[paths[1]] == f"a+org/lora@{commit}"
    for words, out in ((("org/a+org/lora", "org/b"), "out"), ((paths[2], world.local / "b"), "local")):
        said = world.run("fuse", *words, "--method", "linear", "-p", "weight=0.5", "-o", out)
        assert said.returncode == 0, said.stderr
    assert weights(world.work / "out") == weights(world.work / "local")
    manifest = json.loads((world.work / "out/branchmerge.json").read_text())
    assert [one["label"] for one in manifest["inputs"]][:2] == [model, f"org/lora@{commit}"]
    assert manifest["recipe"]["models"][0]["model"] == f"{model}+org/lora@{commit}"


def test_what_was_pushed_is_merged_from(world: World) -> None:
    assert world.run("fuse", world.local / "a", world.local / "b", "-o", "out").returncode == 0
    (world.work / "out/.secret").write_text("x")
    said = world.run("push", "out", "me/out", "--private", "--message", "first")
    assert said.returncode == 1
    assert ".secret" in said.stderr
    (world.work / "out/.secret").unlink()
    said = world.run("push", "out", "me/out", "--private", "--message", "first")
    assert (said.returncode, said.stderr) == (0, "")
    commit = world.hub.repos["me/out"].branches["main"]
    assert f"{world.hub.endpoint}/me/out/commit/{commit}" in said.stdout
    assert world.hub.private["me/out"] == "private"
    assert world.run("fuse", "me/out", world.local / "b", "-o", "again").returncode == 0
    assert world.run("fuse", world.work / "out", world.local / "b", "-o", "here").returncode == 0
    assert weights(world.work / "again") == weights(world.work / "here")


def test_a_push_mixes_no_weights(world: World) -> None:
    (world.local / "b/.hidden").write_text("x")
    (world.local / "b/x.partial").mkdir()
    (world.local / "b/x.partial/y").write_text("x")
    assert world.run("push", world.local / "b", "me/b").returncode == 0
    assert world.run("push", world.local / "a", "me/b@other", "--json").returncode == 0
    repo = world.hub.repos["me/b"]
    small = {".gitattributes", "config.json", "tokenizer.json"}
    shards = {path.name for path in (world.local / "b").glob("*.safetensors*")}
    assert set(repo.commits[repo.branches["main"]]) == small | shards | {"model.safetensors.index.json"}
    assert set(repo.commits[repo.branches["other"]]) == small | {"model.safetensors"}


def test_an_interrupted_push_ends(world: World) -> None:
    world.hub.slow = 0.3
    command = [program.PROGRAM, "push", str(world.local / "b"), "me/b"]
    environment = {**program.ENVIRONMENT, **world.environment}
    running = subprocess.Popen(command, cwd=world.work, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(one.startswith("PUT") for one in world.hub.asked) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, told = running.communicate(timeout=30)
    assert (running.returncode, told) == (130, "error: interrupted\n")
    assert time.monotonic() - start < 3


def test_what_is_not_whole_is_not_pushed(world: World) -> None:
    assert world.run("fuse", world.local / "a", world.local / "b", "-o", "out").returncode == 0
    file = world.work / "out/model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    said = world.run("push", "out", "me/out")
    assert said.returncode == 1
    assert "model.safetensors" in said.stderr
    (world.work / "out").rename(world.work / "out.partial")
    for arguments in (("out.partial", "me/out"), ("none", "me/out"), ("out.partial", "me"), ("out.partial", "./me/x")):
        assert world.run("push", *arguments).returncode == 2
    assert not world.hub.asked


def test_a_merge_pushes_its_result(world: World) -> None:
    said = world.run("fuse", "org/a", "org/b", "--push", "me/fused")
    assert (said.returncode, said.stderr) == (0, "")
    assert "pushed to me/fused" in said.stdout
    assert world.run("fuse", "org/a", "org/b", "--push", "fused", "-o", "x").returncode == 2
    assert not (world.work / "x").exists()
    away = world.run("push", "a-b-arcee", "me/fused", HF_ENDPOINT="http://127.0.0.1:9")
    assert (away.returncode, away.stdout) == (1, "")
    assert "cannot be reached" in away.stderr


@pytest.mark.parametrize(
    ("word", "repo", "revision"),
    [
        ("org/name", "org/name", None),
        ("org/name@main", "org/name", "main"),
        ("Org-1/Na.me_2@refs/pr/3", "Org-1/Na.me_2", "refs/pr/3"),
        ("./org/name", None, None),
        ("/org/name", None, None),
        ("~/name", None, None),
        ("org/", None, None),
        ("org/name/", None, None),
        ("org/a/b", None, None),
        ("org/..", None, None),
        ("org/name@../../x", None, None),
        ("org/name@/x", None, None),
        ("org/name@", None, None),
        ("org/na me", None, None),
        ("org/a--b", None, None),
        ("org/a.git", None, None),
        ("name", None, None),
    ],
)
def test_names(word: str, repo: str | None, revision: str | None) -> None:
    found = names.parsed(word)
    assert (found.repo if found else None, found.revision if found else None) == (repo, revision)
    assert found is None or str(found) == word


def test_every_place_of_a_model_is_found() -> None:
    inner = {"merge_method": "linear", "models": [{"model": "org/c"}], "base_model": "org/d"}
    content = {
        "base_model": "org/a",
        "models": [{"model": "org/a", "importance": "org/i"}, {"model": inner}, "x", {"model": 3}],
        "slices": [{"sources": [{"model": "org/e+org/f@v1"}]}],
        "modules": {"m": {"models": [{"model": "./g+org/h"}]}, "n": None},
        "tokenizer": {"source": "model:org/a", "tokens": {"t": {"source": {"kind": "model", "model": "org/c"}}}},
        "out_dtype": "org/a",
    }
    found = {one.at: [str(part.name) for part in one.parts] for one in names.said(content)}
    assert found == {
        "base_model": ["org/a"],
        "models[0].model": ["org/a"],
        "models[1].model.base_model": ["org/d"],
        "models[1].model.models[0].model": ["org/c"],
        "slices[0].sources[0].model": ["org/e", "org/f@v1"],
        "modules.m.models[0].model": ["None", "org/h"],
    }
    before = json.dumps(content)
    result = names.replaced(content, {"org/a": "/1", "org/c": "/2", "org/e+org/f@v1": "/3+/4", "org/i": "/5"})
    assert json.dumps(content) == before
    assert result["base_model"] == result["models"][0]["model"] == "/1"
    assert result["models"][0]["importance"] == "org/i"
    assert result["models"][1]["model"]["models"] == [{"model": "/2"}]
    assert result["slices"][0]["sources"][0]["model"] == "/3+/4"
    assert result["tokenizer"] == {
        "source": "model:/1",
        "tokens": {"t": {"source": {"kind": "model", "model": "/2"}}},
    }
    assert result["out_dtype"] == "org/a"
