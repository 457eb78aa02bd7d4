//! `config.json` of the result: the donor's, byte for byte but for the dtype, which must be true.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde_json::Value;

use crate::error::Error;
use crate::plan::json_text::{extended, member, replaced, values_by_key, without};

use crate::read::dtype::Dtype;

/// Keys that tell the dtype of the weights.
const KEYS: [&str; 2] = ["torch_dtype", "dtype"];

/// The file with its dtype made true; none where it is already, or tells none.
pub(super) fn with_dtype(text: &[u8], dtype: Dtype) -> Option<Vec<u8>> {
    let name = dtype.config_name()?;
    let mut edits = Vec::new();
    for (key, place) in values_by_key(text) {
        let is_dtype = KEYS.iter().any(|known| known.as_bytes() == key);
        let said = serde_json::from_slice::<String>(&text[place.clone()]).ok();
        let said = said.as_deref().and_then(Dtype::from_config);
        if is_dtype && said.is_some_and(|said| said != dtype) {
            edits.push((place, format!("\"{name}\"")));
        }
    }
    (!edits.is_empty()).then(|| replaced(text, &edits))
}

/// Keys that tell how many layers there are.
const LAYERS: [&str; 4] = ["num_hidden_layers", "n_layer", "num_layers", "n_layers"];

/// Keys of one number for all layers, or of a list with one for each.
const LISTS: [&str; 7] = [
    "num_attention_heads",
    "num_query_heads",
    "num_key_value_heads",
    "num_kv_heads",
    "intermediate_size",
    "ffn_multipliers",
    "activation_sparsity_pattern",
];

/// The file with the layers made true: their number, and what it lists of each. The new ones are like those of the old ones
/// that `order` names, of which there are so many.
pub(super) fn with_layers(text: &[u8], order: &[u64], layers: u64) -> Result<Vec<u8>, Error> {
    if order.iter().copied().eq(0..layers) {
        return Ok(text.to_vec());
    }
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    let mut told = false;
    for (key, place) in values_by_key(text) {
        if edits.last().is_some_and(|(last, _)| place.start < last.end) {
            continue;
        }
        let Ok(value) = serde_json::from_slice::<Value>(&text[place.clone()]) else { continue };
        let counts = LAYERS.iter().any(|known| known.as_bytes() == key);
        let made = match &value {
            Value::Number(number) if counts && number.as_u64() == Some(layers) => {
                told = true;
                Value::from(order.len())
            }
            Value::Array(list) if list.len() as u64 == layers && of_layers(key) => {
                let of = |&layer: &u64| list.get(layer as usize).cloned();
                let Some(list) = order.iter().map(of).collect::<Option<Vec<_>>>() else {
                    let what = format!(
                        "config.json lists `{}` for {layers} layers, and a slice has a later one",
                        String::from_utf8_lossy(key)
                    );
                    return Err(Error::recipe(what));
                };
                Value::Array(list)
            }
            _ => continue,
        };
        edits.push((place, made.to_string()));
    }
    let same = order.len() as u64 == layers;
    if told || same {
        return Ok(replaced(text, &edits));
    }
    let what = "config.json does not tell the number of layers, which slices change";
    Err(Error::recipe(what))
}

/// The key that tells whether the head is the embeddings.
const TIED: &str = "tie_word_embeddings";

/// The file saying that the head is a matrix of its own.
pub(super) fn untied(text: &[u8]) -> Vec<u8> {
    let start = text.len() - text.trim_ascii_start().len();
    let told = values_by_key(text).into_iter().filter(|(key, _)| *key == TIED.as_bytes());
    let edits: Vec<_> = told.map(|(_, place)| (place, "false".to_owned())).collect();
    let made = replaced(text, &edits);
    if member(&made, start, TIED).is_some() {
        return made;
    }
    // Where it is not said, it differs by architecture.
    let whole = start..made.trim_ascii_end().len();
    extended(&made, &whole, std::iter::once(format!("\"{TIED}\": false")))
}

/// The key that tells how many rows the embeddings have.
const ROWS: &[u8] = b"vocab_size";
/// Ends of keys that name tokens by their rows.
const TOKENS: [&str; 3] = ["_token_id", "_token_ids", "_token_index"];

/// The file with the number of rows of the embeddings made true.
pub(super) fn with_rows(text: &[u8], old: u64, new: u64) -> Result<Vec<u8>, Error> {
    if old == new {
        return Ok(text.to_vec());
    }
    let number = |place: &Range<usize>| serde_json::from_slice::<u64>(&text[place.clone()]).ok();
    let told = values_by_key(text).into_iter().filter(|(key, _)| *key == ROWS);
    let told: Vec<_> = told.filter(|(_, place)| number(place) == Some(old)).collect();
    if told.is_empty() {
        let what = format!(
            "config.json does not tell the {old} rows of the embeddings, which become {new}"
        );
        return Err(Error::recipe(what));
    }
    let edits: Vec<_> = told.into_iter().map(|(_, place)| (place, new.to_string())).collect();
    Ok(replaced(text, &edits))
}

/// The file with the rows of tokens that are others now, and the keys that name tokens which are no more.
pub(super) fn with_tokens(
    text: &[u8],
    moved: &BTreeMap<u64, Option<u64>>,
) -> (Vec<u8>, BTreeSet<String>) {
    let (mut edits, mut lost) = (Vec::new(), BTreeSet::new());
    for (key, place) in values_by_key(text) {
        let key = String::from_utf8_lossy(key);
        if !TOKENS.iter().any(|end| key.ends_with(end)) {
            continue;
        }
        let Ok(mut value) = serde_json::from_slice::<Value>(&text[place.clone()]) else { continue };
        let rows: Vec<&mut Value> = match &mut value {
            Value::Array(rows) => rows.iter_mut().collect(),
            one => vec![one],
        };
        let mut any = false;
        for row in rows {
            match row.as_u64().and_then(|row| moved.get(&row)) {
                Some(Some(new)) => {
                    *row = (*new).into();
                    any = true;
                }
                Some(None) => drop(lost.insert(key.to_string())),
                None => {}
            }
        }
        if any {
            edits.push((place, value.to_string()));
        }
    }
    (replaced(text, &edits), lost)
}

/// Whether a list under that key may have an entry a layer.
fn of_layers(key: &[u8]) -> bool {
    let key = String::from_utf8_lossy(key);
    key.contains("layer") || key.contains("block") || LISTS.contains(&&*key)
}

/// The file without what it says of quantisation.
pub(super) fn without_quantisation(text: &[u8]) -> Vec<u8> {
    let mut made = text.to_vec();
    for key in ["quantization_config", "compression_config"] {
        let start = made.len() - made.trim_ascii_start().len();
        if let Some(place) = member(&made, start, key) {
            made = without(&made, &place);
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_counted_and_listed_anew() {
        let text = br#"{"num_hidden_layers": 3, "eos_token_id": [1, 2, 3],
            "text_config": {"num_hidden_layers" : 3, "layer_types":["a", "b", "c"]}, "x": "num_hidden_layers"}"#;
        let edited = with_layers(text, &[0, 1, 1, 2], 3).expect("a config");
        let expected = String::from_utf8_lossy(text).replace("layers\": 3", "layers\": 4");
        let expected = expected.replace("layers\" : 3", "layers\" : 4");
        let expected = expected.replace(r#"["a", "b", "c"]"#, r#"["a","b","b","c"]"#);
        assert_eq!(String::from_utf8(edited), Ok(expected));
        assert!(with_layers(b"{}", &[0, 1], 3).is_err());
        assert!(with_layers(text, &[0, 3], 3).is_err());
    }

    #[test]
    fn a_head_of_its_own_is_told() {
        let made = |text: &str| String::from_utf8(untied(text.as_bytes())).expect("UTF-8");
        assert_eq!(made(r#"{"tie_word_embeddings": true}"#), r#"{"tie_word_embeddings": false}"#);
        let inside = r#"{"text_config": {"tie_word_embeddings": true}}"#;
        let expected =
            r#"{"text_config": {"tie_word_embeddings": false},"tie_word_embeddings": false}"#;
        assert_eq!(made(inside), expected);
        assert_eq!(
            made("{\n  \"a\": 1\n}\n"),
            "{\n  \"a\": 1,\n  \"tie_word_embeddings\": false\n}\n"
        );
    }

    #[test]
    fn only_the_dtype_changes() {
        let text = br#"{ "a": "dtype", "torch_dtype" : "float32",
            "text_config": {"dtype":"bfloat16", "b": ["torch_dtype", "float32"]}, "c": "\"dtype\": \"float32\"" }"#;
        let edited =
            with_dtype(text, Dtype::BF16).map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
        let expected = String::from_utf8_lossy(text).replacen("\"float32\"", "\"bfloat16\"", 1);
        assert_eq!(edited, Some(expected.clone()));
        assert_eq!(with_dtype(expected.as_bytes(), Dtype::BF16), None);
        assert_eq!(with_dtype(br#"{"a": 1}"#, Dtype::F16), None);
    }
}
