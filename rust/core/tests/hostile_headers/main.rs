//! Headers of weight files are hostile: a million of them, each right but for a few changes, are read here by us, by a
//! naive reader and by the format's own, and all must agree; none may panic, hang or take more memory than is said.
//!
//! `BRANCHMERGE_FUZZ_CASES` says how many, `BRANCHMERGE_FUZZ_SEED` which, `BRANCHMERGE_FUZZ_FIRST` from which one on: a
//! failure names the three that give it again.

#![allow(clippy::unwrap_used, reason = "a test ends where it is wrong")]

mod counted;
mod draft;
mod format;
mod index;
mod json;
mod large;
mod manifest;
mod mutations;
mod naive;
mod plain_json;
mod random;
mod recipe;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use branchmerge_core::error::Error;
use branchmerge_core::read::header;

use crate::draft::Draft;
use crate::format::Word;
use crate::naive::Placed;
use crate::random::Random;

/// The longest that a header of a few kilobytes may take to be read, on a machine that is busy with other things.
const LONGEST: Duration = Duration::from_secs(2);
/// What a header may take besides itself: so many times its size, and a little.
const TIMES: usize = 8;
const LITTLE: usize = 4 << 10;

/// How the cases ended.
#[derive(Default)]
struct Ends {
    right: u64,
    /// Those that only the format's own reader takes.
    lenient: u64,
    wrong: u64,
    changes: [u64; mutations::MUTATIONS.len()],
}

#[test]
fn three_readers_agree() {
    let (cases, [even, odd]) = in_halves(1, one);
    if cases >= 10_000 {
        // Were all refused for one reason, nothing would be tested.
        let share = |count: fn(&Ends) -> u64| (count(&even) + count(&odd)) * 100 / cases;
        assert!(share(|ends| ends.right) >= 10 && share(|ends| ends.wrong) >= 40);
        assert!(even.lenient + odd.lenient >= cases / 200);
        assert!(even.changes.iter().zip(odd.changes).all(|(even, odd)| even + odd >= cases / 200));
    }
}

/// Runs every case of those asked for, or one in so many, on two threads; a case that fails is named.
fn in_halves<T: Default + Send>(one_in: u64, one: fn(Random, &mut T)) -> (u64, [T; 2]) {
    let number = |name: &str, otherwise: u64| match std::env::var(name) {
        Ok(said) => said.parse().unwrap_or_else(|_| panic!("{name} is {said}, no number")),
        Err(_) => otherwise,
    };
    let cases = number("BRANCHMERGE_FUZZ_CASES", 1_000_000).div_ceil(one_in);
    let seed = number("BRANCHMERGE_FUZZ_SEED", 20_261_125);
    let first = number("BRANCHMERGE_FUZZ_FIRST", 0);
    let half = |odd: u64| {
        let mut ends = T::default();
        (first..first + cases).filter(|case| case % 2 == odd).for_each(|case| {
            let random = Random::new(seed, case);
            let ended = catch_unwind(AssertUnwindSafe(|| one(random, &mut ends)));
            let again = "BRANCHMERGE_FUZZ_CASES=1 BRANCHMERGE_FUZZ_SEED";
            assert!(ended.is_ok(), "{again}={seed} BRANCHMERGE_FUZZ_FIRST={case} fails");
        });
        ends
    };
    std::thread::scope(|scope| {
        let odd = scope.spawn(|| half(1));
        (cases, [half(0), odd.join().unwrap()])
    })
}

/// What a deed gives, within a bound of time and of memory.
fn bounded<T>(bytes: &[u8], deed: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let (found, held) = counted::most_held(deed);
    assert!(start.elapsed() < LONGEST, "it took {:?}", start.elapsed());
    assert!(held <= TIMES * bytes.len() + LITTLE, "{held} bytes for {}", bytes.len());
    found
}

/// That an error's words can be shown.
fn shows(error: &Error) {
    let said = error.to_string();
    let hides = |letter: char| letter.is_control() && letter != '\n';
    assert!(!said.is_empty() && !said.contains(hides), "{said:?}");
    assert!(said.chars().count() <= 20_000, "{said}");
}

/// One header, made, changed and read.
fn one(mut random: Random, ends: &mut Ends) {
    let mut draft = Draft::right(&mut random);
    let untouched = random.once_in(10);
    if !untouched {
        for _ in 0..random.below(3) {
            let which = random.below(mutations::MUTATIONS.len());
            let change = mutations::MUTATIONS[which](&mut draft, &mut random);
            ends.changes[which] += u64::from(change.is_some());
        }
    }
    let (mut bytes, mut length) = draft.written(&mut random);
    if !untouched && random.once_in(5) {
        let data = length.saturating_sub(bytes.len() as u64);
        for _ in 0..=random.below(3) {
            mutations::bytes(&mut bytes, &mut random);
        }
        length = data.saturating_add(bytes.len() as u64);
    }
    if !untouched && random.once_in(50) {
        length = random.below(bytes.len() + 1) as u64;
    }
    let ours = ours(&bytes, length);
    assert!(ours.is_some() || !untouched, "a right header is refused");
    assert_eq!(ours, naive::read(&bytes, length).map(|found| found.into_iter().collect()));
    match (format::read(&bytes, length), ours) {
        (Word::Takes(theirs), Some(ours)) => {
            assert_eq!(ours, theirs);
            ends.right += 1;
        }
        (Word::Refuses(why), Some(_)) => panic!("the format's own reader refuses it: {why}"),
        (Word::Takes(_), None) => ends.lenient += 1,
        (Word::Refuses(_), None) => ends.wrong += 1,
    }
}

/// What we say of it, within bounds of time and memory, in words that can be shown.
fn ours(bytes: &[u8], length: u64) -> Option<Vec<(String, Placed)>> {
    match bounded(bytes, || header::parse(bytes, length, 7)) {
        Ok(found) => Some(found.into_iter().map(|(name, stored)| (name, placed(stored))).collect()),
        Err(error) => {
            shows(&error);
            None
        }
    }
}

fn placed(stored: header::Stored) -> Placed {
    assert_eq!(stored.file, 7);
    assert_eq!(stored.elements(), stored.shape.iter().product::<u64>());
    let dtype = stored.dtype.name().to_owned();
    Placed { dtype, shape: stored.shape, start: stored.range.start, end: stored.range.end }
}
