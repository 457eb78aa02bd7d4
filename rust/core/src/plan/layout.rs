//! Where every byte of the output will lie, decided from names, dtypes and shapes alone.
//!
//! The layout depends on nothing else: not on the order in which tensors are named, nor on how the inputs were sharded.
//! So two runs of one recipe write the same files, and a tensor may be written before its neighbours are known.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

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
    pub name: Arc<str>,
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
pub fn lay_out<N: Clone + Into<Arc<str>>>(
    tensors: &[(N, Dtype, Vec<u64>)],
    shard_size: u64,
) -> Result<Layout> {
    if shard_size == 0 {
        return Err(Error::value("shard_size", "0", "at least 1 byte"));
    }
    let mut placed = tensors.iter().map(measured).collect::<Result<Vec<_>>>()?;
    let mut order: Vec<usize> = (0..placed.len()).collect();
    order.sort_by(|&a, &b| natural(&placed[a].name, &placed[b].name));
    if let Some(pair) = order.windows(2).find(|pair| placed[pair[0]].name == placed[pair[1]].name) {
        let twice = Error::malformed("the tensor is there twice");
        return Err(twice.tensor(&*placed[pair[0]].name));
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
fn measured<N: Clone + Into<Arc<str>>>(
    (name, dtype, shape): &(N, Dtype, Vec<u64>),
) -> Result<Placed> {
    let name: Arc<str> = name.clone().into();
    if &*name == "__metadata__" {
        return Err(Error::malformed("the name is reserved by the format").tensor(&*name));
    }
    let elements = shape.iter().try_fold(1u64, |product, &side| product.checked_mul(side));
    let bytes = elements
        .and_then(|elements| dtype.bytes_for(elements))
        .filter(|&bytes| i64::try_from(bytes).is_ok())
        .ok_or_else(|| {
            let what =
                format!("{shape:?} elements of {} are not whole bytes, or too many", dtype.name());
            Error::malformed(what).tensor(&*name)
        })?;
    Ok(Placed { name, dtype: *dtype, shape: shape.clone(), file: 0, offset: 0, bytes })
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
        let (key, dtype, shape) = (json!(&*tensor.name), tensor.dtype.name(), json!(tensor.shape));
        let _ = write!(
            json,
            r#",{key}:{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#
        );
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
mod tests;
