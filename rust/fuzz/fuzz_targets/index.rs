//! The table of shards: only names of files beside it are taken.
#![no_main]

use branchmerge_core::read::checkpoint::index;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| match index::parse(input) {
    Ok(index) => {
        for name in index.files() {
            assert!(name.ends_with(".safetensors") && !name.contains(['/', '\\', '\0']));
        }
    }
    Err(error) => assert!(error.to_string().chars().count() <= 20_000),
});
