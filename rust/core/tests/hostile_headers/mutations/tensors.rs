//! What can be wrong with one tensor of a header: its numbers, its dtype, its keys.

use super::{Draft, Field, Item, Random, Raw, Thing, odd, quoted, respelled, spelled, value};
use crate::naive::DTYPES;

fn of_list<'a>(random: &mut Random, list: &'a mut [Raw]) -> Option<&'a mut Raw> {
    let at = random.below(list.len());
    list.get_mut(at)
}

pub(super) fn offset_becomes_odd(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let list = draft.list(random, "data_offsets")?;
    *of_list(random, list)? = odd(random);
    Some(())
}

pub(super) fn offset_moves(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let list = draft.list(random, "data_offsets")?;
    let offset = of_list(random, list)?;
    let number: u64 = std::str::from_utf8(offset).ok()?.parse().ok()?;
    let step = [1, 2, 4, 8][random.below(4)];
    let moved =
        if random.once_in(2) { number.wrapping_add(step) } else { number.wrapping_sub(step) };
    *offset = moved.to_string().into_bytes();
    Some(())
}

pub(super) fn offsets_are_swapped(draft: &mut Draft, random: &mut Random) -> Option<()> {
    draft.list(random, "data_offsets")?.reverse();
    Some(())
}

pub(super) fn offsets_are_copied(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let copy = draft.list(random, "data_offsets")?.clone();
    *draft.list(random, "data_offsets")? = copy;
    Some(())
}

pub(super) fn a_number_more_or_less(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let list = draft.list(random, "data_offsets")?;
    if random.once_in(2) {
        list.pop()?;
    } else {
        list.push(odd(random));
    }
    Some(())
}

pub(super) fn side_becomes_odd(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let list = draft.list(random, "shape")?;
    *of_list(random, list)? = odd(random);
    Some(())
}

/// Sides of one change nothing until they are more than 64.
pub(super) fn side_is_added(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let shape = draft.list(random, "shape")?;
    let most = [1, 60, 62, 64, 65, 3000][random.below(6)];
    let side: &[u8] = if random.once_in(8) { b"2" } else { b"1" };
    shape.resize(shape.len() + most, side.to_vec());
    Some(())
}

/// Sides whose product overflows, before or after a zero.
pub(super) fn sides_overflow(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let shape = draft.list(random, "shape")?;
    let many = vec![b"4294967296".to_vec(); 1 + random.below(3)];
    let at = random.below(shape.len() + 1);
    shape.splice(at..at, many);
    Some(())
}

fn dtype(fields: &mut [(Raw, Field)]) -> Option<&mut Field> {
    fields.iter_mut().map(|(_, field)| field).find(|field| matches!(field, Field::One(_)))
}

pub(super) fn dtype_is_another(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let name = DTYPES[random.below(DTYPES.len())].0;
    *dtype(draft.tensor(random)?)? = Field::One(spelled(random, name));
    Some(())
}

pub(super) fn dtype_is_odd(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let name = random.of(&["", "f32", "F32 ", "float32", "F8", "Q4", "F6E2M3", "F4\0"]);
    let raw = if random.once_in(2) { quoted(name) } else { value(random) };
    *dtype(draft.tensor(random)?)? = Field::One(raw);
    Some(())
}

/// The same key, perhaps spelled in another way, with the same value or one of another tensor.
pub(super) fn key_stands_twice(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let mut other = draft.tensor(random)?.clone();
    let (key, field) = other.swap_remove(random.below(other.len()));
    let key = if random.once_in(2) { respelled(&key) } else { key };
    draft.tensor(random)?.push((key, field));
    Some(())
}

pub(super) fn key_is_missing_or_unknown(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let fields = draft.tensor(random)?;
    let at = random.below(fields.len());
    let unknown = random.of(&["\"x\"", "\"Shape\"", "\"data_offset\"", "\"\"", "1", "null"]);
    match random.below(3) {
        0 => fields.get_mut(at)?.0 = unknown.as_bytes().to_vec(),
        1 => fields.push((unknown.as_bytes().to_vec(), Field::One(value(random)))),
        _ => drop((at < fields.len()).then(|| fields.remove(at))?),
    }
    Some(())
}

/// At the edge of another tensor, or within it.
pub(super) fn tensor_without_bytes(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let mut place = draft.list(random, "data_offsets")?.first()?.clone();
    if random.once_in(3) {
        place = odd(random);
    }
    let field = |raw: &[u8]| Field::One(raw.to_vec());
    let fields = vec![
        (quoted("dtype"), field(b"\"F4\"")),
        (
            quoted("shape"),
            field(random.of(&["[0]", "[3,0]", "[0,18446744073709551615]"]).as_bytes()),
        ),
        (quoted("data_offsets"), Field::List(vec![place.clone(), place])),
    ];
    draft.items.push(Item { name: quoted("none"), value: Thing::Tensor(fields) });
    Some(())
}

/// Behind all others, with as many bytes as 64 bits can count, or as many bits; or with half a byte.
pub(super) fn tensor_behind_all(draft: &mut Draft, random: &mut Random) -> Option<()> {
    let (dtype, bits) = DTYPES[random.below(DTYPES.len())];
    let huge = (1 << (56 + random.below(8))) - [0, 4, 8][random.below(3)];
    let elements = if random.once_in(2) { huge } else { random.below(9) as u64 };
    let end = u64::try_from(u128::from(elements) * u128::from(bits) / 8).ok()?;
    let end = end.checked_add(draft.data)?;
    let number = |number: u64| number.to_string().into_bytes();
    let fields = vec![
        (quoted("dtype"), Field::One(quoted(dtype))),
        (quoted("shape"), Field::List(vec![number(elements)])),
        (quoted("data_offsets"), Field::List(vec![number(draft.data), number(end)])),
    ];
    draft.items.push(Item { name: quoted("last"), value: Thing::Tensor(fields) });
    draft.data = end;
    Some(())
}
