//! How long the words of a JSON text are, before any is read: serde copies them whole.

/// The longest text or other word, where one is longer than `most`: it would be copied, and a text unescaped, before a
/// visitor sees it.
pub(crate) fn too_long(json: &str, most: usize) -> Option<(&'static str, usize)> {
    if json.len() <= most {
        return None;
    }
    let (mut text, mut word) = (0, 0);
    let mut rest = json.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let length = if *first == b'"' { text_length(after) } else { word_length(rest) };
        let most = if *first == b'"' { &mut text } else { &mut word };
        *most = length.max(*most);
        // A text has two quotes, and a mark is a word of none.
        let taken = if *first == b'"' { length + 2 } else { length.max(1) };
        rest = rest.get(taken..).unwrap_or_default();
    }
    Some(if text > word { ("text", text) } else { ("word", word) })
        .filter(|&(_, length)| length > most)
}

/// Bytes up to the quote that ends a text, or all.
fn text_length(text: &[u8]) -> usize {
    let mut escaped = false;
    let ends = |&byte: &u8| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    };
    text.iter().position(ends).unwrap_or(text.len())
}

/// Bytes of a number or a name such as `null`.
fn word_length(rest: &[u8]) -> usize {
    rest.iter().position(|byte| b"\"{}[],: \t\r\n".contains(byte)).unwrap_or(rest.len())
}
