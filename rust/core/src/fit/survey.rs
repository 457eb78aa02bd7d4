//! What a merge must know of the whole model before any tensor is fitted: how much each branch weighs, or at which
//! magnitude it is cut. Every tensor is looked at, as often as the question needs.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value as Json, json};

use crate::error::Result;
use crate::fit::magnitude::Quota;
use crate::fit::method::Space;
use crate::fit::number::Number;
use crate::fit::parameters::{Cut, Parameters, Value};
use crate::fit::statistics::{self, Sum};
use crate::fit::tensor::{Block, Tensor};
use crate::parallel::lock;

/// How the weights of the branches follow from their norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// By the inverse norm of what each branch brings: 1/|x|, divided by the sum of all (NAN: Si et al., arXiv 2505.16148).
    Nan,
    /// By the squared norm of its delta: |x − b|², divided by the sum of all (`MetaGPT`: Zhou et al., arXiv 2406.11385).
    MetaGpt,
}

impl Balance {
    /// The words of recipes.
    pub const WORDS: [(&'static str, Self); 2] = [("nan", Self::Nan), ("metagpt", Self::MetaGpt)];

    /// As a recipe writes it.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::WORDS[usize::from(self == Self::MetaGpt)].0
    }

    /// The weights that follow from the squared norms. A branch of norm 0 changes nothing, and weighs nothing.
    fn weights(self, squares: &[f64]) -> Vec<f64> {
        let weigh = |&square: &f64| match self {
            Self::MetaGpt => square,
            Self::Nan if square > 0.0 => 1.0 / square.sqrt(),
            Self::Nan => 0.0,
        };
        let weights: Vec<f64> = squares.iter().map(weigh).collect();
        let sum: f64 = weights.iter().sum();
        let even = 1.0 / squares.len() as f64;
        weights.iter().map(|weight| if sum > 0.0 { weight / sum } else { even }).collect()
    }
}

/// What is asked of the whole model.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// What each branch weighs.
    Weights(Balance),
    /// Where each branch is cut, so that such a share of its elements is kept.
    Cuts(Vec<f64>),
}

impl Question {
    /// How often every element is read for the answer, at most.
    #[must_use]
    pub fn sweeps(&self) -> u64 {
        match self {
            Self::Weights(_) => 1,
            Self::Cuts(_) => SHIFTS.len() as u64,
        }
    }

    /// What the answer takes of memory, with so many workers.
    #[must_use]
    pub fn memory(&self, workers: u64) -> u64 {
        match self {
            Self::Weights(_) => 0,
            Self::Cuts(shares) => shares.len() as u64 * (workers + 1) * (8 << DIGIT),
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// What each branch weighs.
    Weights(Vec<f64>),
    /// Where each branch is cut.
    Cuts(Vec<Cut>),
}

impl Answer {
    /// Gives it to the parameters of a merge of some of the branches.
    pub fn apply(&self, parameters: &mut Parameters, branches: &[usize]) {
        match self {
            Self::Weights(weights) => {
                for (own, &branch) in parameters.branches.iter_mut().zip(branches) {
                    own.insert("weight", Value::Number(weights[branch]));
                }
            }
            Self::Cuts(cuts) => {
                parameters.cuts = branches.iter().map(|&branch| cuts[branch]).collect();
            }
        }
    }

    /// As the result tells it.
    #[must_use]
    pub fn describe(&self) -> Json {
        let cut = |cut: &Cut| match cut {
            Cut::All => json!(0.0),
            Cut::None => Json::Null,
            Cut::At { magnitude, .. } => json!(magnitude),
        };
        match self {
            Self::Weights(weights) => json!({ "weight": weights }),
            Self::Cuts(cuts) => json!({ "cut": cuts.iter().map(cut).collect::<Vec<_>>() }),
        }
    }
}

/// The bits of a digit.
const DIGIT: u32 = 16;
/// Where the digits begin of a key: the bits of a magnitude, and below them 32 of the number among equals. Magnitudes in
/// single precision lack the first two.
const SHIFTS: [u32; 6] = [79, 63, 47, 32, 16, 0];
/// Where the magnitude begins in a key.
const ORDER: u32 = 32;

/// A question under way: every tensor is shown to it, then it answers or asks to see them again.
#[derive(Debug)]
pub struct Survey {
    question: Question,
    /// Whether magnitudes are those of double precision.
    double: bool,
    searches: Vec<Search>,
    seen: Mutex<Seen>,
}

/// How far the search for a branch's cut is.
#[derive(Clone, Debug)]
struct Search {
    share: f64,
    /// The digits that are known, as the upper bits of a key.
    known: u128,
    /// How many of those that share the known digits are kept; none until all elements are counted.
    rank: Option<u64>,
    /// Where the next digit begins; none once the cut is found.
    shift: Option<u32>,
    cut: Cut,
}

/// What one round saw.
#[derive(Debug, Default)]
struct Seen {
    /// The squared norms of each branch in each tensor: they are added up in the order of the tensors.
    squares: BTreeMap<usize, Vec<f64>>,
    /// How many elements of each branch have each digit.
    counts: Vec<Vec<u64>>,
}

impl Survey {
    /// A question about so many branches; `double` where a tensor is computed in double precision.
    #[must_use]
    pub fn new(question: &Question, branches: usize, double: bool) -> Self {
        let shares = match question {
            Question::Weights(_) => Vec::new(),
            Question::Cuts(shares) => shares.clone(),
        };
        let first = SHIFTS[if double { 0 } else { 2 }];
        let search = |share: f64| Search {
            share,
            known: 0,
            rank: None,
            shift: (share > 0.0 && share < 1.0).then_some(first),
            cut: if share > 0.0 { Cut::All } else { Cut::None },
        };
        let searches: Vec<Search> = shares.into_iter().map(search).collect();
        let survey = Self { question: question.clone(), double, searches, seen: Mutex::default() };
        survey.forget(branches);
        survey
    }

    fn forget(&self, branches: usize) {
        let mut seen = lock(&self.seen);
        seen.squares.clear();
        let empty = if self.searches.is_empty() { 0 } else { 1 << DIGIT };
        seen.counts = vec![vec![0; empty]; branches];
    }

    /// Looks at a tensor, the `at`th of the model, in which only the branches `present` take part.
    pub fn look<R: Number>(
        &self,
        at: usize,
        tensor: &Tensor<'_, R>,
        present: &[usize],
    ) -> Result<()> {
        if let Question::Weights(balance) = self.question {
            let squares = squares(tensor, balance)?;
            let mut all = vec![0.0; lock(&self.seen).counts.len()];
            present.iter().zip(squares).for_each(|(&branch, square)| all[branch] = square);
            lock(&self.seen).squares.insert(at, all);
            return Ok(());
        }
        let searched: Vec<(usize, usize)> = present
            .iter()
            .copied()
            .enumerate()
            .filter(|&(_, branch)| self.searches[branch].shift.is_some())
            .collect();
        let parts = tensor.gather(
            || vec![vec![0; 1 << DIGIT]; searched.len()],
            |counts, block| {
                for (counts, &(i, branch)) in counts.iter_mut().zip(&searched) {
                    self.count(&self.searches[branch], tensor, i, block, counts);
                }
            },
        )?;
        let mut seen = lock(&self.seen);
        for part in parts {
            for (part, &(_, branch)) in part.iter().zip(&searched) {
                seen.counts[branch].iter_mut().zip(part).for_each(|(all, some)| *all += some);
            }
        }
        Ok(())
    }

    /// Counts the next digit of a branch's elements that share the digits known so far.
    fn count<R: Number>(
        &self,
        search: &Search,
        tensor: &Tensor<'_, R>,
        i: usize,
        block: &Block<'_, R>,
        counts: &mut [u64],
    ) {
        let Some(shift) = search.shift else { return };
        let (width, stream) = (1 << bits(shift), tensor.streams[i]);
        for (&value, element) in block.branch(i).iter().zip(block.start..) {
            let magnitude = self.magnitude(value);
            let low = if shift < ORDER { !stream.order(element) } else { 0 };
            let key = u128::from(magnitude) << ORDER | u128::from(low);
            if key >> shift >> bits(shift) == search.known {
                counts[((key >> shift) as usize) & (width - 1)] += 1;
            }
        }
    }

    /// The bits of a magnitude: larger ones have the larger number.
    fn magnitude<R: Number>(&self, value: R) -> u64 {
        let value = value.to_f64().abs();
        if self.double { value.to_bits() } else { u64::from((value as f32).to_bits()) }
    }

    fn magnitude_of(&self, bits: u64) -> f64 {
        if self.double { f64::from_bits(bits) } else { f64::from(f32::from_bits(bits as u32)) }
    }

    /// Once every tensor was looked at: the answer, or nothing where they must be looked at again.
    pub fn answer(&mut self) -> Option<Answer> {
        let seen = std::mem::take(&mut *lock(&self.seen));
        let branches = seen.counts.len();
        if let Question::Weights(balance) = self.question {
            let mut sums = vec![0.0; branches];
            for squares in seen.squares.values() {
                sums.iter_mut().zip(squares).for_each(|(sum, square)| *sum += square);
            }
            return Some(Answer::Weights(balance.weights(&sums)));
        }
        let mut searches = std::mem::take(&mut self.searches);
        for (search, counts) in searches.iter_mut().zip(&seen.counts) {
            self.narrow(search, counts);
        }
        self.searches = searches;
        if self.searches.iter().any(|search| search.shift.is_some()) {
            self.forget(branches);
            return None;
        }
        Some(Answer::Cuts(self.searches.iter().map(|search| search.cut).collect()))
    }

    /// Finds a branch's next digit.
    fn narrow(&self, search: &mut Search, counts: &[u64]) {
        let Some(shift) = search.shift else { return };
        let all: u64 = counts.iter().sum();
        let mut rank = search.rank.unwrap_or_else(|| Quota::largest(search.share, all).kept);
        if rank == 0 {
            // No tensor has the branch.
            search.shift = None;
            return;
        }
        let mut digit = (1 << bits(shift)) - 1;
        while counts[digit] < rank {
            rank -= counts[digit];
            digit -= 1;
        }
        search.known = search.known << bits(shift) | digit as u128;
        search.rank = Some(rank);
        // Where all that share these digits are kept, the rest of the cut may be zeros.
        let next = SHIFTS.iter().copied().find(|&next| next < shift);
        search.shift = next.filter(|_| counts[digit] > rank);
        let key = search.known << shift;
        let magnitude = self.magnitude_of((key >> ORDER) as u64);
        search.cut = Cut::At { magnitude, order: !(key as u32) };
    }
}

/// How many bits the digit has that begins there.
fn bits(shift: u32) -> u32 {
    // The magnitude of single precision ends in a digit of 15 bits, its sign being left out.
    if shift == ORDER { 15 } else { DIGIT }
}

/// The squared norms of the branches of a tensor: of their deltas where these are asked for, or are what the method
/// works on.
fn squares<R: Number>(tensor: &Tensor<'_, R>, balance: Balance) -> Result<Vec<f64>> {
    let less_base =
        balance == Balance::MetaGpt && tensor.space == Space::Weights && tensor.has_base;
    statistics::sums(tensor, tensor.branches(), |sums, block| {
        for (i, sum) in sums.iter_mut().enumerate() {
            add_squares(sum, block.branch(i), less_base.then_some(block.base()));
        }
    })
}

vectorised! {
    fn add_squares<R: Number>(sum: &mut Sum, values: &[R], base: Option<&[R]>) {
        for (group, values) in values.chunks(16).enumerate() {
            for (lane, value) in values.iter().enumerate() {
                let base = base.map_or(0.0, |base| base[16 * group + lane].to_f64());
                let value = value.to_f64() - base;
                sum[lane] += value * value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::properties::Room;
    use crate::fit::random::Stream;
    use crate::read::dtype::Dtype;

    #[test]
    fn weights_follow_from_norms() {
        let near = |found: &[f64], wanted: [f64; 3]| {
            assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        };
        near(&Balance::MetaGpt.weights(&[1.0, 3.0, 0.0]), [0.25, 0.75, 0.0]);
        near(&Balance::Nan.weights(&[1.0, 9.0, 0.0]), [0.75, 0.25, 0.0]);
        near(&Balance::Nan.weights(&[0.0; 3]), [1.0 / 3.0; 3]);
    }

    /// Values of which many are equal, over tensors of several sizes.
    fn models(dtype: Dtype) -> Vec<Room> {
        let value = |e: usize, n: usize| match (e * 7919 + n) % 23 {
            0 => 1e-30 * (e % 5) as f64,
            k => (k as f64 - 11.0) * if dtype == Dtype::F64 { 1.0 + 1e-12 * e as f64 } else { 1.0 },
        };
        let room = |(n, length): (usize, usize)| {
            let branch = |shift: usize| (0..length).map(|e| value(e + shift, n)).collect();
            Room::new(dtype, &[vec![0.0; length], branch(0), branch(3)], 1)
        };
        [5, 1000, 37, 1].into_iter().enumerate().map(room).collect()
    }

    /// The tensor with random numbers of its own.
    fn tensor_of<R: Number>(room: &Room, at: usize) -> Tensor<'_, R> {
        let mut tensor = room.tensor::<R>(Space::Delta, true, 2);
        let stream = |i: usize| Stream::new(0, &at.to_string(), &[i]);
        tensor.streams = (0..2).map(stream).collect();
        tensor
    }

    fn cut_of(dtype: Dtype, share: f64) -> (Vec<Cut>, u64) {
        let rooms = models(dtype);
        let shares = vec![share, 1.0];
        let mut survey = Survey::new(&Question::Cuts(shares), 2, dtype == Dtype::F64);
        let mut rounds = 0;
        loop {
            rounds += 1;
            for (at, room) in rooms.iter().enumerate() {
                if dtype == Dtype::F64 {
                    survey.look(at, &tensor_of::<f64>(room, at), &[0, 1])
                } else {
                    survey.look(at, &tensor_of::<f32>(room, at), &[0, 1])
                }
                .expect("a look");
            }
            if let Some(Answer::Cuts(cuts)) = survey.answer() {
                return (cuts, rounds);
            }
        }
    }

    #[test]
    fn as_many_elements_are_above_the_cut_as_asked_for() {
        for dtype in [Dtype::BF16, Dtype::F64] {
            for share in [1e-9, 0.1, 0.37, 0.5, 0.999] {
                let (cuts, rounds) = cut_of(dtype, share);
                assert_eq!(cuts[1], Cut::All);
                let Cut::At { magnitude, order } = cuts[0] else { panic!("{cuts:?}") };
                let mut kept = 0;
                for (at, room) in models(dtype).iter().enumerate() {
                    let tensor = tensor_of::<f64>(room, at);
                    let stream = tensor.streams[0];
                    let count = |kept: &mut u64, block: &Block<'_, f64>| {
                        for (value, element) in block.branch(0).iter().zip(block.start..) {
                            let (size, number) = (value.abs(), stream.order(element));
                            *kept +=
                                u64::from(size > magnitude || size == magnitude && number <= order);
                        }
                    };
                    kept += tensor.gather(|| 0, count).expect("counts").iter().sum::<u64>();
                }
                assert_eq!(kept, Quota::largest(share, 1043).kept, "{dtype:?} {share}");
                assert!(rounds <= Question::Cuts(vec![]).sweeps());
            }
        }
    }
}
