//! A merge in memory: from tensors that a host lends into room that it gives, with no file, no hash and nothing to resume.

use std::sync::Arc;

use super::{Outline, Sink, Work};
use crate::error::{Error, Kind, Result};
use crate::parallel::{Progress, Team};
use crate::write::output::Finished;

/// Room for one tensor, which several workers fill at once, each its own part.
pub trait Receive: Send + Sync {
    /// How many bytes fit.
    fn bytes(&self) -> u64;
    /// Puts bytes at a place.
    ///
    /// # Errors
    /// Where they do not fit.
    fn put(&self, start: u64, bytes: &[u8]) -> Result<()>;
}

/// The room for each tensor, in the order of the plan's jobs.
struct Rooms(Vec<Arc<dyn Receive>>);

impl Sink for Rooms {
    fn hashes(&self) -> bool {
        false
    }

    fn write(&self, at: usize, start: u64, bytes: &[u8]) -> Result<()> {
        self.0[at].put(start, bytes)
    }

    fn done(&self, _: &[(usize, &Finished)]) -> Result<()> {
        Ok(())
    }
}

/// Carries a plan of lent tensors out; `rooms` are in the order of the plan's jobs.
///
/// # Errors
/// The plan's problems, where it has any; a room of another size than its tensor; whatever is wrong with a tensor.
pub fn fuse_lent(
    outline: &Outline,
    rooms: Vec<Arc<dyn Receive>>,
    progress: &Progress,
) -> Result<()> {
    let plan = outline.plan()?;
    let fits =
        plan.layout.tensors.iter().zip(&rooms).all(|(placed, room)| placed.bytes == room.bytes());
    if !fits || rooms.len() != plan.jobs.len() {
        let what = "the room for the result is not the result's size".into();
        return Err(Error::from(Kind::Internal { what }));
    }
    let rooms = Rooms(rooms);
    let mut work = Work::new(plan, &rooms, Team::new(plan.threads), progress);
    work.survey()?;
    work.fuse_all()?;
    work.finished().map(drop)
}
