//! branchmerge._core: a few functions, JSON in and out, the GIL released while the engine works.

mod buffers;

use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use branchmerge_core::error::{Error, Result};
use branchmerge_core::execute::{self, Outline};
use branchmerge_core::parallel::{self, Progress, Team};
use branchmerge_core::read::checkpoint::Checkpoint;
use branchmerge_core::read::dtype::Dtype;
use branchmerge_core::{methods, plan, read};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::{Value, json};

/// How often signals are looked at.
const PAUSE: Duration = Duration::from_millis(50);
/// How often progress is told.
const TELL: Duration = Duration::from_millis(100);
/// The largest recipe or options text.
const LARGEST: u64 = 16 << 20;

/// Everything decided about one merge, or every problem of it.
#[pyclass(frozen, module = "branchmerge._core")]
struct Plan {
    outline: Outline,
}

#[pymethods]
impl Plan {
    /// The plan as JSON.
    fn json(&self) -> String {
        execute::describe(&self.outline).to_string()
    }

    /// Name, dtype and shape of each tensor of the result, in the order of the work.
    fn tensors(&self) -> Vec<(String, &'static str, Vec<u64>)> {
        let jobs = self.outline.planned().map_or(&[][..], |plan| &plan.jobs);
        jobs.iter().map(|job| (job.name.to_string(), job.dtype.name(), job.shape.clone())).collect()
    }
}

/// Decides everything from headers alone; problems of the recipe stand in the plan.
#[pyfunction]
#[pyo3(name = "plan")]
fn make_plan(py: Python<'_>, recipe: &str, options: &str) -> PyResult<Plan> {
    let outline = detached(py, None, |_| {
        let recipe = read::json::parse(recipe.as_bytes(), "the recipe", LARGEST)?;
        let options =
            plan::Options::parse(&read::json::parse(options.as_bytes(), "the options", LARGEST)?)?;
        Ok(execute::prepare(&recipe, &options))
    })?;
    Ok(Plan { outline })
}

/// Carries a plan out; returns the result as JSON.
#[pyfunction]
#[pyo3(name = "execute", signature = (plan, sidecars, progress))]
fn execute_plan(
    py: Python<'_>,
    plan: &Plan,
    sidecars: &Bound<'_, PyDict>,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let mut files: Vec<(String, Vec<u8>)> = sidecars
        .iter()
        .map(|(name, bytes)| Ok((name.extract()?, bytes.extract()?)))
        .collect::<PyResult<_>>()?;
    files.sort();
    detached(py, progress, |progress| execute::execute(&plan.outline, &files, progress))
}

/// A tensor as Python lends it: name, dtype, shape and a buffer of its bytes.
type LentTensor<'py> = (String, String, Vec<u64>, Bound<'py, PyAny>);

/// [`make_plan`] for checkpoints that are lent: a label and the tensors of each.
#[pyfunction]
fn plan_lent(
    py: Python<'_>,
    recipe: &str,
    options: &str,
    checkpoints: Vec<(String, Vec<LentTensor<'_>>)>,
) -> PyResult<Plan> {
    let mut lent = Vec::new();
    for (label, tensors) in checkpoints {
        let mut found = Vec::with_capacity(tensors.len());
        for (name, dtype, shape, bytes) in tensors {
            let dtype = Dtype::from_name(&dtype)
                .ok_or_else(|| PyValueError::new_err(format!("unknown dtype {dtype}")))?;
            found.push((name, dtype, shape, buffers::lent(&bytes)?));
        }
        lent.push((label, found));
    }
    let outline = detached(py, None, |_| {
        let recipe = read::json::parse(recipe.as_bytes(), "the recipe", LARGEST)?;
        let options =
            plan::Options::parse(&read::json::parse(options.as_bytes(), "the options", LARGEST)?)?;
        let checkpoints =
            lent.into_iter().map(|(label, tensors)| Checkpoint::lent(&label, tensors));
        Ok(execute::prepare_lent(&recipe, checkpoints.collect::<Result<_>>()?, &options))
    })?;
    Ok(Plan { outline })
}

/// Carries a plan of lent checkpoints out, into a buffer for each of the plan's tensors.
#[pyfunction]
#[pyo3(signature = (plan, rooms, progress))]
fn fuse_lent(
    py: Python<'_>,
    plan: &Plan,
    rooms: Vec<Bound<'_, PyAny>>,
    progress: Option<Py<PyAny>>,
) -> PyResult<()> {
    let rooms = rooms.iter().map(buffers::room).collect::<PyResult<Vec<_>>>()?;
    detached(py, progress, |progress| execute::fuse_lent(&plan.outline, rooms, progress))
}

/// Compares a result with its manifest; returns what differs as JSON.
#[pyfunction]
#[pyo3(signature = (directory, threads, progress))]
fn verify(
    py: Python<'_>,
    directory: &str,
    threads: Option<usize>,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let started = Instant::now();
    let team = threads.map_or_else(Team::all_cores, Team::new);
    let found = detached(py, progress, |progress| {
        branchmerge_core::write::verify::verify(Path::new(directory), &team, progress)
    })?;
    let problems: Vec<Value> = found.problems.iter().map(execute::describe_error).collect();
    let seconds = started.elapsed().as_secs_f64();
    Ok(json!({ "problems": problems, "tensors": found.tensors, "bytes": found.bytes, "seconds": seconds })
        .to_string())
}

/// The specs of all methods, as JSON.
#[pyfunction]
#[pyo3(name = "methods")]
fn list_methods() -> String {
    Value::from_iter(methods::all().iter().map(|method| method.spec().describe())).to_string()
}

/// Runs `work` on a thread of the engine's own, without the GIL. This thread looks at signals and tells of progress; what
/// either raises cancels the work, and comes out once that has stopped.
fn detached<T: Send>(
    py: Python<'_>,
    tell: Option<Py<PyAny>>,
    work: impl FnOnce(&Progress) -> Result<T> + Send,
) -> PyResult<T> {
    let progress = Progress::default();
    let raised: Mutex<Option<PyErr>> = Mutex::new(None);
    let result = py.detach(|| {
        let mut told = Instant::now();
        parallel::apart(
            PAUSE,
            || work(&progress),
            || {
                if parallel::lock(&raised).is_some() {
                    return;
                }
                let due = tell.is_some() && told.elapsed() >= TELL;
                let looked = Python::attach(|py| {
                    py.check_signals()?;
                    match &tell {
                        Some(tell) if due => {
                            tell.call1(py, (describe(&progress),))?;
                            told = Instant::now();
                            Ok(())
                        }
                        _ => Ok(()),
                    }
                });
                if let Err(error) = looked {
                    progress.cancel();
                    *parallel::lock(&raised) = Some(error);
                }
            },
        )
    });
    let raised = raised.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    match (result, raised) {
        (_, Some(error)) => Err(error),
        (Ok(value), None) => Ok(value),
        (Err(error), None) => Err(exception(py, &error)),
    }
}

fn describe(progress: &Progress) -> String {
    let (phase, [bytes_done, bytes_total, tensors_done, tensors_total]) = progress.read();
    json!({
        "phase": phase.name(), "bytes_done": bytes_done, "bytes_total": bytes_total,
        "tensors_done": tensors_done, "tensors_total": tensors_total,
    })
    .to_string()
}

/// The Python exception of an error: `branchmerge.errors` knows which.
fn exception(py: Python<'_>, error: &Error) -> PyErr {
    let mut said = execute::describe_error(error);
    said["problems"] = error.problems().into_iter().map(execute::describe_error).collect();
    let made = py
        .import("branchmerge.errors")
        .and_then(|module| module.getattr("from_core")?.call1((said.to_string(),)));
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(_) => PyValueError::new_err(error.to_string()),
    }
}

/// What the engine gives to Python.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Plan>()?;
    module.add_function(wrap_pyfunction!(make_plan, module)?)?;
    module.add_function(wrap_pyfunction!(execute_plan, module)?)?;
    module.add_function(wrap_pyfunction!(plan_lent, module)?)?;
    module.add_function(wrap_pyfunction!(fuse_lent, module)?)?;
    module.add_function(wrap_pyfunction!(verify, module)?)?;
    module.add_function(wrap_pyfunction!(list_methods, module)?)
}
