//! `config.json` of the result: the donor's, byte for byte but for the dtype, which must be true.

use serde_json::Value;

use crate::read::dtype::Dtype;

/// Keys that tell the dtype of the weights.
const KEYS: [&str; 2] = ["torch_dtype", "dtype"];

/// The file with its dtype made true; none where it is already, or tells none.
pub(super) fn with_dtype(text: &[u8], dtype: Dtype) -> Option<Vec<u8>> {
    let name = dtype.config_name()?;
    let mut edited = Vec::new();
    let mut copied = 0;
    for (key, start, end) in strings_by_key(text) {
        let is_dtype = KEYS.iter().any(|known| known.as_bytes() == key);
        let said = std::str::from_utf8(&text[start..end]).ok().and_then(Dtype::from_config);
        if is_dtype && said.is_some_and(|said| said != dtype) {
            edited.extend_from_slice(&text[copied..start]);
            edited.extend_from_slice(name.as_bytes());
            copied = end;
        }
    }
    if copied == 0 {
        return None;
    }
    edited.extend_from_slice(&text[copied..]);
    Some(edited)
}

/// Whether the weights are of a quantised kind, which a merge would take for plain numbers.
pub(super) fn quantized(config: &Value) -> bool {
    config.get("quantization_config").is_some_and(|said| !said.is_null())
}

/// Every `"key": "text"` of a JSON text that is known to be sound: the key, and where its text begins and ends.
fn strings_by_key(text: &[u8]) -> Vec<(&[u8], usize, usize)> {
    let mut found = Vec::new();
    let mut key: Option<(usize, usize)> = None;
    let mut colon = false;
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => {
                let start = at + 1;
                let end = end_of_string(text, start);
                match key {
                    Some((from, to)) if colon => {
                        found.push((&text[from..to], start, end));
                        (key, colon) = (None, false);
                    }
                    _ => key = Some((start, end)),
                }
                at = end;
            }
            b':' => colon = key.is_some(),
            byte if byte.is_ascii_whitespace() => {}
            _ => (key, colon) = (None, false),
        }
        at += 1;
    }
    found
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
