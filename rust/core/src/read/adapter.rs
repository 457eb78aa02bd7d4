//! An adapter as peft saves it: thin matrices whose products are added to weights, and weights that it has whole.
//!
//! `LoRA`: Hu et al., arXiv 2106.09685; rank-stabilised: Kalajdzievski, arXiv 2312.03732; `DoRA`: Liu et al., arXiv 2402.09353.

use std::collections::BTreeMap;
use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value};

use crate::error::{Error, Result, shown};
use crate::read::checkpoint::{CONFIG_CAP, Checkpoint};
use crate::read::json;
use crate::read::source::Io;

/// The settings of an adapter.
const SETTINGS: &str = "adapter_config.json";
/// What stands before the names of all its tensors.
const PREFIX: &str = "base_model.model.";
/// Settings that change what its tensors mean in ways that are not understood, and the values that do not.
const OTHER: [&str; 8] = [
    "layer_replication",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
];
/// The longest pattern that is read.
const LONGEST: usize = 1000;

/// What an adapter makes of a model's tensors, by their names in the model.
#[derive(Debug)]
pub struct Adapter {
    /// What becomes of each.
    pub parts: BTreeMap<String, Part>,
}

/// What an adapter makes of one tensor: these steps, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// The tensor that stands in its place.
    pub whole: Option<String>,
    /// What is added to it.
    pub product: Option<Product>,
    /// The tensor with the rows that stand in place of some of its own, and which those are.
    pub rows: Option<(String, Vec<u64>)>,
}

/// The product of two thin matrices.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    /// The one with a row a row of the weight, and the one with a column a column.
    pub factors: [String; 2],
    /// Whether both are stored with rows and columns exchanged.
    pub turned: bool,
    /// What it is multiplied with.
    pub scale: f64,
    /// The norms of the rows of the sum (`DoRA`).
    pub magnitudes: Option<String>,
}

/// What a tensor of an adapter is to a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Down,
    Up,
    EmbeddingDown,
    EmbeddingUp,
    Magnitudes,
    Rows,
    Whole,
}

/// Ends of names, and what the tensor is to the weight of the module before them.
const ROLES: [(&str, Role); 9] = [
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_embedding_A", Role::EmbeddingDown),
    (".lora_embedding_B", Role::EmbeddingUp),
    (".lora_magnitude_vector", Role::Magnitudes),
    (".lora_magnitude_vector.weight", Role::Magnitudes),
    (".token_adapter.trainable_tokens_delta", Role::Rows),
    (".base_layer.weight", Role::Whole),
    (".modules_to_save.weight", Role::Whole),
];

impl Adapter {
    /// Opens the directory of an adapter.
    ///
    /// # Errors
    /// As [`Checkpoint::open_adapter`]; settings or tensors that are not understood.
    pub fn open(path: &Path, io: Io) -> Result<(Checkpoint, Self)> {
        let checkpoint = Checkpoint::open_adapter(path, io)?;
        let at = |error: Error| error.path(&checkpoint.directory);
        let Some(bytes) = checkpoint.small(SETTINGS, CONFIG_CAP)? else {
            let hint = "an adapter is `adapter_model.safetensors` with `adapter_config.json`";
            return Err(at(Error::recipe_with_hint("it has no `adapter_config.json`", hint)));
        };
        let said = json::parse(&bytes, SETTINGS, CONFIG_CAP).map_err(at)?;
        let settings = Settings::of(&said).map_err(at)?;
        let parts = settings.parts(&checkpoint).map_err(at)?;
        Ok((checkpoint, Self { parts }))
    }
}

/// What `adapter_config.json` says.
struct Settings<'s> {
    said: &'s Map<String, Value>,
    turned: bool,
}

impl<'s> Settings<'s> {
    fn of(said: &'s Value) -> Result<Self> {
        let Value::Object(said) = said else {
            return Err(Error::malformed(format!("`{SETTINGS}` is no mapping")));
        };
        let flag = |key: &str| said.get(key) == Some(&Value::Bool(true));
        let kind = said.get("peft_type").and_then(Value::as_str).unwrap_or_default();
        if !["LORA", "TRAINABLE_TOKENS"].contains(&kind) {
            let what = format!("its `peft_type` is `{}`, expected `LORA`", shown(kind));
            let hint = "merge it into its model with peft first";
            return Err(Error::recipe_with_hint(what, hint));
        }
        let means = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
        if let Some(key) = OTHER.iter().find(|key| said.get(**key).is_some_and(means)) {
            let what = format!("its `{key}` is not understood");
            let hint = "merge it into its model with peft first";
            return Err(Error::recipe_with_hint(what, hint));
        }
        if let Some(Value::String(way)) = said.get("init_lora_weights")
            && ["pissa", "olora", "corda", "loftq"].iter().any(|known| way.starts_with(known))
        {
            let what = format!("`init_lora_weights: {way}` changed its base as training began");
            let hint = "save it with `path_initial_model_for_weight_conversion`, which makes it a plain one";
            return Err(Error::recipe_with_hint(what, hint));
        }
        Ok(Self { said, turned: flag("fan_in_fan_out") })
    }

    /// What becomes of each weight.
    fn parts(&self, checkpoint: &Checkpoint) -> Result<BTreeMap<String, Part>> {
        let mut found: BTreeMap<String, BTreeMap<Role, &str>> = BTreeMap::new();
        for name in checkpoint.tensors.keys() {
            let (weight, role) = place(name)?;
            if found.entry(weight.clone()).or_default().insert(role, name).is_some() {
                let what = format!("two of its tensors are the same to `{}`", shown(&weight));
                return Err(Error::malformed(what).tensor(name));
            }
        }
        let part = |(weight, roles): (String, BTreeMap<Role, &str>)| {
            let part = self.part(checkpoint, &weight, &roles);
            part.map(|part| (weight, part))
                .map_err(|error| error.tensor(roles.values().next().copied().unwrap_or_default()))
        };
        found.into_iter().map(part).collect()
    }

    fn part(
        &self,
        checkpoint: &Checkpoint,
        weight: &str,
        roles: &BTreeMap<Role, &str>,
    ) -> Result<Part> {
        let of = |role: Role| roles.get(&role).map(|&name| name.to_owned());
        let module = weight.strip_suffix(".weight").unwrap_or(weight);
        let product = match [
            of(Role::Down),
            of(Role::Up),
            of(Role::EmbeddingDown),
            of(Role::EmbeddingUp),
            of(Role::Magnitudes),
        ] {
            [None, None, None, None, None] => None,
            [Some(down), Some(up), None, None, magnitudes] => {
                if magnitudes.is_some() && self.turned {
                    let what =
                        "`use_dora` on weights with rows and columns exchanged is not understood";
                    return Err(Error::recipe(what));
                }
                // The weight is up·down, or its transpose.
                let factors = if self.turned { [down, up] } else { [up, down] };
                Some(self.product(checkpoint, module, factors, self.turned, magnitudes)?)
            }
            // The embeddings have a row a token: the transpose of up·down.
            [None, None, Some(down), Some(up), None] => {
                Some(self.product(checkpoint, module, [down, up], true, None)?)
            }
            [.., Some(_)] => {
                return Err(Error::recipe("`use_dora` on embeddings is not understood"));
            }
            _ => {
                let what = "of `lora_A` and `lora_B`, one is missing";
                return Err(Error::malformed(what));
            }
        };
        let rows = of(Role::Rows).map(|tensor| Ok::<_, Error>((tensor, self.rows(module)?)));
        Ok(Part { whole: of(Role::Whole), product, rows: rows.transpose()? })
    }

    fn product(
        &self,
        checkpoint: &Checkpoint,
        module: &str,
        factors: [String; 2],
        turned: bool,
        magnitudes: Option<String>,
    ) -> Result<Product> {
        let shapes = factors.each_ref().map(|name| checkpoint.tensors[name].shape.as_slice());
        let inner = match shapes {
            [[_, left], [right, _]] if !turned => [*left, *right],
            [[left, _], [_, right]] if turned => [*left, *right],
            _ => {
                let what = format!(
                    "its factors are {:?} and {:?}, expected matrices",
                    shapes[0], shapes[1]
                );
                return Err(Error::recipe_with_hint(
                    what,
                    "merge it into its model with peft first",
                ));
            }
        };
        let said = self.number("rank_pattern", "r", module)?;
        if inner[0] != inner[1] || inner[0] == 0 || said != inner[0] as f64 {
            let what =
                format!("its factors have ranks {} and {}, and `r` is {said}", inner[0], inner[1]);
            return Err(Error::malformed(what));
        }
        let alpha = self.number("alpha_pattern", "lora_alpha", module)?;
        let stable = self.said.get("use_rslora") == Some(&Value::Bool(true));
        let scale = alpha / if stable { said.sqrt() } else { said };
        Ok(Product { factors, turned, scale, magnitudes })
    }

    /// A number for a module: that of the pattern that matches its name, or the one for all.
    fn number(&self, patterns: &str, key: &str, module: &str) -> Result<f64> {
        let mut found = None;
        let said = self.said.get(patterns).and_then(Value::as_object);
        for (pattern, value) in said.into_iter().flatten() {
            if !matches(pattern, module)? {
                continue;
            }
            if found.is_some_and(|known| known != value) {
                let what = format!("two entries of `{patterns}` match `{}`", shown(module));
                return Err(Error::malformed(what));
            }
            found = Some(value);
        }
        let value = found.or(self.said.get(key)).and_then(Value::as_f64);
        value
            .filter(|value| value.is_finite())
            .ok_or_else(|| Error::malformed(format!("`{key}` of `{SETTINGS}` is no number")))
    }

    /// Which rows of its embeddings were trained.
    fn rows(&self, module: &str) -> Result<Vec<u64>> {
        let wrong = || {
            Error::malformed(format!(
                "`trainable_token_indices` has no rows for `{}`",
                shown(module)
            ))
        };
        let said = self.said.get("trainable_token_indices").or(self.said.get("token_indices"));
        let rows = match said {
            Some(Value::Object(named)) => {
                let is = |key: &str| module == key || module.ends_with(&format!(".{key}"));
                named.iter().find(|(key, _)| is(key)).map(|(_, rows)| rows)
            }
            rows => rows,
        };
        let rows = rows.and_then(Value::as_array).ok_or_else(wrong)?;
        rows.iter().map(|row| row.as_u64().ok_or_else(wrong)).collect()
    }
}

/// Whether a pattern of peft's means a module: it matches its name, or the end of its name after a dot.
fn matches(pattern: &str, module: &str) -> Result<bool> {
    let whole = format!(r"^(?:.*\.)?(?:{pattern})$");
    let known = (pattern.len() <= LONGEST).then(|| Regex::new(&whole).ok()).flatten();
    known.map(|known| known.is_match(module)).ok_or_else(|| {
        Error::malformed(format!("`{}` is a pattern that is not understood", shown(pattern)))
    })
}

/// The tensor of the model that one of an adapter belongs to, and what it is to it.
fn place(name: &str) -> Result<(String, Role)> {
    let plain = name.strip_prefix(PREFIX).unwrap_or(name);
    // The name of an adapter among several.
    let plain = plain.replace(".default.", ".");
    let plain = plain.strip_suffix(".default").unwrap_or(&plain);
    if plain.ends_with(".lora_B.bias") {
        let what = "biases of adapters (`lora_bias`) are not understood";
        return Err(
            Error::recipe_with_hint(what, "merge it into its model with peft first").tensor(name)
        );
    }
    for (end, role) in ROLES {
        if let Some(module) = plain.strip_suffix(end) {
            return Ok((format!("{module}.weight"), role));
        }
    }
    let whole = plain.replace(".base_layer.", ".").replace(".modules_to_save.", ".");
    if whole.contains(".lora_") {
        return Err(Error::recipe("it is not understood as part of an adapter").tensor(name));
    }
    Ok((whole, Role::Whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_known_by_the_ends_of_their_names() {
        let of = |name: &str| place(name).expect("known");
        let weight = |name: &str, role| (format!("{name}.weight"), role);
        assert_eq!(of("base_model.model.a.q.lora_A.weight"), weight("a.q", Role::Down));
        assert_eq!(of("base_model.model.a.q.lora_B.default.weight"), weight("a.q", Role::Up));
        assert_eq!(of("base_model.model.e.lora_embedding_A"), weight("e", Role::EmbeddingDown));
        assert_eq!(of("a.q.lora_magnitude_vector.default.weight"), weight("a.q", Role::Magnitudes));
        assert_eq!(of("base_model.model.e.base_layer.weight"), weight("e", Role::Whole));
        assert_eq!(
            of("base_model.model.lm_head.modules_to_save.default.weight"),
            weight("lm_head", Role::Whole)
        );
        assert_eq!(of("base_model.model.a.q.base_layer.bias"), ("a.q.bias".into(), Role::Whole));
        assert!(place("base_model.model.a.q.lora_B.bias").is_err());
        assert!(place("base_model.model.a.q.lora_C.weight").is_err());
    }

    #[test]
    fn patterns_match_as_in_peft() {
        let is = |pattern: &str, module: &str| matches(pattern, module).expect("a pattern");
        assert!(is("q_proj", "model.layers.1.self_attn.q_proj"));
        assert!(is(r"layers\.\d+\.self_attn.q_proj", "model.layers.1.self_attn.q_proj"));
        assert!(!is("proj", "model.layers.1.self_attn.q_proj"));
        assert!(is("lm_head", "lm_head"));
        assert!(matches("(", "a").is_err());
    }
}
