//! What a method costs an element on one core: `fit`, and reading, converting, merging and converting back, of a tensor
//! of 4 million bfloat16 elements in the page cache. Hashing and writing are measured beside it.
//!
//! `cargo bench` uses the widest vectors that the processor has; `cargo bench --features baseline` the ones that
//! every processor of its kind has. The reciprocal of `elem/s` is the time an element.

use std::hint::black_box;
use std::path::Path;

use branchmerge_core::fit::linalg::{self, Factor, Matrix};
use branchmerge_core::fit::method::{AnyMethod, Base};
use branchmerge_core::fit::node::Node;
use branchmerge_core::fit::parameters::{Parameters, Value};
use branchmerge_core::fit::random::Stream;
use branchmerge_core::fit::tensor::{BLOCK, Context, Leaf, Operand, Reader, Tensor};
use branchmerge_core::methods;
use branchmerge_core::parallel::{Progress, Team};
use branchmerge_core::read::dtype::{self, Dtype};
use branchmerge_core::read::header::Stored;
use branchmerge_core::read::source::{Io, LostPages, Source};
use branchmerge_core::read::tree_hash;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const ELEMENTS: u64 = 1 << 22;
const ROW: u64 = 2048;

/// A base and two branches, as a fine-tuned checkpoint is: weights of 0.02, changes of 0.0005.
fn sources(directory: &Path) -> Vec<Source> {
    let noise = |operand: usize| {
        let mut numbers = vec![0; ELEMENTS as usize];
        Stream::new(1, "bench", &[operand]).uniform(0, &mut numbers);
        numbers.into_iter().map(|x| (x as f32 / 2f32.powi(31) - 1.0) * 0.03).collect::<Vec<f32>>()
    };
    let base = noise(0);
    let source = |operand: usize| {
        let values: Vec<f32> = match operand {
            0 => base.clone(),
            _ => base.iter().zip(noise(operand)).map(|(b, c)| b + c / 40.0).collect(),
        };
        let mut bytes = vec![0; 2 * values.len()];
        dtype::encode(Dtype::BF16, &values, &mut bytes).expect("a float");
        let path = directory.join(operand.to_string());
        std::fs::write(&path, bytes).expect("a file");
        Source::open(&path, Io::Map).expect("a source")
    };
    (0..3).map(source).collect()
}

/// The parameters of `bench/recipes.py`.
fn parameters(method: &dyn AnyMethod, branches: usize) -> Parameters {
    let mut parameters = method.spec().defaults(branches);
    parameters.global.insert("t", Value::Number(0.4));
    for (branch, weight) in parameters.branches.iter_mut().zip([0.6, 0.4]) {
        branch.insert("weight", Value::Number(weight));
        branch.entry("density").and_modify(|density| *density = Value::Number(0.5));
    }
    parameters
}

fn every_method(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let sources = sources(directory.path());
    let _lost_pages = LostPages::arm();
    let progress = Progress::default();
    let stored = Stored {
        dtype: Dtype::BF16,
        shape: vec![ELEMENTS / ROW, ROW],
        file: 0,
        range: 0..2 * ELEMENTS,
    };
    for method in methods::all() {
        let spec = method.spec();
        let has_base = spec.base != Base::None;
        let branches = spec.most.unwrap_or(2).min(2);
        let parameters = parameters(*method, branches);
        let tensor = || -> Tensor<'_, f32> {
            let used = &sources[usize::from(!has_base)..=branches];
            let leaf = |(input, source)| {
                Operand::Leaf(Leaf { source, stored: &stored, label: "x", input })
            };
            Tensor {
                importance: None,
                grams: Vec::new(),
                name: "bench",
                elements: ELEMENTS,
                row_length: ROW,
                columns: ROW,
                space: spec.space,
                has_base,
                streams: (0..branches).map(|i| Stream::new(0, "bench", &[i])).collect(),
                team: Team::solo(),
                context: Context { progress: &progress, carry: false },
                operands: used.iter().enumerate().map(leaf).collect(),
            }
        };
        let mut group = criterion.benchmark_group(spec.name);
        group.throughput(Throughput::Elements(ELEMENTS)).sample_size(10);
        group.bench_function("fit", |bencher| {
            let tensor = tensor();
            bencher.iter(|| black_box(method.fit_f32(&tensor, &parameters)).is_ok());
        });
        let tensor = tensor();
        let fit = method.fit_f32(&tensor, &parameters).expect("a fit");
        let (kernel, figures) = (fit.kernel, fit.figures);
        let node = Node { tensor, kernel, factor: 1.0, rounding: None, figures };
        let mut bytes = vec![0; 2 * ELEMENTS as usize];
        group.bench_function("apply", |bencher| {
            bencher.iter(|| {
                let mut reader = Reader::new(&node.tensor, BLOCK);
                let mut merged = Vec::new();
                for chunk in 0..node.tensor.chunks() {
                    let range = node.tensor.chunk(chunk);
                    let out = &mut bytes[2 * range.start as usize..2 * range.end as usize];
                    let apply = reader.read(range, |raw, scratch| {
                        node.apply(raw, scratch, Dtype::BF16, &mut merged, out)
                    });
                    black_box(apply).expect("a chunk");
                }
            });
        });
        group.finish();
    }
}

/// What the matrix methods are made of, for a matrix of their bench.
fn linear_algebra(criterion: &mut Criterion) {
    let side = ROW as usize;
    let values = (0..side * side).map(|e| ((e * 7919) % 1009) as f64 / 1009.0 - 0.5).collect();
    let matrix = Matrix { rows: side, columns: side, values };
    let square =
        linalg::product(Factor::Plain(&matrix), Factor::Turned(&matrix)).expect("a product");
    let mut group = criterion.benchmark_group("linalg");
    group.throughput(Throughput::Elements(ELEMENTS)).sample_size(10);
    group.bench_function("product", |bencher| {
        bencher.iter(|| linalg::product(Factor::Plain(&matrix), Factor::Turned(&matrix)).is_ok());
    });
    group.bench_function("eigen", |bencher| {
        bencher.iter(|| linalg::eigen(black_box(&square), "bench").is_ok());
    });
    group.finish();
}

fn every_dtype(criterion: &mut Criterion) {
    let dtypes = [Dtype::BF16, Dtype::F16, Dtype::F32, Dtype::F64, Dtype::F8E4M3, Dtype::F8E5M2];
    let mut values: Vec<f32> = (0..BLOCK).map(|i| i as f32 / 1000.0 - 2.0).collect();
    for dtype in dtypes {
        let mut bytes = vec![0; BLOCK * (dtype.bits() / 8) as usize];
        let mut group = criterion.benchmark_group(dtype.name());
        group.throughput(Throughput::Elements(BLOCK as u64));
        group.bench_function("encode", |bencher| {
            bencher.iter(|| dtype::encode(dtype, black_box(&values), &mut bytes));
        });
        group.bench_function("decode", |bencher| {
            bencher.iter(|| dtype::decode(dtype, black_box(&bytes), &mut values));
        });
        group.finish();
    }
}

fn hash(criterion: &mut Criterion) {
    let bytes = vec![7; 1 << 19];
    let mut group = criterion.benchmark_group("hash");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("part", |bencher| {
        bencher.iter(|| tree_hash::part(black_box(&bytes), 0, 1 << 30));
    });
    group.finish();
}

criterion_group!(benches, every_method, linear_algebra, every_dtype, hash);
criterion_main!(benches);
