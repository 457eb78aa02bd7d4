//! JSON from a file, strictly: what a lenient reader would mend or guess is an error that names the file.
//!
//! Refused are repeated keys at any depth (a map would keep the last one silently), a byte order mark, bytes that are no
//! UTF-8, halves of surrogate pairs, `NaN` and `Infinity`, anything after the value, and nesting of 128 or more. Memory
//! is bounded too: `[[],[],…` takes fifty times its own size as values. What the values take is counted while they are
//! read, and is at most [`TIMES`] the text and a [`FLOOR`], and with the text at most [`MOST`].

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::{Error, Result, shown};

/// How often its own size a text may take as values; a table of tensors takes less than ten times.
const TIMES: usize = 16;
/// What the values of the shortest text may take.
const FLOOR: usize = 32 << 20;
/// What a text and its values may take together: below the 192 MB that a hostile file may cost.
const MOST: usize = 176 << 20;

/// The value of a JSON text of at most `cap` bytes; `what` names it in errors.
///
/// # Errors
/// `Malformed`, with the place where it is no strict JSON.
pub fn parse(bytes: &[u8], what: &str, cap: u64) -> Result<Value> {
    if bytes.len() as u64 > cap {
        let size = bytes.len();
        return Err(Error::malformed(format!("{what} is {size} bytes, expected at most {cap}")));
    }
    let invalid = |why: String| Error::malformed(format!("{what} is no valid JSON: {why}"));
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err(invalid("it begins with a byte order mark".into()));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| invalid(format!("byte {} is no UTF-8", error.valid_up_to())))?;
    let budget = Budget::new(bytes.len());
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Strict(&budget)
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| invalid(error.to_string()))
}

/// Bytes that values may still take.
struct Budget(Cell<usize>);

impl Budget {
    fn new(text: usize) -> Self {
        let most = MOST.saturating_sub(text);
        Self(Cell::new(text.saturating_mul(TIMES).saturating_add(FLOOR).min(most)))
    }

    fn take<E: serde::de::Error>(&self, bytes: usize) -> std::result::Result<(), E> {
        let left = self.0.get().checked_sub(bytes);
        self.0.set(left.ok_or_else(|| E::custom("its values take too much memory"))?);
        Ok(())
    }

    /// A string: what allocators round it up to.
    fn take_string<E: serde::de::Error>(&self, text: &str) -> std::result::Result<(), E> {
        if text.is_empty() { Ok(()) } else { self.take(text.len().next_multiple_of(16) + 16) }
    }

    /// An element pushed to an array, before it is: room doubles, and the old one is freed only then.
    fn take_element<E: serde::de::Error>(&self, array: &Vec<Value>) -> std::result::Result<(), E> {
        if array.len() < array.capacity() {
            return Ok(());
        }
        self.take((array.capacity() * 2).max(4) * size_of::<Value>() + 16)
    }

    /// A key inserted into an object, before it is: the tree's nodes have room for 11, and are about half full where
    /// there are several.
    fn take_key<E: serde::de::Error>(
        &self,
        object: &Map<String, Value>,
    ) -> std::result::Result<(), E> {
        const ROOM: usize = 11;
        const NODE: usize = ROOM * (size_of::<String>() + size_of::<Value>()) + 32;
        match object.len() {
            0 => self.take(NODE),
            length if length >= ROOM && (length - ROOM).is_multiple_of(5) => {
                self.take(NODE * 5 / 4)
            }
            _ => Ok(()),
        }
    }
}

/// Reads a value within a budget.
#[derive(Clone, Copy)]
struct Strict<'a>(&'a Budget);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> std::result::Result<Value, E> {
        self.0.take_string(value)?;
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> std::result::Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(value) = elements.next_element_seed(self)? {
            self.0.take_element(&array)?;
            array.push(value);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> std::result::Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!(
                    "the key `{}` stands twice",
                    shown(&key)
                )));
            }
            self.0.take_string(&key)?;
            self.0.take_key(&object)?;
            let value = members.next_value_seed(self)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}
