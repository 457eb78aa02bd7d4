//! BLAKE3 of a byte string whose parts are hashed in any order.
//!
//! BLAKE3 is a binary tree over 1 KiB leaves. A part whose size is a power of two, at a multiple of that size, is a
//! whole subtree; [`join`] folds the subtrees of all parts into the standard hash, the one that `b3sum` prints.

use std::fmt;

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A BLAKE3 hash; as text, 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl From<blake3::Hash> for Hash {
    fn from(hash: blake3::Hash) -> Self {
        Self(hash.into())
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let hash = blake3::Hash::from_hex(text.as_bytes());
        hash.map(Self::from).map_err(|_| D::Error::custom("a hash has 64 hexadecimal digits"))
    }
}

/// The hash of one part: a subtree's chaining value, or the whole hash where there is only one part.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// The part is the whole string.
    Whole([u8; 32]),
    /// The part is a subtree.
    Subtree(ChainingValue),
}

/// Hashes one part of a string of `total` bytes; `offset` is where it begins.
///
/// All parts but the last have the same size, a power of two of at least 1024.
#[must_use]
pub fn part(bytes: &[u8], offset: u64, total: u64) -> Part {
    let mut hasher = blake3::Hasher::new();
    if bytes.len() as u64 == total {
        return Part::Whole(hasher.update(bytes).finalize().into());
    }
    hasher.set_input_offset(offset);
    Part::Subtree(hasher.update(bytes).finalize_non_root())
}

/// The standard hash of the string whose parts are given in order.
#[must_use]
pub fn join(parts: &[Part]) -> Hash {
    match parts {
        [] => hash(&[]),
        [Part::Whole(hash)] => Hash(*hash),
        _ => {
            let values: Vec<ChainingValue> = parts.iter().map(subtree).collect();
            let (left, right) = values.split_at(left_count(values.len()));
            merge_subtrees_root(&merged(left), &merged(right), Mode::Hash).into()
        }
    }
}

/// The hash of bytes at hand.
#[must_use]
pub fn hash(bytes: &[u8]) -> Hash {
    blake3::hash(bytes).into()
}

fn subtree(part: &Part) -> ChainingValue {
    match part {
        Part::Whole(value) | Part::Subtree(value) => *value,
    }
}

/// The left subtree holds the largest power of two of parts that leaves at least one for the right.
fn left_count(parts: usize) -> usize {
    parts.next_power_of_two() / 2
}

fn merged(values: &[ChainingValue]) -> ChainingValue {
    if let [one] = values {
        *one
    } else {
        let (left, right) = values.split_at(left_count(values.len()));
        merge_subtrees_non_root(&merged(left), &merged(right), Mode::Hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_join_to_the_standard_hash() {
        let bytes: Vec<u8> = (0..40_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
        for length in [0, 1, 1023, 1024, 1025, 2048, 4096, 4097, 12_288, 16_385, 40_000] {
            for size in [1024, 4096] {
                let bytes = &bytes[..length];
                let parts: Vec<Part> = bytes
                    .chunks(size)
                    .enumerate()
                    .map(|(i, chunk)| part(chunk, (i * size) as u64, length as u64))
                    .collect();
                assert_eq!(join(&parts), hash(bytes), "{length} bytes in parts of {size}");
            }
        }
    }
}
