//! `pcb`: the elements of the deltas compete, within each branch and between branches; the winners' weighted mean is added.

use super::parameters::LAMBDA;
use crate::fit::prelude::*;

/// See the module.
pub(super) struct Pcb;

/// The share of a delta's elements that is cut to the size of the next one, at either end.
const EXTREME: f64 = 1e-4;

static SPEC: Spec = Spec {
    name: "pcb",
    sentence: "lets the elements of the deltas compete, within each branch and between branches, and adds the winners' weighted mean",
    paper: "Du et al., Parameter competition balancing for model merging, arXiv 2410.02396; per tensor instead of per model",
    formula: "d = x − b with |d| cut to its quantiles 0.0001 and 0.9999; a = (|d| − min|d|)/(max|d| − min|d|); \
              c = exp(n·a²)·tanh(δ·Σ δ) of n branches, δ = x − b; q the largest c but for ⌊ratio·elements⌋; \
              s = max(0, c − q)/(max c − q); y = b + λ·Σ s·d/Σ s",
    guide: Guide {
        detail: "An element wins by being large in its branch, and by having the sign that the branches together have.",
        when: "several branches of one base with strong interference",
        avoid: "a small ratio loses what is spread over many elements, such as style",
        example: "{\"ratio\": 0.5}",
    },
    space: Space::Delta,
    grain: Grain::Tensor,
    base: Base::Required,
    parameters: &[
        Parameter {
            name: "ratio",
            kind: Type::Number { low: 0.0, high: 1.0 },
            default: Some(Value::Number(0.1)),
            per: Per::Global,
            help: "share of each delta's elements that wins",
        },
        LAMBDA,
    ],
    passes: |_, _| 3,
    memory: |_, extent| select::memory(extent, extent.branches, 2),
    ..USUAL
};

impl Method for Pcb {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        let count = tensor.branches();
        let push = |block: &Block<'_, R>, lane: usize, keys: &mut Vec<R::Key>| {
            keys.extend(block.branch(lane).iter().map(|value| value.abs().key()));
        };
        let cuts = select::select(tensor, count, push, |_, all| extremes(all).to_vec())?;
        let size = |cut: &select::Cut<R::Key>| R::from_key(cut.key).to_f64();
        let ends = |cuts: &Vec<select::Cut<R::Key>>| match &cuts[..] {
            [low, high] => [size(low), size(high)],
            _ => [0.0; 2],
        };
        let mut arena = Arena { ends: cuts.iter().map(ends).collect(), scores: Vec::new() };
        let push = |block: &Block<'_, R>, lane: usize, keys: &mut Vec<u64>| {
            let mut scores = vec![0.0; block.length];
            arena.compete(lane, block.branch(lane), &sums(block, count), &mut scores);
            keys.extend(scores.iter().map(|score| score.key()));
        };
        let ratio = parameters.number("ratio");
        let winners = |_: usize, all: u64| {
            let losers = (all as f64 * (1.0 - ratio)) as u64;
            vec![losers.min(all.saturating_sub(1)), all.saturating_sub(1)]
        };
        let cuts = select::select(tensor, count, push, winners)?;
        let scores = |cuts: &Vec<select::Cut<u64>>| match &cuts[..] {
            [least, most] => [f64::from_key(least.key), f64::from_key(most.key)],
            _ => [0.0; 2],
        };
        arena.scores = cuts.iter().map(scores).collect();
        let scale = parameters.number("lambda");
        Ok(Fit::new(move |block: &Block<'_, R>, out: &mut [R]| {
            let sums = sums(block, count);
            let (mut won, mut shares) = (vec![0.0; block.length], vec![0.0; block.length]);
            let mut scores = vec![0.0; block.length];
            for i in 0..count {
                arena.compete(i, block.branch(i), &sums, &mut scores);
                win(
                    arena.ends[i],
                    arena.scores[i],
                    block.branch(i),
                    &scores,
                    &mut won,
                    &mut shares,
                );
            }
            divide(scale, &won, &shares, out);
        }))
    }
}

/// The ranks of the quantiles that sizes are cut to.
fn extremes(all: u64) -> [u64; 2] {
    let rank = |place: f64| (place.max(0.0) as u64).min(all.saturating_sub(1));
    [rank(all as f64 * EXTREME), rank(all as f64 * (1.0 - EXTREME) - 1.0)]
}

fn sums<R: Number>(block: &Block<'_, R>, count: usize) -> Vec<f64> {
    let mut sums = vec![0.0; block.length];
    for i in 0..count {
        sums.iter_mut().zip(block.branch(i)).for_each(|(sum, value)| *sum += value.to_f64());
    }
    sums
}

/// What is known of each branch.
struct Arena {
    /// The least and the greatest size of its delta.
    ends: Vec<[f64; 2]>,
    /// The score that wins nothing, and the greatest.
    scores: Vec<[f64; 2]>,
}

impl Arena {
    /// The scores of a branch's elements, given the sums of all branches' ones.
    fn compete<R: Number>(&self, i: usize, deltas: &[R], sums: &[f64], scores: &mut [f64]) {
        compete(self.ends.len() as f64, self.ends[i], deltas, sums, scores);
    }
}

/// A size between the least and the greatest of its branch.
#[inline(always)]
fn cut(size: f64, [low, high]: [f64; 2]) -> f64 {
    let size = if size < low { low } else { size };
    if size > high { high } else { size }
}

vectorised! {
    fn compete<R: Number>(branches: f64, ends: [f64; 2], deltas: &[R], sums: &[f64], scores: &mut [f64]) {
        let [low, high] = ends;
        let step = if high > low { 1.0 / (high - low) } else { 0.0 };
        for ((score, delta), &sum) in scores.iter_mut().zip(deltas).zip(sums) {
            let delta = delta.to_f64();
            let place = (cut(delta.abs(), ends) - low) * step;
            *score = Number::exp(branches * place * place) * number::tanh(delta * sum);
        }
    }
}

vectorised! {
    /// Adds what a branch wins, and its shares.
    fn win<R: Number>(ends: [f64; 2], scores_of: [f64; 2], deltas: &[R], scores: &[f64], won: &mut [f64], shares: &mut [f64]) {
        let [least, most] = scores_of;
        let step = if most > least { 1.0 / (most - least) } else { 0.0 };
        for (((won, shares), delta), &score) in won.iter_mut().zip(shares).zip(deltas).zip(scores) {
            let delta = delta.to_f64();
            let size = cut(delta.abs(), ends);
            let signed = if delta < 0.0 { -size } else { size };
            let signed = if delta == 0.0 { 0.0 } else { signed };
            let above = if score > least { score - least } else { 0.0 };
            *won += above * step * signed;
            *shares += above * step;
        }
    }
}

vectorised! {
    fn divide<R: Number>(scale: f64, won: &[f64], shares: &[f64], out: &mut [R]) {
        for ((out, &won), &shares) in out.iter_mut().zip(won).zip(shares) {
            let merged = scale * (won / if shares > 0.0 { shares } else { 1.0 });
            *out = R::from_f64(if shares > 0.0 { merged } else { 0.0 });
        }
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let deltas = case.deltas();
        let (n, all) = (deltas.len() as f64, deltas[0].len());
        let sorted = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values
        };
        let sum = |e: usize| deltas.iter().map(|d| d[e]).sum::<f64>();
        let compete = |delta: &Vec<f64>| -> (Vec<f64>, Vec<f64>) {
            let sizes = sorted(delta.iter().map(|d| d.abs()).collect());
            let low = sizes[(all as f64 * 1e-4) as usize];
            let high = sizes[((all as f64 * (1.0 - 1e-4) - 1.0).max(0.0)) as usize];
            let size: Vec<f64> = delta.iter().map(|d| d.abs().max(low).min(high)).collect();
            let place = |s: &f64| if high > low { (s - low) / (high - low) } else { 0.0 };
            let score = |e: usize| (n * place(&size[e]).powi(2)).exp() * (delta[e] * sum(e)).tanh();
            let scores: Vec<f64> = (0..all).map(score).collect();
            let ranked = sorted(scores.clone());
            let losers = (all as f64 * (1.0 - case.parameters.number("ratio"))) as usize;
            let (least, most) = (ranked[losers.min(all - 1)], ranked[all - 1]);
            let share =
                |s: &f64| if most > least { (s - least).max(0.0) / (most - least) } else { 0.0 };
            let signed =
                delta.iter().zip(size).map(|(d, s)| if *d == 0.0 { 0.0 } else { s * d.signum() });
            (signed.collect(), scores.iter().map(share).collect())
        };
        let all_of: Vec<(Vec<f64>, Vec<f64>)> = deltas.iter().map(compete).collect();
        let element = |e: usize| {
            let shares: f64 = all_of.iter().map(|(_, s)| s[e]).sum();
            let won: f64 = all_of.iter().map(|(d, s)| d[e] * s[e]).sum();
            case.parameters.number("lambda") * if shares > 0.0 { won / shares } else { 0.0 }
        };
        case.on_base(vec![(0..all).map(element).collect()])
    }

    check!(Pcb, naive, "7e77c52d0dd29712");
}
