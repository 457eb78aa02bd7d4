//! `cabs`: n of every m neighbouring elements of a delta, of those that no earlier branch has.

use super::parameters::{LAMBDA, WEIGHT};
use crate::fit::prelude::*;

/// See the module.
pub(super) struct Cabs;

static SPEC: Spec = Spec {
    name: "cabs",
    sentence: "keeps of each delta the n largest of every m neighbours that no earlier branch has taken, and adds them to the base",
    paper: "Yang et al., CABS: Conflict-aware and balanced sparsification, arXiv 2503.01874",
    formula: "in every m neighbours of a row, branch after branch, d keeps the n largest |x − b| of the elements that no branch before \
              has kept (⌈n·g/m⌉ of a last group of g); y = b + λ·Σ w·d",
    guide: Guide {
        detail: "No two branches change the same element, and what is kept is spread evenly over the rows.",
        when: "a few branches of one base that interfere; list the most important one first",
        avoid: "more branches than m/n: nothing is left for the later ones",
        example: "{\"weight\": [1.0, 1.0], \"n\": 1, \"m\": 2}",
    },
    space: Space::Delta,
    grain: Grain::Row,
    base: Base::Required,
    parameters: &[
        WEIGHT,
        Parameter {
            name: "n",
            kind: Type::Whole { low: 1.0, high: 65_536.0 },
            default: Some(Value::Number(64.0)),
            per: Per::Global,
            help: "how many of a group each branch keeps",
        },
        Parameter {
            name: "m",
            kind: Type::Whole { low: 1.0, high: 65_536.0 },
            default: Some(Value::Number(256.0)),
            per: Per::Global,
            help: "how many neighbours are a group",
        },
        LAMBDA,
    ],
    check,
    passes: |_, _| 2,
    memory: |_, extent| {
        // A worker's copies of a row, and a row's numbers.
        Marks::memory(extent, 0) + extent.workers * extent.row * (extent.number + 16)
    },
    ..USUAL
};

fn check(parameters: &Parameters) -> Result<()> {
    let (n, m) = (parameters.number("n"), parameters.number("m"));
    if n <= m {
        return Ok(());
    }
    let what = format!("`n` is {n} and `m` is {m}, expected at most m");
    Err(Error::recipe_with_hint(what, "the paper keeps 64 of 256"))
}

impl Method for Cabs {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        check(parameters)?;
        let (n, m) = (parameters.number("n") as usize, parameters.number("m") as usize);
        let branches = tensor.branches();
        let room = || (Vec::new(), Vec::new(), Vec::new());
        let (marks, _) = Marks::find(tensor, room, |(free, values, ranks), row, marks| {
            free.clear();
            free.resize(row.length() as usize, true);
            for branch in 0..branches {
                values.clear();
                row.sweep(|block| {
                    let numbered = block.branch(branch).iter().zip(block.start..);
                    let order = |element| tensor.streams[branch].order(element);
                    values.extend(numbered.map(|(value, element)| value.ranked(order(element))));
                })?;
                for first in (0..values.len()).step_by(m) {
                    let group = first..values.len().min(first + m);
                    let quota = (n * group.len()).div_ceil(m);
                    ranks.clear();
                    ranks.extend(group.filter(|&e| free[e]).map(|e| (values[e], e)));
                    let largest = ranks.len().saturating_sub(quota);
                    if largest > 0 {
                        ranks.select_nth_unstable(largest);
                    }
                    for &(_, element) in &ranks[largest..] {
                        free[element] = false;
                        marks.mark(branch, element);
                    }
                }
            }
            Ok(())
        })?;
        let growth = vec![1.0; branches];
        let (weights, scale) = (parameters.numbers("weight"), parameters.number("lambda"));
        let combine = Combine { weights, growth, vote: Vote::None, normalize: false, scale };
        sparse(tensor, combine, false, move |i, block, kept| marks.keep(i, block, kept))
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::fit::properties::{Case, check};

    fn naive(case: &Case<'_>) -> Vec<Vec<f64>> {
        let (n, m) = (case.parameters.number("n") as usize, case.parameters.number("m") as usize);
        let (deltas, weights) = (case.deltas(), case.parameters.numbers("weight"));
        let mut merged = vec![0.0; deltas[0].len()];
        let single = case.operands.iter().flatten().all(|&x| f64::from(x as f32) == x);
        for row in (0..merged.len()).step_by(case.row) {
            for first in (row..row + case.row).step_by(m) {
                let group = first..(row + case.row).min(first + m);
                let mut free: Vec<usize> = group.clone().collect();
                for (i, delta) in deltas.iter().enumerate() {
                    let size =
                        |e: usize| if single { f64::from(delta[e] as f32) } else { delta[e] };
                    // Among equals the smaller number of the stream.
                    free.sort_by(|&a, &b| {
                        let order = |e: usize| case.streams[i].order(e as u64);
                        size(b).abs().total_cmp(&size(a).abs()).then(order(a).cmp(&order(b)))
                    });
                    for e in free.drain(..free.len().min((n * group.len()).div_ceil(m))) {
                        merged[e] += case.parameters.number("lambda") * weights[i] * delta[e];
                    }
                }
            }
        }
        case.on_base(vec![merged])
    }

    check!(Cabs, naive, "a8e7ff976345e4a4");
}
