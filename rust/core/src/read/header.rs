//! Where tensors lie in a safetensors file: the header, read as hostile bytes.
//!
//! Stricter than the format's own reader: a key given twice is refused, as is one that is not known.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};

use crate::error::{Error, Result, shown};
use crate::read::dtype::Dtype;
use crate::read::source::Source;

/// The longest header: the format's own limit.
const LONGEST: u64 = 100_000_000;
/// The most dimensions.
const MOST_DIMENSIONS: usize = 64;

/// A tensor's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// How its elements are stored.
    pub dtype: Dtype,
    /// Its shape; empty for a scalar.
    pub shape: Vec<u64>,
    /// Which of the checkpoint's files it is in.
    pub file: usize,
    /// Its bytes, counted from the start of the file.
    pub range: Range<u64>,
}

impl Stored {
    /// How many elements it has; the header has checked the product.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// Reads the header of a file; `file` is its number in the checkpoint.
///
/// # Errors
/// [`crate::error::Kind::Malformed`] with what was found and expected; the system's word.
pub fn read_header(source: &Source, file: usize) -> Result<Vec<(String, Stored)>> {
    let read = || {
        let length = source.len();
        if length < 8 {
            return Err(Error::malformed(format!(
                "{length} bytes, expected at least 8 for a header's length"
            )));
        }
        let mut buffer = Vec::new();
        let prefix = source.bytes(0..8, &mut buffer)?;
        let header = header_length(prefix, length)?;
        let bytes = source.bytes(0..8 + header, &mut buffer)?;
        let found = parse(bytes, length, file);
        source.intact()?;
        found
    };
    read().map_err(|error| error.path(source.path()))
}

/// Reads a header: its length in eight bytes, then its JSON; `length` is that of the whole file.
///
/// Takes memory of at most about six times the header.
///
/// # Errors
/// As [`read_header`].
pub fn parse(bytes: &[u8], length: u64, file: usize) -> Result<Vec<(String, Stored)>> {
    let header = header_length(bytes.get(..8).unwrap_or_default(), length)?;
    let json = bytes
        .get(8..8 + header as usize)
        .ok_or_else(|| Error::malformed("the header is cut off"))?;
    if json.first() != Some(&b'{') {
        return Err(Error::malformed("the header does not begin with `{`"));
    }
    let mut json = serde_json::Deserializer::from_slice(json);
    let entries = json.deserialize_map(Header).and_then(|entries| json.end().map(|()| entries));
    let entries = entries
        .map_err(|error| Error::malformed(format!("the header is no valid JSON: {error}")))?;
    place(entries, length - 8 - header, 8 + header, file)
}

fn header_length(prefix: &[u8], length: u64) -> Result<u64> {
    let prefix: [u8; 8] = prefix.try_into().map_err(|_| {
        Error::malformed(format!("{length} bytes, expected at least 8 for a header's length"))
    })?;
    let header = u64::from_le_bytes(prefix);
    if header > LONGEST {
        return Err(Error::malformed(format!(
            "a header of {header} bytes is announced, at most {LONGEST} are allowed; is it a safetensors file?"
        )));
    }
    if header > length.saturating_sub(8) {
        let what = format!(
            "a header of {header} bytes is announced, the file has {length} bytes: it is cut off"
        );
        return Err(Error::malformed(what));
    }
    Ok(header)
}

/// An entry as it is written.
struct Entry {
    dtype: Dtype,
    shape: Vec<u64>,
    offsets: [u64; 2],
}

/// Checks every size, and that the tensors cover the file without a hole or an overlap.
fn place(
    entries: BTreeMap<String, Entry>,
    data: u64,
    start: u64,
    file: usize,
) -> Result<Vec<(String, Stored)>> {
    let mut order: Vec<(&String, &Entry)> = entries.iter().collect();
    order.sort_by_key(|(_, entry)| entry.offsets);
    let mut end = 0;
    for (name, entry) in order {
        let [from, to] = entry.offsets;
        let said = |what: String| Error::malformed(what).tensor(name);
        if from != end || to < from {
            let what = format!(
                "its bytes are {from}..{to}, expected to begin at {end}: tensors may leave no hole and not overlap"
            );
            return Err(said(what));
        }
        let elements =
            entry.shape.iter().try_fold(1u64, |product, &side| product.checked_mul(side));
        let bytes = elements.and_then(|elements| entry.dtype.bytes_for(elements));
        if bytes != Some(to - from) {
            let expected = bytes.map_or("too many".into(), |bytes| bytes.to_string());
            let what = format!(
                "it has {} bytes, expected {expected} for shape {:?} of {}",
                to - from,
                entry.shape,
                entry.dtype.name()
            );
            return Err(said(what));
        }
        end = to;
    }
    if end != data {
        let what = format!("the tensors have {end} bytes, the file has {data} for them");
        return Err(Error::malformed(what));
    }
    let stored = |entry: Entry| Stored {
        dtype: entry.dtype,
        shape: entry.shape,
        file,
        range: start + entry.offsets[0]..start + entry.offsets[1],
    };
    Ok(entries.into_iter().map(|(name, entry)| (name, stored(entry))).collect())
}

/// The whole header.
struct Header;

impl<'de> Visitor<'de> for Header {
    type Value = BTreeMap<String, Entry>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(
        self,
        mut map: A,
    ) -> std::result::Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        let mut metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if metadata {
                    return Err(twice(&name));
                }
                metadata = true;
                map.next_value_seed(Metadata)?;
                continue;
            }
            let entry = map.next_value_seed(Tensor(&name))?;
            if entries.contains_key(&name) {
                return Err(twice(&name));
            }
            entries.insert(name, entry);
        }
        Ok(entries)
    }
}

fn twice<E: de::Error>(name: &str) -> E {
    E::custom(format!("`{}` is there twice", shown(name)))
}

/// A map of texts to texts, which is checked and let go; null is taken for none, as the format's reader does.
struct Metadata;

impl<'de> DeserializeSeed<'de> for Metadata {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Metadata {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a map of texts as `__metadata__`")
    }

    fn visit_unit<E: de::Error>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut seen = std::collections::BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<String>()?;
            if seen.contains(&key) {
                return Err(twice(&key));
            }
            seen.insert(key);
        }
        Ok(())
    }
}

/// One tensor's entry; its name is for errors.
struct Tensor<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Tensor<'_> {
    type Value = Entry;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<Entry, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Tensor<'_> {
    type Value = Entry;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "`dtype`, `shape` and `data_offsets` of tensor `{}`", shown(self.0))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entry, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        let said = |what: String| de::Error::custom(format!("tensor `{}`: {what}", shown(self.0)));
        while let Some(key) = map.next_key::<String>()? {
            let again = match key.as_str() {
                "dtype" => {
                    let name: String = map.next_value()?;
                    let known = Dtype::from_name(&name);
                    let known =
                        known.ok_or_else(|| said(format!("unknown dtype `{}`", shown(&name))))?;
                    dtype.replace(known).is_some()
                }
                "shape" => shape.replace(map.next_value_seed(Numbers(MOST_DIMENSIONS))?).is_some(),
                "data_offsets" => offsets.replace(map.next_value_seed(Numbers(2))?).is_some(),
                other => return Err(said(format!("unknown key `{}`", shown(other)))),
            };
            if again {
                return Err(said(format!("`{key}` is there twice")));
            }
        }
        let dtype = dtype.ok_or_else(|| said("`dtype` is missing".into()))?;
        let shape = shape.ok_or_else(|| said("`shape` is missing".into()))?;
        let offsets: Vec<u64> = offsets.ok_or_else(|| said("`data_offsets` is missing".into()))?;
        let offsets: [u64; 2] = offsets.try_into().map_err(|found: Vec<u64>| {
            said(format!("`data_offsets` has {} numbers, expected 2", found.len()))
        })?;
        Ok(Entry { dtype, shape, offsets })
    }
}

/// A list of at most so many whole numbers.
struct Numbers(usize);

impl<'de> DeserializeSeed<'de> for Numbers {
    type Value = Vec<u64>;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<Vec<u64>, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Numbers {
    type Value = Vec<u64>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "at most {} whole numbers", self.0)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(
        self,
        mut list: A,
    ) -> std::result::Result<Vec<u64>, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = list.next_element()? {
            if numbers.len() == self.0 {
                return Err(de::Error::custom(format!("more than {} numbers", self.0)));
            }
            numbers.push(number);
        }
        Ok(numbers)
    }
}
