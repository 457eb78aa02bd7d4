//! Recipes: what is taken says itself again, and what is refused says why.
#![no_main]

use std::path::Path;

use branchmerge_core::plan::recipe::{Recipe, checkpoints_said};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(said) = serde_json::from_slice(input) else { return };
    let _ = checkpoints_said(&said);
    let same = |path: &Path| path.to_string_lossy().into_owned();
    match Recipe::parse(&said) {
        Ok(recipe) => {
            let canonical = recipe.canonical(&same);
            let again = Recipe::parse(&canonical).ok().map(|recipe| recipe.canonical(&same));
            assert_eq!(again, Some(canonical));
        }
        Err(problems) => assert!(!problems.is_empty()),
    }
});
