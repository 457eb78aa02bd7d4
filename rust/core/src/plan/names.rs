//! The names of the inputs' tensors made alike: prefixes that a recipe renames, wrappers that training leaves around names.

use std::collections::BTreeMap;

use crate::error::{Error, shown};
use crate::plan::inputs::Inputs;
use crate::plan::recipe::Rename;
use crate::read::header::Stored;

/// What training and saving put before names, and what stands there without it.
const WRAPPERS: [[&str; 2]; 4] = [
    ["module.", ""],
    ["_orig_mod.", ""],
    ["base_model.model.", ""],
    ["model.language_model.", "model."],
];

/// Renames the tensors of all models as the recipe says; a prefix that none has is a problem.
pub(super) fn rename(inputs: &mut Inputs, renames: &[Rename], problems: &mut Vec<Error>) {
    for rename in renames {
        let mut any = false;
        for input in inputs.of_models() {
            let tensors = &mut inputs.checkpoints[input].tensors;
            let other = |name: &str| exchanged(name, &rename.from, &rename.to);
            match renamed(tensors, &other) {
                Ok(count) => any |= count > 0,
                Err(error) => problems.push(error.at(&rename.at).branch(&inputs.labels[input])),
            }
        }
        if !any {
            let what = format!("no tensor's name begins with `{}`", shown(&rename.from));
            problems.push(Error::recipe(what).at(&rename.at));
        }
    }
}

/// Gives the tensors of all models the donor's names where only a wrapper is between them; what was done is told.
pub(super) fn unwrap(inputs: &mut Inputs, donor: usize, warnings: &mut Vec<String>) {
    for input in inputs.of_models().into_iter().filter(|&input| input != donor) {
        for [wrapper, plain] in WRAPPERS {
            for (from, to, done) in [(wrapper, plain, "left out"), (plain, wrapper, "put before")] {
                let donors = &inputs.checkpoints[donor].tensors;
                let own = &inputs.checkpoints[input].tensors;
                let wanted = |name: &str| {
                    let new = exchanged(name, from, to)?;
                    let fits = !donors.contains_key(name) && donors.contains_key(&new);
                    (fits && !own.contains_key(&new)).then_some(new)
                };
                let pairs: BTreeMap<String, String> =
                    own.keys().filter_map(|name| Some((name.clone(), wanted(name)?))).collect();
                if pairs.is_empty() {
                    continue;
                }
                let other = |name: &str| pairs.get(name).cloned();
                // The new names were seen to be free.
                let _ = renamed(&mut inputs.checkpoints[input].tensors, &other);
                let label = shown(&inputs.labels[input]);
                let (count, first) = (pairs.len(), shown(wrapper));
                warnings.push(format!(
                    "the wrapper `{first}` is {done} in the names of {count} tensors of `{label}`, as in `{}`",
                    shown(&inputs.labels[donor])
                ));
            }
        }
    }
}

/// The names that a tensor may have which another file calls so: with the recipe's prefixes, or without wrappers.
pub(super) fn alike(name: &str, renames: &[Rename]) -> Vec<String> {
    let renamed = renames.iter().filter_map(|one| exchanged(name, &one.from, &one.to));
    let wrappers = WRAPPERS.iter().flat_map(|[wrapper, plain]| {
        let wrapped = exchanged(name, plain, wrapper);
        exchanged(name, wrapper, plain).into_iter().chain(wrapped)
    });
    renamed.chain([name.to_owned()]).chain(wrappers).collect()
}

/// A name with another prefix, where it has that one.
fn exchanged(name: &str, from: &str, to: &str) -> Option<String> {
    name.strip_prefix(from).map(|rest| format!("{to}{rest}"))
}

/// Renames what has another name by `other`; how many those were.
fn renamed(
    tensors: &mut BTreeMap<String, Stored>,
    other: &dyn Fn(&str) -> Option<String>,
) -> Result<usize, Error> {
    let mut count = 0;
    let mut found = BTreeMap::new();
    for (name, stored) in std::mem::take(tensors) {
        let new = other(&name);
        count += usize::from(new.is_some());
        let name = new.unwrap_or(name);
        if found.insert(name.clone(), stored).is_some() {
            return Err(Error::recipe("two of its tensors would have this name").tensor(name));
        }
    }
    *tensors = found;
    Ok(count)
}
