//! The tokenizer files of a result with more tokens than the tokenizer that it takes after: edited where they must be, and
//! kept byte for byte elsewhere.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde_json::json;

use super::tokenizer::{ADDED, CAP, FILE, Flags};
use crate::error::{Error, Result};
use crate::plan::json_text::{extended, member};
use crate::read::checkpoint::Checkpoint;

/// The settings of a tokenizer, which repeat its added tokens.
const SETTINGS: &str = "tokenizer_config.json";

/// Files by their names.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// A token that the tokenizer lacks.
pub(super) struct New<'t> {
    /// Its row.
    pub(super) row: u64,
    /// Its text.
    pub(super) token: &'t str,
    /// What its own tokenizer says of it, where it was added to that one.
    pub(super) said: Option<Flags>,
    /// Whether it stands among the pieces that merges lead to.
    pub(super) piece: bool,
}

impl New<'_> {
    /// What is said of it, in the order in which such files have it.
    fn flags(&self) -> String {
        let Flags(said) = self.said.unwrap_or_default();
        said.map(|(flag, is)| format!(", \"{flag}\": {is}")).concat()
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
pub(super) fn edited(checkpoint: &Checkpoint, new: &[New<'_>]) -> Result<Files> {
    let mut files = BTreeMap::new();
    if new.is_empty() {
        return Ok(files);
    }
    let read = |name: &str| -> Result<Option<Vec<u8>>> {
        let Some(text) = checkpoint.small(name, CAP)? else { return Ok(None) };
        let sound: serde_json::Result<IgnoredAny> = serde_json::from_slice(&text);
        let wrong = |error| Error::malformed(format!("it is no valid JSON: {error}"));
        sound.map_err(|error| wrong(error).path(&checkpoint.directory.join(name)))?;
        Ok(Some(text))
    };
    let added = || new.iter().filter(|one| !one.piece);
    let pieces = || new.iter().filter(|one| one.piece);
    let whole = read(FILE)?;
    if let Some(text) = &whole {
        let text = with(text, &["model", "vocab"], pieces().map(New::with_row))?;
        files.insert(
            FILE.to_owned(),
            with(&text, &["added_tokens"], added().map(New::in_tokenizer))?,
        );
    }
    if let Some(text) = read(SETTINGS)?
        && member(&text, 0, "added_tokens_decoder").is_some()
    {
        let text = with(&text, &["added_tokens_decoder"], added().map(New::in_settings))?;
        files.insert(SETTINGS.to_owned(), text);
    }
    let text = read(ADDED)?.or_else(|| whole.is_none().then(|| b"{}".to_vec()));
    if let Some(text) = text {
        // Where there are no merges, what others' led to is added too.
        let more = new.iter().filter(|one| !one.piece || whole.is_none());
        files.insert(ADDED.to_owned(), with(&text, &[], more.map(New::with_row))?);
    }
    Ok(files)
}

/// The text with more at the end of what stands at a path of keys.
fn with(text: &[u8], path: &[&str], more: impl Iterator<Item = String>) -> Result<Vec<u8>> {
    let mut more = more.peekable();
    if more.peek().is_none() {
        return Ok(text.to_vec());
    }
    let start = text.len() - text.trim_ascii_start().len();
    let mut place = start..text.trim_ascii_end().len();
    for key in path {
        place = member(text, place.start, key).ok_or_else(|| {
            Error::malformed(format!("the tokenizer has no `{key}` to which tokens could be added"))
        })?;
    }
    Ok(extended(text, &place, more))
}
