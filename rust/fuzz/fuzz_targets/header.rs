//! A weight file's header: what is taken lies within the file, and what is refused says why.
#![no_main]

use branchmerge_core::read::header;
use libfuzzer_sys::fuzz_target;

// The first eight bytes say how many bytes of tensors follow the rest, so that small inputs reach all sizes.
fuzz_target!(|input: &[u8]| {
    let Some((data, json)) = input.split_first_chunk() else { return };
    let file = [&(json.len() as u64).to_le_bytes()[..], json].concat();
    let length = (file.len() as u64).saturating_add(u64::from_le_bytes(*data));
    let mut end = file.len() as u64;
    match header::parse(&file, length, 0) {
        Ok(tensors) => {
            let mut ranges: Vec<_> = tensors.values().map(|stored| stored.range.clone()).collect();
            ranges.sort_by_key(|range| (range.start, range.end));
            for range in ranges {
                assert_eq!(range.start, end);
                end = range.end;
            }
            assert_eq!(end, length);
        }
        Err(error) => assert!(error.to_string().chars().count() <= 20_000),
    }
});
