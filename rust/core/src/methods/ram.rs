//! `ram` and `ramplus_tl`: what one branch alone changed is taken in full (the second: grown a little), what several
//! changed is their mean. Two methods in one file: they share all but the growth.

use crate::fit::group::{LANES, group, put};
use crate::fit::prelude::*;

/// What one branch changed counts once.
pub(super) struct Ram;
/// What one branch changed grows with how much else it changed together with others.
pub(super) struct RamPlus;

const EPSILON: Parameter = Parameter {
    name: "epsilon",
    kind: Type::Number { low: 0.0, high: f64::MAX },
    default: Some(Value::Number(1e-5)),
    per: Per::Global,
    help: "an element is changed where it differs from the base by more",
};

const DIFFERENCES: &[&str] =
    &["an element that one branch alone changed has that branch's bits; sums in f64, rounded once"];

const PAPER: &str = "Behavior-aware merging of RL agents (RAM), arXiv 2601.13572";

static RAM: Spec = Spec {
    name: "ram",
    sentence: "takes in full what one branch alone changed, and the mean of what several changed",
    paper: PAPER,
    formula: "A = branches with |x − b| > epsilon; y = b + Σ_A (x − b)/|A|, b where A is empty",
    guide: Guide {
        detail: "Elements that nobody changed by more than epsilon stay the base's.",
        when: "sparse updates, as of reinforcement learning, that touch different elements",
        avoid: "dense fine-tunes: everything is shared, and it is the mean",
        example: "{\"epsilon\": 0.015}",
    },
    space: Space::Weights,
    grain: Grain::Element,
    base: Base::Required,
    parameters: &[EPSILON],
    differences: DIFFERENCES,
    ..USUAL
};

static PLUS: Spec = Spec {
    name: "ramplus_tl",
    sentence: "takes what one branch alone changed, grown by how much else it shares, and the mean of what several changed",
    paper: PAPER,
    formula: "A = branches with |x − b| > epsilon; of each branch, over the tensor, shared and unique count the elements \
              where it is in A with others and alone; y = b + (1 + r·min(shared/unique, alpha))·(x − b) where it is alone, \
              b + Σ_A (x − b)/|A| elsewhere",
    guide: Guide {
        detail: "Shared elements lose strength in their mean; the growth of the unique ones makes up for it.",
        when: "sparse updates, as of reinforcement learning, that partly overlap",
        avoid: "dense fine-tunes: everything is shared, and it is the mean",
        example: "{\"epsilon\": 0.015}",
    },
    space: Space::Weights,
    grain: Grain::Tensor,
    base: Base::Required,
    parameters: &[
        EPSILON,
        Parameter {
            name: "r",
            kind: Type::Number { low: 0.0, high: f64::MAX },
            default: Some(Value::Number(0.1)),
            per: Per::Global,
            help: "how much what is unique grows with the share of what is not",
        },
        Parameter {
            name: "alpha",
            kind: Type::Number { low: 0.0, high: f64::MAX },
            default: Some(Value::Number(0.2)),
            per: Per::Global,
            help: "the share beyond which it grows no more",
        },
    ],
    differences: DIFFERENCES,
    passes: |_, _| 2,
    ..USUAL
};

impl Method for Ram {
    fn spec(&self) -> &'static Spec {
        &RAM
    }
    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        Ok(fit(vec![1.0; tensor.branches()], parameters.number("epsilon")))
    }
}

impl Method for RamPlus {
    fn spec(&self) -> &'static Spec {
        &PLUS
    }
    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        let count = tensor.branches();
        let epsilon = parameters.number("epsilon");
        let parts = tensor.gather(
            || vec![[0u64; 2]; count],
            |counts, block| {
                let branches: Vec<&[R]> = (0..count).map(|i| block.branch(i)).collect();
                tally(epsilon, block.base(), &branches, counts);
            },
        )?;
        let grown = |i: usize| {
            let [shared, unique] =
                [0, 1].map(|kind| parts.iter().map(|part| part[i][kind]).sum::<u64>());
            let share = shared as f64 / unique.max(1) as f64;
            1.0 + parameters.number("r") * share.min(parameters.number("alpha"))
        };
        Ok(fit((0..count).map(grown).collect(), epsilon))
    }
}

fn fit<R: Number>(growth: Vec<f64>, epsilon: f64) -> Fit<R> {
    Fit::new(move |block, out| {
        let branches: Vec<&[R]> = (0..growth.len()).map(|i| block.branch(i)).collect();
        merge(epsilon, &growth, block.base(), &branches, out);
    })
}

vectorised! {
    /// Counts, for each branch, the elements that it changed together with others, and alone.
    fn tally<R: Number>(epsilon: f64, base: &[R], branches: &[&[R]], counts: &mut [[u64; 2]]) {
        for at in (0..base.len()).step_by(LANES) {
            let start = group(base, at);
            let mut active = [0u32; LANES];
            for branch in branches {
                let branch = group(branch, at);
                for lane in 0..LANES {
                    active[lane] += u32::from((branch[lane].to_f64() - start[lane].to_f64()).abs() > epsilon);
                }
            }
            for (counts, branch) in counts.iter_mut().zip(branches) {
                let branch = group(branch, at);
                let (mut shared, mut unique) = (0u32, 0u32);
                for lane in 0..LANES {
                    let changed = u32::from((branch[lane].to_f64() - start[lane].to_f64()).abs() > epsilon);
                    shared += changed & u32::from(active[lane] > 1);
                    unique += changed & u32::from(active[lane] == 1);
                }
                counts[0] += u64::from(shared);
                counts[1] += u64::from(unique);
            }
        }
    }
}

vectorised! {
    fn merge<R: Number>(epsilon: f64, growth: &[f64], base: &[R], branches: &[&[R]], out: &mut [R]) {
        for (number, out) in out.chunks_mut(LANES).enumerate() {
            let start = group(base, number * LANES);
            let (mut active, mut sum, mut alone) = ([0.0f64; LANES], [0.0f64; LANES], start);
            for (&growth, branch) in growth.iter().zip(branches) {
                let branch = group(branch, number * LANES);
                for lane in 0..LANES {
                    let delta = branch[lane].to_f64() - start[lane].to_f64();
                    let grown = R::from_f64(start[lane].to_f64() + growth * delta);
                    let grown = if growth == 1.0 { branch[lane] } else { grown };
                    let changed = delta.abs() > epsilon;
                    active[lane] += if changed { 1.0 } else { 0.0 };
                    sum[lane] += if changed { delta } else { 0.0 };
                    alone[lane] = if changed { grown } else { alone[lane] };
                }
            }
            let mut merged = [R::ZERO; LANES];
            for lane in 0..LANES {
                let mean = R::from_f64(start[lane].to_f64() + sum[lane] / active[lane]);
                // Adding +0 to −0 would lose the base's sign.
                let mean = if sum[lane] == 0.0 { start[lane] } else { mean };
                merged[lane] = if active[lane] > 1.0 { mean } else { alone[lane] };
            }
            put(&merged, out);
        }
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>, growth: impl Fn(usize, usize) -> f64) -> Vec<Vec<f64>> {
        let deltas = case.deltas();
        let epsilon = case.parameters.number("epsilon");
        let active = |e: usize| -> Vec<usize> {
            (0..deltas.len()).filter(|&i| deltas[i][e].abs() > epsilon).collect()
        };
        let all: Vec<Vec<usize>> = (0..deltas[0].len()).map(active).collect();
        let of = |e: usize| match &all[e][..] {
            [] => 0.0,
            [i] => {
                let shared = all.iter().filter(|a| a.len() > 1 && a.contains(i)).count();
                let unique = all.iter().filter(|a| a[..] == [*i]).count();
                growth(shared, unique) * deltas[*i][e]
            }
            several => several.iter().map(|&i| deltas[i][e]).sum::<f64>() / several.len() as f64,
        };
        case.on_base(vec![(0..all.len()).map(of).collect()])
    }

    mod plain {
        use super::*;
        check!(Ram, |case| naive(case, |_, _| 1.0), "24098ef2f71a35fe");
    }

    mod plus {
        use super::*;

        fn grown(case: &Case<'_>) -> Vec<Vec<f64>> {
            let (r, alpha) = (case.parameters.number("r"), case.parameters.number("alpha"));
            naive(case, |shared, unique| 1.0 + r * (shared as f64 / unique as f64).min(alpha))
        }
        check!(RamPlus, grown, "ae0aaa81966ba6cf");
    }
}
