//! What can go wrong, said once: the kinds with their fields, and the hint apart.
//!
//! A message names the thing, what was found and what was expected. Names that come from files are escaped and cut
//! before they are shown, so that a hostile name can neither move a cursor nor fill a screen.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// What every fallible function of the engine returns.
pub type Result<T> = std::result::Result<T, Error>;

/// The longest message, however many things are wrong; a promise of the interface.
const LONGEST_MESSAGE: usize = 20_000;
/// The longest name or path that is shown whole.
const LONGEST_NAME: usize = 200;

/// Which exception a front end raises, and with which exit status a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The recipe or the command is wrong; nothing was written. Exit status 2.
    Recipe,
    /// A file is not what its header says. Exit status 1.
    Checkpoint,
    /// The target is there already and is something else. Exit status 1.
    OutputExists,
    /// The operating system said no. Exit status 1.
    Os,
    /// Asked to stop; what is done is kept. Exit status 130.
    Cancelled,
}

/// Everything that can go wrong, with what a reader needs to mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Kind {
    /// Several things are wrong; all are told at once.
    #[error("{}", list(.0))]
    Problems(Vec<Error>),
    /// A statement of the recipe that cannot be meant; `hint` says what could.
    #[error("{what}")]
    Recipe {
        /// The sentence.
        what: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A key or name that is not known.
    #[error("unknown {what} `{found}`")]
    Unknown {
        /// What kind of word it is: `key`, `parameter`, `method`.
        what: &'static str,
        /// The word as given.
        found: String,
        /// The nearest known word, or the list of them.
        near: Option<String>,
    },
    /// A value outside what its parameter takes.
    #[error("`{name}` is {found}, expected {expected}")]
    Value {
        /// The parameter or key.
        name: String,
        /// The value as given.
        found: String,
        /// What it takes.
        expected: String,
    },
    /// A tensor, branch by branch, that is not what the others have.
    #[error("{what}: found {found}, expected {expected}")]
    Mismatch {
        /// What does not agree.
        what: &'static str,
        /// What stands in the branch.
        found: String,
        /// What stands in the base.
        expected: String,
        /// The `allow` rule that would permit it.
        allow: Option<&'static str>,
    },
    /// A checkpoint that is not there.
    #[error("no checkpoint there")]
    NoCheckpoint {
        /// What to do about it.
        hint: String,
    },
    /// A file is not what its header says, or not what the format allows.
    #[error("{what}")]
    Malformed {
        /// The sentence, found and expected.
        what: String,
    },
    /// A tensor holds NaN or infinity, or a result does not fit its dtype.
    #[error("{what} at element {element}")]
    NotFinite {
        /// What was found.
        what: String,
        /// The first element, counted in row-major order.
        element: u64,
    },
    /// A tensor that is not computed with, and of which the inputs hold different values.
    #[error("{dtype} values do not merge, found others than in `{expected}`")]
    Unequal {
        /// The stored dtype.
        dtype: &'static str,
        /// The label of the branch that it is compared with.
        expected: String,
    },
    /// An input is not what it was when the plan was made.
    #[error("the file changed during the run: {what}")]
    Changed {
        /// What is different.
        what: String,
    },
    /// What a result's manifest says and what its files hold differ.
    #[error("{what}")]
    NotVerified {
        /// The sentence.
        what: String,
    },
    /// The target is in the way.
    #[error("{what}")]
    OutputExists {
        /// The sentence.
        what: String,
        /// The way out.
        hint: String,
    },
    /// What an earlier, unfinished run left is of another recipe or other inputs.
    #[error("an unfinished run of something else is there: {changed}")]
    OtherRun {
        /// What changed since.
        changed: String,
    },
    /// Another run writes there now.
    #[error("another run is writing there")]
    Locked,
    /// Not enough room on the disk.
    #[error("{needed} bytes are needed on the disk, {free} are free")]
    DiskFull {
        /// Bytes to be written.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The bound on private memory is too small.
    #[error("`memory` is {bound} bytes, this merge needs {needed}")]
    MemoryBound {
        /// What was given.
        bound: u64,
        /// The smallest bound that would do.
        needed: u64,
    },
    /// Memory could not be had.
    #[error("out of memory: {needed} bytes could not be had")]
    OutOfMemory {
        /// Bytes asked for.
        needed: u64,
    },
    /// The operating system said no.
    #[error("{doing}: {source}")]
    Os {
        /// What was being done: `open`, `write`.
        doing: &'static str,
        /// Its word.
        source: io::Error,
    },
    /// Asked to stop.
    #[error("interrupted")]
    Cancelled,
    /// A worker panicked: a defect of ours, told instead of a crash.
    #[error("internal error: {what}")]
    Internal {
        /// What the panic said.
        what: String,
    },
}

/// An error with where it happened.
#[derive(Debug)]
pub struct Error {
    /// What went wrong.
    pub kind: Box<Kind>,
    /// The tensor's name.
    pub tensor: Option<String>,
    /// The branch's label.
    pub branch: Option<String>,
    /// The file or directory.
    pub path: Option<PathBuf>,
    /// Where in the recipe: `models[1].parameters.weight`.
    pub at: Option<String>,
}

impl From<Kind> for Error {
    fn from(kind: Kind) -> Self {
        Self { kind: Box::new(kind), tensor: None, branch: None, path: None, at: None }
    }
}

impl Error {
    /// A statement of the recipe that cannot be meant.
    pub fn recipe(what: impl Into<String>) -> Self {
        Kind::Recipe { what: what.into(), hint: None }.into()
    }

    /// The same, with what to do about it.
    pub fn recipe_with_hint(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Kind::Recipe { what: what.into(), hint: Some(hint.into()) }.into()
    }

    /// A value outside what its parameter takes.
    pub fn value(
        name: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Kind::Value { name: name.into(), found: found.into(), expected: expected.into() }.into()
    }

    /// An unknown word, with the nearest of those known.
    pub fn unknown<'a>(
        what: &'static str,
        found: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        Kind::Unknown { what, found: found.into(), near: nearest(found, known) }.into()
    }

    /// A file that is not what it says.
    pub fn malformed(what: impl Into<String>) -> Self {
        Kind::Malformed { what: what.into() }.into()
    }

    /// The operating system's word on `path`.
    pub fn os(doing: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::from(Kind::Os { doing, source: source.into() }).path(path)
    }

    /// Several errors as one; a single one stays itself.
    #[must_use]
    pub fn all(mut problems: Vec<Self>) -> Self {
        if problems.len() == 1 { problems.remove(0) } else { Kind::Problems(problems).into() }
    }

    /// Names the tensor.
    #[must_use]
    pub fn tensor(mut self, name: impl Into<String>) -> Self {
        self.tensor.get_or_insert_with(|| name.into());
        self
    }

    /// Names the branch.
    #[must_use]
    pub fn branch(mut self, label: impl Into<String>) -> Self {
        self.branch.get_or_insert_with(|| label.into());
        self
    }

    /// Names the file.
    #[must_use]
    pub fn path(mut self, path: &Path) -> Self {
        // What a host lends has none.
        if !path.as_os_str().is_empty() {
            self.path.get_or_insert_with(|| path.to_path_buf());
        }
        self
    }

    /// Names the place in the recipe.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.at.get_or_insert_with(|| place.into());
        self
    }

    /// Which exception it becomes. Several problems of one class keep it; of several classes they are the recipe's.
    #[must_use]
    pub fn class(&self) -> Class {
        match &*self.kind {
            Kind::Problems(problems) => {
                let mut classes = problems.iter().map(Self::class);
                let first = classes.next().unwrap_or(Class::Recipe);
                if classes.all(|class| class == first) { first } else { Class::Recipe }
            }
            Kind::Recipe { .. }
            | Kind::Unknown { .. }
            | Kind::Value { .. }
            | Kind::Mismatch { .. }
            | Kind::NoCheckpoint { .. }
            | Kind::DiskFull { .. }
            | Kind::MemoryBound { .. } => Class::Recipe,
            Kind::Malformed { .. }
            | Kind::NotFinite { .. }
            | Kind::Unequal { .. }
            | Kind::Changed { .. }
            | Kind::NotVerified { .. } => Class::Checkpoint,
            Kind::OutputExists { .. } | Kind::OtherRun { .. } | Kind::Locked => Class::OutputExists,
            Kind::OutOfMemory { .. } | Kind::Os { .. } | Kind::Internal { .. } => Class::Os,
            Kind::Cancelled => Class::Cancelled,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match &*self.kind {
            Kind::Problems(problems) => problems.iter().find_map(Self::hint),
            Kind::Recipe { hint: None, .. }
            | Kind::Unknown { near: None, .. }
            | Kind::Value { .. } => Some(
                "`branchmerge methods` lists the methods and what their parameters take".into(),
            ),
            Kind::Recipe { hint, .. } => hint.clone(),
            Kind::Unknown { near, .. } => near.clone(),
            Kind::Mismatch { allow: Some(rule), .. } => {
                Some(format!("`--allow {rule}` permits it"))
            }
            Kind::Mismatch { allow: None, .. } | Kind::Unequal { .. } => Some(
                "leave this branch out: only checkpoints of one architecture can be fused".into(),
            ),
            Kind::Malformed { .. } => {
                Some("fetch or save it again: it is damaged, or not what its name says".into())
            }
            Kind::NotVerified { .. } => {
                Some("fuse again, or copy it again from where it is whole".into())
            }
            Kind::NoCheckpoint { hint } | Kind::OutputExists { hint, .. } => Some(hint.clone()),
            Kind::NotFinite { .. } => Some("`--allow nan=carry` lets it through".into()),
            Kind::Changed { .. } => Some("run again when nothing writes to the inputs".into()),
            Kind::OtherRun { .. } => {
                Some("remove the `.partial` directory to start over, or name another output".into())
            }
            Kind::Locked => Some("wait for it to end, or name another output".into()),
            Kind::DiskFull { .. } => {
                Some("free some room, or write to another disk with -o".into())
            }
            Kind::MemoryBound { needed, .. } => {
                Some(format!("give `--memory {}MiB` or more", needed.div_ceil(1 << 20)))
            }
            Kind::OutOfMemory { .. } => {
                Some("give a smaller `--memory` or fewer `--threads`".into())
            }
            Kind::Internal { .. } => {
                Some("this is a defect of branchmerge; please report it".into())
            }
            Kind::Os { source, .. } => Some(os_hint(source.raw_os_error()).into()),
            Kind::Cancelled => Some("the same command again goes on where it stopped".into()),
        }
    }

    /// The operating system's error number, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match &*self.kind {
            Kind::Os { source, .. } => source.raw_os_error(),
            Kind::OutOfMemory { .. } => Some(libc::ENOMEM),
            _ => None,
        }
    }

    /// The single problems; one error is a list of itself.
    #[must_use]
    pub fn problems(&self) -> Vec<&Self> {
        match &*self.kind {
            Kind::Problems(problems) => problems.iter().flat_map(Self::problems).collect(),
            _ => vec![self],
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for (word, name) in [("", &self.at), ("tensor ", &self.tensor), ("branch ", &self.branch)] {
            if let Some(name) = name {
                text.push_str(&format!("{word}`{}`: ", shown(name)));
            }
        }
        if let Some(path) = &self.path {
            text.push_str(&format!("`{}`: ", shown(&path.to_string_lossy())));
        }
        text.push_str(&self.kind.to_string());
        out.write_str(&cut(&text, LONGEST_MESSAGE))
    }
}

impl std::error::Error for Error {}

/// What to do where the operating system says no.
fn os_hint(errno: Option<i32>) -> &'static str {
    match errno {
        Some(libc::ENOSPC | libc::EDQUOT) => {
            "free some room and give the same command again: it goes on where it stopped"
        }
        Some(libc::EMFILE | libc::ENFILE) => "allow more open files: `ulimit -n 4096`",
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
            "see who may read and write there, or name another place"
        }
        Some(libc::ENOENT | libc::ENOTDIR) => "see whether the path is right and still there",
        Some(libc::EIO) => "the disk or its network may be failing: see the system's log",
        _ => "when it is mended, give the same command again: it goes on where it stopped",
    }
}

/// A name from a file as it may be shown: control characters escaped, long ones cut in the middle.
#[must_use]
pub fn shown(name: &str) -> String {
    let mut safe = String::with_capacity(name.len());
    for char in name.chars().take(LONGEST_NAME * 8) {
        // Besides control characters: marks that reorder or hide text on a screen.
        let hides = matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if char.is_control() || hides {
            safe.extend(char.escape_unicode());
        } else {
            safe.push(char);
        }
    }
    cut(&safe, LONGEST_NAME)
}

fn cut(text: &str, longest: usize) -> String {
    let count = text.chars().count();
    if count <= longest {
        return text.to_owned();
    }
    let head: String = text.chars().take(longest * 2 / 3).collect();
    let tail: String = text.chars().skip(count - longest / 4).collect();
    format!("{head} … {tail}")
}

fn list(problems: &[Error]) -> String {
    const MOST: usize = 60;
    let mut lines = vec![format!("{} problems", problems.len())];
    lines.extend(problems.iter().take(MOST).map(|problem| {
        let text = cut(&problem.to_string(), 300);
        format!("  - {text}")
    }));
    if problems.len() > MOST {
        lines.push(format!("  … and {} more", problems.len() - MOST));
    }
    lines.join("\n")
}

/// The nearest of the known words, or all of them where there are few and none is near.
fn nearest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    let found_lower = found.to_lowercase();
    let best = known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(&found_lower, &word.to_lowercase()), word))
        .min_by_key(|(distance, word)| (*distance, word.len()));
    match best {
        Some((distance, word)) if distance <= 1 + found.chars().count() / 3 => {
            Some(format!("did you mean `{word}`?"))
        }
        _ if !known.is_empty() && known.len() <= 30 => Some(format!(
            "known are {}",
            known.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
        )),
        _ => None,
    }
}
