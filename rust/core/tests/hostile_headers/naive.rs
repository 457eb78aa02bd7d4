//! What a header is, said once more and without cleverness: its own JSON reader, and tiles instead of a running end.

use std::collections::{BTreeMap, BTreeSet};

use crate::plain_json::{self, Json};

/// Every dtype of the format with the bits of an element.
pub(crate) const DTYPES: [(&str, u64); 22] = [
    ("BOOL", 8),
    ("F4", 4),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("U8", 8),
    ("I8", 8),
    ("F8_E5M2", 8),
    ("F8_E4M3", 8),
    ("F8_E8M0", 8),
    ("F8_E4M3FNUZ", 8),
    ("F8_E5M2FNUZ", 8),
    ("I16", 16),
    ("U16", 16),
    ("F16", 16),
    ("BF16", 16),
    ("I32", 32),
    ("U32", 32),
    ("F32", 32),
    ("C64", 64),
    ("F64", 64),
    ("I64", 64),
    ("U64", 64),
];

/// Deeper than any header is right.
const DEEPEST: usize = 8;

/// A tensor: dtype, shape, and its bytes counted from the start of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) dtype: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// The tensors of a file of `length` bytes that begins with `bytes`; none where the header is not right.
pub(crate) fn read(bytes: &[u8], length: u64) -> Option<BTreeMap<String, Placed>> {
    let announced = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    if length < 8 || announced > 100_000_000 || announced > length - 8 {
        return None;
    }
    let text = std::str::from_utf8(bytes.get(8..)?.get(..announced as usize)?).ok()?;
    if !text.starts_with('{') {
        return None;
    }
    let Json::Object(members) = plain_json::read(text, DEEPEST)? else { return None };
    let mut names = BTreeSet::new();
    let mut tensors = BTreeMap::new();
    for (name, value) in &members {
        if !names.insert(name) || name.len() > 4096 {
            return None;
        }
        if name == "__metadata__" {
            metadata(value)?;
        } else {
            tensors.insert(name.clone(), tensor(value)?);
        }
    }
    tiled(&tensors, length - 8 - announced)?;
    for tensor in tensors.values_mut() {
        tensor.start += 8 + announced;
        tensor.end += 8 + announced;
    }
    Some(tensors)
}

/// Null, or texts by name, none of them twice.
fn metadata(value: &Json) -> Option<()> {
    match value {
        Json::Null => Some(()),
        Json::Object(members) => {
            let texts = members.iter().all(|(_, value)| matches!(value, Json::Text(_)));
            let names: BTreeSet<_> = members.iter().map(|(name, _)| name).collect();
            (texts && names.len() == members.len()).then_some(())
        }
        _ => None,
    }
}

/// An object of exactly the three keys, whose bytes are as many as its shape needs.
fn tensor(value: &Json) -> Option<Placed> {
    let Json::Object(members) = value else { return None };
    let find = |key: &str| members.iter().find(|(name, _)| name == key).map(|(_, value)| value);
    let (Json::Text(dtype), shape, places) =
        (find("dtype")?, numbers(find("shape")?)?, numbers(find("data_offsets")?)?)
    else {
        return None;
    };
    if members.len() != 3 || shape.len() > 64 {
        return None;
    }
    let (_, bits) = DTYPES.iter().find(|(name, _)| name == dtype)?;
    // The format's reader multiplies in order, in 64 bits: what overflows on the way stays refused after a zero.
    let mut elements: u128 = 1;
    for &side in &shape {
        elements *= u128::from(side);
        u64::try_from(elements).ok()?;
    }
    let bits = u64::try_from(elements * u128::from(*bits)).ok()?;
    let [start, end] = places[..] else { return None };
    let right = bits % 8 == 0 && end >= start && end - start == bits / 8;
    right.then(|| Placed { dtype: dtype.clone(), shape, start, end })
}

fn numbers(value: &Json) -> Option<Vec<u64>> {
    let Json::List(values) = value else { return None };
    let number = |value: &Json| match value {
        Json::Number(digits) => digits.parse().ok(),
        _ => None,
    };
    values.iter().map(number).collect()
}

/// That tensors with bytes are tiles over all of `data`, and those without lie at an edge of one.
fn tiled(tensors: &BTreeMap<String, Placed>, data: u64) -> Option<()> {
    let mut next_of: BTreeMap<u64, u64> = BTreeMap::new();
    for tensor in tensors.values().filter(|tensor| tensor.start < tensor.end) {
        if next_of.insert(tensor.start, tensor.end).is_some() {
            return None;
        }
    }
    let mut edges = BTreeSet::from([0]);
    let mut edge = 0;
    while let Some(next) = next_of.remove(&edge) {
        edge = next;
        edges.insert(edge);
    }
    let all = next_of.is_empty() && edge == data;
    (all && tensors.values().all(|tensor| edges.contains(&tensor.end))).then_some(())
}
