//! Keys of the outermost merge: what is stored and how, what is let through, which names are exchanged.

use serde_json::{Map, Value};

use super::{Allow, Extra, Missing, Reading, Rename, inside, show, whole};
use crate::error::Error;
use crate::read::dtype::Dtype;

impl Reading {
    pub(super) fn dtype(&mut self, map: &Map<String, Value>, key: &str) -> Option<Dtype> {
        let said = map.get(key).filter(|said| !said.is_null())?;
        if key == "round_intermediate" && said == "none" {
            return None;
        }
        let found = said.as_str().and_then(Dtype::from_config).filter(|dtype| dtype.is_float());
        if found.is_none() {
            let known =
                ["bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"];
            let error = match said.as_str() {
                Some(word) => Error::unknown("dtype", word, known),
                None => Error::value(key, show(said), known.join(", ")),
            };
            self.problem(key, error);
        }
        found
    }

    /// The prefixes that are exchanged, one or a list of them.
    pub(super) fn renames(&mut self, map: &Map<String, Value>) -> Vec<Rename> {
        let entries = match map.get("rename") {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(entries)) => entries.iter().collect(),
            Some(one) => vec![one],
        };
        let many = map.get("rename").is_some_and(Value::is_array);
        let mut found = Vec::new();
        for (i, entry) in entries.into_iter().enumerate() {
            let at = if many { format!("rename[{i}]") } else { "rename".into() };
            let word = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
            let only = entry.as_object().is_some_and(|map| map.len() == 2);
            match (word("from"), word("to")) {
                (Some(from), Some(to)) if only && from != to => {
                    found.push(Rename { at, from, to });
                }
                _ => {
                    let expected = "`{from: PREFIX, to: PREFIX}`";
                    self.problem(&at, Error::value("rename", show(entry), expected));
                }
            }
        }
        found
    }

    pub(super) fn seed(&mut self, map: &Map<String, Value>) -> u64 {
        let Some(said) = map.get("seed").filter(|said| !said.is_null()) else { return 0 };
        whole(said).unwrap_or_else(|| {
            self.problem(
                "seed",
                Error::value("seed", show(said), "a whole number from 0 to 2^64 - 1"),
            );
            0
        })
    }

    pub(super) fn allow(&mut self, map: &Map<String, Value>) -> Allow {
        let mut allow = Allow::default();
        let Some(said) = map.get("allow").filter(|said| !said.is_null()) else { return allow };
        let Value::Object(rules) = said else {
            self.problem(
                "allow",
                Error::value("allow", show(said), "rules such as `missing: base`"),
            );
            return allow;
        };
        for (rule, value) in rules {
            let known = match (rule.as_str(), value.as_str().unwrap_or_default()) {
                ("missing", "base") => allow.missing.replace(Missing::Base).is_none(),
                ("missing", "skip") => allow.missing.replace(Missing::Skip).is_none(),
                ("extra", "copy") => allow.extra.replace(Extra::Copy).is_none(),
                ("extra", "drop") => allow.extra.replace(Extra::Drop).is_none(),
                ("shape", "overlap") => set(&mut allow.shape_overlap),
                ("nan", "carry") => set(&mut allow.nan_carry),
                ("vocabulary", "rows") => set(&mut allow.vocabulary_rows),
                // There are no sealed branches yet, so no bases that could differ.
                ("bases", "differ") => true,
                _ => false,
            };
            if !known {
                self.unknown_rule(rule, value);
            }
        }
        allow
    }

    fn unknown_rule(&mut self, rule: &str, value: &Value) {
        let rules = ["missing", "extra", "shape", "nan", "vocabulary", "bases"];
        let values = ["base or skip", "copy or drop", "overlap", "carry", "rows", "differ"];
        let place = inside("allow", rule);
        let error = match rules.iter().position(|known| *known == rule) {
            Some(at) => Error::value(rule, show(value), values[at]),
            None => Error::unknown("rule", rule, rules),
        };
        self.problem(&place, error);
    }
}

fn set(flag: &mut bool) -> bool {
    *flag = true;
    true
}
