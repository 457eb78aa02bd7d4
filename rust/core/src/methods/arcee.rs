//! `arcee`: take from a branch the elements that stand out, and keep the base elsewhere.

use super::parameters::ANY;
use crate::fit::prelude::*;

/// See the module.
pub(super) struct Arcee;

static SPEC: Spec = Spec {
    name: "arcee",
    aliases: &["arcee_fusion"],
    sentence: "takes from the branch the elements whose importance stands out, and keeps the base elsewhere",
    paper: "Arcee Fusion as in TinyR1, arXiv 2503.04872, and its released repository",
    formula: "K = KL(softmax(x row) ‖ softmax(b row)); I = |x − b|·K; T = median + threshold·(Q3 − Q1) of I over the tensor; \
              y = x where I ≥ T, else b",
    guide: Guide {
        detail: "An element's importance is how far it moved times how much its row's softmax diverged; what reaches the median plus 1.5 quartile ranges is taken.",
        when: "the base branch should stay what it is and gain from another branch of the same parent; most of its elements remain its own",
        avoid: "branches should count alike: the order decides. If most elements are equal the threshold is 0 (`quartiles: changed`)",
        example: "{}",
    },
    space: Space::Weights,
    grain: Grain::Row,
    base: Base::First,
    most: Some(1),
    folds: true,
    parameters: &[
        Parameter {
            name: "threshold",
            kind: ANY,
            default: Some(Value::Number(1.5)),
            per: Per::Global,
            help: "quartile ranges above the median from which an element is taken",
        },
        Parameter {
            name: "divergence",
            kind: Type::Choice(&["row", "tensor"]),
            default: Some(Value::Choice("row")),
            per: Per::Global,
            help: "row: one divergence a row, as released; tensor: one for all, as the paper writes, which leaves the difference alone to decide",
        },
        Parameter {
            name: "difference",
            kind: Type::Choice(&["absolute", "signed"]),
            default: Some(Value::Choice("absolute")),
            per: Per::Global,
            help: "absolute: |x − b|; signed: b − x, as the paper writes",
        },
        Parameter {
            name: "quartiles",
            kind: Type::Choice(&["all", "changed"]),
            default: Some(Value::Choice("all")),
            per: Per::Global,
            help: "over all elements, or over those that differ",
        },
        Parameter {
            name: "strict",
            kind: Type::Flag,
            default: Some(Value::Flag(false)),
            per: Per::Global,
            help: "take only what is above the threshold, not what is at it",
        },
    ],
    differences: &[
        "the divergence is computed in a well-conditioned form; mergekit's is decided by rounding for small deltas",
        "no 1e-8 is added to the probabilities (an effect of about 1e-4 of the divergence)",
        "quartiles are exact; mergekit samples tensors above a million elements",
        "a taken element has the branch's bits, the others the base's, in the base's dtype; mergekit writes f32",
        "more than two models are folded from the right",
    ],
    // One sweep for the rows, one for the quartiles, and the kernel.
    passes: |parameters, _| 2 + u64::from(parameters.choice("divergence") == "row"),
    memory: |_, extent| {
        // A factor a row, in double precision while it is found.
        let factors = if extent.row > 1 { extent.rows() * 3 * 8 } else { 0 };
        factors + select::memory(extent, 1, 3)
    },
    ..USUAL
};

/// The quartiles, as shares of the order: Q1, the median, Q3.
const QUARTILES: [u64; 3] = [1, 2, 3];

/// How importance is measured: a factor a row, the kind of difference.
struct Importance<R> {
    /// One a row, scaled by a power of two so that the largest is near 1; a single one counts for all rows.
    factors: Vec<R>,
    row_length: u64,
    signed: bool,
}

impl Method for Arcee {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        let by_row = parameters.choice("divergence") == "row";
        let divergences = if by_row { row_divergences(tensor)? } else { vec![1.0] };
        let largest = divergences.iter().copied().fold(0.0, f64::max);
        let unit = power_of_two_near(largest);
        let importance = Importance {
            factors: divergences.iter().map(|&k| R::from_f64(k / unit)).collect(),
            row_length: tensor.row_length,
            signed: parameters.choice("difference") == "signed",
        };
        drop(divergences);
        let changed_only = parameters.choice("quartiles") == "changed";
        let push = |block: &Block<'_, R>, _: usize, keys: &mut Vec<R::Key>| {
            let mut scores = vec![R::ZERO; block.length];
            importance.score(block, &mut scores);
            if changed_only {
                let pairs = block.base().iter().zip(block.branch(0));
                let changed = scores.iter().zip(pairs).filter(|(_, (base, branch))| base != branch);
                keys.extend(changed.map(|(score, _)| score.key()));
            } else {
                keys.extend(scores.iter().map(|score| score.key()));
            }
        };
        let ranks =
            |_: usize, all: u64| QUARTILES.map(|quarter| quarter_rank(quarter, all)).to_vec();
        let cuts = select::select(tensor, 1, push, ranks)?;
        let quartile = |at: usize| cuts[0].get(at).map_or(0.0, |cut| R::from_key(cut.key).to_f64());
        let [first, median, third] = [0, 1, 2].map(quartile);
        let threshold = median + parameters.number("threshold") * (third - first);
        let mut figures = Figures { takes: true, ..Figures::default() };
        figures.numbers.push(("threshold", threshold * unit));
        if threshold == 0.0 && tensor.elements > 0 {
            let how = if parameters.flag("strict") { "above" } else { "at or above" };
            figures.warnings.push(format!(
                "the threshold is 0 and every element {how} it is taken; `quartiles: changed` looks only at what differs"
            ));
        }
        Ok(Fit { kernel: kernel(importance, threshold, parameters.flag("strict")), figures })
    }
}

fn kernel<R: Number>(importance: Importance<R>, threshold: f64, strict: bool) -> Kernel<R> {
    // Scores are such numbers themselves, so that one comparison decides either way.
    let least = if strict { R::round_down(threshold).successor() } else { R::round_up(threshold) };
    Box::new(move |block, out| {
        importance.score(block, out);
        take(least, block.base(), block.branch(0), out)
    })
}

/// ⌊q·(n − 1)⌋ for q in quarters.
fn quarter_rank(quarter: u64, all: u64) -> u64 {
    (u128::from(all.saturating_sub(1)) * u128::from(quarter) / 4) as u64
}

/// The power of two below a positive number; 1 for zero.
fn power_of_two_near(value: f64) -> f64 {
    if value > 0.0 && value.is_normal() {
        f64::from_bits(value.to_bits() & 0x7ff0_0000_0000_0000)
    } else {
        1.0
    }
}

impl<R: Number> Importance<R> {
    /// The importance of a block's elements, in units of the largest factor.
    fn score(&self, block: &Block<'_, R>, out: &mut [R]) {
        let (base, branch) = (block.base(), block.branch(0));
        if let [factor] = self.factors[..] {
            return score(factor, self.signed, base, branch, out);
        }
        let mut at = 0;
        while at < block.length {
            let element = block.start + at as u64;
            let row = element / self.row_length;
            let end = (((row + 1) * self.row_length - block.start) as usize).min(block.length);
            let factor = self.factors[row as usize];
            score(factor, self.signed, &base[at..end], &branch[at..end], &mut out[at..end]);
            at = end;
        }
    }
}

vectorised! {
    fn score<R: Number>(factor: R, signed: bool, base: &[R], branch: &[R], out: &mut [R]) {
        if signed {
            for ((out, &base), &branch) in out.iter_mut().zip(base).zip(branch) {
                *out = (base - branch) * factor;
            }
        } else {
            for ((out, &base), &branch) in out.iter_mut().zip(base).zip(branch) {
                *out = (branch - base).abs() * factor;
            }
        }
    }
}

vectorised! {
    /// Puts the branch's element where the score in `out` is at least `least`, else the base's; returns how many it took.
    fn take<R: Number>(least: R, base: &[R], branch: &[R], out: &mut [R]) -> u64 {
        let mut taken = 0u32;
        for ((out, &base), &branch) in out.iter_mut().zip(base).zip(branch) {
            let takes = *out >= least;
            *out = if takes { branch } else { base };
            taken += u32::from(takes);
        }
        u64::from(taken)
    }
}

/// KL(softmax(branch) ‖ softmax(base)) of every row.
///
/// With d = branch − base less its mean under softmax(base), φ(d) = d·e^d − (e^d − 1), E = Σ q·(e^d − 1) and A = Σ q·φ(d):
/// KL = A/(1 + E) + u + ln(1 − u), u = E/(1 + E). For small d both are series, so that nothing near-equal is subtracted.
fn row_divergences<R: Number>(tensor: &Tensor<'_, R>) -> Result<Vec<f64>> {
    if tensor.row_length == 1 {
        // The softmax of one element is 1.
        return Ok(vec![0.0]);
    }
    tensor.each_row(|row| {
        let (mut highest, mut widest) = (R::from_f64(f64::MIN), R::ZERO);
        row.sweep(|block| extremes(&mut highest, &mut widest, block.base(), block.branch(0)))?;
        let (mut weight, mut shift) = ([0.0; 16], [0.0; 16]);
        row.sweep(|block| {
            moments(&mut weight, &mut shift, highest, block.base(), block.branch(0));
        })?;
        let weight = statistics::total(&weight);
        let mean = R::from_f64(statistics::total(&shift) / weight);
        // No |d| is larger.
        let widest = widest.to_f64() + mean.abs().to_f64();
        if widest > FAR {
            return far_divergence(row, highest);
        }
        let (mut grown, mut curved) = ([0.0; 16], [0.0; 16]);
        row.sweep(|block| {
            let (base, branch) = (block.base(), block.branch(0));
            if widest < NEAR {
                near_terms(&mut grown, &mut curved, highest, mean, base, branch);
            } else {
                wide_terms(&mut grown, &mut curved, highest, mean, base, branch);
            }
        })?;
        let (grown, curved) =
            (statistics::total(&grown) / weight, statistics::total(&curved) / weight);
        let u = grown / (1.0 + grown);
        Ok((curved / (1.0 + grown) + number::u_plus_ln_one_minus(u)).max(0.0))
    })
}

/// Differences below this are evaluated by series.
const NEAR: f64 = 0.5;
/// Beyond this the divergence is no small difference of large terms, and its definition does.
const FAR: f64 = 20.0;

vectorised! {
    fn maximum<R: Number>(so_far: R, values: &[R]) -> R {
        let mut lanes = [so_far; 16];
        for group in values.chunks(16) {
            for (lane, &value) in lanes.iter_mut().zip(group) {
                *lane = if value > *lane { value } else { *lane };
            }
        }
        lanes.into_iter().fold(so_far, |most, lane| if lane > most { lane } else { most })
    }
}

vectorised! {
    /// The largest base element, and the largest |branch − base|.
    fn extremes<R: Number>(highest: &mut R, widest: &mut R, base: &[R], branch: &[R]) {
        let (mut high, mut wide) = ([*highest; 16], [*widest; 16]);
        let mut see = |lane: usize, base: R, branch: R| {
            let d = (branch - base).abs();
            high[lane] = if base > high[lane] { base } else { high[lane] };
            wide[lane] = if d > wide[lane] { d } else { wide[lane] };
        };
        let (bases, branches) = (base.as_chunks::<16>(), branch.as_chunks::<16>());
        for (base, branch) in bases.0.iter().zip(branches.0) {
            for lane in 0..16 {
                see(lane, base[lane], branch[lane]);
            }
        }
        for (lane, (&base, &branch)) in bases.1.iter().zip(branches.1).enumerate() {
            see(lane, base, branch);
        }
        for lane in 0..16 {
            *highest = if high[lane] > *highest { high[lane] } else { *highest };
            *widest = if wide[lane] > *widest { wide[lane] } else { *widest };
        }
    }
}

/// Adds what `$terms` makes of each element's (base, branch) to two sums. Eight neighbours in a lane are first added in
/// the terms' own precision: their rounding is below the terms' own.
macro_rules! two_sums {
    ($(#[$doc:meta])* fn $name:ident($($extra:ident),*) -> $precision:ty |$base:ident, $branch:ident| $terms:expr) => {
        vectorised! {
            $(#[$doc])*
            fn $name<R: Number>(
                first: &mut statistics::Sum,
                second: &mut statistics::Sum,
                $($extra: R,)*
                base: &[R],
                branch: &[R],
            ) {
                for (base, branch) in base.chunks(8 * 16).zip(branch.chunks(8 * 16)) {
                    let nothing = [<$precision>::ZERO; 16];
                    let (mut one, mut other) = (nothing, nothing);
                    let (bases, branches) = (base.as_chunks::<16>(), branch.as_chunks::<16>());
                    for (base, branch) in bases.0.iter().zip(branches.0) {
                        for lane in 0..16 {
                            let ($base, $branch) = (base[lane], branch[lane]);
                            let terms = $terms;
                            one[lane] += terms.0;
                            other[lane] += terms.1;
                        }
                    }
                    for (lane, (&$base, &$branch)) in bases.1.iter().zip(branches.1).enumerate() {
                        let terms = $terms;
                        one[lane] += terms.0;
                        other[lane] += terms.1;
                    }
                    for lane in 0..16 {
                        first[lane] += one[lane].to_f64();
                        second[lane] += other[lane].to_f64();
                    }
                }
            }
        }
    };
}

two_sums! {
    /// Σ w and Σ w·(branch − base), w = e^(base − highest).
    fn moments(highest) -> R |base, branch| {
        let weight = (base - highest).exp();
        (weight, weight * (branch - base))
    }
}

two_sums! {
    /// Σ w·(e^d − 1) and Σ w·φ(d), for |d| below [`NEAR`].
    fn near_terms(highest, mean) -> R |base, branch| {
        let weight = (base - highest).exp();
        let (grown, curved) = (branch - base - mean).small_exp_terms();
        (weight * grown, weight * curved)
    }
}

two_sums! {
    /// The same for any d up to [`FAR`].
    fn wide_terms(highest, mean) -> f64 |base, branch| {
        let weight = (base - highest).exp().to_f64();
        let d = branch - base - mean;
        let (grown, curved) = if d.abs().to_f64() < NEAR {
            let (grown, curved) = d.small_exp_terms();
            (grown.to_f64(), curved.to_f64())
        } else {
            let d = d.to_f64();
            let grown = Number::exp(d) - 1.0;
            (grown, d * (grown + 1.0) - grown)
        };
        (weight * grown, weight * curved)
    }
}

/// The definition: Σ p·(branch − base) − (ln Σ e^branch − ln Σ e^base).
fn far_divergence<R: Number>(row: &mut Row<'_, '_, R>, highest: R) -> Result<f64> {
    let mut branch_highest = R::from_f64(f64::MIN);
    row.sweep(|block| branch_highest = maximum(branch_highest, block.branch(0)))?;
    let (base_top, branch_top) = (highest.to_f64(), branch_highest.to_f64());
    let (mut base_sum, mut branch_sum, mut shift) = (0.0, 0.0, 0.0);
    row.sweep(|block| {
        for (&base, &branch) in block.base().iter().zip(block.branch(0)) {
            let (base, branch) = (base.to_f64(), branch.to_f64());
            let p = Number::exp(branch - branch_top);
            base_sum += Number::exp(base - base_top);
            branch_sum += p;
            shift += p * (branch - base);
        }
    })?;
    let logarithms = number::ln(branch_sum) + branch_top - number::ln(base_sum) - base_top;
    Ok((shift / branch_sum - logarithms).max(0.0))
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let (base, branch) = (&case.operands[0], &case.operands[1]);
        let softmax = |row: &[f64]| -> Vec<f64> {
            let highest = row.iter().copied().fold(f64::MIN, f64::max);
            let grown: Vec<f64> = row.iter().map(|x| (x - highest).exp()).collect();
            let sum: f64 = grown.iter().sum();
            grown.iter().map(|x| x / sum).collect()
        };
        let divergence = |(branch, base): (&[f64], &[f64])| -> f64 {
            let (p, q) = (softmax(branch), softmax(base));
            p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum()
        };
        let by_row = case.parameters.choice("divergence") == "row";
        let rows = branch.chunks(case.row).zip(base.chunks(case.row));
        let divergences: Vec<f64> =
            rows.map(|row| if by_row { divergence(row) } else { 1.0 }).collect();
        let signed = case.parameters.choice("difference") == "signed";
        let importance = |e: usize| {
            let difference = base[e] - branch[e];
            divergences[e / case.row] * if signed { difference } else { difference.abs() }
        };
        let importances: Vec<f64> = (0..base.len()).map(importance).collect();
        let changed = case.parameters.choice("quartiles") == "changed";
        let counted = (0..base.len()).filter(|&e| !changed || base[e] != branch[e]);
        let mut sorted: Vec<f64> = counted.map(|e| importances[e]).collect();
        sorted.sort_by(f64::total_cmp);
        let quartile =
            |q: usize| sorted.get(sorted.len().saturating_sub(1) * q / 4).copied().unwrap_or(0.0);
        let middle = quartile(2);
        let threshold = middle + case.parameters.number("threshold") * (quartile(3) - quartile(1));
        let result = |near_is_taken: bool| {
            let element = |e: usize| {
                let (importance, strict) = (importances[e], case.parameters.flag("strict"));
                let near = (importance - threshold).abs()
                    <= 1e-4 * (middle.abs() + threshold.abs() + importance.abs()) + 1e-12;
                let taken = if strict { importance > threshold } else { importance >= threshold };
                if near && near_is_taken || !near && taken { branch[e] } else { base[e] }
            };
            (0..base.len()).map(element).collect()
        };
        vec![result(false), result(true)]
    }

    check!(Arcee, naive, "745c650a9ea906ea");
}
