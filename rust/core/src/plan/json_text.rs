//! Places in the text of a JSON file, so that it is edited where it must be and kept byte for byte elsewhere. The text is known
//! to be sound JSON.

use std::ops::Range;

/// Every `"key": value`, inside others too: the key as it is written, and where its value stands.
pub(super) fn values_by_key(text: &[u8]) -> Vec<(&[u8], Range<usize>)> {
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
        found.push((&text[start..end], at..end_of_value(text, at)));
    }
    found
}

/// Where the value of a member stands of the object that begins at `object`; `key` as it is written.
pub(super) fn member(text: &[u8], object: usize, key: &str) -> Option<Range<usize>> {
    let mut at = after_space(text, object);
    if text.get(at) != Some(&b'{') {
        return None;
    }
    loop {
        at = after_space(text, at + 1);
        if text.get(at) != Some(&b'"') {
            return None;
        }
        let (start, end) = (at + 1, end_of_string(text, at + 1));
        let colon = after_space(text, end + 1);
        let value = after_space(text, colon + 1);
        let value = value..end_of_value(text, value);
        if &text[start..end] == key.as_bytes() {
            return Some(value);
        }
        at = after_space(text, value.end);
        if text.get(at) != Some(&b',') {
            return None;
        }
    }
}

/// The text with more elements or members at the end of the array or object at `place`, each as it is written there.
pub(super) fn extended(
    text: &[u8],
    place: &Range<usize>,
    more: impl Iterator<Item = String>,
) -> Vec<u8> {
    let last = place.end - 1;
    let inside = &text[place.start + 1..last];
    let held = inside.trim_ascii_end();
    let space = &inside[held.len()..];
    // As the closing bracket is written on a line of its own, so is each of these.
    let line = if space.contains(&b'\n') { [space, b"  "].concat() } else { Vec::new() };
    let mut edited = text[..place.start + 1 + held.len()].to_vec();
    for (number, one) in more.enumerate() {
        if number > 0 || !held.is_empty() {
            edited.push(b',');
        }
        edited.extend_from_slice(&line);
        edited.extend_from_slice(one.as_bytes());
    }
    edited.extend_from_slice(space);
    edited.extend_from_slice(&text[last..]);
    edited
}

/// The text with other values in some places, which are in order and apart.
pub(super) fn replaced(text: &[u8], values: &[(Range<usize>, String)]) -> Vec<u8> {
    let mut edited = Vec::with_capacity(text.len());
    let mut copied = 0;
    for (place, value) in values {
        edited.extend_from_slice(&text[copied..place.start]);
        edited.extend_from_slice(value.as_bytes());
        copied = place.end;
    }
    edited.extend_from_slice(&text[copied..]);
    edited
}

/// The text of an object without a member and the comma beside it.
pub(super) fn without(text: &[u8], value: &Range<usize>) -> Vec<u8> {
    let before = text[..value.start].trim_ascii_end();
    let before = before.strip_suffix(b":").unwrap_or(before).trim_ascii_end();
    let quoted = &before[..before.len().saturating_sub(1)];
    let mut start = quoted.iter().rposition(|&byte| byte == b'"').unwrap_or(0);
    let mut end = value.end;
    let next = after_space(text, end);
    if text.get(next) == Some(&b',') {
        end = after_space(text, next + 1);
    } else {
        let kept = text[..start].trim_ascii_end();
        start = kept.strip_suffix(b",").map_or(start, <[u8]>::len);
    }
    [&text[..start], &text[end..]].concat()
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
            b'}' | b']' if depth > 1 => depth -= 1,
            b'}' | b']' if depth == 1 => return at + 1,
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

    const TEXT: &[u8] = br#"{ "a": {"b" : [1, {"c": "}"}] }, "d":"\"a\": 1", "e":[], "f": {
  "g": 2
} }"#;

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn members_and_all_values_are_found() {
        let at = |key| member(TEXT, 0, key).map(|place| text(&TEXT[place]));
        assert_eq!(at("d"), Some(r#""\"a\": 1""#));
        assert_eq!([at("a"), at("b")], [Some(r#"{"b" : [1, {"c": "}"}] }"#), None]);
        let keys: Vec<&str> = values_by_key(TEXT).iter().map(|(key, _)| text(key)).collect();
        assert_eq!(keys, ["a", "b", "c", "d", "e", "f", "g"]);
    }

    #[test]
    fn more_stands_at_the_end_as_the_rest_does() {
        let add = |key, more: &[&str]| {
            let more: Vec<String> = more.iter().map(|&one| one.to_owned()).collect();
            let place = member(TEXT, 0, key).expect("a member");
            let made = extended(TEXT, &place, more.into_iter());
            text(&made[place.start..made.len() - (TEXT.len() - place.end)]).to_owned()
        };
        assert_eq!(add("e", &["1", "2"]), "[1,2]");
        assert_eq!(add("f", &["\"h\": 3"]), "{\n  \"g\": 2,\n  \"h\": 3\n}");
    }

    #[test]
    fn a_member_goes_with_its_comma() {
        let without = |key| text(&without(TEXT, &member(TEXT, 0, key).expect("there"))).to_owned();
        assert!(without("a").starts_with(r#"{ "d":"#));
        assert!(without("f").ends_with(r#""e":[] }"#));
        let places = [(member(TEXT, 0, "e").expect("there"), "7".to_owned())];
        assert_eq!(text(&replaced(TEXT, &places)), text(TEXT).replace("[]", "7"));
    }
}
