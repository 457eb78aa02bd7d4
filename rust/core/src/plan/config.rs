//! `config.json` of the result: the donor's, byte for byte but for the dtype, which must be true.

use serde_json::Value;

use crate::error::Error;

use crate::read::dtype::Dtype;

/// Keys that tell the dtype of the weights.
const KEYS: [&str; 2] = ["torch_dtype", "dtype"];

/// The file with its dtype made true; none where it is already, or tells none.
pub(super) fn with_dtype(text: &[u8], dtype: Dtype) -> Option<Vec<u8>> {
    let name = dtype.config_name()?;
    let mut edited = Vec::new();
    let mut copied = 0;
    for (key, start, end) in values_by_key(text) {
        let is_dtype = KEYS.iter().any(|known| known.as_bytes() == key);
        let said = serde_json::from_slice::<String>(&text[start..end]).ok();
        let said = said.as_deref().and_then(Dtype::from_config);
        if is_dtype && said.is_some_and(|said| said != dtype) {
            edited.extend_from_slice(&text[copied..start]);
            edited.extend_from_slice(format!("\"{name}\"").as_bytes());
            copied = end;
        }
    }
    if copied == 0 {
        return None;
    }
    edited.extend_from_slice(&text[copied..]);
    Some(edited)
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
    let mut edited = Vec::new();
    let mut copied = 0;
    let mut told = false;
    for (key, start, end) in values_by_key(text) {
        if start < copied {
            continue;
        }
        let Ok(value) = serde_json::from_slice::<Value>(&text[start..end]) else { continue };
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
        edited.extend_from_slice(&text[copied..start]);
        edited.extend_from_slice(made.to_string().as_bytes());
        copied = end;
    }
    edited.extend_from_slice(&text[copied..]);
    let same = order.len() as u64 == layers;
    if told || same {
        return Ok(edited);
    }
    let what = "config.json does not tell the number of layers, which slices change";
    Err(Error::recipe(what))
}

/// Whether a list under that key may have an entry a layer.
fn of_layers(key: &[u8]) -> bool {
    let key = String::from_utf8_lossy(key);
    key.contains("layer") || key.contains("block") || LISTS.contains(&&*key)
}

/// Whether the weights are of a quantised kind, which a merge would take for plain numbers.
pub(super) fn quantized(config: &Value) -> bool {
    config.get("quantization_config").is_some_and(|said| !said.is_null())
}

/// Every `"key": value` of a JSON text that is known to be sound, inside others too: the key, and where its value begins and
/// ends.
fn values_by_key(text: &[u8]) -> Vec<(&[u8], usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        if text[at] != b'"' {
            at += 1;
            continue;
        }
        let (start, end) = (at + 1, end_of_string(text, at + 1));
        let next = after_space(text, end + 1);
        if text.get(next) != Some(&b':') {
            at = end + 1;
            continue;
        }
        at = after_space(text, next + 1);
        found.push((&text[start..end], at, end_of_value(text, at)));
    }
    found
}

fn after_space(text: &[u8], from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

/// Where a value ends that begins at `start`.
fn end_of_value(text: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0usize);
    while at < text.len() {
        match text[at] {
            b'"' => at = end_of_string(text, at + 1),
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 0 => depth -= 1,
            b'}' | b']' | b',' if depth == 0 => return at,
            byte if byte.is_ascii_whitespace() && depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    text.len()
}

fn end_of_string(text: &[u8], start: usize) -> usize {
    let mut at = start;
    while at < text.len() && text[at] != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    at.min(text.len())
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
