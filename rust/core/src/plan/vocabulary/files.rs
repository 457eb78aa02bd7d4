//! The tokenizer files of a result with more tokens than the tokenizer that it takes after: edited where they must be, and
//! kept byte for byte elsewhere.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::tokenizer::{ADDED, CAP, FILE};
use crate::error::{Error, Result};
use crate::plan::json_text::{extended, member};
use crate::read::checkpoint::Checkpoint;
use crate::read::json;

/// The settings of a tokenizer, which repeat its added tokens.
const SETTINGS: &str = "tokenizer_config.json";
/// What is said of an added token besides its text.
const FLAGS: [&str; 5] = ["single_word", "lstrip", "rstrip", "normalized", "special"];

/// Files by their names.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// A token that the tokenizer lacks.
pub(super) struct New {
    /// Its row.
    pub(super) row: u64,
    /// Its text.
    pub(super) token: String,
    /// What its own tokenizer says of it, where it was added to that one.
    pub(super) said: Option<Map<String, Value>>,
    /// Whether it stands among the pieces that merges lead to.
    pub(super) piece: bool,
}

impl New {
    /// What is said of it, in the order in which such files have it.
    fn flags(&self) -> String {
        let said = |flag: &str| {
            self.said.as_ref().is_some_and(|said| said.get(flag) == Some(&true.into()))
        };
        let flag = |flag: &str| format!(", \"{flag}\": {}", said(flag));
        FLAGS.map(flag).concat()
    }

    fn in_tokenizer(&self) -> String {
        let flags = self.flags();
        format!("{{\"id\": {}, \"content\": {}{flags}}}", self.row, json!(self.token))
    }

    fn in_settings(&self) -> String {
        let flags = self.flags();
        format!("\"{}\": {{\"content\": {}{flags}}}", self.row, json!(self.token))
    }

    fn with_row(&self) -> String {
        format!("{}: {}", json!(self.token), self.row)
    }
}

/// The files that are others with these tokens.
pub(super) fn edited(checkpoint: &Checkpoint, new: &[New]) -> Result<Files> {
    let mut files = BTreeMap::new();
    if new.is_empty() {
        return Ok(files);
    }
    let read = |name: &str| -> Result<Option<Vec<u8>>> {
        let Some(text) = checkpoint.small(name, CAP)? else { return Ok(None) };
        let sound = json::parse(&text, name, CAP);
        sound.map(|_| Some(text)).map_err(|error| error.path(&checkpoint.directory.join(name)))
    };
    let added = || new.iter().filter(|one| !one.piece);
    let whole = read(FILE)?;
    if let Some(text) = &whole {
        let pieces = new.iter().filter(|one| one.piece).map(New::with_row).collect();
        let text = with(text, &["model", "vocab"], pieces)?;
        let text = with(&text, &["added_tokens"], added().map(New::in_tokenizer).collect())?;
        files.insert(FILE.to_owned(), text);
    }
    if let Some(text) = read(SETTINGS)?
        && member(&text, 0, "added_tokens_decoder").is_some()
    {
        let more = added().map(New::in_settings).collect();
        files.insert(SETTINGS.to_owned(), with(&text, &["added_tokens_decoder"], more)?);
    }
    let text = read(ADDED)?.or_else(|| whole.is_none().then(|| b"{}".to_vec()));
    if let Some(text) = text {
        // Here there are no merges that could lead to others.
        let more = if whole.is_some() {
            added().map(New::with_row).collect()
        } else {
            new.iter().map(New::with_row).collect()
        };
        files.insert(ADDED.to_owned(), with(&text, &[], more)?);
    }
    Ok(files)
}

/// The text with more at the end of what stands at a path of keys.
fn with(text: &[u8], path: &[&str], more: Vec<String>) -> Result<Vec<u8>> {
    if more.is_empty() {
        return Ok(text.to_vec());
    }
    let start = text.len() - text.trim_ascii_start().len();
    let mut place = start..text.trim_ascii_end().len();
    for key in path {
        place = member(text, place.start, key).ok_or_else(|| {
            Error::malformed(format!("the tokenizer has no `{key}` to which tokens could be added"))
        })?;
    }
    Ok(extended(text, &place, &more))
}
