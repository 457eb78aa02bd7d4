//! What a tokenizer's files say: its tokens by the rows of the embeddings.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::{Error, Result, shown};
use crate::read::checkpoint::Checkpoint;
use crate::read::json;

/// The file that most tokenizers are in.
pub(super) const FILE: &str = "tokenizer.json";
/// Tokens and their rows, of the kind that has its merges in `merges.txt`.
const VOCABULARY: &str = "vocab.json";
/// Tokens of `SentencePiece`, in the order of their rows.
const PIECES: &str = "tokenizer.model";
/// Tokens that were added to one of the two others.
pub(super) const ADDED: &str = "added_tokens.json";
/// The largest tokenizer that is read; the largest in use have 33 MB.
pub(super) const CAP: u64 = 64 << 20;
/// The largest `SentencePiece` model that is read: the largest in use have 5 MB.
const MOST_PIECES: u64 = 8 << 20;
/// The most tokens that a tokenizer may have; the largest in use have 262 thousand.
const MOST_TOKENS: usize = 1 << 19;
/// The most of them that may have been added to the others.
const MOST_ADDED: usize = 1 << 18;
/// The most rows that embeddings may have whose rows are put in order.
pub(super) const MOST_ROWS: u64 = 1 << 21;
/// The last row that a token may have.
const LAST_ROW: u64 = MOST_ROWS - 1;

/// A tokenizer.
pub(super) struct Tokenizer {
    /// Its tokens by row.
    pub(super) tokens: BTreeMap<u64, String>,
    /// What it says of those that were added to its own, by their rows.
    pub(super) added: BTreeMap<u64, Flags>,
    /// What kind it is: `BPE`; empty where that is not said.
    pub(super) kind: String,
    /// Whether words that are in its vocabulary become their tokens whatever its merges say.
    pub(super) whole_words: bool,
    /// All else that it says, where it is compared.
    pub(super) rest: Map<String, Value>,
}

impl Tokenizer {
    /// The tokenizer of a directory; none where it has none that is understood.
    ///
    /// # Errors
    /// The system's word; a row beyond all that are meant.
    pub(super) fn of(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        let whole = checkpoint.small(FILE, CAP)?;
        let found = match &whole {
            Some(bytes) => Self::tokens_of(bytes),
            None => Self::parts(checkpoint)?,
        };
        let last = found.as_ref().and_then(|found| found.tokens.last_key_value());
        if let Some((row, token)) = last.filter(|(row, _)| **row > LAST_ROW) {
            let token = shown(token);
            let what = format!("its token `{token}` is at {row}, expected at most {LAST_ROW}");
            return Err(Error::malformed(what).path(&checkpoint.directory));
        }
        Ok(found)
    }

    /// Whether a directory has one, understood or not.
    pub(super) fn is_in(checkpoint: &Checkpoint) -> Result<bool> {
        for name in [FILE, VOCABULARY, PIECES] {
            if checkpoint.small(name, CAP)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The tokens of a `tokenizer.json`: its merges and rules are passed over, which are most of it.
    fn tokens_of(bytes: &[u8]) -> Option<Self> {
        let said: Whole = serde_json::from_slice(bytes).ok()?;
        let (mut tokens, mut added) = (said.model.vocab.0, BTreeMap::new());
        for one in said.added_tokens.0 {
            added.insert(one.id, Flags::of(&one));
            tokens.insert(one.id, one.content);
        }
        let (kind, whole_words) = (said.model.kind.unwrap_or_default(), said.model.ignore_merges);
        Some(Self { tokens, added, kind, whole_words, rest: Map::new() })
    }

    /// All of a `tokenizer.json`.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let Value::Object(mut rest) = json::parse(bytes, FILE, CAP).ok()? else { return None };
        let mut tokens = BTreeMap::new();
        let model = rest.get_mut("model")?.as_object_mut()?;
        match model.remove("vocab")? {
            Value::Object(vocabulary) => {
                for (token, row) in vocabulary {
                    tokens.insert(row.as_u64()?, token);
                }
            }
            Value::Array(vocabulary) => {
                for (row, entry) in vocabulary.iter().enumerate() {
                    tokens.insert(row as u64, entry.get(0)?.as_str()?.to_owned());
                }
            }
            _ => return None,
        }
        let kind = model.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        rest.values_mut().for_each(leave_out_defaults);
        for said in rest.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
            let (row, token) = (said.get("id")?.as_u64()?, said.get("content")?.as_str()?);
            tokens.insert(row, token.to_owned());
        }
        Some(Self { tokens, added: BTreeMap::new(), kind, whole_words: false, rest })
    }

    /// One that is in `vocab.json` or `tokenizer.model`, with what was added to it.
    fn parts(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        let rows = |bytes: &[u8]| serde_json::from_slice::<Rows>(bytes).ok().map(|rows| rows.0);
        let vocabulary = checkpoint.small(VOCABULARY, CAP)?;
        let tokens = match vocabulary.map(|bytes| rows(&bytes)) {
            Some(found) => found,
            None => checkpoint.small(PIECES, MOST_PIECES)?.and_then(|bytes| pieces(&bytes)),
        };
        let Some(mut tokens) = tokens else { return Ok(None) };
        let mut added = BTreeMap::new();
        if let Some(bytes) = checkpoint.small(ADDED, CAP)? {
            let Some(more) = rows(&bytes) else { return Ok(None) };
            added.extend(more.keys().map(|row| (*row, Flags::default())));
            tokens.extend(more);
        }
        let (kind, rest) = (String::new(), Map::new());
        Ok(Some(Self { tokens, added, kind, whole_words: false, rest }))
    }

    /// What it says of something besides tokens.
    pub(super) fn said(&self, key: &str) -> Option<&Value> {
        self.rest.get(key).filter(|said| !said.is_null())
    }
}

/// What counts of a `tokenizer.json`.
#[derive(Deserialize)]
struct Whole {
    #[serde(default)]
    added_tokens: Several,
    model: Model,
}

/// A token that was added.
#[derive(Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "as the file has them")]
struct Added {
    id: u64,
    content: String,
    // Flattening the flags would keep all else that stands here in memory.
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

/// What is said of an added token besides its text, in the order in which files have it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags(pub(super) [(&'static str, bool); 5]);

impl Flags {
    fn of(one: &Added) -> Self {
        Self([
            ("single_word", one.single_word),
            ("lstrip", one.lstrip),
            ("rstrip", one.rstrip),
            ("normalized", one.normalized),
            ("special", one.special),
        ])
    }
}

impl Default for Flags {
    fn default() -> Self {
        Self(["single_word", "lstrip", "rstrip", "normalized", "special"].map(|flag| (flag, false)))
    }
}

/// Tokens that were added, of which there are not too many.
#[derive(Default)]
struct Several(Vec<Added>);

impl<'de> Deserialize<'de> for Several {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Several;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("added tokens")
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut elements: A,
            ) -> std::result::Result<Several, A::Error> {
                let mut found = Vec::new();
                while let Some(one) = elements.next_element()? {
                    found.push(one);
                    few(found.len(), MOST_ADDED)?;
                }
                Ok(Several(found))
            }
        }
        deserializer.deserialize_seq(Reader)
    }
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    ignore_merges: bool,
    vocab: Rows,
}

/// Tokens by their rows: written as a mapping from tokens to rows, or as a list of tokens with their scores.
struct Rows(BTreeMap<u64, String>);

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Rows;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("tokens")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut members: A,
            ) -> std::result::Result<Rows, A::Error> {
                let mut rows = BTreeMap::new();
                while let Some((token, row)) = members.next_entry::<String, u64>()? {
                    rows.insert(row, token);
                    few(rows.len(), MOST_TOKENS)?;
                }
                Ok(Rows(rows))
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut elements: A,
            ) -> std::result::Result<Rows, A::Error> {
                let mut rows = BTreeMap::new();
                while let Some((token, _)) = elements.next_element::<(String, IgnoredAny)>()? {
                    rows.insert(rows.len() as u64, token);
                    few(rows.len(), MOST_TOKENS)?;
                }
                Ok(Rows(rows))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// That a hostile file does not take all memory.
fn few<E: serde::de::Error>(tokens: usize, most: usize) -> std::result::Result<(), E> {
    if tokens > most { Err(E::custom("too many tokens")) } else { Ok(()) }
}

/// Removes what says nothing: libraries differ in whether they write it.
fn leave_out_defaults(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, value| !matches!(value, Value::Null | Value::Bool(false)));
            members.values_mut().for_each(leave_out_defaults);
        }
        Value::Array(values) => values.iter_mut().for_each(leave_out_defaults),
        _ => {}
    }
}

/// The pieces of a `SentencePiece` model, a protocol buffer: its field 1 is repeated, each with the piece's text in its own
/// field 1 (`sentencepiece_model.proto`).
fn pieces(mut bytes: &[u8]) -> Option<BTreeMap<u64, String>> {
    let mut found = BTreeMap::new();
    while !bytes.is_empty() {
        let (1, mut piece) = field(&mut bytes)? else { continue };
        let text = loop {
            if let (1, text) = field(&mut piece)? {
                break text;
            }
        };
        found.insert(found.len() as u64, std::str::from_utf8(text).ok()?.to_owned());
    }
    (!found.is_empty()).then_some(found)
}

/// The next field of a protocol buffer: its number, and its bytes where it has a length.
fn field<'b>(bytes: &mut &'b [u8]) -> Option<(u64, &'b [u8])> {
    let tag = varint(bytes)?;
    let content: &[u8] = match tag & 7 {
        0 => {
            varint(bytes)?;
            &[]
        }
        1 => take(bytes, 8)?,
        2 => {
            let length = varint(bytes)?;
            take(bytes, length)?
        }
        5 => take(bytes, 4)?,
        _ => return None,
    };
    Some((tag >> 3, content))
}

fn take<'b>(bytes: &mut &'b [u8], count: u64) -> Option<&'b [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(count).ok()?)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_in_their_order() {
        // Two pieces, each with a text, a score and a kind, and one field of the model besides.
        let piece = |text: &str| {
            let inner = [&[10, text.len() as u8], text.as_bytes(), &[21, 0, 0, 128, 63, 24, 2]];
            let inner = inner.concat();
            [&[10, inner.len() as u8][..], &inner].concat()
        };
        let model = [piece("<unk>"), piece("▁a"), vec![18, 2, 8, 1]].concat();
        let found = pieces(&model).expect("a model");
        assert_eq!(found.into_values().collect::<Vec<_>>(), ["<unk>", "▁a"]);
        for length in 1..model.len() {
            let _ = pieces(&model[..length]);
        }
        assert!(pieces(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").is_none());
    }
}
