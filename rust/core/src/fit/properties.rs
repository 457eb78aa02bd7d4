//! What every method must fulfil, whatever it computes: `check!` in each method's file brings it all.

use tempfile::TempDir;

use crate::error::Result;
use crate::fit::method::{Base, Bits, Method, Space};
use crate::fit::node::Node;
use crate::fit::number::Number;
use crate::fit::parameters::{Parameters, Type, Value};
use crate::fit::random::Stream;
use crate::fit::tensor::{BLOCK, CHUNK, Context, Leaf, Operand, Reader, Tensor};
use crate::parallel::{Progress, Team};
use crate::read::dtype::{self, Dtype};
use crate::read::header::Stored;
use crate::read::source::{Io, Source};

const FLOATS: [Dtype; 6] =
    [Dtype::BF16, Dtype::F16, Dtype::F32, Dtype::F64, Dtype::F8E4M3, Dtype::F8E5M2];

/// A method's formula as its paper writes it: whole vectors in `f64`. Several results where a cut is near, of which
/// every element may have any.
pub(crate) type Naive = fn(&Case<'_>) -> Vec<Vec<f64>>;

/// What a naive formula sees.
pub(crate) struct Case<'c> {
    pub parameters: &'c Parameters,
    /// The base first, where there is one.
    pub operands: Vec<Vec<f64>>,
    pub has_base: bool,
    /// Elements in a row.
    pub row: usize,
    pub streams: &'c [Stream],
    /// The Gram matrices of what each branch is multiplied with, for methods that want them.
    pub grams: Vec<Vec<f64>>,
}

impl Case<'_> {
    /// Each branch less the base; the branches themselves where there is none.
    pub(crate) fn deltas(&self) -> Vec<Vec<f64>> {
        if !self.has_base {
            return self.operands.clone();
        }
        let (base, branches) = self.operands.split_at(1);
        branches.iter().map(|x| x.iter().zip(&base[0]).map(|(x, b)| x - b).collect()).collect()
    }

    /// The base plus each merged delta.
    pub(crate) fn on_base(&self, deltas: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
        if !self.has_base {
            return deltas;
        }
        let add =
            |delta: Vec<f64>| delta.iter().zip(&self.operands[0]).map(|(d, b)| b + d).collect();
        deltas.into_iter().map(add).collect()
    }
}

/// Stored operands of one tensor.
pub(crate) struct Room {
    sources: Vec<Source>,
    grams: Vec<Source>,
    gram: Stored,
    stored: Stored,
    row: usize,
    has_base: bool,
    progress: Progress,
    directory: TempDir,
}

impl Room {
    /// `operands` as numbers, rounded to `dtype`.
    pub(crate) fn new(dtype: Dtype, operands: &[Vec<f64>], row: usize) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let elements = operands[0].len();
        let bytes = dtype.bytes_for(elements as u64).expect("whole bytes");
        let source = |(number, values): (usize, &Vec<f64>)| {
            let mut stored = vec![0; bytes as usize];
            dtype::encode(dtype, values, &mut stored).expect("a float");
            let path = directory.path().join(number.to_string());
            std::fs::write(&path, stored).expect("a file");
            Source::open(&path, Io::Read).expect("a source")
        };
        let sources = operands.iter().enumerate().map(source).collect();
        let shape = vec![(elements / row) as u64, row as u64];
        let square = (row * row) as u64;
        let gram = vec![row as u64; 2];
        Self {
            sources,
            grams: Vec::new(),
            gram: Stored { dtype: Dtype::F64, shape: gram, file: 0, range: 0..8 * square },
            stored: Stored { dtype, shape, file: 0, range: 0..bytes },
            row,
            has_base: true,
            progress: Progress::default(),
            directory,
        }
    }

    /// The same as a method wants it: with a base or without one, when all operands are branches.
    fn seen_by<M: Method>(self, method: &M, has_base: bool) -> Self {
        let branches = self.sources.len() - usize::from(has_base);
        let wanted = if Method::spec(method).grams { branches } else { 0 };
        let grams = (0..wanted).map(|branch| self.gram(branch)).collect();
        Self { grams, has_base, ..self }
    }

    /// A Gram matrix of many inputs of different sizes.
    fn gram(&self, branch: usize) -> Source {
        let (row, many) = (self.row, 3 * self.row + 2);
        let inputs = operands(1, row * many, 100 + branch as u64).remove(0);
        let mut values = vec![0.0; row * row];
        for input in inputs.chunks(row) {
            for (r, values) in values.chunks_mut(row).enumerate() {
                values.iter_mut().zip(input).for_each(|(sum, x)| *sum += input[r] * x);
            }
        }
        let path = self.directory.path().join(format!("gram {branch}"));
        let bytes: Vec<u8> = values.into_iter().flat_map(f64::to_le_bytes).collect();
        std::fs::write(&path, bytes).expect("a file");
        Source::open(&path, Io::Read).expect("a source")
    }

    fn gram_numbers(&self) -> Vec<Vec<f64>> {
        let numbers = |source: &Source| {
            let mut buffer = Vec::new();
            let bytes = source.bytes(self.gram.range.clone(), &mut buffer).expect("bytes");
            bytes.as_chunks().0.iter().map(|eight| f64::from_le_bytes(*eight)).collect()
        };
        self.grams.iter().map(numbers).collect()
    }

    fn numbers(&self) -> Vec<Vec<f64>> {
        let numbers = |source: &Source| {
            let mut values = vec![0.0; self.stored.elements() as usize];
            let mut buffer = Vec::new();
            let bytes = source.bytes(self.stored.range.clone(), &mut buffer).expect("bytes");
            dtype::decode(self.stored.dtype, bytes, &mut values).expect("a float");
            values
        };
        self.sources.iter().map(numbers).collect()
    }

    /// The output's bytes.
    fn merged<M: Method>(
        &self,
        method: &M,
        parameters: &Parameters,
        threads: usize,
        block: usize,
    ) -> Result<Vec<u8>> {
        if self.stored.dtype == Dtype::F64 {
            self.merged_as::<M, f64>(method, parameters, threads, block)
        } else {
            self.merged_as::<M, f32>(method, parameters, threads, block)
        }
    }

    /// The operands, of which the first is the base if there is one, as a method sees them.
    pub(crate) fn tensor<R: Number>(
        &self,
        space: Space,
        has_base: bool,
        threads: usize,
    ) -> Tensor<'_, R> {
        let leaf = |(input, source)| {
            Operand::Leaf(Leaf { source, stored: &self.stored, label: "x", input })
        };
        let gram = |source| Leaf { source, stored: &self.gram, label: "x", input: 0 };
        Tensor {
            name: "weight",
            elements: self.stored.elements(),
            row_length: self.row as u64,
            columns: self.row as u64,
            space,
            has_base,
            streams: streams(self.sources.len() - usize::from(has_base)),
            team: Team::new(threads),
            context: Context { progress: &self.progress, carry: false },
            operands: self.sources.iter().enumerate().map(leaf).collect(),
            importance: None,
            grams: self.grams.iter().map(gram).collect(),
        }
    }

    fn merged_as<M: Method, R: Number>(
        &self,
        method: &M,
        parameters: &Parameters,
        threads: usize,
        block: usize,
    ) -> Result<Vec<u8>> {
        let spec = Method::spec(method);
        let space = if self.has_base { spec.space } else { Space::Weights };
        let tensor = self.tensor::<R>(space, self.has_base, threads);
        let fit = method.fit(&tensor, parameters)?;
        let (kernel, figures) = (fit.kernel, fit.figures);
        let node = Node { tensor, kernel, factor: 1.0, rounding: None, figures };
        let mut reader = Reader::new(&node.tensor, block);
        let (mut merged, mut whole) = (Vec::new(), Vec::new());
        for chunk in 0..node.tensor.chunks() {
            let range = node.tensor.chunk(chunk);
            let size = self.stored.dtype.bits() / 8;
            let mut bytes = vec![0; ((range.end - range.start) * size) as usize];
            reader.read(range, |raw, scratch| {
                node.apply(raw, scratch, self.stored.dtype, &mut merged, &mut bytes).map(drop)
            })?;
            whole.append(&mut bytes);
        }
        Ok(whole)
    }

    fn decoded(&self, bytes: &[u8]) -> Vec<f64> {
        let mut values = vec![0.0; self.stored.elements() as usize];
        dtype::decode(self.stored.dtype, bytes, &mut values).expect("a float");
        values
    }
}

fn streams(branches: usize) -> Vec<Stream> {
    (0..branches).map(|branch| Stream::new(11, "weight", &[branch])).collect()
}

/// Operands that look like a checkpoint and its branches: a base, and small changes of most of it.
fn operands(count: usize, elements: usize, seed: u64) -> Vec<Vec<f64>> {
    let noise = |operand: usize| {
        let mut numbers = vec![0; elements];
        Stream::new(seed, "operands", &[operand]).uniform(0, &mut numbers);
        numbers.into_iter().map(|x| f64::from(x) / 2f64.powi(31) - 1.0).collect::<Vec<f64>>()
    };
    let base = noise(0);
    let branch = |operand: usize| {
        let change = noise(operand);
        base.iter().zip(change).map(|(b, c)| if c > 0.8 { *b } else { b + 0.25 * c }).collect()
    };
    (0..count).map(|operand| if operand == 0 { base.clone() } else { branch(operand) }).collect()
}

/// Half a step of the dtype at a value.
fn half_step(dtype: Dtype, value: f64) -> f64 {
    let two = |exponent: i32| 2f64.powi(exponent);
    let (share, least) = match dtype {
        Dtype::BF16 => (two(-8), 0.0),
        Dtype::F16 => (two(-11), two(-25)),
        Dtype::F8E4M3 => (two(-4), two(-10)),
        Dtype::F8E5M2 => (two(-3), two(-17)),
        Dtype::F32 => (two(-24), 0.0),
        _ => (two(-53), 0.0),
    };
    (value.abs() * share).max(least)
}

/// Every parameter at its default, those without one at 0.4 for all branches but the first, which has 0.7.
fn usual<M: Method>(method: &M, branches: usize) -> Parameters {
    let spec = Method::spec(method);
    let mut parameters = spec.defaults(branches);
    for parameter in spec.parameters.iter().filter(|parameter| parameter.default.is_none()) {
        parameters.global.insert(parameter.name, Value::Number(0.4));
        for (i, branch) in parameters.branches.iter_mut().enumerate() {
            branch.insert(parameter.name, Value::Number(if i == 0 { 0.7 } else { 0.4 }));
        }
    }
    parameters
}

/// The usual parameters, and those with one of them at either end of what it may be, or in between.
fn variants<M: Method>(method: &M, branches: usize) -> Vec<Parameters> {
    let mut found = vec![usual(method, branches)];
    for parameter in Method::spec(method).parameters {
        let values: Vec<Value> = match parameter.kind {
            Type::Number { low, high } => {
                [low.max(-3.0), 0.0, 0.1, 0.5, high.min(3.0)].map(Value::Number).into()
            }
            Type::Whole { low, high } => [low, high.min(3.0)].map(Value::Number).into(),
            Type::Flag => [true, false].map(Value::Flag).into(),
            Type::Choice(words) => words.iter().map(|word| Value::Choice(word)).collect(),
            Type::FlagOrChoice(words) => {
                let flags = [true, false].map(Value::Flag);
                flags.into_iter().chain(words.iter().map(|word| Value::Choice(word))).collect()
            }
        };
        for value in values {
            let mut parameters = usual(method, branches);
            parameters.global.insert(parameter.name, value);
            parameters.branches.iter_mut().for_each(|branch| {
                branch.insert(parameter.name, value);
            });
            found.push(parameters);
        }
    }
    // Pairs that meet: a density with whatever goes with it.
    for parameters in found.clone() {
        if parameters.branches.iter().any(|branch| branch.contains_key("density")) {
            let mut sparse = parameters;
            sparse.branches.iter_mut().for_each(|branch| {
                branch.insert("density", Value::Number(0.3));
            });
            found.push(sparse);
        }
    }
    found
}

/// How many branches the method may have, of those that are tried.
fn counts<M: Method>(method: &M) -> std::ops::RangeInclusive<usize> {
    let spec = Method::spec(method);
    spec.fewest..=spec.most.unwrap_or(5).min(5)
}

/// With a base and without one, as far as the method may be either.
fn bases<M: Method>(method: &M) -> &'static [bool] {
    match Method::spec(method).base {
        Base::None => &[false],
        Base::Optional => &[true, false],
        Base::Required | Base::First => &[true],
    }
}

/// Every number of branches, with a base and without, as far as the method may have them.
fn sizes<M: Method>(method: &M) -> Vec<(usize, bool)> {
    let of = |branches| bases(method).iter().map(move |&has_base| (branches, has_base));
    counts(method).flat_map(of).collect()
}

/// Within half a step of the dtype and eight roundings of what is summed.
pub(crate) fn agrees_with_naive<M: Method>(method: &M, naive: Naive) {
    // Every element of a product of matrices is a sum over a whole row.
    let by_matrix = Method::spec(method).bits == Bits::Machine;
    for (number, dtype) in FLOATS.into_iter().enumerate() {
        for (branches, has_base) in sizes(method) {
            let widest = if by_matrix { 97 } else { 1000 };
            for (rows, row) in [(1, 1), (1, 15), (7, 1), (3, 33), (5, widest)] {
                let count = branches + usize::from(has_base);
                let seed = (number * 8 + branches) as u64;
                let room = Room::new(dtype, &operands(count, rows * row, seed), row)
                    .seen_by(method, has_base);
                for parameters in variants(method, branches) {
                    let Ok(bytes) = room.merged(method, &parameters, 1, BLOCK) else {
                        assert!(
                            (Method::spec(method).check)(&parameters).is_err(),
                            "{parameters:?}"
                        );
                        continue;
                    };
                    let streams = streams(branches);
                    let operands = room.numbers();
                    let case = Case {
                        parameters: &parameters,
                        operands,
                        has_base,
                        row,
                        streams: &streams,
                        grams: room.gram_numbers(),
                    };
                    let allowed = naive(&case);
                    let everywhere =
                        case.operands.iter().flatten().fold(0.0, |most, x| x.abs().max(most));
                    let unit = match dtype {
                        // Roots and inverses of matrices lose some digits.
                        Dtype::F64 if by_matrix => 2f64.powi(-44),
                        Dtype::F64 => 2f64.powi(-53),
                        _ => 2f64.powi(-24),
                    };
                    for (e, found) in room.decoded(&bytes).into_iter().enumerate() {
                        let sizes = case.operands.iter().map(|operand| operand[e].abs());
                        let largest =
                            if by_matrix { everywhere } else { sizes.fold(0.0, f64::max) };
                        let near = |expected: &Vec<f64>| {
                            let expected = expected[e];
                            let summed = largest * (4 * count) as f64 + expected.abs();
                            (found - expected).abs()
                                <= half_step(dtype, expected) + 8.0 * unit * summed
                        };
                        let expected: Vec<f64> = allowed.iter().map(|one| one[e]).collect();
                        assert!(
                            allowed.iter().any(near),
                            "{dtype:?}, {rows} × {row}, element {e}: {found}, expected {expected:?}\n{parameters:?}"
                        );
                    }
                }
            }
        }
    }
}

/// The same bits for any number of threads and any blocks, of tensors that are cut into chunks.
pub(crate) fn same_bits_however_cut<M: Method>(method: &M) {
    let by_matrix = Method::spec(method).bits == Bits::Machine;
    let row = if by_matrix { 1 << 7 } else { 1 << 9 };
    let elements = if by_matrix { CHUNK as usize } else { 3 * CHUNK as usize } + 5 * row;
    let branches = (*counts(method).end()).min(2.max(*counts(method).start()));
    for &has_base in bases(method) {
        let operands = operands(branches + usize::from(has_base), elements, 3);
        let room = Room::new(Dtype::BF16, &operands, row).seen_by(method, has_base);
        for parameters in variants(method, branches) {
            let Ok(whole) = room.merged(method, &parameters, 1, BLOCK) else { continue };
            for (threads, block) in [(2, BLOCK), (7, BLOCK / 4), (1, 16)] {
                let cut = room.merged(method, &parameters, threads, block).expect("as before");
                assert!(whole == cut, "{threads} threads, blocks of {block}: {parameters:?}");
            }
        }
    }
}

/// Operands that all agree are the result, bit for bit, zeros of both signs too, wherever the formula says so.
pub(crate) fn nothing_changed_changes_nothing<M: Method>(method: &M, naive: Naive) {
    for dtype in FLOATS {
        for (branches, has_base) in sizes(method) {
            let mut base = operands(1, 333, 5).remove(0);
            base[..4].copy_from_slice(&[0.0, -0.0, 1.0, -1.0]);
            let room = Room::new(dtype, &vec![base; branches + usize::from(has_base)], 111);
            let room = room.seen_by(method, has_base);
            let (operands, streams) = (room.numbers(), streams(branches));
            for parameters in variants(method, branches) {
                let operands = operands.clone();
                let case = Case {
                    parameters: &parameters,
                    operands,
                    has_base,
                    row: 111,
                    streams: &streams,
                    grams: room.gram_numbers(),
                };
                // Without a base, what is no mean makes another tensor of equal ones.
                let same = |(y, x): (&f64, &f64)| (y - x).abs() <= 1e-12 * x.abs();
                let mean = |result: &Vec<f64>| result.iter().zip(&case.operands[0]).all(same);
                if !has_base && !naive(&case).iter().any(mean) {
                    continue;
                }
                let Ok(bytes) = room.merged(method, &parameters, 1, BLOCK) else { continue };
                let mut buffer = Vec::new();
                let before = room.sources[0].bytes(room.stored.range.clone(), &mut buffer);
                assert!(before.expect("bytes") == bytes, "{dtype:?}, {branches}: {parameters:?}");
            }
        }
    }
}

/// The same bits on every machine, with every instruction set: those that were seen when the method was written.
pub(crate) fn same_bits_everywhere<M: Method>(method: &M, expected: &str) {
    let mut hasher = blake3::Hasher::new();
    for dtype in FLOATS {
        for (branches, has_base) in sizes(method) {
            let operands = operands(branches + usize::from(has_base), 7 * 65, 9);
            let room = Room::new(dtype, &operands, 65).seen_by(method, has_base);
            for parameters in variants(method, branches) {
                hasher.update(&room.merged(method, &parameters, 1, BLOCK).unwrap_or_default());
            }
        }
    }
    assert_eq!(&hasher.finalize().to_hex()[..16], expected);
}

/// The properties of a method whose formula is `naive`, and whose results have this hash.
macro_rules! check {
    ($method:expr, $naive:expr, $hash:literal) => {
        crate::fit::properties::check_machine!($method, $naive);

        #[test]
        fn same_bits_everywhere() {
            crate::fit::properties::same_bits_everywhere(&$method, $hash);
        }
    };
}
pub(crate) use check;

/// The properties of a method whose formula is `naive`, and whose bits other machines need not give.
macro_rules! check_machine {
    ($method:expr, $naive:expr) => {
        #[test]
        fn agrees_with_naive() {
            crate::fit::properties::agrees_with_naive(&$method, $naive);
        }

        #[test]
        fn same_bits_however_cut() {
            crate::fit::properties::same_bits_however_cut(&$method);
        }

        #[test]
        fn nothing_changed_changes_nothing() {
            crate::fit::properties::nothing_changed_changes_nothing(&$method, $naive);
        }
    };
}
pub(crate) use check_machine;
