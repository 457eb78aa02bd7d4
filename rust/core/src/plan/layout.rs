//! Where every byte of the output will lie, decided from names, dtypes and shapes alone.
//!
//! The layout depends on nothing else: not on the order in which tensors are named, nor on how the inputs were sharded.
//! So two runs of one recipe write the same files, and a tensor may be written before its neighbours are known.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::json;

use crate::error::{Error, Result};
use crate::read::dtype::Dtype;

/// The longest header that readers of the format take.
const LONGEST_HEADER: usize = 100_000_000;

/// One weight file, before any tensor is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFile {
    /// Its name, as transformers would write it.
    pub name: String,
    /// The eight bytes of length and the JSON, padded with spaces to a multiple of eight.
    pub header: Vec<u8>,
    /// Its whole size.
    pub bytes: u64,
}

/// One tensor with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its name.
    pub name: String,
    /// How its elements are stored.
    pub dtype: Dtype,
    /// Its shape; empty for a scalar.
    pub shape: Vec<u64>,
    /// Which of [`Layout::files`].
    pub file: usize,
    /// Where it begins, counted from the start of the file.
    pub offset: u64,
    /// Its size.
    pub bytes: u64,
}

/// All files and tensors of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The weight files, in the order of their names.
    pub files: Vec<OutputFile>,
    /// The tensors, in the order in which they were given.
    pub tensors: Vec<Placed>,
    /// The content of `model.safetensors.index.json`; none for a single file.
    pub index: Option<Vec<u8>>,
}

/// The name of the index beside several weight files.
pub const INDEX: &str = "model.safetensors.index.json";

/// Lays out tensors in files of about `shard_size` bytes of tensors each.
///
/// # Errors
/// A name given twice or reserved, a size that is not whole bytes or does not fit, a header over the format's limit.
pub fn lay_out(tensors: &[(String, Dtype, Vec<u64>)], shard_size: u64) -> Result<Layout> {
    if shard_size == 0 {
        return Err(Error::value("shard_size", "0", "at least 1 byte"));
    }
    let mut placed = tensors.iter().map(measured).collect::<Result<Vec<_>>>()?;
    let mut order: Vec<usize> = (0..placed.len()).collect();
    order.sort_by(|&a, &b| natural(&placed[a].name, &placed[b].name));
    if let Some(pair) = order.windows(2).find(|pair| placed[pair[0]].name == placed[pair[1]].name) {
        let twice = Error::malformed("the tensor is there twice");
        return Err(twice.tensor(&placed[pair[0]].name));
    }
    let total = placed.iter().try_fold(0u64, |sum, tensor| sum.checked_add(tensor.bytes));
    if total.is_none_or(|total| i64::try_from(total).is_err()) {
        return Err(Error::malformed(
            "all tensors together are larger than a file system can hold",
        ));
    }
    let shards = split(&order, &placed, shard_size);
    let count = shards.len();
    let mut files = Vec::with_capacity(count);
    for (file, shard) in shards.into_iter().enumerate() {
        files.push(fill(file_name(file, count), file, shard, &mut placed)?);
    }
    let index = (count > 1).then(|| index(&files, &placed));
    Ok(Layout { files, tensors: placed, index })
}

/// A tensor with its size, not yet with its place.
fn measured((name, dtype, shape): &(String, Dtype, Vec<u64>)) -> Result<Placed> {
    if name == "__metadata__" {
        return Err(Error::malformed("the name is reserved by the format").tensor(name));
    }
    let elements = shape.iter().try_fold(1u64, |product, &side| product.checked_mul(side));
    let bytes = elements.and_then(|elements| dtype.bytes_for(elements)).ok_or_else(|| {
        let what =
            format!("{shape:?} elements of {} are not whole bytes, or too many", dtype.name());
        Error::malformed(what).tensor(name)
    })?;
    Ok(Placed {
        name: name.clone(),
        dtype: *dtype,
        shape: shape.clone(),
        file: 0,
        offset: 0,
        bytes,
    })
}

/// The tensors of each file, as transformers splits them: greedily in order, and what is larger than a file alone.
fn split(order: &[usize], placed: &[Placed], shard_size: u64) -> Vec<Vec<usize>> {
    let mut shards = Vec::new();
    let mut shard = Vec::new();
    let mut filled = 0u64;
    for &tensor in order {
        let bytes = placed[tensor].bytes;
        if bytes > shard_size {
            shards.push(vec![tensor]);
            continue;
        }
        if bytes > shard_size - filled {
            shards.push(std::mem::take(&mut shard));
            filled = 0;
        }
        shard.push(tensor);
        filled += bytes;
    }
    if !shard.is_empty() || shards.is_empty() {
        shards.push(shard);
    }
    shards
}

fn file_name(file: usize, count: usize) -> String {
    match count {
        1 => "model.safetensors".into(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", file + 1),
    }
}

/// Gives the tensors of one file their offsets, larger dtypes first so that each is aligned.
fn fill(
    name: String,
    file: usize,
    mut shard: Vec<usize>,
    placed: &mut [Placed],
) -> Result<OutputFile> {
    shard.sort_by_key(|&tensor| std::cmp::Reverse(placed[tensor].dtype.bits()));
    let mut json = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut end = 0u64;
    for &tensor in &shard {
        let tensor = &mut placed[tensor];
        let start = end;
        end += tensor.bytes;
        let offsets = json!([start, end]);
        let (key, dtype, shape) = (json!(tensor.name), tensor.dtype.name(), json!(tensor.shape));
        json +=
            &format!(r#",{key}:{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#);
        (tensor.file, tensor.offset) = (file, start);
    }
    json.push('}');
    json += &" ".repeat(json.len().next_multiple_of(8) - json.len());
    if json.len() > LONGEST_HEADER {
        let what = format!(
            "the header of `{name}` is {} bytes, expected at most {LONGEST_HEADER}: ask for smaller shards",
            json.len()
        );
        return Err(Error::malformed(what));
    }
    let header = [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat();
    let data = header.len() as u64;
    for &tensor in &shard {
        placed[tensor].offset += data;
    }
    Ok(OutputFile { name, header, bytes: end + data })
}

/// The index as transformers writes it: sorted keys, two spaces, one line feed at the end.
fn index(files: &[OutputFile], placed: &[Placed]) -> Vec<u8> {
    let map: BTreeMap<&str, &str> =
        placed.iter().map(|tensor| (&*tensor.name, &*files[tensor.file].name)).collect();
    let size: u64 = placed.iter().map(|tensor| tensor.bytes).sum();
    let index = json!({ "metadata": { "total_size": size }, "weight_map": map });
    format!("{index:#}\n").into_bytes()
}

/// Names in the order a reader expects: runs of digits by value, all else by byte; the plain order decides ties.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    loop {
        let ordering = match (left.first(), right.first()) {
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                number(&mut left).cmp(&number(&mut right))
            }
            (Some(x), Some(y)) => {
                let ordering = x.cmp(y);
                (left, right) = (&left[1..], &right[1..]);
                ordering
            }
            _ => return left.len().cmp(&right.len()).then_with(|| a.cmp(b)),
        };
        if ordering.is_ne() {
            return ordering;
        }
    }
}

/// Takes a run of digits off the front; its length without leading zeros, then its digits, order it by value.
fn number<'a>(text: &mut &'a [u8]) -> (usize, &'a [u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    *text = rest;
    let zeros = digits.iter().position(|&digit| digit != b'0').unwrap_or(digits.len());
    (digits.len() - zeros, &digits[zeros..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use safetensors::SafeTensors;

    type Asked = (String, Dtype, Vec<u64>);

    fn asked(name: &str, dtype: Dtype, shape: &[u64]) -> Asked {
        (name.into(), dtype, shape.to_vec())
    }

    /// A file as it will be, with zeros for tensors.
    fn bytes(file: &OutputFile) -> Vec<u8> {
        let mut bytes = file.header.clone();
        bytes.resize(file.bytes as usize, 0);
        bytes
    }

    /// Every file is read by the format's own reader, and has each tensor where the layout says.
    fn check(layout: &Layout) {
        let mut found = 0;
        for (number, file) in layout.files.iter().enumerate() {
            let bytes = bytes(file);
            assert_eq!(file.header.len() % 8, 0);
            let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
            assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
            let read = SafeTensors::deserialize(&bytes).unwrap();
            for tensor in layout.tensors.iter().filter(|tensor| tensor.file == number) {
                let view = read.tensor(&tensor.name).unwrap();
                let shape: Vec<u64> = view.shape().iter().map(|&side| side as u64).collect();
                assert_eq!(shape, tensor.shape);
                assert_eq!(view.data().len() as u64, tensor.bytes);
                let at = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
                assert!(tensor.bytes == 0 || at as u64 == tensor.offset, "{}", tensor.name);
                assert!(tensor.offset.is_multiple_of((tensor.dtype.bits() as u64 / 8).max(1)));
            }
            found += read.len();
        }
        assert_eq!(found, layout.tensors.len());
    }

    #[test]
    fn the_formats_reader_reads_odd_files() {
        for tensors in [
            vec![],
            vec![asked("a", Dtype::F32, &[])],
            vec![asked("a", Dtype::F32, &[0])],
            vec![asked("", Dtype::U8, &[3]), asked("a\"\\\n\u{1f}é", Dtype::BF16, &[1])],
            vec![
                asked("z", Dtype::U8, &[3]),
                asked("a", Dtype::F64, &[1]),
                asked("m", Dtype::BF16, &[1]),
                asked("e", Dtype::F32, &[0, 5]),
                asked("b", Dtype::BOOL, &[1]),
                asked("f", Dtype::F4, &[2, 3]),
            ],
        ] {
            for shard_size in [1, 5, 1 << 30] {
                check(&lay_out(&tensors, shard_size).unwrap());
            }
        }
    }

    #[test]
    fn larger_dtypes_come_first_then_names_by_value() {
        let layout = lay_out(
            &[
                asked("layer.10.w", Dtype::BF16, &[1]),
                asked("layer.9.w", Dtype::BF16, &[1]),
                asked("layer.2.b", Dtype::F32, &[1]),
            ],
            100,
        )
        .unwrap();
        let data = layout.files[0].header.len() as u64;
        let offsets: Vec<u64> = layout.tensors.iter().map(|tensor| tensor.offset - data).collect();
        assert_eq!(offsets, [6, 4, 0]);
    }

    #[test]
    fn names_are_ordered_by_the_value_of_their_numbers() {
        let ordered = ["", "a", "a.2", "a.10", "a.10.b", "a.010.c", "a.11", "a2", "ab", "b"];
        for (i, a) in ordered.iter().enumerate() {
            for (j, b) in ordered.iter().enumerate() {
                assert_eq!(natural(a, b), i.cmp(&j), "{a} {b}");
            }
        }
        assert_eq!(natural("a01", "a1"), Ordering::Less);
    }

    #[test]
    fn shards_are_split_and_named_as_transformers_does() {
        // Of huggingface_hub.split_state_dict_into_shards_factory with the same sizes and limit 10.
        let sizes = [4, 4, 4, 11, 10, 1, 9];
        let tensors: Vec<Asked> =
            (0..7).map(|i| asked(&format!("t{i}"), Dtype::U8, &[sizes[i]])).collect();
        let layout = lay_out(&tensors, 10).unwrap();
        let files: Vec<usize> = layout.tensors.iter().map(|tensor| tensor.file).collect();
        // t3 is larger than a shard: it gets its own, before the one that is being filled is closed.
        assert_eq!(files, [0, 0, 2, 1, 3, 4, 4]);
        assert_eq!(layout.files[4].name, "model-00005-of-00005.safetensors");
        let index = String::from_utf8(layout.index.unwrap()).unwrap();
        assert!(index.starts_with("{\n  \"metadata\": {\n    \"total_size\": 43\n  },\n  \"weight_map\": {\n    \"t0\": \"model-00001-of-00005.safetensors\",\n"));
        assert!(index.ends_with("\n  }\n}\n"));
        let one = lay_out(&tensors, 43).unwrap();
        assert_eq!(
            (one.files.len(), &*one.files[0].name, one.index),
            (1, "model.safetensors", None)
        );
    }

    #[test]
    fn what_cannot_be_laid_out_is_refused_by_name() {
        for tensors in [
            vec![asked("a", Dtype::U8, &[1]), asked("a", Dtype::U8, &[2])],
            vec![asked("__metadata__", Dtype::U8, &[1])],
            vec![asked("a", Dtype::F4, &[3])],
            vec![asked("a", Dtype::U8, &[u64::MAX, 2])],
            vec![asked("a", Dtype::F64, &[u64::MAX / 8])],
        ] {
            let error = lay_out(&tensors, 100).unwrap_err();
            assert_eq!(error.tensor.as_deref(), Some(&*tensors[0].0), "{error}");
        }
        let large = [asked("a", Dtype::U8, &[1 << 62]), asked("b", Dtype::U8, &[1 << 62])];
        assert!(lay_out(&large, u64::MAX).is_err());
        assert!(lay_out(&[], 0).is_err());
    }

    proptest! {
        #[test]
        fn the_layout_does_not_depend_on_the_order(
            tensors in proptest::collection::btree_map(
                "[a-c0-2.]{0,4}",
                (0..Dtype::ALL.len(), proptest::collection::vec(0u64..5, 0..3)),
                0..12,
            ),
            shard_size in 1u64..200,
            turn in 0usize..12,
        ) {
            let mut tensors: Vec<Asked> = tensors
                .into_iter()
                .map(|(name, (dtype, shape))| (name, Dtype::ALL[dtype], shape))
                .filter(|(_, dtype, shape)| dtype.bytes_for(shape.iter().product()).is_some())
                .collect();
            let layout = lay_out(&tensors, shard_size).unwrap();
            check(&layout);
            let turn = turn % tensors.len().max(1);
            tensors.rotate_left(turn);
            let mut turned = lay_out(&tensors, shard_size).unwrap();
            turned.tensors.rotate_right(turn);
            prop_assert_eq!(turned, layout);
        }
    }
}
