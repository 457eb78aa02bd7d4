//! Strict JSON: what is taken, a lenient reader takes with the same value.
#![no_main]

use branchmerge_core::read::json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| match json::parse(input, "it", 1 << 20) {
    Ok(value) => assert_eq!(serde_json::from_slice::<serde_json::Value>(input).ok(), Some(value)),
    Err(error) => assert!(error.to_string().chars().count() <= 20_000),
});
