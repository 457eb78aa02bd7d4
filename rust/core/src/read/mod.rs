//! From a path to trusted tensors: every byte of an input comes through here, and hostile ones end here.
//!
//! `source`: the bytes of one file, by map or by positional reads · `json`: strict JSON · `header`: what a file of
//! weights holds · `checkpoint`: a directory of them · `dtype`: stored bits to numbers and back · `tree_hash`: BLAKE3 of
//! parts in any order · `words`: how long the words of a text are.

pub mod adapter;
pub mod checkpoint;
pub mod dtype;
pub mod header;
pub mod json;
pub mod source;
pub mod tree_hash;
pub(crate) mod words;
