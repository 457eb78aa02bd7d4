//! What a recipe says of the result's tokens: whose they are, and where the rows of single ones come from.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{
    Reading, Template, Token, TokenSource, Tokenizer, TokenizerSource, inside, kind, show, whole,
};
use crate::error::Error;

/// Keys of a `tokenizer` section.
const KEYS: [&str; 3] = ["source", "tokens", "pad_to_multiple_of"];
/// Keys of a token.
const TOKEN_KEYS: [&str; 2] = ["source", "force"];
/// Keys of the source of a token.
const SOURCE_KEYS: [&str; 4] = ["kind", "model", "token", "token_id"];
/// The largest number of which the number of rows may be a multiple.
const MOST_MULTIPLE: u64 = 1 << 16;

impl Reading {
    /// The result's tokens, said in either of two ways.
    pub(super) fn tokenizer(&mut self, map: &Map<String, Value>) -> Option<Tokenizer> {
        let said = |key: &str| map.get(key).filter(|said| !said.is_null());
        let plain = |source| Tokenizer { source, tokens: Vec::new(), multiple: None };
        match (said("tokenizer_source"), said("tokenizer")) {
            (Some(_), Some(_)) => {
                let what = "`tokenizer` and `tokenizer_source` say the same";
                self.problem("tokenizer_source", Error::recipe_with_hint(what, "give one of them"));
                None
            }
            (Some(source), None) => self.whose(source, "tokenizer_source").map(plain),
            (None, Some(Value::Object(said))) => self.section(said),
            (None, Some(other)) => {
                let expected = "`{source: base}`, `union` or a model";
                self.problem("tokenizer", Error::value("tokenizer", show(other), expected));
                None
            }
            (None, None) => None,
        }
    }

    /// The chat template.
    pub(super) fn template(&mut self, map: &Map<String, Value>) -> Option<Template> {
        let said = map.get("chat_template").filter(|said| !said.is_null())?;
        let found = match said.as_str() {
            Some(text) => Template::parse(text),
            None => Err(Error::value("chat_template", kind(said), "`auto`, a name or Jinja text")),
        };
        found.map_err(|error| self.problem("chat_template", error)).ok()
    }

    fn section(&mut self, said: &Map<String, Value>) -> Option<Tokenizer> {
        self.only(said, "tokenizer", &KEYS);
        let multiple = said.get("pad_to_multiple_of").filter(|said| !said.is_null());
        let multiple = multiple.and_then(|said| {
            let number = whole(said).filter(|number| (1..=MOST_MULTIPLE).contains(number));
            if number.is_none() {
                let expected = format!("a number from 1 to {MOST_MULTIPLE}");
                let error = Error::value("pad_to_multiple_of", show(said), expected);
                self.problem("tokenizer.pad_to_multiple_of", error);
            }
            number
        });
        let tokens = match said.get("tokens") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Object(tokens)) => {
                tokens.iter().filter_map(|(token, said)| self.token(token, said)).collect()
            }
            Some(other) => {
                let error = Error::value("tokens", kind(other), "tokens, each with its `source`");
                self.problem("tokenizer.tokens", error);
                Vec::new()
            }
        };
        let source = match said.get("source").filter(|said| !said.is_null()) {
            Some(source) => self.whose(source, "tokenizer.source")?,
            None => TokenizerSource::Union,
        };
        Some(Tokenizer { source, tokens, multiple })
    }

    fn whose(&mut self, said: &Value, place: &str) -> Option<TokenizerSource> {
        match said.as_str().map(|word| word.strip_prefix("model:").unwrap_or(word)) {
            Some("base") => Some(TokenizerSource::Base),
            Some("union") => Some(TokenizerSource::Union),
            Some(path) if is_path(path) => Some(TokenizerSource::Model(PathBuf::from(path))),
            _ => {
                let expected = "`base`, `union` or a model";
                self.problem(place, Error::value("tokenizer", show(said), expected));
                None
            }
        }
    }

    fn token(&mut self, token: &str, said: &Value) -> Option<Token> {
        let at = inside("tokenizer.tokens", token);
        let Value::Object(map) = said else {
            let error = Error::value("token", kind(said), "`{source: MODEL}`");
            self.problem(&at, error);
            return None;
        };
        self.only(map, &at, &TOKEN_KEYS);
        let force = match map.get("force") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(force)) => *force,
            Some(other) => {
                let error = Error::value("force", show(other), "true or false");
                self.problem(&inside(&at, "force"), error);
                false
            }
        };
        let place = inside(&at, "source");
        let source = match map.get("source") {
            Some(Value::String(path)) if is_path(path) => Some(TokenSource::Model(path.into())),
            Some(Value::Object(source)) => self.source(source, &place),
            other => {
                let found = other.map_or_else(|| "not said".into(), show);
                let error = Error::value("source", found, "a model, or a mapping with its `kind`");
                self.problem(if other.is_some() { &place } else { &at }, error);
                None
            }
        };
        Some(Token { at, token: token.to_owned(), source: source?, force })
    }

    fn source(&mut self, said: &Map<String, Value>, at: &str) -> Option<TokenSource> {
        self.only(said, at, &SOURCE_KEYS);
        let word = |key: &str| said.get(key).and_then(Value::as_str);
        if word("kind") == Some("zero") && said.len() == 1 {
            return Some(TokenSource::Zero);
        }
        let model = word("model").filter(|path| is_path(path)).map(PathBuf::from);
        let row = said.get("token_id").filter(|said| !said.is_null()).map(whole);
        let found = match (word("kind"), model, word("token"), row) {
            (Some("model_token"), Some(model), Some(token), None) => {
                Some(TokenSource::Token(model, token.to_owned()))
            }
            (Some("model_token"), Some(model), None, Some(Some(row))) => {
                Some(TokenSource::Row(model, row))
            }
            _ => None,
        };
        if found.is_none() {
            let expected =
                "`{kind: zero}`, or `{kind: model_token, model: MODEL}` with `token` or `token_id`";
            let error = Error::value("source", show(&Value::Object(said.clone())), expected);
            self.problem(at, error);
        }
        found
    }

    /// That a mapping has no other keys.
    fn only(&mut self, map: &Map<String, Value>, at: &str, known: &[&str]) {
        for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
            let error = Error::unknown("key", key, known.iter().copied());
            self.problem(&inside(at, key), error);
        }
    }
}

fn is_path(said: &str) -> bool {
    !said.is_empty() && !said.contains('\0')
}
