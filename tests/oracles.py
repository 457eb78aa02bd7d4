"""The formulas of the eight methods in numpy and f64: whole tensors, no cleverness, independent of the engine's own.

Near a cut either side is right, so an oracle gives several admissible results a tensor: the rows of its answer. An
element is right if it agrees with one of them.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]
NEAR = 1e-6
"""Relative distance to a cut within which rounding of the operands to f32 may decide."""
NEAR_KL = 1e-4
"""The same for importances: the KL is a sum of differences."""


def linear(tensors: list[Real], weight: list[float], *, normalize: bool = True) -> Real:
    """Σ w·x, divided by Σ w."""
    total = np.zeros_like(tensors[0])
    for w, x in zip(weight, tensors, strict=True):
        total = total + w * x
    return (total / sum(weight) if normalize else total)[None]


def slerp(base: Real, other: Real, t: float) -> Real:
    """Along the great circle of the two directions, on the vectors as they are; a line where they are near parallel."""
    norms = [np.linalg.norm(x) for x in (base, other)]
    unit = [x / (norm if norm > 1e-8 else 1.0) for x, norm in zip((base, other), norms, strict=True)]
    cosine = float(np.clip((unit[0] * unit[1]).sum(), -1, 1))
    if abs(cosine) > 0.9995:
        return ((1 - t) * base + t * other)[None]
    angle = np.arccos(cosine)
    found: Real = np.sin((1 - t) * angle) / np.sin(angle) * base + np.sin(t * angle) / np.sin(angle) * other
    return found[None]


def passthrough(tensor: Real, scale: float | None) -> Real:
    """The tensor, or a multiple of it."""
    return (tensor if scale is None else scale * tensor)[None]


def task_vectors(base: Real, deltas: list[list[Real]], weight: list[float], **how: Any) -> Real:
    """base + λ·Σ w·d, by majority sign and divided by Σ w where asked; `deltas` has admissible versions a branch."""
    results = []
    for chosen in product(*deltas):
        signs = _majorities(chosen, weight) if how.get("consensus") else [None]
        for sign in signs:
            kept = [np.ones(d.shape) if sign is None else (np.sign(d) == sign).astype(float) for d in chosen]
            total = sum((w * d * k for w, d, k in zip(weight, chosen, kept, strict=True)), np.zeros_like(base))
            share = sum((w * k for w, k in zip(weight, kept, strict=True)), np.zeros_like(base))
            floor = 0.0 if how.get("consensus") else 1e-8
            if how.get("normalize"):
                total = total / np.where(np.abs(share) <= floor, 1.0, share)
            results.append(base + how.get("scale", 1.0) * total)
    return np.stack(results)


def top(delta: Real, density: float) -> list[Real]:
    """The k largest by magnitude; what lies at the cut may be kept or not."""
    if density >= 1:
        return [delta]
    size = np.abs(delta).ravel()
    k = max(1, int(density * size.size)) if density > 0 else 0
    if k == 0:
        return [np.zeros_like(delta)]
    cut = np.sort(size)[size.size - k]
    least = np.where(np.abs(delta) > cut * (1 + NEAR), delta, 0.0)
    most = np.where(np.abs(delta) >= cut * (1 - NEAR), delta, 0.0)
    return [least, most]


def arcee(base: Real, other: Real, **how: Any) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which elements must be taken from `other`, and which may be."""
    difference = base - other if how.get("difference") == "signed" else np.abs(other - base)
    rows = base.reshape(1, -1) if base.ndim == 1 else base.reshape(-1, base.shape[-1])
    others = other.reshape(rows.shape)
    if how.get("divergence") == "tensor":
        importance = difference * _kl(rows.reshape(1, -1), others.reshape(1, -1))[0]
    else:
        importance = (difference.reshape(rows.shape) * _kl(others, rows)[:, None]).reshape(base.shape)
    counted = importance[base != other] if how.get("quartiles") == "changed" else importance
    if counted.size == 0:
        return np.zeros(base.shape, bool), np.ones(base.shape, bool)
    ordered = np.sort(counted, axis=None)
    first, middle, third = (ordered[int(q * (ordered.size - 1))] for q in (0.25, 0.5, 0.75))
    threshold = middle + how.get("threshold", 1.5) * (third - first)
    margin = NEAR_KL * (abs(middle) + abs(threshold) + np.abs(importance)) + 1e-300
    strict = bool(how.get("strict"))
    exact = (importance > threshold) if strict else (importance >= threshold)
    near = np.abs(importance - threshold) <= margin
    return exact & ~near, exact | near


def _kl(p: Real, q: Real) -> Real:
    """KL(softmax(p) ‖ softmax(q)) of each row, in extended precision: small differences leave nothing of it in f64."""
    log_p, log_q = (x.astype(np.longdouble) - x.max(axis=1, keepdims=True) for x in (p, q))
    log_p, log_q = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (log_p, log_q))
    found: Real = (np.exp(log_p) * (log_p - log_q)).sum(axis=1).astype(np.float64)
    return found


def _majorities(chosen: tuple[Real, ...], weight: list[float]) -> list[Real]:
    """The sign of Σ w·d, plus where it is 0; either where the sum is lost in rounding."""
    terms = [w * d for w, d in zip(weight, chosen, strict=True)]
    total = sum(terms, np.zeros_like(terms[0]))
    near = np.abs(total) <= NEAR * sum((np.abs(term) for term in terms), np.zeros_like(total))
    sign = np.where(total >= 0, 1.0, -1.0)
    if not near.any():
        return [sign]
    return [np.where(near, 1.0, sign), np.where(near, -1.0, sign)]
