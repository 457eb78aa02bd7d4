//! `branchmerge.json`: what a result is made of and what every byte of it hashes to, sealed by a hash of itself.
//!
//! The last member, `seal`, is the BLAKE3 of every byte before it, so that a flipped bit anywhere shows. It guards against
//! accidents, not against someone who writes a new seal.

use serde_json::Value;

use crate::error::{Error, Kind, Result};
use crate::read::{json, tree_hash};

/// The manifest's name in a result.
pub const NAME: &str = "branchmerge.json";

/// The largest manifest that is read: some 200,000 tensors.
pub(crate) const LARGEST: u64 = 96 << 20;
/// What a manifest and its values may take in memory. One of 10⁵ tensors takes 230 MB.
const MOST_MEMORY: usize = 512 << 20;
/// The most values in a manifest that is read; each costs memory whatever its length.
const MOST_VALUES: usize = 3_000_000;

const BEFORE_SEAL: &[u8] = b",\n  \"seal\": \"";
const AFTER_SEAL: &[u8] = b"\"\n}\n";

/// The manifest's bytes: `body` as indented JSON with the seal as its last member.
///
/// `body` is an object without a member `seal`, and not empty; anything else cannot be opened again.
#[must_use]
pub fn seal(body: &Value) -> Vec<u8> {
    let mut bytes = format!("{body:#}").into_bytes();
    // The closing brace and the line feed before it make room for the seal.
    bytes.truncate(bytes.len().saturating_sub(2));
    let hash = tree_hash::hash(&bytes);
    bytes.extend_from_slice(BEFORE_SEAL);
    bytes.extend_from_slice(hash.as_bytes());
    bytes.extend_from_slice(AFTER_SEAL);
    bytes
}

/// The body of a manifest whose seal is whole.
///
/// # Errors
/// [`Kind::NotVerified`] where the seal is missing or does not fit; [`Kind::Malformed`] where the JSON is not strict.
pub fn open(bytes: &[u8]) -> Result<Value> {
    let body = sealed(bytes)?;
    let values = body.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count();
    if values > MOST_VALUES {
        return Err(Error::malformed(format!("more than {MOST_VALUES} values in the manifest")));
    }
    let Value::Object(mut members) = json::parse_within(bytes, NAME, LARGEST, MOST_MEMORY)? else {
        return Err(Error::malformed("the manifest is not an object"));
    };
    members.remove("seal");
    Ok(Value::Object(members))
}

/// The bytes under the seal, if it fits them.
fn sealed(bytes: &[u8]) -> Result<&[u8]> {
    const HASH: usize = 64;
    let rest = bytes.strip_suffix(AFTER_SEAL).ok_or_else(|| broken("has no seal"))?;
    let (rest, hash) = rest
        .len()
        .checked_sub(HASH)
        .and_then(|at| rest.split_at_checked(at))
        .ok_or_else(|| broken("has no seal"))?;
    let body = rest.strip_suffix(BEFORE_SEAL).ok_or_else(|| broken("has no seal"))?;
    if tree_hash::hash(body).as_bytes() == hash {
        Ok(body)
    } else {
        Err(broken("does not fit its seal: it was changed after it was written"))
    }
}

fn broken(what: &str) -> Error {
    Kind::NotVerified { what: format!("the manifest {what}") }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn body() -> Value {
        json!({ "branchmerge": "0.1.0", "tensors": { "a": { "shape": [2, 3], "blake3": "00" } } })
    }

    #[test]
    fn opens_what_was_sealed() {
        let bytes = seal(&body());
        assert_eq!(open(&bytes).unwrap(), body());
        assert!(serde_json::from_slice::<Value>(&bytes).unwrap()["seal"].is_string());
        assert!(bytes.ends_with(b"\"\n}\n"));
    }

    #[test]
    fn a_hundred_thousand_tensors_open_again() {
        let hash = "0".repeat(64);
        let entry = |number: usize| {
            let entry = json!({
                "blake3": hash, "file": "model.safetensors", "dtype": "BF16", "shape": [256],
                "statistics": { "changed": 0.123_456_789, "threshold": 0.1, "taken": 0.2 },
            });
            (format!("model.layers.{number}.experts.weight"), entry)
        };
        let tensors: serde_json::Map<_, _> = (0..100_000).map(entry).collect();
        assert!(open(&seal(&json!({ "tensors": tensors }))).is_ok());
    }

    #[test]
    fn every_flipped_bit_shows() {
        let bytes = seal(&body());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_and_every_zeroed_tail_shows() {
        let bytes = seal(&body());
        for length in 0..bytes.len() {
            assert!(open(&bytes[..length]).is_err(), "cut to {length}");
            let mut zeroed = bytes.clone();
            zeroed[length..].fill(0);
            assert!(open(&zeroed).is_err(), "zeros from {length}");
        }
        assert!(open(&[&bytes[..], b"\n"].concat()).is_err());
    }

    #[test]
    fn what_is_no_object_with_members_is_refused() {
        assert!(open(&seal(&json!({}))).is_err());
        assert!(open(&seal(&json!([1, 2]))).is_err());
    }
}
