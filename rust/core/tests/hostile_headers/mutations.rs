//! What can be wrong with a header: each a change of a draft, or of the bytes it was written to.

#![allow(clippy::unnecessary_wraps, reason = "all changes are of one type")]

mod tensors;

use crate::draft::{Draft, Field, Item, Raw, Thing, quoted, spelled};
use crate::random::Random;

/// A change; it does nothing where the draft has no place for it.
pub(crate) type Mutation = fn(&mut Draft, &mut Random) -> Option<()>;

/// All changes of drafts.
pub(crate) const MUTATIONS: [Mutation; 21] = [
    tensors::offset_becomes_odd,
    tensors::offset_moves,
    tensors::offsets_are_swapped,
    tensors::offsets_are_copied,
    tensors::a_number_more_or_less,
    tensors::side_becomes_odd,
    tensors::side_is_added,
    tensors::sides_overflow,
    tensors::dtype_is_another,
    tensors::dtype_is_odd,
    tensors::key_stands_twice,
    tensors::key_is_missing_or_unknown,
    name_stands_twice,
    name_is_odd,
    tensor_is_something_else,
    tensors::tensor_without_bytes,
    tensors::tensor_behind_all,
    metadata_is_odd,
    something_before_or_after,
    announced_length,
    length_of_the_file,
];

/// Numbers at the edges of every type, and what is no number.
const ODD: &str = "0 1 2 255 4294967295 4294967296 2305843009213693952 9223372036854775807 \
    9223372036854775808 18446744073709551615 18446744073709551616 36893488147419103232 -1 -0 \
    -9223372036854775808 0.0 4.0 1e0 1e400 1E2 01 +1 0x1 \"4\" null true [] NaN";
/// Values that stand in the place of another.
const VALUES: &str = r#"null true 1 -1.5 "" "F32" [] {} ["F32",[1],[0,4]] {"F32":null} {"a":{"a":1}}
    {"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
/// Texts that are none, and such as hide.
const TEXTS: [&[u8]; 12] = [
    br#""\ud800""#,
    br#""\udc00x""#,
    br#""\ud800\u0061""#,
    br#""\u0000""#,
    br#""\u001b[2J\u202e""#,
    br#""\x41""#,
    b"\"\xff\"",
    b"\"\xc0\xaf\"",
    b"\"\xed\xa0\x80\"",
    b"\"\0\"",
    b"\"\x1b[2J\"",
    b"\"",
];

fn word(random: &mut Random, words: &str) -> Raw {
    let words: Vec<&str> = words.split_whitespace().collect();
    random.of(&words).as_bytes().to_vec()
}

pub(crate) fn odd(random: &mut Random) -> Raw {
    word(random, ODD)
}

/// A text, or what looks like one.
pub(crate) fn text(random: &mut Random) -> Raw {
    TEXTS[random.below(TEXTS.len())].to_vec()
}

/// A value of another kind, now and then a deep one.
fn value(random: &mut Random) -> Raw {
    let (open, close) = if random.once_in(2) { ("[", "]") } else { ("{\"\":", "}") };
    let depth = [3, 126, 127, 128, 129, 2000][random.below(6)];
    match random.below(4) {
        0 => format!("{}1{}", open.repeat(depth), close.repeat(depth)).into_bytes(),
        1 => text(random),
        _ => word(random, VALUES),
    }
}

/// The first letter by its number.
fn respelled(raw: &[u8]) -> Raw {
    match raw {
        [b'"', first, rest @ ..] if first.is_ascii_lowercase() => {
            [format!("\"\\u{first:04x}").as_bytes(), rest].concat()
        }
        _ => raw.to_vec(),
    }
}

fn name_stands_twice(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let at = random.below(draft.items.len());
    let name = draft.items.get(at)?.name.clone();
    let name = if random.once_in(2) { respelled(&name) } else { name };
    let other = random.below(draft.items.len());
    draft.items[other].name = name;
    Some(())
}

fn name_is_odd(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let at = random.below(draft.items.len());
    draft.items.get_mut(at)?.name = match random.below(3) {
        0 => text(random),
        1 => quoted("__metadata__"),
        _ => quoted(&"n".repeat([300, 4095, 4096, 4097, 9000][random.below(5)])),
    };
    Some(())
}

fn tensor_is_something_else(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let at = random.below(draft.items.len());
    draft.items.get_mut(at)?.value = Thing::Other(value(random));
    Some(())
}

fn metadata_is_odd(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let pair = |random: &mut Random| {
        [random.of(&[&b"\"k\""[..], b"\"\\u006b\"", b"\"j\""]), b":", &value(random)].concat()
    };
    let raw = match random.below(3) {
        0 => value(random),
        1 => [b"{", &pair(random)[..], b"}"].concat(),
        _ => format!("{{\"k\":\"\",\"{}\":\"\"}}", random.of(&["k", "\\u006b", "l"])).into_bytes(),
    };
    let at = random.below(draft.items.len() + 1);
    draft
        .items
        .insert(at, Item { name: spelled(random, "__metadata__"), value: Thing::Other(raw) });
    Some(())
}

fn something_before_or_after(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let things = ["\u{feff}", " ", "\n", "\0", ",", "{", "}", "{}", "x", "//", "\u{a0}", "null"];
    let place = if random.once_in(2) { &mut draft.before } else { &mut draft.after };
    place.extend_from_slice(random.of(&things).as_bytes());
    Some(())
}

fn announced_length(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let true_length = draft.written(random).0.len() as u64 - 8;
    draft.announced = Some(match random.below(10) {
        0 => 0,
        1 => 99_999_999,
        2 => 100_000_000,
        3 => 100_000_001,
        4 => u64::MAX - 8,
        5 => u64::MAX,
        6 => 1 << 63,
        7 => true_length.wrapping_sub(1 + random.below(9) as u64),
        _ => true_length + 1 + random.below(9) as u64,
    });
    Some(())
}

fn length_of_the_file(draft: &mut Draft, random: &mut Random) -> Option<()> {
    match random.below(6) {
        0 => draft.data = draft.data.wrapping_sub(1),
        1 => draft.data = draft.data.wrapping_add(1),
        2 => draft.data = 0,
        3 => draft.data = u64::MAX,
        4 => draft.data = draft.data.wrapping_add(1 << 63),
        _ => {
            let all = draft.written(random).0.len();
            draft.cut = Some(random.below(all));
        }
    }
    Some(())
}

/// Changes bytes of the header without knowing what they are.
pub(crate) fn bytes(file: &mut Raw, random: &mut Random) {
    if file.len() <= 8 {
        return;
    }
    let at = 8 + random.below(file.len() - 8);
    let end = (at + random.below(12)).min(file.len());
    let some = text(random);
    match random.below(7) {
        0 => file[at] ^= 1 << random.below(8),
        1 => {
            file[at] =
                random.of(&["{", "}", "[", "]", "\"", ",", ":", "\\", "0", "9"]).as_bytes()[0];
        }
        2 => drop(file.drain(at..end)),
        3 => {
            let copy = file[at..end].to_vec();
            file.splice(at..at, copy);
        }
        4 => drop(file.splice(at..at, odd(random))),
        5 => drop(file.splice(at..at, some)),
        _ => file.truncate(at),
    }
    if !random.once_in(3) {
        let announced = (file.len() as u64 - 8).to_le_bytes();
        file[..8].copy_from_slice(&announced);
    }
}
