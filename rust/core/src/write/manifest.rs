//! `branchmerge.json`: what a result is made of and what every byte of it hashes to, sealed by a hash of itself.
//!
//! The last member, `seal`, is the BLAKE3 of every byte before it, so that a flipped bit anywhere shows. It guards against
//! accidents, not against someone who writes a new seal: what is read is bounded, and no member stands twice.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Error, Kind, Result, shown};
use crate::read::header::MOST_DIMENSIONS;
use crate::read::json;
use crate::read::tree_hash::{self, Hash};
use crate::read::words::too_long;

/// The manifest's name in a result.
pub const NAME: &str = "branchmerge.json";

/// The most tensors of a result: its manifest can be read again, whatever the method tells of each.
const MOST_TENSORS: usize = 150_000;
/// The largest manifest that is read.
pub(crate) const LARGEST: u64 = 96 << 20;
/// The largest text of a value of no fixed form that is read: far beyond the recipes that people write.
const LARGEST_VALUE: u64 = 4 << 20;
/// The longest text or number that is read, in bytes as it is written there.
const LONGEST_WORD: usize = 1 << 20;
/// What the files or the tensors may take in memory, some 250,000: with the text, less than a hostile file may cost.
const MOST_MEMORY: usize = 80 << 20;
/// What an entry and its name take in a tree whose nodes are as empty as they come.
const ENTRY: usize = 320;

const BEFORE_SEAL: &[u8] = b",\n  \"seal\": \"";
const AFTER_SEAL: &[u8] = b"\"\n}\n";

/// What a manifest says. `Said` is how it holds what has no fixed form: a [`Value`] to be written, [`Unread`] once read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "Said: Deserialize<'de>"))]
pub struct Manifest<'m, Said = Value> {
    /// The version of the program.
    pub branchmerge: Cow<'m, str>,
    /// The version of the manifest's form.
    pub format: u64,
    /// The recipe, in its canonical form.
    pub recipe: Said,
    /// The inputs with their fingerprints.
    pub inputs: Said,
    /// Where the same bits come out.
    pub bits: Cow<'m, str>,
    /// What rules let through.
    pub allowed: Said,
    /// What a user should know.
    pub warnings: Said,
    /// What the method told of the model as a whole.
    pub statistics: Said,
    /// Every file of the result but the manifest.
    #[serde(borrow, deserialize_with = "entries")]
    pub files: BTreeMap<Cow<'m, str>, FileEntry>,
    /// Every tensor.
    #[serde(borrow, deserialize_with = "entries")]
    pub tensors: BTreeMap<Cow<'m, str>, TensorEntry<'m>>,
}

/// JSON that was seen to be valid, and is no value yet.
pub type Unread<'m> = &'m RawValue;

/// What is said of a file: of one with tensors, the hash of its header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its size.
    pub bytes: u64,
    /// The hash of all of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub blake3: Option<Hash>,
    /// The hash of its header.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub header_blake3: Option<Hash>,
}

/// What is said of a tensor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TensorEntry<'m> {
    /// The hash of its bytes.
    pub blake3: Hash,
    /// How its elements are stored, by the format's name.
    #[serde(borrow)]
    pub dtype: Cow<'m, str>,
    /// The file that it is in.
    #[serde(borrow)]
    pub file: Cow<'m, str>,
    /// Its shape.
    #[serde(deserialize_with = "shape")]
    pub shape: Cow<'m, [u64]>,
    /// What the method told of it.
    #[serde(borrow, skip_serializing_if = "Option::is_none", default)]
    pub statistics: Option<&'m RawValue>,
}

/// That a manifest can hold so many tensors.
///
/// # Errors
/// [`Kind::Recipe`] where they are too many.
pub fn room_for(tensors: usize) -> Result<()> {
    if tensors <= MOST_TENSORS {
        return Ok(());
    }
    let what =
        format!("the result would have {tensors} tensors, at most {MOST_TENSORS} are written");
    Err(Error::recipe(what))
}

/// The manifest's bytes: indented JSON with the seal as its last member.
///
/// # Errors
/// [`Kind::Internal`] where it cannot be written as JSON, or is too large to be read again.
pub fn seal(manifest: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(manifest)
        .map_err(|error| internal(format!("the manifest cannot be written: {error}")))?;
    // The closing brace and the line feed before it make room for the seal.
    bytes.truncate(bytes.len().saturating_sub(2));
    let hash = tree_hash::hash(&bytes).to_string();
    for part in [BEFORE_SEAL, hash.as_bytes(), AFTER_SEAL] {
        bytes.extend_from_slice(part);
    }
    if bytes.len() as u64 > LARGEST {
        let size = bytes.len();
        return Err(internal(format!("the manifest has {size} bytes, at most {LARGEST} are read")));
    }
    Ok(bytes)
}

/// A manifest whose seal is whole.
///
/// # Errors
/// [`Kind::NotVerified`] where the seal is missing or does not fit; [`Kind::Malformed`] where it is no manifest.
pub fn open(bytes: &[u8]) -> Result<Manifest<'_, Unread<'_>>> {
    sealed(bytes)?;
    let wrong = |why: &str| Error::malformed(format!("it is no manifest: {}", shown(why)));
    let text = std::str::from_utf8(bytes).map_err(|error| wrong(&error.to_string()))?;
    if let Some((kind, bytes)) = too_long(text, LONGEST_WORD) {
        return Err(wrong(&format!("a {kind} of {bytes} bytes, at most {LONGEST_WORD} are read")));
    }
    serde_json::from_str(text).map_err(|error| wrong(&error.to_string()))
}

/// The value of what has no fixed form; `what` names it in errors.
///
/// # Errors
/// [`Kind::Malformed`] where it is no strict JSON, or its values would take too much memory.
pub(super) fn value(said: Unread<'_>, what: &str) -> Result<Value> {
    json::parse(said.get().as_bytes(), what, LARGEST_VALUE)
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
    if tree_hash::hash(body).to_string().as_bytes() == hash {
        Ok(body)
    } else {
        Err(broken("does not fit its seal: it was changed after it was written"))
    }
}

fn broken(what: &str) -> Error {
    Kind::NotVerified { what: format!("the manifest {what}") }.into()
}

fn internal(what: String) -> Error {
    Kind::Internal { what }.into()
}

/// An entry that may be one of very many.
trait Entry {
    /// The bytes that it takes besides those of its own fields.
    fn beside(&self) -> usize;
}

impl Entry for FileEntry {
    fn beside(&self) -> usize {
        0
    }
}

impl Entry for TensorEntry<'_> {
    fn beside(&self) -> usize {
        size_of_val(&*self.shape) + copied(&self.dtype) + copied(&self.file)
    }
}

/// The bytes of a text that could not be borrowed, as it has escapes.
#[expect(clippy::ptr_arg, reason = "whether it is borrowed is the question")]
fn copied(text: &Cow<'_, str>) -> usize {
    if matches!(text, Cow::Owned(_)) { text.len() } else { 0 }
}

/// Reads an object of like members: no name twice, and not too many.
fn entries<'de, D: Deserializer<'de>, E: Deserialize<'de> + Entry>(
    deserializer: D,
) -> std::result::Result<BTreeMap<Cow<'de, str>, E>, D::Error> {
    struct Entries<E>(PhantomData<E>);

    impl<'de, E: Deserialize<'de> + Entry> Visitor<'de> for Entries<E> {
        type Value = BTreeMap<Cow<'de, str>, E>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(
            self,
            mut members: A,
        ) -> std::result::Result<Self::Value, A::Error> {
            let mut entries = BTreeMap::new();
            let mut left = MOST_MEMORY;
            while let Some(Name(name)) = members.next_key()? {
                if entries.contains_key(&name) {
                    let name = shown(&name);
                    return Err(A::Error::custom(format_args!("the key `{name}` stands twice")));
                }
                let entry: E = members.next_value()?;
                let takes = ENTRY + copied(&name) + entry.beside();
                left = left
                    .checked_sub(takes)
                    .ok_or_else(|| A::Error::custom("its entries take too much memory"))?;
                entries.insert(name, entry);
            }
            Ok(entries)
        }
    }

    deserializer.deserialize_map(Entries(PhantomData))
}

/// A name that is not copied where it stands in the text as it is.
#[derive(Deserialize)]
struct Name<'n>(#[serde(borrow)] Cow<'n, str>);

/// Reads a shape: not more dimensions than a header may have.
fn shape<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Cow<'de, [u64]>, D::Error> {
    struct Sides;

    impl<'de> Visitor<'de> for Sides {
        type Value = Vec<u64>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("a shape")
        }

        fn visit_seq<A: SeqAccess<'de>>(
            self,
            mut sides: A,
        ) -> std::result::Result<Vec<u64>, A::Error> {
            let mut shape = Vec::new();
            while let Some(side) = sides.next_element()? {
                if shape.len() == MOST_DIMENSIONS {
                    return Err(A::Error::custom("a shape has too many dimensions"));
                }
                shape.push(side);
            }
            Ok(shape)
        }
    }

    deserializer.deserialize_seq(Sides).map(Cow::Owned)
}

#[cfg(test)]
mod tests;
