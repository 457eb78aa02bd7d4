"""Questions and answers of two domains, made on the spot: word problems from a seeded generator, and functions of
Python's standard library to be written from their signature and docstring. What is learnt and what is
held out share no text.
"""

import ast
import random
import sysconfig
import textwrap
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Sample(NamedTuple):
    question: str
    answer: str


class Domain(NamedTuple):
    learnt: list[Sample]
    held_out: list[Sample]


HELD_OUT = 120
NAMES = ["Ada", "Ben", "Clara", "Dmitri", "Elif", "Farid", "Greta", "Hana", "Ivo", "Jun"]
NAMES += ["Kofi", "Lena", "Marta", "Nils", "Omar", "Priya", "Quinn", "Rosa", "Sven", "Tariq"]
GOODS = ["apples", "pencils", "stickers", "marbles", "books", "tickets"]
GOODS += ["cards", "shells", "buttons", "stamps", "beads", "coins"]


def math(*, count: int = 2000, seed: int = 0) -> Domain:
    """Problems of two to four steps with worked answers that end in `Answer: N`."""
    numbers = random.Random(seed)  # noqa: S311 (samples, not secrets)
    problems: dict[str, Sample] = {}
    while len(problems) < count + HELD_OUT:
        sample = numbers.choice([shopping, sharing, travel, saving, baking])(numbers)
        problems[sample.question] = sample
    samples = list(problems.values())
    return Domain(samples[HELD_OUT:], samples[:HELD_OUT])


def shopping(numbers: random.Random) -> Sample:
    name, (first, second) = numbers.choice(NAMES), numbers.sample(GOODS, 2)
    n, m, price, other, paid = (numbers.randint(*span) for span in ((2, 12), (2, 9), (2, 15), (3, 20), (400, 600)))
    question = (
        f"{name} buys {n} {first} at ${price} each and {m} {second} at ${other} each, and pays with ${paid}. "
        f"How many dollars does {name} get back?"
    )
    a, b = n * price, m * other
    return worked(
        question,
        [
            f"The {first} cost {n} * {price} = {a} dollars.",
            f"The {second} cost {m} * {other} = {b} dollars.",
            f"Together that is {a} + {b} = {a + b} dollars.",
            f"The change is {paid} - {a + b} = {paid - a - b} dollars.",
        ],
        paid - a - b,
    )


def sharing(numbers: random.Random) -> Sample:
    name, other = numbers.sample(NAMES, 2)
    thing, friends = numbers.choice(GOODS), numbers.randint(3, 9)
    each, kept = numbers.randint(4, 25), numbers.randint(2, 30)
    total = friends * each + kept
    question = (
        f"{name} has {total} {thing}, keeps {kept} and shares the rest equally among {friends} friends. "
        f"{other} is one of them and already had {each + 7}. How many {thing} does {other} have now?"
    )
    return worked(
        question,
        [
            f"{name} gives away {total} - {kept} = {total - kept} {thing}.",
            f"Each friend gets {total - kept} / {friends} = {each}.",
            f"{other} then has {each + 7} + {each} = {2 * each + 7} {thing}.",
        ],
        2 * each + 7,
    )


def travel(numbers: random.Random) -> Sample:
    name, speed, hours = numbers.choice(NAMES), numbers.randint(8, 90), numbers.randint(2, 8)
    rest, slow = numbers.randint(1, 4), numbers.randint(3, 7)
    question = (
        f"{name} travels for {hours} hours at {speed} km per hour, then for {rest} hours at {slow} km per hour. "
        f"How many kilometres is that in all?"
    )
    a, b = speed * hours, rest * slow
    return worked(
        question,
        [
            f"The first part is {speed} * {hours} = {a} km.",
            f"The second part is {slow} * {rest} = {b} km.",
            f"In all that is {a} + {b} = {a + b} km.",
        ],
        a + b,
    )


def saving(numbers: random.Random) -> Sample:
    name, start, weekly = numbers.choice(NAMES), numbers.randint(5, 90), numbers.randint(3, 25)
    weeks, spent = numbers.randint(4, 20), numbers.randint(1, 60)
    total = start + weekly * weeks
    question = (
        f"{name} has ${start} and saves ${weekly} a week for {weeks} weeks. Then {name} spends ${spent}. "
        f"How many dollars are left?"
    )
    return worked(
        question,
        [
            f"In {weeks} weeks {name} saves {weekly} * {weeks} = {weekly * weeks} dollars.",
            f"With the first {start} dollars that is {start} + {weekly * weeks} = {total} dollars.",
            f"After spending there are {total} - {spent} = {total - spent} dollars.",
        ],
        total - spent,
    )


def baking(numbers: random.Random) -> Sample:
    name, trays, each = numbers.choice(NAMES), numbers.randint(2, 12), numbers.randint(6, 24)
    boxes, price = numbers.randint(2, 6), numbers.randint(2, 9)
    question = (
        f"{name} bakes {trays} trays of {each * boxes} rolls and packs them into boxes of {boxes}. Each box is sold "
        f"for ${price}. How many dollars does {name} earn?"
    )
    rolls, packed = trays * each * boxes, trays * each
    return worked(
        question,
        [
            f"There are {trays} * {each * boxes} = {rolls} rolls.",
            f"They fill {rolls} / {boxes} = {packed} boxes.",
            f"The boxes bring {packed} * {price} = {packed * price} dollars.",
        ],
        packed * price,
    )


def worked(question: str, steps: list[str], answer: int) -> Sample:
    return Sample(question, "\n".join([*steps, f"Answer: {answer}"]))


def code(*, count: int = 2000, seed: int = 0) -> Domain:
    """Functions of the running Python's library; every fifth module, by the hash of its name, is held out."""
    domain = Domain([], [])
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if not {"site-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo"}.isdisjoint(path.parts):
            continue
        half = domain.held_out if zlib.crc32(path.stem.encode()) % 5 == 0 else domain.learnt
        half.extend(functions(path.read_text(encoding="utf-8", errors="ignore")))
    for half in domain:
        random.Random(seed).shuffle(half)  # noqa: S311
    known = set(domain.learnt)
    return Domain(domain.learnt[:count], [sample for sample in domain.held_out if sample not in known][:HELD_OUT])


def functions(source: str) -> Iterator[Sample]:
    """Each function of moderate length that has a docstring: what stands before its body, and the body."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    lines = source.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or ast.get_docstring(node) is None or len(node.body) < 2:
            continue
        body = node.body[0].end_lineno or node.lineno
        text = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno])).splitlines()
        head, rest = text[: body - node.lineno + 1], text[body - node.lineno + 1 :]
        if 2 <= len(rest) <= 20 and len("\n".join(text)) <= 1000:
            yield Sample("Complete this Python function:\n\n" + "\n".join(head), "\n".join(rest))


DOMAINS = {"math": math, "code": code}
