//! The chat template of a result: one that is said, one that is known by its name, or the one that most models have.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::plan::inputs::Inputs;
use crate::plan::json_text::{member, replaced};
use crate::plan::recipe::Template;
use crate::read::checkpoint::{CONFIG_CAP, Checkpoint};
use crate::read::json;

/// The file of a template.
const FILE: &str = "chat_template.jinja";
/// The settings of a tokenizer, where templates stood before they had a file.
const SETTINGS: &str = "tokenizer_config.json";
/// The member of the settings with the template.
const MEMBER: &str = "chat_template";

/// The word for the one that most models have.
const AUTO: &str = "auto";
/// Templates by their names.
const KNOWN: [(&str, &str); 5] = [
    ("alpaca", include_str!("templates/alpaca.jinja")),
    ("chatml", include_str!("templates/chatml.jinja")),
    ("exaone", include_str!("templates/exaone.jinja")),
    ("llama3", include_str!("templates/llama3.jinja")),
    ("mistral", include_str!("templates/mistral.jinja")),
];

/// Puts a template among the files of a result; `settings` are those of the tokenizer that it carries.
pub(super) fn put(
    said: &Template,
    inputs: &Inputs,
    tokenizer: &Checkpoint,
    files: &mut BTreeMap<String, Vec<u8>>,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let text = match said {
        Template::Text(text) => text.clone(),
        Template::Known(name) => {
            let known = KNOWN.iter().find(|(known, _)| known == name);
            // A file ends with a line's end, which a template would say.
            known.map_or("", |(_, text)| text.trim_end()).to_owned()
        }
        Template::Commonest => {
            let Some(text) = commonest(inputs)? else {
                warnings.push("`chat_template: auto`: no model has a chat template".into());
                return Ok(());
            };
            text
        }
    };
    let settings = match files.remove(SETTINGS) {
        Some(settings) => Some(settings),
        None => tokenizer.small(SETTINGS, CONFIG_CAP)?,
    };
    if let Some(settings) = settings {
        sound(&settings, tokenizer)?;
        // Both places say the same: which of them counts differs by program.
        let place = member(&settings, start(&settings), MEMBER);
        let edit = place.map(|place| (place, json!(text).to_string()));
        files.insert(SETTINGS.into(), replaced(&settings, edit.as_slice()));
    }
    files.insert(FILE.into(), text.into_bytes());
    Ok(())
}

/// The template that most models have; of several, that of the first.
fn commonest(inputs: &Inputs) -> Result<Option<String>> {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for input in inputs.of_models() {
        let Some(text) = of(&inputs.checkpoints[input])? else { continue };
        match counts.iter_mut().find(|(known, _)| *known == text) {
            Some((_, count)) => *count += 1,
            None => counts.push((text, 1)),
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max();
    Ok(counts.into_iter().find(|(_, count)| Some(*count) == most).map(|(text, _)| text))
}

/// A model's template.
fn of(checkpoint: &Checkpoint) -> Result<Option<String>> {
    let utf8 = |bytes: Vec<u8>| {
        let path = checkpoint.directory.join(FILE);
        String::from_utf8(bytes).map_err(|_| Error::malformed("it is not UTF-8").path(&path))
    };
    if let Some(bytes) = checkpoint.small(FILE, CONFIG_CAP)? {
        return utf8(bytes).map(Some);
    }
    let Some(settings) = checkpoint.small(SETTINGS, CONFIG_CAP)? else { return Ok(None) };
    let said = sound(&settings, checkpoint)?;
    Ok(match &said[MEMBER] {
        Value::String(text) => Some(text.clone()),
        // Several by name: the default counts.
        Value::Array(named) => {
            let default = named.iter().find(|one| one["name"] == "default");
            default.and_then(|one| one["template"].as_str()).map(str::to_owned)
        }
        _ => None,
    })
}

fn sound(settings: &[u8], checkpoint: &Checkpoint) -> Result<Value> {
    let said = json::parse(settings, SETTINGS, CONFIG_CAP);
    said.map_err(|error| error.path(&checkpoint.directory.join(SETTINGS)))
}

fn start(text: &[u8]) -> usize {
    text.len() - text.trim_ascii_start().len()
}

impl Template {
    /// What a recipe says of it.
    ///
    /// # Errors
    /// A word that is no name of one, and no Jinja.
    pub fn parse(said: &str) -> Result<Self> {
        if said == AUTO {
            return Ok(Self::Commonest);
        }
        if let Some((name, _)) = KNOWN.iter().find(|(name, _)| *name == said) {
            return Ok(Self::Known(name));
        }
        if said.contains("{{") || said.contains("{%") {
            return Ok(Self::Text(said.to_owned()));
        }
        let known = KNOWN.iter().map(|(name, _)| *name).chain([AUTO]);
        Err(Error::unknown("chat template", said, known))
    }

    /// What a recipe writes for it.
    #[must_use]
    pub fn word(&self) -> &str {
        match self {
            Self::Commonest => AUTO,
            Self::Known(name) => name,
            Self::Text(text) => text,
        }
    }
}
