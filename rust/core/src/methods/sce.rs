//! `sce`: select the elements on which the branches differ most, weigh the branches by how much they changed, erase what
//! goes against the majority.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::fit::group::{LANES, group, put};
use crate::fit::magnitude::sift_all;
use crate::fit::prelude::*;
use crate::fit::select::Seen;

/// See the module.
pub(super) struct Sce;

static SPEC: Spec = Spec {
    name: "sce",
    sentence: "keeps the elements on which the branches differ most, weighs branches by their changes, and drops minority signs",
    paper: "Wan et al., FuseChat: Knowledge fusion of chat models (SCE), arXiv 2408.07990",
    formula: "S = the ⌊select_topk·m⌋ elements of largest variance over the branches, of the m where it is not 0 (all where \
              select_topk is 1); d = x − b in S, else 0; w = Σ d² over the tensor, divided by the sum over the branches; \
              s = sign of Σ d (+ where it is 0); y = b + Σ w·d/Σ w over sign(d) = s",
    guide: Guide {
        detail: "It needs no weights: the branch that changed a tensor more counts more there.",
        when: "branches of one base with different strengths, as FuseO1 merged reasoning models (select_topk 1)",
        avoid: "one branch was simply trained longer: it will count most everywhere",
        example: "{\"select_topk\": 0.75}",
    },
    space: Space::Delta,
    grain: Grain::Tensor,
    base: Base::Required,
    parameters: &[
        Parameter {
            name: "select_topk",
            kind: Type::Number { low: 0.0, high: 1.0 },
            default: Some(Value::Number(1.0)),
            per: Per::Global,
            help: "share of the elements that is selected, of those on which the branches differ; 1 selects all",
        },
        Parameter {
            name: "floor",
            kind: Type::Number { low: 0.0, high: f64::MAX },
            default: Some(Value::Number(0.0)),
            per: Per::Global,
            help: "mean squares that sum to less count alike; 1e-6 is mergekit's, which most fine-tunes fall below",
        },
    ],
    differences: &[
        "weights do not depend on the size of the deltas; mergekit weighs branches alike where the mean squares of a tensor sum \
         to less than 1e-6, which is the case for most fine-tunes: `floor: 1e-6` does the same",
        "the selection is exact, and among equal variances at its end a hash of the element decides",
        "deltas in f32 and sums in f64 whatever the inputs' dtype",
    ],
    passes: |parameters, _| {
        let selected = parameters.number("select_topk");
        if selected > 0.0 && selected < 1.0 { 3 } else { 2 }
    },
    memory: |_, extent| select::memory(extent, 1, 1),
    ..USUAL
};

impl Method for Sce {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn fit<R: Number>(&self, tensor: &Tensor<'_, R>, parameters: &Parameters) -> Result<Fit<R>> {
        let count = tensor.branches();
        let selection = Selection::find(tensor, parameters.number("select_topk"))?;
        let sums = statistics::sums(tensor, count, |sums, block| {
            let chosen = selection.choose(block);
            for (i, sum) in sums.iter_mut().enumerate() {
                add_squares(sum, block.branch(i), &chosen);
            }
        })?;
        let (whole, elements) = (sums.iter().sum::<f64>(), tensor.elements.max(1) as f64);
        let alike = whole == 0.0 || whole / elements < parameters.number("floor");
        let weight = |sum: &f64| if alike { 1.0 / count as f64 } else { sum / whole };
        let weights: Vec<f64> = sums.iter().map(weight).collect();
        let growth = vec![1.0; count];
        let combine = Combine { weights, growth, vote: Vote::Plain, normalize: true, scale: 1.0 };
        Ok(Fit::new(move |block, out| {
            let deltas: Vec<&[R]> = (0..count).map(|i| block.branch(i)).collect();
            if matches!(selection, Selection::All) {
                return combine.apply(&deltas, out);
            }
            let chosen = selection.choose(block);
            let mut kept = vec![R::ZERO; count * block.length];
            for (kept, delta) in kept.chunks_mut(block.length).zip(deltas) {
                keep(delta, &chosen, kept);
            }
            combine.apply(&kept.chunks(block.length).collect::<Vec<_>>(), out);
        }))
    }
}

/// Which elements are selected.
enum Selection<R> {
    /// All.
    All,
    /// None.
    None,
    /// Those whose spread over so many branches is above the magnitude, or at it with a number in the stream of at most
    /// the order.
    Above { count: usize, spread: R, order: u32, stream: Stream },
}

impl<R: Number> Selection<R> {
    fn find(tensor: &Tensor<'_, R>, share: f64) -> Result<Self> {
        if share >= 1.0 {
            return Ok(Self::All);
        }
        let (count, stream) = (tensor.branches(), tensor.streams[0]);
        let push = |block: &Block<'_, R>, _: usize, keys: &mut Vec<R::Ranked>| {
            let spreads = spreads(block, count).into_iter().zip(block.start..);
            let differ = spreads.filter(|(spread, _)| *spread > R::ZERO);
            keys.extend(differ.map(|(spread, element)| spread.ranked(stream.order(element))));
        };
        // `select` says last how many elements differ; before that it guesses.
        let differing = AtomicU64::new(0);
        let wanted = |all: u64| (all as f64 * share) as u64;
        let ranks = |_: usize, all: u64| {
            differing.store(all, Ordering::Relaxed);
            vec![all - wanted(all)]
        };
        let count_all =
            |block: &Block<'_, R>, _: usize, seen: &mut Seen<R::Ranked>, _: &mut Vec<_>| {
                let spreads = spreads(block, count);
                let differing = spreads.iter().filter(|spread| **spread > R::ZERO).count();
                seen.all += differing as u64;
                for found in &mut seen.looks {
                    let before = found.between.len();
                    sift_all(found, stream, block.start, &spreads);
                    // Elements on which the branches agree are no candidates; they lie below all that are.
                    let mut fresh = found.between.split_off(before);
                    let between = fresh.len();
                    fresh.retain(|&key| R::from_key(R::of_ranked(key).0) > R::ZERO);
                    found.below -= (spreads.len() - differing - (between - fresh.len())) as u64;
                    found.between.append(&mut fresh);
                }
            };
        let cuts = select::select_by(tensor, 1, push, count_all, ranks)?;
        match cuts[0].first() {
            Some(cut) if wanted(differing.into_inner()) > 0 => {
                let (spread, order) = R::of_ranked(cut.key);
                Ok(Self::Above { count, spread: R::from_key(spread), order, stream })
            }
            _ => Ok(Self::None),
        }
    }

    /// One for each element of a block that is selected, zero for the others.
    fn choose(&self, block: &Block<'_, R>) -> Vec<R> {
        let one = R::from_f64(1.0);
        match *self {
            Self::All => vec![one; block.length],
            Self::None => vec![R::ZERO; block.length],
            Self::Above { count, spread, order, stream } => {
                let mut chosen = spreads(block, count);
                choose(spread, order, stream, block.start, &mut chosen);
                chosen
            }
        }
    }
}

/// The standard deviation over the branches of each element of a block; exactly 0 where they agree.
fn spreads<R: Number>(block: &Block<'_, R>, count: usize) -> Vec<R> {
    let branches: Vec<&[R]> = (0..count).map(|i| block.branch(i)).collect();
    let mut out = vec![R::ZERO; block.length];
    match branches[..] {
        [one, other] => halves(one, other, &mut out),
        _ => deviations(&branches, &mut out),
    }
    out
}

vectorised! {
    /// Turns spreads into ones and zeros.
    fn choose<R: Number>(spread: R, order: u32, stream: Stream, start: u64, chosen: &mut [R]) {
        for (chosen, element) in chosen.iter_mut().zip(start..) {
            let at_end = (*chosen == spread) & (stream.order(element) <= order);
            *chosen = if (*chosen > spread) | at_end { R::from_f64(1.0) } else { R::ZERO };
        }
    }
}

vectorised! {
    /// Half the distance: the deviation of two.
    fn halves<R: Number>(one: &[R], other: &[R], out: &mut [R]) {
        for ((out, one), other) in out.iter_mut().zip(one).zip(other) {
            *out = R::from_f64(0.5 * (one.to_f64() - other.to_f64()).abs());
        }
    }
}

vectorised! {
    fn deviations<R: Number>(branches: &[&[R]], out: &mut [R]) {
        let count = branches.len() as f64;
        for (number, out) in out.chunks_mut(LANES).enumerate() {
            let first = group(branches[0], number * LANES);
            let (mut mean, mut square) = ([0.0f64; LANES], [0.0f64; LANES]);
            for branch in &branches[1..] {
                let branch = group(branch, number * LANES);
                for lane in 0..LANES {
                    mean[lane] += branch[lane].to_f64() - first[lane].to_f64();
                }
            }
            for lane in 0..LANES {
                mean[lane] /= count;
            }
            for branch in branches {
                let branch = group(branch, number * LANES);
                for lane in 0..LANES {
                    let off = branch[lane].to_f64() - first[lane].to_f64() - mean[lane];
                    square[lane] += off * off;
                }
            }
            let mut spread = [R::ZERO; LANES];
            for lane in 0..LANES {
                spread[lane] = R::from_f64((square[lane] / count).sqrt());
            }
            put(&spread, out);
        }
    }
}

vectorised! {
    fn add_squares<R: Number>(sum: &mut statistics::Sum, delta: &[R], chosen: &[R]) {
        for at in (0..delta.len()).step_by(LANES) {
            let (delta, chosen) = (group(delta, at), group(chosen, at));
            for lane in 0..LANES {
                let delta = (delta[lane] * chosen[lane]).to_f64();
                sum[lane] += delta * delta;
            }
        }
    }
}

vectorised! {
    fn keep<R: Number>(delta: &[R], chosen: &[R], kept: &mut [R]) {
        for ((kept, &delta), &chosen) in kept.iter_mut().zip(delta).zip(chosen) {
            *kept = delta * chosen;
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
        let share = case.parameters.number("select_topk");
        let variance = |e: usize| {
            let mean = deltas.iter().map(|d| d[e]).sum::<f64>() / n;
            let square = deltas.iter().map(|d| (d[e] - mean).powi(2)).sum::<f64>() / n;
            if deltas.iter().all(|d| d[e] == deltas[0][e]) { 0.0 } else { square }
        };
        let variances: Vec<f64> = (0..all).map(variance).collect();
        // Among equals the element's number in the stream decides, and f32 makes some equal.
        let single = case.operands.iter().flatten().all(|&x| f64::from(x as f32) == x);
        let deviation = |v: f64| if single { f64::from(v.sqrt() as f32) } else { v.sqrt() };
        let mut differing: Vec<usize> = (0..all).filter(|&e| variances[e] > 0.0).collect();
        differing.sort_by(|&a, &b| {
            let orders = case.streams[0].order(a as u64).cmp(&case.streams[0].order(b as u64));
            deviation(variances[b]).total_cmp(&deviation(variances[a])).then(orders)
        });
        differing.truncate((differing.len() as f64 * share) as usize);
        let chosen: Vec<bool> = (0..all).map(|e| share >= 1.0 || differing.contains(&e)).collect();
        let square = |d: &Vec<f64>| -> f64 {
            d.iter().zip(&chosen).map(|(d, chosen)| if *chosen { d * d } else { 0.0 }).sum()
        };
        let squares: Vec<f64> = deltas.iter().map(square).collect();
        let whole: f64 = squares.iter().sum();
        let alike = whole == 0.0 || whole / (all as f64) < case.parameters.number("floor");
        let weight = |square: &f64| if alike { 1.0 / n } else { square / whole };
        let weights: Vec<f64> = squares.iter().map(weight).collect();
        let element = |e: usize, lost: f64| {
            let sum: f64 = deltas.iter().map(|d| d[e]).sum();
            let size: f64 = deltas.iter().map(|d| d[e].abs()).sum();
            let sign = if sum.abs() <= 1e-6 * size { lost } else { sum };
            let terms = weights.iter().zip(&deltas).map(|(w, d)| (*w, d[e]));
            let kept: Vec<(f64, f64)> = terms.filter(|(_, d)| d * sign > 0.0).collect();
            let share: f64 = kept.iter().map(|(w, _)| w).sum();
            let sum: f64 = kept.iter().map(|(w, d)| w * d).sum();
            if chosen[e] && share > 0.0 { sum / share } else { 0.0 }
        };
        case.on_base([1.0, -1.0].map(|lost| (0..all).map(|e| element(e, lost)).collect()).into())
    }

    check!(Sce, naive, "af287cff994eb548");
}
