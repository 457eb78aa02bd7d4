//! What files beside the models say of a tensor: importances of its elements, Gram matrices of what it is multiplied with.

use std::path::PathBuf;

use crate::error::{Error, Kind, shown};
use crate::plan::compose::Composer;
use crate::plan::expression::StoredAt;
use crate::plan::inputs::Inputs;
use crate::plan::outputs::Place;
use crate::plan::recipe::Step;
use crate::read::header::Stored;

impl Composer<'_> {
    /// The importances of a tensor's elements in the branches that are present: none where none are said.
    pub(super) fn importance(
        &mut self,
        step: &Step,
        place: &Place,
        present: &[usize],
    ) -> Option<Vec<StoredAt>> {
        let wanted = self.reference(place).shape.clone();
        let fits = |stored: &Stored| stored.shape == wanted;
        let expected = format!("{wanted:?} as the tensor itself");
        self.beside(
            (&step.importance, step),
            place,
            present,
            "importance",
            (&fits, &expected),
            true,
        )
    }

    /// The Gram matrices of what a tensor is multiplied with, in the branches that are present: none where none are said, or
    /// no file has one.
    pub(super) fn grams(
        &mut self,
        step: &Step,
        place: &Place,
        present: &[usize],
    ) -> Option<Vec<StoredAt>> {
        let shape = self.reference(place).shape.clone();
        let row = shape.last().copied().unwrap_or(1);
        let wanted = if shape.len() == 1 { vec![row] } else { vec![row, row] };
        let fits = |stored: &Stored| stored.shape == wanted;
        let expected = format!("{wanted:?}, its inputs by its inputs");
        self.beside((&step.grams, step), place, present, "Gram matrix", (&fits, &expected), false)
    }

    /// The tensors of that name in files beside the branches; none where something is wrong, which is noted.
    fn beside(
        &mut self,
        (files, step): (&[PathBuf], &Step),
        place: &Place,
        present: &[usize],
        what: &'static str,
        (fits, expected): (&dyn Fn(&Stored) -> bool, &str),
        needed: bool,
    ) -> Option<Vec<StoredAt>> {
        if files.is_empty() {
            return Some(Vec::new());
        }
        let mut found = Vec::new();
        let mut wrong = Vec::new();
        for &branch in present {
            let input = self.inputs.by_path[&files[branch]];
            let name = place.in_model(&step.branches[branch]);
            let stored = self.inputs.checkpoints[input].tensors.get(&*name);
            if let Some(stored) = stored.filter(|stored| stored.dtype.is_float() && fits(stored)) {
                let _ = stored;
                found.push(StoredAt { input, tensor: name });
                continue;
            }
            let there = stored.map(|stored| format!("{} {:?}", stored.dtype.name(), stored.shape));
            let kind = Kind::Mismatch {
                what: if there.is_some() {
                    "what its file says does not fit"
                } else {
                    "its file lacks the tensor"
                },
                found: there.clone().unwrap_or_else(|| "none".into()),
                expected: format!("a {what} of {expected}"),
                allow: None,
            };
            wrong.push((
                there.is_some(),
                Error::from(kind).tensor(&*name).branch(&self.inputs.labels[input]),
            ));
        }
        // What no file has may be what none can have.
        if !needed && found.is_empty() && wrong.iter().all(|(there, _)| !there) {
            return Some(Vec::new());
        }
        let fine = wrong.is_empty();
        self.problems.extend(wrong.into_iter().map(|(_, error)| error));
        fine.then_some(found)
    }
}

/// Tells of files beside the models whose tensors are `unread`: a problem where all of them are, as their names are others.
pub(super) fn check_used(
    inputs: &Inputs,
    unread: &[(usize, String)],
    problems: &mut Vec<Error>,
    warnings: &mut Vec<String>,
) {
    let models = inputs.of_models();
    let says = |input: &usize| !models.contains(input) && !inputs.adapters.contains_key(input);
    let beside = (0..inputs.checkpoints.len()).filter(says);
    for input in beside {
        let left: Vec<&String> =
            unread.iter().filter(|(of, _)| *of == input).map(|(_, name)| name).collect();
        let (Some(first), label) = (left.first(), &inputs.labels[input]) else { continue };
        if left.len() == inputs.checkpoints[input].tensors.len() {
            let what =
                format!("none of its tensors is of any use here, such as `{}`", shown(first));
            let hint = "they have the names of the model's own tensors";
            problems.push(Error::recipe_with_hint(what, hint).branch(label));
        } else {
            let (count, label, first) = (left.len(), shown(label), shown(first));
            warnings.push(format!(
                "{count} tensors of `{label}` are of no use here, such as `{first}`"
            ));
        }
    }
}
