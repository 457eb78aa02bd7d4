//! A plan becomes bytes: what an earlier run left is checked, tensors are fused and written, the result is put in place.

mod build;
mod describe;
mod fuse;
mod inputs;
mod lent;
mod manifest;
mod memory;
mod prepare;
mod survey;

pub use describe::{describe, describe_error};
pub use lent::{Receive, fuse_lent};
pub use prepare::{Outline, prepare, prepare_lent};

use std::cmp::Reverse;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::fit::survey::Answer;
use crate::parallel::{Phase, Progress, Team, lock, with_companion};
use crate::plan::plan::{Job, Plan, SMALL};
use crate::read::source::LostPages;
use crate::read::tree_hash::{self, Hash};
use crate::write::output::{Finished, Output, Run, finish_replacement};

/// Small tensors that a worker takes at once, at most.
const HANDFUL: usize = 256;
/// How much may be written before the disk is asked to begin.
const UNSYNCED: u64 = 16 << 20;
/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Carries a plan out; returns the result as JSON.
///
/// `files` are further small files of the result, by name.
///
/// # Errors
/// The plan's problems, where it has any; whatever is wrong with an input or the output. What is done by then stays in
/// `OUT.partial`, and the same call goes on from there.
pub fn execute(
    outline: &Outline,
    files: &[(String, Vec<u8>)],
    progress: &Progress,
) -> Result<String> {
    let started = Instant::now();
    let plan = outline.plan()?;
    let target =
        plan.out.as_deref().ok_or_else(|| Error::recipe("no output directory is named"))?;
    let team = Team::new(plan.threads);
    let _lost_pages = LostPages::arm();
    finish_replacement(target)?;
    let peak = memory::Peak::default();
    let run = Run { recipe: plan.recipe.clone(), inputs: inputs::identities(plan) };
    if let Some(sealed) = prepare::up_to_date(plan, target, team, progress)? {
        let manifest = crate::write::manifest::open(&sealed)?;
        let seconds = started.elapsed().as_secs_f64();
        return describe::result(plan, &manifest, None, seconds, peak.bytes());
    }
    let (output, claims) = Output::begin(target, &plan.layout, &run, plan.overwrite)?;
    let disk = Disk { plan, output: &output, written: AtomicU64::new(0) };
    let mut work = Work::new(plan, &disk, team, progress);
    work.keep(disk.agreeing(claims, team, progress)?);
    let resumed = Resumed::of(plan, &lock(&work.finished));
    let fuse = || work.survey().and_then(|()| work.fuse_all());
    with_companion(|ended| disk.keep_busy(ended, &peak), fuse)?;
    let found = work.answers.iter().map(Answer::describe).collect();
    let finished = work.finished()?;
    let unread = inputs::hash_unread(plan, team, progress)?;
    progress.check()?;
    progress.begin(Phase::Syncing, 0, 0);
    let sidecars = manifest::sidecars(plan, files);
    let manifest = manifest::manifest(plan, &finished, found, unread, &sidecars)?;
    let unchanged =
        || plan.checkpoints.iter().try_for_each(super::read::checkpoint::Checkpoint::unchanged);
    output.publish(&sidecars, &manifest, &unchanged)?;
    peak.look();
    let seconds = started.elapsed().as_secs_f64();
    describe::result(plan, &manifest, Some(&resumed), seconds, peak.bytes())
}

/// What an earlier run had done.
struct Resumed {
    tensors: usize,
    /// The bytes of its tensors, which were hashed and kept.
    kept: u64,
    /// Bytes of inputs that need not be read for them.
    unread: u64,
}

impl Resumed {
    fn of(plan: &Plan, finished: &[Option<Finished>]) -> Self {
        let mut resumed = Self { tensors: 0, kept: 0, unread: 0 };
        let all = plan.jobs.iter().zip(&plan.layout.tensors).zip(finished);
        for ((job, placed), _) in all.filter(|(_, finished)| finished.is_some()) {
            resumed.tensors += 1;
            resumed.kept += placed.bytes;
            for (at, times) in job.reads() {
                let range = &plan.checkpoints[at.input].tensors[&*at.tensor].range;
                resumed.unread += (range.end - range.start).saturating_mul(times);
            }
        }
        resumed
    }
}

/// Where the bytes of the tensors go.
trait Sink: Sync {
    /// Whether hashes of inputs and outputs are wanted.
    fn hashes(&self) -> bool;
    /// Takes some bytes of a job's tensor.
    fn write(&self, at: usize, start: u64, bytes: &[u8]) -> Result<()>;
    /// Is told of jobs that are whole.
    fn done(&self, jobs: &[(usize, &Finished)]) -> Result<()>;
}

/// The output's files.
struct Disk<'w> {
    plan: &'w Plan,
    output: &'w Output,
    written: AtomicU64,
}

impl Sink for Disk<'_> {
    fn hashes(&self) -> bool {
        true
    }

    fn write(&self, at: usize, start: u64, bytes: &[u8]) -> Result<()> {
        let placed = &self.plan.layout.tensors[at];
        self.output.write_at(placed.file, placed.offset + start, bytes)?;
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn done(&self, jobs: &[(usize, &Finished)]) -> Result<()> {
        let named = jobs.iter().map(|&(at, finished)| (&*self.plan.jobs[at].name, finished));
        self.output.record(&named.collect::<Vec<_>>())
    }
}

impl Disk<'_> {
    /// Of what an earlier run claims to have written, what agrees when it is hashed again.
    fn agreeing(
        &self,
        claims: Vec<(usize, Finished)>,
        team: Team,
        progress: &Progress,
    ) -> Result<Vec<(usize, Finished)>> {
        let bytes = claims.iter().map(|&(at, _)| self.plan.layout.tensors[at].bytes).sum();
        progress.begin(Phase::Checking, bytes, claims.len() as u64);
        let agree = team.run(claims.len(), |index| {
            let (at, claim) = &claims[index];
            Ok(self.hash_written(*at, progress)? == claim.hash
                && fuse::inputs_of(self.plan, *at).len() == claim.inputs.len())
        })?;
        let kept = claims.into_iter().zip(agree).filter(|(_, agrees)| *agrees);
        Ok(kept.map(|(claim, _)| claim).collect())
    }

    fn hash_written(&self, at: usize, progress: &Progress) -> Result<Hash> {
        const PART: u64 = 1 << 20;
        let placed = &self.plan.layout.tensors[at];
        let mut buffer = Vec::new();
        let mut parts = Vec::new();
        for start in (0..placed.bytes).step_by(PART as usize) {
            progress.check()?;
            buffer.resize(PART.min(placed.bytes - start) as usize, 0);
            self.output.read_at(placed.file, placed.offset + start, &mut buffer)?;
            parts.push(tree_hash::part(&buffer, start, placed.bytes));
            progress.add_bytes(buffer.len() as u64);
        }
        progress.add_tensor();
        Ok(tree_hash::join(&parts))
    }

    /// Beside the workers: lets the disk write while they compute, and watches the memory.
    fn keep_busy(&self, ended: &AtomicBool, peak: &memory::Peak) {
        let mut synced = 0;
        while !ended.load(Ordering::Acquire) {
            peak.look();
            let written = self.written.load(Ordering::Relaxed);
            if written - synced < UNSYNCED {
                std::thread::park_timeout(LOOK);
                continue;
            }
            synced = written;
            // A failed sync is remembered, and ends the run when it publishes.
            if self.output.sync().is_err() {
                return;
            }
        }
    }
}

/// A run at work.
struct Work<'w> {
    plan: &'w Plan,
    sink: &'w dyn Sink,
    team: Team,
    progress: &'w Progress,
    /// What surveys of the whole model found.
    answers: Vec<Answer>,
    /// What is done, in the order of the jobs.
    finished: Mutex<Vec<Option<Finished>>>,
}

impl<'w> Work<'w> {
    fn new(plan: &'w Plan, sink: &'w dyn Sink, team: Team, progress: &'w Progress) -> Self {
        let finished = Mutex::new((0..plan.jobs.len()).map(|_| None).collect());
        Self { plan, sink, team, progress, answers: Vec::new(), finished }
    }

    /// Takes jobs for done.
    fn keep(&self, done: Vec<(usize, Finished)>) {
        let mut finished = lock(&self.finished);
        done.into_iter().for_each(|(at, one)| finished[at] = Some(one));
    }

    /// Asks what must be known of the whole model.
    fn survey(&mut self) -> Result<()> {
        self.answers = survey::answer_all(self.plan, self.team, self.progress)?;
        Ok(())
    }

    /// All that is done, which must be all there is.
    fn finished(self) -> Result<Vec<Finished>> {
        let finished =
            self.finished.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let finished = finished.into_iter().collect::<Option<Vec<_>>>();
        finished.ok_or_else(|| Kind::Internal { what: "a tensor was left out".into() }.into())
    }

    /// Fuses what is not yet done: giant tensors by all workers together, then the others a worker each, large ones
    /// first, so that no worker ends long before the last.
    fn fuse_all(&self) -> Result<()> {
        let mut left = self.left();
        let bytes = left.iter().map(|&at| self.plan.layout.tensors[at].bytes).sum();
        self.progress.begin(Phase::Merging, bytes, left.len() as u64);
        let elements = |at: usize| self.plan.jobs[at].elements();
        let all = self.plan.jobs.iter().map(Job::elements).sum();
        left.sort_by_key(|&at| Reverse(elements(at)));
        let shared = |at: &usize| self.plan.jobs[*at].shared(all, self.team.threads());
        let (giants, rest): (Vec<usize>, Vec<usize>) = left.into_iter().partition(shared);
        for at in giants {
            self.done(vec![(at, fuse::fuse(self, at, self.team)?)])?;
        }
        let mut handfuls: Vec<&[usize]> = Vec::new();
        let mut rest = &rest[..];
        while !rest.is_empty() {
            // Tiny ones by the handful, so that workers do not spend their time on taking turns.
            let mut together = 0;
            let count = rest.iter().take_while(|&&at| {
                let fits = together < SMALL;
                together += elements(at);
                fits
            });
            let (handful, others) = rest.split_at(count.take(HANDFUL).count());
            handfuls.push(handful);
            rest = others;
        }
        let fuse = |index: usize| {
            let fuse = |&at: &usize| Ok((at, fuse::fuse(self, at, Team::solo())?));
            self.done(handfuls[index].iter().map(fuse).collect::<Result<_>>()?)
        };
        self.team.run(handfuls.len(), fuse).map(drop)
    }

    /// The jobs that are not done, in the order of their places on the disk.
    fn left(&self) -> Vec<usize> {
        let finished = lock(&self.finished);
        let tensors = &self.plan.layout.tensors;
        let mut left: Vec<usize> =
            (0..tensors.len()).filter(|&at| finished[at].is_none()).collect();
        left.sort_by_key(|&at| (tensors[at].file, tensors[at].offset));
        left
    }

    fn done(&self, done: Vec<(usize, Finished)>) -> Result<()> {
        let jobs: Vec<_> = done.iter().map(|(at, finished)| (*at, finished)).collect();
        self.sink.done(&jobs)?;
        self.keep(done);
        Ok(())
    }
}

impl Outline {
    fn plan(&self) -> Result<&Plan> {
        self.planned().ok_or_else(|| {
            let problems =
                self.problems().iter().map(std::string::ToString::to_string).collect::<Vec<_>>();
            Kind::Recipe { what: problems.join("\n"), hint: None }.into()
        })
    }
}
