//! `resmerge`: the consensus of what the deltas are beside their leading directions, and a little of those directions.

use super::parameters::LAMBDA;
use crate::fit::mixture::pieces;
use crate::fit::prelude::*;

/// See the module.
pub(super) struct ResMerge;

/// Parts of the names of attention and feed-forward tensors, whose agreement counts.
const FAMILIES: [&str; 12] = [
    "self_attn",
    ".attn.",
    "attention",
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "mlp",
    "ffn",
    "feed_forward",
    "up_proj",
    "down_proj",
];

static SPEC: Spec = Spec {
    name: "resmerge",
    sentence: "adds the consensus of the deltas' residuals beside their leading singular directions, and a little of those directions",
    paper: "Sun et al., ResMerge: Residual-based spectral merging, arXiv 2606.02252, and its released code",
    formula: "x − b = H + R, H its `rank` leading singular directions; q = Σ R/|R| of n branches, as a unit; c = mean cosine of R and q; \
              s = mean cosine of pairs of R; β = beta_max − (beta_max − beta_min)·((s + 1)/2 + (c + 1)/2)/2 (beta_max outside attention and MLP); \
              A = c^β·mean|R|·q, mean R where c ≤ 1/√n; a = mean of the positive parts of the cosines of pairs of H; \
              y = b + λ·(A + head·a·|A|·unit of mean H); the mean delta for what is no map (embeddings, heads, one or more \
              than two dimensions)",
    guide: Guide {
        detail: "The leading directions of branches trained by reinforcement collide, what lies beside them adds up.",
        when: "branches trained by reinforcement from one base: it was best among eleven methods at 7B",
        avoid: "supervised branches: there is no evidence yet",
        example: "{}",
    },
    space: Space::Delta,
    grain: Grain::Tensor,
    base: Base::Required,
    parameters: &[
        Parameter {
            name: "rank",
            kind: Type::Whole { low: 0.0, high: 65_536.0 },
            default: Some(Value::Number(1.0)),
            per: Per::Global,
            help: "how many leading directions of each delta are its head",
        },
        Parameter {
            name: "head",
            kind: Type::Number { low: 0.0, high: f64::MAX },
            default: Some(Value::Number(0.2)),
            per: Per::Global,
            help: "how much of the heads is added, in lengths of the consensus, where they agree",
        },
        Parameter {
            name: "beta_min",
            kind: Type::Number { low: 0.0, high: f64::MAX },
            default: Some(Value::Number(0.7)),
            per: Per::Global,
            help: "the exponent of the coherence where all agree",
        },
        Parameter {
            name: "beta_max",
            kind: Type::Number { low: 0.0, high: f64::MAX },
            default: Some(Value::Number(1.0)),
            per: Per::Global,
            help: "the exponent of the coherence where none agree",
        },
        LAMBDA,
    ],
    check,
    passes: |parameters, _| parameters.branches.len() as u64 + 2,
    memory: |parameters, extent| {
        let rank = parameters.number("rank") as u64;
        let heads = 8 * extent.branches * rank * (extent.row + extent.rows());
        linalg::memory(extent, linalg::short_side(extent), &[(1, linalg::EIGEN)]) + heads
    },
    bits: Bits::Machine,
    ..USUAL
};

fn check(parameters: &Parameters) -> Result<()> {
    let [least, most] = ["beta_min", "beta_max"].map(|name| parameters.number(name));
    if least > most {
        return Err(Error::recipe(format!("`beta_min` {least} is above `beta_max` {most}")));
    }
    Ok(())
}

/// A leading direction of a delta: its value and its two vectors.
struct Direction {
    value: f64,
    left: Vec<f64>,
    right: Vec<f64>,
}

impl Method for ResMerge {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        check(parameters)?;
        let (count, scale) = (tensor.branches(), parameters.number("lambda"));
        if !linalg::maps(tensor.name, tensor.row_length, tensor.columns) {
            return Ok(linalg::mean(count, scale));
        }
        let rank = parameters.number("rank") as usize;
        let heads = (0..count).map(|i| head(tensor, i, rank)).collect::<Result<Vec<_>>>()?;
        let gram = Grams::of(tensor, &heads)?;
        let known = FAMILIES.iter().any(|part| tensor.name.contains(part));
        let (ours, theirs) = shares(&gram, parameters, known);
        // Σ a·R + Σ h·H = Σ a·(x − b) + Σ (h − a)·H.
        let deltas: Vec<f64> = ours.iter().map(|share| scale * share).collect();
        let mut directions: Vec<Direction> = Vec::new();
        for (i, head) in heads.into_iter().enumerate() {
            let factor = scale * (theirs[i] - ours[i]);
            directions
                .extend(head.into_iter().map(|one| Direction { value: factor * one.value, ..one }));
        }
        let row_length = tensor.row_length;
        Ok(Fit::new(move |block: &Block<'_, R>, out: &mut [R]| {
            for (row, range) in pieces(block, row_length) {
                let first = (block.start + range.start as u64) as usize - row * row_length as usize;
                let mut sums = vec![0.0; range.len()];
                for one in &directions {
                    let factor = one.value * one.left[row];
                    let right = &one.right[first..first + range.len()];
                    sums.iter_mut().zip(right).for_each(|(sum, value)| *sum += factor * value);
                }
                for (i, share) in deltas.iter().enumerate() {
                    let delta = &block.branch(i)[range.clone()];
                    sums.iter_mut().zip(delta).for_each(|(sum, d)| *sum += share * d.to_f64());
                }
                out[range].iter_mut().zip(sums).for_each(|(out, sum)| *out = R::from_f64(sum));
            }
        }))
    }
}

/// The leading directions of a branch's delta; none where it is zero.
fn head<R: Number>(tensor: &Tensor<'_, R>, branch: usize, rank: usize) -> Result<Vec<Direction>> {
    let delta = linalg::branch(tensor, branch)?;
    if rank == 0 || delta.square() == 0.0 {
        return Ok(Vec::new());
    }
    let spectrum = Spectrum::of(&delta, tensor.name)?;
    let kept = spectrum.values.iter().take(rank).filter(|value| **value > 0.0).enumerate();
    let direction = |(k, &value): (usize, &f64)| {
        let near = spectrum.vectors.row(k).to_vec();
        let vector = Matrix { rows: 1, columns: near.len(), values: near.clone() };
        let far = if spectrum.left {
            linalg::product(Factor::Plain(&vector), Factor::Plain(&delta))?
        } else {
            linalg::product(Factor::Plain(&vector), Factor::Turned(&delta))?
        };
        let far: Vec<f64> = far.values.iter().map(|element| element / value).collect();
        let (left, right) = if spectrum.left { (near, far) } else { (far, near) };
        Ok(Direction { value, left, right })
    };
    kept.map(direction).collect()
}

/// Inner products of residuals, and of heads.
struct Grams {
    residuals: Gram,
    heads: Gram,
}

impl Grams {
    fn of<R: Number>(tensor: &Tensor<'_, R>, heads: &[Vec<Direction>]) -> Result<Self> {
        let count = heads.len();
        let deltas = gram::products(tensor)?;
        let crossed = crossed(tensor, heads)?;
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let both = |i: usize, j: usize| -> f64 {
            let pairs = heads[i].iter().flat_map(|a| heads[j].iter().map(move |b| (a, b)));
            pairs
                .map(|(a, b)| a.value * b.value * dot(&a.left, &b.left) * dot(&a.right, &b.right))
                .sum()
        };
        let upper = || (0..count).flat_map(|i| (i..count).map(move |j| (i, j)));
        let heads: Vec<f64> = upper().map(|(i, j)| both(i, j)).collect();
        let left =
            |i: usize, j: usize, both: f64| deltas.at(i, j) - crossed[i][j] - crossed[j][i] + both;
        // What is left of a delta that is all head is lost in rounding.
        let all_head = |i: usize| left(i, i, both(i, i)) <= 1e-12 * deltas.at(i, i);
        let lost: Vec<bool> = (0..count).map(all_head).collect();
        let residual = |((i, j), both): ((usize, usize), &f64)| {
            if lost[i] || lost[j] { 0.0 } else { left(i, j, *both) }
        };
        let residuals: Vec<f64> = upper().zip(&heads).map(residual).collect();
        Ok(Self { residuals: Gram::new(count, &residuals), heads: Gram::new(count, &heads) })
    }
}

/// ⟨delta i, head j⟩ of all branches.
fn crossed<R: Number>(tensor: &Tensor<'_, R>, heads: &[Vec<Direction>]) -> Result<Vec<Vec<f64>>> {
    let count = heads.len();
    let sums = statistics::sums(tensor, count * count, |sums, block| {
        for (row, range) in pieces(block, tensor.row_length) {
            let first =
                (block.start + range.start as u64) as usize - row * tensor.row_length as usize;
            for (j, head) in heads.iter().enumerate() {
                for one in head {
                    let right = &one.right[first..first + range.len()];
                    for i in 0..count {
                        let delta = &block.branch(i)[range.clone()];
                        let products = delta.iter().zip(right).map(|(d, v)| d.to_f64() * v);
                        sums[i * count + j][0] += one.value * one.left[row] * products.sum::<f64>();
                    }
                }
            }
        }
    })?;
    Ok(sums.chunks(count.max(1)).map(<[f64]>::to_vec).collect())
}

/// How much of each residual, and of each head, is added.
fn shares(gram: &Grams, parameters: &Parameters, known: bool) -> (Vec<f64>, Vec<f64>) {
    let residuals = &gram.residuals;
    let (ours, length) = consensus(residuals, parameters, known);
    let count = ours.len();
    let present: Vec<usize> = (0..count).filter(|&i| gram.heads.norm(i) > 0.0).collect();
    let agreement = match present.len() {
        0 => 0.0,
        1 => 1.0,
        _ => mean_of_pairs(&present, |i, j| gram.heads.cosine(i, j).max(0.0)),
    };
    let mean = vec![1.0 / count as f64; count];
    let norm = gram.heads.square(&mean).max(0.0).sqrt();
    let budget = parameters.number("head") * agreement * length;
    let theirs = if norm > 0.0 { budget / norm / count as f64 } else { 0.0 };
    (ours, vec![theirs; count])
}

fn mean_of_pairs(of: &[usize], value: impl Fn(usize, usize) -> f64) -> f64 {
    let pairs =
        of.iter().enumerate().flat_map(|(at, &i)| of[at + 1..].iter().map(move |&j| (i, j)));
    let count = of.len() * of.len().saturating_sub(1) / 2;
    if count == 0 { 1.0 } else { pairs.map(|(i, j)| value(i, j)).sum::<f64>() / count as f64 }
}

/// The shares of the residuals in their consensus, and its length.
fn consensus(residuals: &Gram, parameters: &Parameters, known: bool) -> (Vec<f64>, f64) {
    let count = parameters.branches.len();
    let n = count as f64;
    let norms: Vec<f64> = (0..count).map(|i| residuals.norm(i)).collect();
    let mean = || {
        let shares = vec![1.0 / n; count];
        let length = residuals.square(&shares).max(0.0).sqrt();
        (shares, length)
    };
    let unit: Vec<f64> =
        norms.iter().map(|norm| if *norm > 0.0 { 1.0 / norm } else { 0.0 }).collect();
    let together = residuals.square(&unit).max(0.0).sqrt();
    if together <= 1e-8 {
        return mean();
    }
    let along = residuals.times(&unit);
    let cosines = unit.iter().zip(&along).map(|(unit, along)| unit * along / together);
    let coherence = (cosines.sum::<f64>() / n).clamp(0.0, 1.0);
    // One residual alone is the mean too.
    if coherence <= (1.0 / n.sqrt()) * (1.0 + 1e-12) {
        return mean();
    }
    let all: Vec<usize> = (0..count).collect();
    let pairs = mean_of_pairs(&all, |i, j| residuals.cosine(i, j));
    let half = |x: f64| (0.5 * (x + 1.0)).clamp(0.0, 1.0);
    let score = if known { 0.5 * (half(pairs) + half(coherence)) } else { 0.0 };
    let [least, most] = ["beta_min", "beta_max"].map(|name| parameters.number(name));
    let beta = most - (most - least) * score;
    let power = Number::exp(beta * number::ln(coherence));
    let length = power * norms.iter().sum::<f64>() / n;
    (unit.iter().map(|unit| unit * length / together).collect(), length)
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::linalg::naive::svd;
    use crate::fit::properties::{Case, check_machine};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let (deltas, row) = (case.deltas(), case.row);
        let (n, all) = (deltas.len() as f64, deltas[0].len());
        let rank = case.parameters.number("rank") as usize;
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let norm = |a: &[f64]| dot(a, a).sqrt();
        let cosine = |a: &[f64], b: &[f64]| {
            let norms = norm(a) * norm(b);
            if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
        };
        let head = |d: &Vec<f64>| -> Vec<f64> {
            let (u, s, v) = svd(&d.chunks(row).map(<[f64]>::to_vec).collect::<Vec<_>>());
            let kept = rank.min(s.len()).min(row);
            let at = |e: usize| (0..kept).map(|k| u[k][e / row] * s[k] * v[k][e % row]).sum();
            (0..all).map(at).collect()
        };
        let heads: Vec<Vec<f64>> = deltas.iter().map(head).collect();
        let rest = |(d, h): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> {
            let rest: Vec<f64> = d.iter().zip(h).map(|(d, h)| d - h).collect();
            if norm(&rest) <= 1e-6 * norm(d) { vec![0.0; all] } else { rest }
        };
        let rests: Vec<Vec<f64>> = deltas.iter().zip(&heads).map(rest).collect();
        let mean = |of: &[Vec<f64>]| -> Vec<f64> {
            (0..all).map(|e| of.iter().map(|x| x[e]).sum::<f64>() / n).collect()
        };
        let mut sum = vec![0.0; all];
        for r in rests.iter().filter(|r| norm(r) > 0.0) {
            sum.iter_mut().zip(r).for_each(|(sum, x)| *sum += x / norm(r));
        }
        let pairs = |of: &[Vec<f64>], positive: bool| -> f64 {
            let mut cosines = Vec::new();
            for i in 0..of.len() {
                for j in i + 1..of.len() {
                    let c = cosine(&of[i], &of[j]);
                    cosines.push(if positive { c.max(0.0) } else { c });
                }
            }
            if cosines.is_empty() {
                1.0
            } else {
                cosines.iter().sum::<f64>() / cosines.len() as f64
            }
        };
        let coherence = (rests.iter().map(|r| cosine(r, &sum)).sum::<f64>() / n).clamp(0.0, 1.0);
        let backbone = if norm(&sum) <= 1e-8 || coherence <= (1.0 + 1e-12) / n.sqrt() {
            mean(&rests)
        } else {
            // The name of the tests' tensor is of no family.
            let length = coherence.powf(case.parameters.number("beta_max"))
                * rests.iter().map(|r| norm(r)).sum::<f64>()
                / n;
            sum.iter().map(|x| x / norm(&sum) * length).collect()
        };
        let present: Vec<Vec<f64>> = heads.iter().filter(|h| norm(h) > 0.0).cloned().collect();
        let agreement = if present.is_empty() { 0.0 } else { pairs(&present, true) };
        let middle = mean(&heads);
        let budget = case.parameters.number("head") * agreement * norm(&backbone);
        let factor = if norm(&middle) > 0.0 { budget / norm(&middle) } else { 0.0 };
        let scale = case.parameters.number("lambda");
        let add = |(a, h): (&f64, &f64)| scale * (a + factor * h);
        case.on_base(vec![backbone.iter().zip(&middle).map(add).collect()])
    }

    check_machine!(ResMerge, naive);
}
