//! The JSON of a header to its tensors, within bounded memory and with nothing guessed.
//!
//! Every visitor takes `deserialize_any` and has a `visit_str` of its own, because the message of serde's holds the whole
//! text, which may be millions of bytes. What is wrong with a tensor is kept aside whole: a serde error is but a text.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{LONGEST_NAME, LONGEST_TEXT, MOST_DIMENSIONS, MOST_MEMORY, Stored};
use crate::error::{Error, Result, shown};
use crate::read::dtype::Dtype;
use crate::read::words::too_long;

/// What a tensor takes in a tree whose nodes are as empty as they come, and in the list by place.
const TENSOR: usize = 240;
/// The same of a key in a set.
const KEY: usize = 80;

/// The tensors of a header; their ranges count from its end.
pub(super) fn read(json: &[u8], file: usize) -> Result<BTreeMap<String, Stored>> {
    let json = std::str::from_utf8(json).map_err(|error| {
        Error::malformed(format!("byte {} of the header is no UTF-8", error.valid_up_to()))
    })?;
    if !json.starts_with('{') {
        let first: String = json.chars().take(8).collect();
        return Err(Error::malformed(format!(
            "the header begins with `{}`, expected `{{`",
            shown(&first)
        )));
    }
    if let Some((kind, bytes)) = too_long(json, LONGEST_TEXT) {
        return Err(Error::malformed(format!(
            "the header holds a {kind} of {bytes} bytes, expected at most {LONGEST_TEXT}"
        )));
    }
    let left = (MOST_MEMORY as usize).saturating_sub(json.len());
    let reading = Reading {
        file,
        left: Cell::new(left),
        tensor: RefCell::default(),
        wrong: RefCell::default(),
    };
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let read = Header(&reading).deserialize(&mut deserializer);
    read.and_then(|tensors| deserializer.end().map(|()| tensors)).map_err(|error| {
        let wrong = reading.wrong.take();
        let wrong =
            wrong.unwrap_or_else(|| format!("the header is no valid table of tensors: {error}"));
        let wrong = Error::malformed(wrong);
        match reading.tensor.take() {
            Some(name) => wrong.tensor(name),
            None => wrong,
        }
    })
}

/// What is common to the visitors.
struct Reading {
    file: usize,
    /// Bytes that tensors may still take.
    left: Cell<usize>,
    /// The tensor that is being read.
    tensor: RefCell<Option<String>>,
    /// What is wrong, where it is not the JSON.
    wrong: RefCell<Option<String>>,
}

impl Reading {
    fn wrong<E: serde::de::Error>(&self, what: impl Into<String>) -> E {
        self.wrong.replace(Some(what.into()));
        E::custom("it is told aside")
    }

    fn take<E: serde::de::Error>(&self, bytes: usize) -> std::result::Result<(), E> {
        let left = self.left.get().checked_sub(bytes);
        let too_much = || {
            self.wrong(format!(
                "the header and its tensors take more than {MOST_MEMORY} bytes of memory"
            ))
        };
        self.left.set(left.ok_or_else(too_much)?);
        Ok(())
    }
}

/// What an allocator takes for so many bytes.
fn rounded(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { bytes.next_multiple_of(16) + 16 }
}

/// Why a text is refused where something else is expected, at a length that can be shown.
macro_rules! no_text {
    () => {
        fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Self::Value, E> {
            Err(E::invalid_type(serde::de::Unexpected::Str(&shown(text)), &self))
        }
    };
}

/// Any value, handed to a visitor that knows what it expects.
macro_rules! seed {
    ($visitor:ty, $value:ty) => {
        impl<'de> DeserializeSeed<'de> for $visitor {
            type Value = $value;
            fn deserialize<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> std::result::Result<$value, D::Error> {
                deserializer.deserialize_any(self)
            }
        }
    };
}

/// The whole header.
struct Header<'a>(&'a Reading);
seed!(Header<'_>, BTreeMap<String, Stored>);

impl<'de> Visitor<'de> for Header<'_> {
    type Value = BTreeMap<String, Stored>;
    no_text!();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(
        self,
        mut members: A,
    ) -> std::result::Result<Self::Value, A::Error> {
        let reading = self.0;
        let mut tensors = BTreeMap::new();
        let mut metadata = false;
        while let Some(name) = members.next_key::<String>()? {
            if name == "__metadata__" {
                if metadata {
                    return Err(reading.wrong("`__metadata__` is there twice"));
                }
                metadata = true;
                members.next_value_seed(Metadata(reading))?;
                continue;
            }
            reading.take(TENSOR + rounded(name.len()))?;
            if name.len() > LONGEST_NAME {
                let what =
                    format!("its name has {} bytes, expected at most {LONGEST_NAME}", name.len());
                reading.tensor.replace(Some(name));
                return Err(reading.wrong(what));
            }
            if tensors.contains_key(&name) {
                reading.tensor.replace(Some(name));
                return Err(reading.wrong("it is there twice"));
            }
            match members.next_value_seed(Entry(reading)) {
                Ok(stored) => {
                    tensors.insert(name, stored);
                }
                Err(error) => {
                    reading.tensor.replace(Some(name));
                    return Err(error);
                }
            }
        }
        Ok(tensors)
    }
}

/// A map of texts to texts, which is checked and let go; null is none, as the format's reader takes it.
struct Metadata<'a>(&'a Reading);
seed!(Metadata<'_>, ());

impl<'de> Visitor<'de> for Metadata<'_> {
    type Value = ();
    no_text!();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("texts by name in `__metadata__`")
    }

    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> std::result::Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = members.next_key::<String>()? {
            self.0.take(KEY + rounded(key.len()))?;
            members.next_value_seed(Text)?;
            if seen.contains(&key) {
                let what = format!("`{}` is there twice in `__metadata__`", shown(&key));
                return Err(self.0.wrong(what));
            }
            seen.insert(key);
        }
        Ok(())
    }
}

/// A text that nobody keeps.
struct Text;
seed!(Text, ());

impl Visitor<'_> for Text {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a text in `__metadata__`")
    }

    fn visit_str<E>(self, _: &str) -> std::result::Result<(), E> {
        Ok(())
    }
}

/// What stands at a tensor's name.
struct Entry<'a>(&'a Reading);
seed!(Entry<'_>, Stored);

impl<'de> Visitor<'de> for Entry<'_> {
    type Value = Stored;
    no_text!();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object with `dtype`, `shape` and `data_offsets`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> std::result::Result<Stored, A::Error> {
        let reading = self.0;
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(key) = members.next_key_seed(Key(reading))? {
            let again = match key {
                "dtype" => dtype.replace(members.next_value_seed(Name(reading))?).is_some(),
                "shape" => {
                    let numbers = Numbers { reading, key, most: MOST_DIMENSIONS };
                    shape.replace(members.next_value_seed(numbers)?).is_some()
                }
                _ => {
                    let numbers = Numbers { reading, key, most: 2 };
                    offsets.replace(members.next_value_seed(numbers)?).is_some()
                }
            };
            if again {
                return Err(reading.wrong(format!("`{key}` is there twice")));
            }
        }
        let missing = |key: &str| reading.wrong(format!("it has no `{key}`"));
        let dtype = dtype.ok_or_else(|| missing("dtype"))?;
        let shape = shape.ok_or_else(|| missing("shape"))?;
        let offsets = offsets.ok_or_else(|| missing("data_offsets"))?;
        let &[start, end] = offsets.as_slice() else {
            let what = format!("`data_offsets` has {} numbers, expected 2", offsets.len());
            return Err(reading.wrong(what));
        };
        Ok(Stored { dtype, shape, file: reading.file, range: start..end })
    }
}

/// A key of an entry.
struct Key<'a>(&'a Reading);
seed!(Key<'_>, &'static str);

impl Visitor<'_> for Key<'_> {
    type Value = &'static str;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> std::result::Result<&'static str, E> {
        const KEYS: [&str; 3] = ["dtype", "shape", "data_offsets"];
        let what = || {
            let key = shown(key);
            format!("it has the key `{key}`, expected `dtype`, `shape` and `data_offsets` alone")
        };
        KEYS.into_iter().find(|known| *known == key).ok_or_else(|| self.0.wrong(what()))
    }
}

/// The name of a dtype.
struct Name<'a>(&'a Reading);
seed!(Name<'_>, Dtype);

impl Visitor<'_> for Name<'_> {
    type Value = Dtype;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the name of a dtype")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> std::result::Result<Dtype, E> {
        let what = || {
            format!("its dtype is `{}`, expected one of the format, such as `BF16`", shown(name))
        };
        Dtype::from_name(name).ok_or_else(|| self.0.wrong(what()))
    }
}

/// A list of at most so many whole numbers.
struct Numbers<'a> {
    reading: &'a Reading,
    key: &'static str,
    most: usize,
}
seed!(Numbers<'_>, Vec<u64>);

impl<'de> Visitor<'de> for Numbers<'_> {
    type Value = Vec<u64>;
    no_text!();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "a list of whole numbers as `{}`", self.key)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Vec<u64>, A::Error> {
        // On the stack first, so that the vector has no more room than it needs.
        let (mut numbers, mut count) = ([0; MOST_DIMENSIONS], 0);
        while let Some(number) = list.next_element_seed(Number(self.key))? {
            if count == self.most {
                let what = format!("`{}` has more than {} numbers", self.key, self.most);
                return Err(self.reading.wrong(what));
            }
            numbers[count] = number;
            count += 1;
        }
        self.reading.take(rounded(count * size_of::<u64>()))?;
        Ok(numbers[..count].to_vec())
    }
}

/// A whole number from 0 to 2^64 − 1.
struct Number(&'static str);
seed!(Number, u64);

impl Visitor<'_> for Number {
    type Value = u64;
    no_text!();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "a whole number below 2^64 in `{}`", self.0)
    }

    fn visit_u64<E>(self, number: u64) -> std::result::Result<u64, E> {
        Ok(number)
    }
}
