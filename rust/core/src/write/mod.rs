//! From computed bytes to a result that is whole: files of a fixed layout, a journal to resume by, a manifest to verify by.
//!
//! Nothing is ever seen half done under the target's name. [`output`] writes beside it, into `TARGET.partial`; `publish`
//! puts the finished directory in place in steps of which each can be the last before a power cut.

mod begin;
mod directory;
#[cfg(test)]
mod fixture;
pub mod journal;
mod look;
pub mod manifest;
pub mod output;
mod place;
mod publish;
mod sidecar;
mod survey;
mod system;
pub mod verify;
