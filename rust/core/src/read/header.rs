//! Where tensors lie in a safetensors file: the header, read as hostile bytes.
//!
//! A file is eight bytes with the length of its header, the header in JSON, then the bytes of the tensors. What is taken
//! here is what the format's own reader takes, less what only a broken or a hostile writer would write:
//!
//! - a key that is there twice, or one of a tensor that the format does not know;
//! - an entry or a dtype in another form than the format's (that reader takes `["F32",[1],[0,4]]` for an entry);
//! - white space before the first `{`, which the format forbids;
//! - more than [`MOST_DIMENSIONS`] dimensions, a name beyond [`LONGEST_NAME`] or another word beyond [`LONGEST_TEXT`];
//! - so many tensors that they would take, with the header, more than [`MOST_MEMORY`].
//!
//! Memory: besides the header itself, at most eight times its size and 4 KiB.

mod entries;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::error::{Error, Kind, Result};
use crate::read::dtype::Dtype;
use crate::read::source::Source;

/// The longest header, in bytes: the format's own limit.
pub const LONGEST_HEADER: u64 = 100_000_000;
/// The most dimensions of a tensor: what numpy and torch have.
pub const MOST_DIMENSIONS: usize = 64;
/// The longest name of a tensor, in bytes.
pub const LONGEST_NAME: usize = 4096;
/// The longest text or number in a header, in bytes as it is written there.
pub const LONGEST_TEXT: usize = 32 << 20;
/// What a header and its tensors may take together, in bytes: below the 192 MB that a hostile file may cost.
pub const MOST_MEMORY: u64 = 176 << 20;

/// A tensor's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// How its elements are stored.
    pub dtype: Dtype,
    /// Its shape; empty for a scalar.
    pub shape: Vec<u64>,
    /// Which of the checkpoint's files it is in.
    pub file: usize,
    /// Its bytes, counted from the start of the file.
    pub range: Range<u64>,
}

impl Stored {
    /// How many elements it has; the header has checked the product.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// Reads the header of a file; `file` is its number in the checkpoint.
///
/// # Errors
/// [`Kind::Malformed`] with what was found and expected; the system's word; [`Kind::OutOfMemory`].
pub fn read_header(source: &Source, file: usize) -> Result<BTreeMap<String, Stored>> {
    let read = || {
        let mut piece = Vec::new();
        let prefix = source.len().min(8);
        let header = header_length(source.bytes(0..prefix, &mut piece)?, source.len())?;
        let header = private_copy(source, 8 + header)?;
        parse(&header, source.len(), file)
    };
    read().map_err(|error| error.path(source.path()))
}

/// The first bytes of a file in memory of our own. A map may change while it is read, and no text may change after it was
/// found to be UTF-8.
fn private_copy(source: &Source, length: u64) -> Result<Vec<u8>> {
    const PIECE: u64 = 1 << 20;
    let mut copy = Vec::new();
    copy.try_reserve_exact(length as usize)
        .map_err(|_| Error::from(Kind::OutOfMemory { needed: length }))?;
    let mut buffer = Vec::new();
    while (copy.len() as u64) < length {
        let start = copy.len() as u64;
        let end = length.min(start + PIECE);
        copy.extend_from_slice(source.bytes(start..end, &mut buffer)?);
    }
    source.intact()?;
    Ok(copy)
}

/// Reads a header: its length in eight bytes, then its JSON, then perhaps more; `length` is that of the whole file.
///
/// # Errors
/// [`Kind::Malformed`], naming the tensor where it is one's fault.
pub fn parse(bytes: &[u8], length: u64, file: usize) -> Result<BTreeMap<String, Stored>> {
    let header = header_length(bytes.get(..8).unwrap_or(bytes), length)?;
    let json = usize::try_from(8 + header).ok().and_then(|end| bytes.get(8..end));
    let json = json.ok_or_else(|| Error::malformed("the header is cut off"))?;
    let mut tensors = entries::read(json, file)?;
    cover(&tensors, length - 8 - header)?;
    for stored in tensors.values_mut() {
        stored.range.start += 8 + header;
        stored.range.end += 8 + header;
    }
    Ok(tensors)
}

/// The length of the header, which lies within the file.
fn header_length(prefix: &[u8], length: u64) -> Result<u64> {
    let Ok(bytes) = <[u8; 8]>::try_from(prefix) else {
        let what =
            format!("it has {length} bytes, expected 8 for the length of a header and then one");
        return Err(Error::malformed(what));
    };
    let header = u64::from_le_bytes(bytes);
    let within = length.saturating_sub(8);
    if header <= LONGEST_HEADER && header <= within {
        return Ok(header);
    }
    if let Some(other) = other_format(bytes) {
        return Err(Error::malformed(format!("it is {other}, expected a safetensors file")));
    }
    Err(Error::malformed(if header > LONGEST_HEADER {
        format!("the header is {header} bytes long, expected at most {LONGEST_HEADER}")
    } else {
        format!(
            "the header is {header} bytes long, {within} follow: it is cut off, copy or download it again"
        )
    }))
}

/// What is often found in the place of a safetensors file.
fn other_format(prefix: [u8; 8]) -> Option<&'static str> {
    const FORMATS: [(&[u8], &str); 6] = [
        (b"version ", "a pointer of Git LFS (`git lfs pull` brings the file)"),
        (b"GGUF", "a GGUF file"),
        (b"PK\x03\x04", "a zip archive, perhaps pickled weights"),
        (b"\x80\x02", "a pickle"),
        (b"\x89HDF", "an HDF5 file"),
        (b"<", "a web page"),
    ];
    FORMATS.iter().find(|(start, _)| prefix.starts_with(start)).map(|(_, format)| *format)
}

/// That every tensor has the bytes that its shape needs, and that together they cover `data` bytes, with no hole and no
/// overlap. Ranges are still counted from the end of the header.
fn cover(tensors: &BTreeMap<String, Stored>, data: u64) -> Result<()> {
    let mut order: Vec<(&String, &Stored)> = tensors.iter().collect();
    order.sort_unstable_by_key(|(_, stored)| (stored.range.start, stored.range.end));
    let mut end = 0;
    for (name, stored) in order {
        follows(stored, end).map_err(|what| Error::malformed(what).tensor(name))?;
        end = stored.range.end;
    }
    if end == data {
        return Ok(());
    }
    let what = if end > data {
        "it is cut off, copy or download it again"
    } else {
        "what follows them is no tensor's"
    };
    Err(Error::malformed(format!("its tensors need {end} bytes, it has {data} for them: {what}")))
}

/// That a tensor has the bytes of its shape and begins where the one before it ends; else what is wrong.
fn follows(stored: &Stored, end: u64) -> std::result::Result<(), String> {
    let Stored { dtype, shape, range: Range { start, end: stop }, .. } = stored;
    if stop < start {
        return Err(format!("its bytes are {start} to {stop}: they end before they begin"));
    }
    if *start != end {
        let what = if *start < end { "overlap" } else { "leave a hole" };
        return Err(format!(
            "its bytes are {start} to {stop}, expected to begin at {end}: tensors may not {what}"
        ));
    }
    let of = || format!("for shape {shape:?} of {}", dtype.name());
    let elements = shape.iter().try_fold(1u64, |product, &side| product.checked_mul(side));
    let bits = elements.and_then(|elements| elements.checked_mul(dtype.bits()));
    match bits {
        None => Err(format!("its size does not fit 64 bits {}", of())),
        Some(bits) if bits % 8 != 0 => {
            Err(format!("it has {bits} bits {}, expected whole bytes", of()))
        }
        Some(bits) if bits / 8 != stop - start => {
            Err(format!("it has {} bytes, expected {} {}", stop - start, bits / 8, of()))
        }
        Some(_) => Ok(()),
    }
}
