//! The format's own reader, the `safetensors` crate. What we take, it takes, with the same places; there is no exception.
//!
//! It takes more than we do: keys that stand twice, keys that are not known, an entry as a list, a dtype as an object,
//! white space before the header, any number of dimensions.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use safetensors::tensor::Metadata;

use crate::naive::Placed;

/// Files up to this size are made in whole; of larger ones it reads the header, and we compare the length.
const WHOLE: u64 = 1 << 16;

/// What it says of a file.
pub(crate) enum Word {
    Takes(Vec<(String, Placed)>),
    Refuses(String),
}

/// Its word on a file of `length` bytes that begins with `bytes`.
pub(crate) fn read(bytes: &[u8], length: u64) -> Word {
    match metadata(bytes, length) {
        Ok((header, found)) => Word::Takes(tensors(8 + header, &found)),
        Err(why) => Word::Refuses(why),
    }
}

fn metadata(bytes: &[u8], length: u64) -> Result<(u64, Metadata), String> {
    let header = bytes.get(..8).map(|prefix| u64::from_le_bytes(prefix.try_into().unwrap()));
    let header = header.ok_or("no length")?;
    if length <= WHOLE && bytes.len() as u64 >= 8 + header.min(WHOLE) {
        let mut file = bytes.to_vec();
        file.resize(length as usize, 0);
        let found = SafeTensors::read_metadata(&file).map_err(|error| error.to_string())?;
        return Ok((found.0 as u64, found.1));
    }
    let json =
        usize::try_from(header).ok().and_then(|header| bytes.get(8..8usize.checked_add(header)?));
    let json = std::str::from_utf8(json.ok_or("cut off")?).map_err(|error| error.to_string())?;
    let found: Metadata = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let whole = 8 + u128::from(header) + found.data_len() as u128;
    if whole == u128::from(length) { Ok((header, found)) } else { Err("another length".into()) }
}

fn tensors(start: u64, found: &Metadata) -> Vec<(String, Placed)> {
    let placed = |name: String| {
        let info = found.info(&name).unwrap();
        let (from, to) = info.data_offsets;
        let placed = Placed {
            dtype: format!("{:?}", info.dtype),
            shape: info.shape.iter().map(|side| *side as u64).collect(),
            start: start + from as u64,
            end: start + to as u64,
        };
        (name, placed)
    };
    found.offset_keys().into_iter().map(placed).collect::<BTreeMap<_, _>>().into_iter().collect()
}
