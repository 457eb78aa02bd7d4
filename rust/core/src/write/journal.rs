//! What a run has finished so far, one line each, so that the next run need not do it again.
//!
//! A line is sixteen hexadecimal digits of the BLAKE3 of its JSON, a space, the JSON, a line feed. The first line says
//! which run it is; the journal begins to exist with that line whole and on the disk. Later lines are hints only: they
//! are not synced one by one, a torn or garbled one ends the reading, and what they claim is hashed again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::error::{Error, Result, shown};
use crate::parallel::lock;
use crate::plan::layout::Layout;
use crate::read::tree_hash::{self, Hash};
use crate::write::look::Stamp;
use crate::write::system;

/// Its name in `TARGET.partial`.
pub(super) const NAME: &str = "branchmerge.journal";
/// Its name while the first line is written.
pub(super) const NEW: &str = "branchmerge.journal.new";

const LONGEST_LINE: u64 = 64 << 20;
const DIGITS: usize = 16;
/// The most differences that a message tells one by one.
const MOST_DIFFERENCES: usize = 5;

/// What is run: the part of a plan that decides the bytes of the result.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The recipe, in its canonical form.
    pub recipe: Value,
    /// The inputs with their identities.
    pub inputs: Value,
}

/// What is known of a tensor whose bytes are written. There may be 10⁵ of them: it is small.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finished {
    /// The hash of its bytes.
    pub hash: Hash,
    /// The hashes of what it was made of, in the order of the inputs.
    pub inputs: Box<[Hash]>,
    /// What the method told of it, as a JSON object.
    pub statistics: Box<RawValue>,
}

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record<Name = String, What = Finished> {
    /// The first line, and only that: see [`opening`].
    Begun(Value),
    /// A tensor, by its name.
    Finished(Name, What),
    /// A sync failed: nothing before this line is on the disk for sure, whatever the page cache shows.
    Unsynced,
    Publishing(Publishing),
}

/// What the last steps were about to do, for the run that finds them half done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Publishing {
    /// The directory that becomes the target.
    pub(super) new: Stamp,
    /// The directory that it replaces, which may be removed once it is.
    pub(super) old: Option<Stamp>,
}

/// What a journal held.
#[derive(Debug)]
pub(super) struct Past {
    opening: Value,
    /// What is claimed to be finished, by tensor.
    pub(super) finished: BTreeMap<String, Finished>,
    /// What was about to happen, if that is the last line.
    pub(super) publishing: Option<Publishing>,
    /// Where the last good line ends.
    end: u64,
}

/// A journal being written.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    end: Mutex<u64>,
}

/// All that must agree for a run to go on where another stopped.
pub(super) fn opening(run: &Run, layout: &Layout) -> Value {
    let files: Vec<Value> = layout
        .files
        .iter()
        .map(|file| json!({ "name": file.name, "bytes": file.bytes, "header": tree_hash::hash(&file.header) }))
        .collect();
    json!({
        "branchmerge": env!("CARGO_PKG_VERSION"),
        "recipe": run.recipe,
        "inputs": run.inputs,
        "files": files,
    })
}

/// The first line of a run's journal.
pub(super) fn first_line(opening: &Value) -> Result<Vec<u8>> {
    let line = line::<(), ()>(&Record::Begun(opening.clone()))?;
    if line.len() as u64 > LONGEST_LINE {
        return Err(Error::recipe("the recipe and its inputs are too large to be written down"));
    }
    Ok(line)
}

impl Past {
    /// Reads a journal as far as it is good; none where not even its first line is.
    pub(super) fn read(file: &File, path: &Path) -> Result<Option<Self>> {
        let mut reader = BufReader::new(file);
        let mut past: Option<Self> = None;
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let read = (&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut bytes);
            read.map_err(|error| Error::os("read", path, error))?;
            match (parsed(&bytes), &mut past) {
                (Some(Record::Begun(opening)), None) => {
                    let finished = BTreeMap::new();
                    past = Some(Self { opening, finished, publishing: None, end: 0 });
                }
                (None | Some(Record::Begun(_)), _) | (_, None) => return Ok(past),
                (Some(record), Some(past)) => past.add(record),
            }
            if let Some(past) = &mut past {
                past.end += bytes.len() as u64;
            }
        }
    }

    fn add(&mut self, record: Record) {
        self.publishing = None;
        match record {
            Record::Finished(tensor, finished) => {
                self.finished.insert(tensor, finished);
            }
            Record::Unsynced => self.finished.clear(),
            Record::Publishing(publishing) => self.publishing = Some(publishing),
            Record::Begun(_) => {}
        }
    }

    /// What differs between that run and this one; none where it is the same.
    pub(super) fn changed(&self, opening: &Value) -> Option<String> {
        let mut differences = Vec::new();
        compare(&self.opening, opening, "", &mut differences);
        let more = differences.len().saturating_sub(MOST_DIFFERENCES);
        differences.truncate(MOST_DIFFERENCES);
        if more > 0 {
            differences.push(format!("and {more} more"));
        }
        (!differences.is_empty()).then(|| differences.join("; "))
    }
}

impl Journal {
    /// Goes on with a journal after its last good line.
    pub(super) fn resume(file: File, path: PathBuf, past: &Past) -> Result<Self> {
        system::resize(&file, past.end).map_err(|error| Error::os("cut", &path, error))?;
        Ok(Self { file, path, end: Mutex::new(past.end) })
    }

    /// Goes on with a journal of one line.
    pub(super) fn begun(file: File, path: PathBuf, end: u64) -> Self {
        Self { file, path, end: Mutex::new(end) }
    }

    /// Notes tensors, by name, in one append.
    pub(super) fn finished(&self, finished: &[(&str, &Finished)]) -> Result<()> {
        let lines =
            finished.iter().map(|(tensor, finished)| line(&Record::Finished(*tensor, *finished)));
        self.append(&lines.collect::<Result<Vec<_>>>()?.concat())
    }

    pub(super) fn unsynced(&self) -> Result<()> {
        self.append(&line::<(), ()>(&Record::Unsynced)?)
    }

    pub(super) fn publishing(&self, publishing: Publishing) -> Result<()> {
        self.append(&line::<(), ()>(&Record::Publishing(publishing))?)
    }

    pub(super) fn sync(&self) -> Result<()> {
        system::sync_data(&self.file).map_err(|error| Error::os("sync", &self.path, error))
    }

    /// One write after the last good line; a write that failed leaves no torn line before the next.
    fn append(&self, lines: &[u8]) -> Result<()> {
        let mut end = lock(&self.end);
        if let Err(error) = system::write_at(&self.file, lines, *end) {
            let _ = system::resize(&self.file, *end);
            return Err(Error::os("write", &self.path, error));
        }
        *end += lines.len() as u64;
        Ok(())
    }
}

fn line<Name: Serialize, What: Serialize>(record: &Record<Name, What>) -> Result<Vec<u8>> {
    let json = serde_json::to_string(record)
        .map_err(|error| Error::malformed(format!("the journal cannot be written: {error}")))?;
    Ok(format!("{} {json}\n", digits(json.as_bytes())).into_bytes())
}

fn parsed(line: &[u8]) -> Option<Record> {
    let (digits, rest) = line.split_at_checked(DIGITS)?;
    let json = rest.strip_prefix(b" ")?.strip_suffix(b"\n")?;
    if self::digits(json).as_bytes() == digits { serde_json::from_slice(json).ok() } else { None }
}

fn digits(json: &[u8]) -> String {
    format!("{:.DIGITS$}", tree_hash::hash(json).to_string())
}

/// Adds each place where two values differ, with both.
fn compare(was: &Value, is: &Value, at: &str, differences: &mut Vec<String>) {
    match (was, is) {
        (Value::Object(was), Value::Object(is)) => {
            let dot = if at.is_empty() { "" } else { "." };
            let added = is.keys().filter(|key| !was.contains_key(*key));
            for key in was.keys().chain(added) {
                let (was, is) = (was.get(key), is.get(key));
                compare_members(was, is, &format!("{at}{dot}{}", shown(key)), differences);
            }
        }
        (Value::Array(was), Value::Array(is)) => {
            for index in 0..was.len().max(is.len()) {
                let (was, is) = (was.get(index), is.get(index));
                compare_members(was, is, &format!("{at}[{index}]"), differences);
            }
        }
        _ if was == is => {}
        _ => differences.push(format!("`{at}` was {}, is {}", brief(was), brief(is))),
    }
}

fn compare_members(
    was: Option<&Value>,
    is: Option<&Value>,
    at: &str,
    differences: &mut Vec<String>,
) {
    match (was, is) {
        (Some(was), Some(is)) => compare(was, is, at, differences),
        (Some(was), None) => differences.push(format!("`{at}` was {}, is not there", brief(was))),
        (None, Some(is)) => differences.push(format!("`{at}` was not there, is {}", brief(is))),
        (None, None) => {}
    }
}

fn brief(value: &Value) -> String {
    match value {
        Value::Object(members) => format!("an object of {}", members.len()),
        Value::Array(items) => format!("a list of {}", items.len()),
        other => shown(&other.to_string()),
    }
}

#[cfg(test)]
mod tests;
