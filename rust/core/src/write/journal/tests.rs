//! Journals that were torn, garbled or of something else.

use super::*;
use crate::write::fixture::{finished_of, layout, room, run};

fn read(bytes: &[u8]) -> Option<Past> {
    let room = room();
    let path = room.path().join("journal");
    std::fs::write(&path, bytes).unwrap();
    Past::read(&File::open(&path).unwrap(), &path).unwrap()
}

/// The lines of a run that noted two tensors.
fn lines() -> Vec<Vec<u8>> {
    let tensors = &layout().tensors[..2];
    let noted = tensors
        .iter()
        .map(|tensor| line(&Record::Finished(&*tensor.name, finished_of(tensor))).unwrap());
    std::iter::once(first_line(&opening(&run(), layout())).unwrap()).chain(noted).collect()
}

#[test]
fn reads_back_what_was_noted() {
    let past = read(&lines().concat()).unwrap();
    assert_eq!(past.finished.len(), 2);
    let tensor = &layout().tensors[0];
    assert_eq!(json!(past.finished[&*tensor.name]), json!(finished_of(tensor)));
    assert_eq!(past.changed(&opening(&run(), layout())), None);
    assert_eq!(past.end, lines().concat().len() as u64);
}

#[test]
fn a_flip_a_cut_or_zeros_end_the_reading_before_their_line() {
    let lines = lines();
    let whole = lines.concat();
    for at in 0..whole.len() {
        let mut good = 0;
        let mut end = 0;
        for line in &lines {
            if end + line.len() > at {
                break;
            }
            (good, end) = (good + 1, end + line.len());
        }
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        let mut zeroed = whole.clone();
        zeroed[at..].fill(0);
        for bytes in [&flipped, &zeroed, &whole[..at].to_vec()] {
            match read(bytes) {
                None => assert_eq!(good, 0, "at {at}"),
                Some(past) => {
                    assert_eq!(past.finished.len() + 1, good, "at {at}");
                    assert_eq!(past.end, end as u64);
                }
            }
        }
    }
}

#[test]
fn a_second_first_line_ends_the_reading() {
    let lines = lines();
    let past = read(&[&lines[0][..], &lines[1], &lines[0], &lines[2]].concat()).unwrap();
    assert_eq!(past.finished.len(), 1);
    assert!(read(&lines[1]).is_none());
}

#[test]
fn after_a_failed_sync_nothing_before_counts() {
    let lines = lines();
    let unsynced = line::<(), ()>(&Record::Unsynced).unwrap();
    let past = read(&[&lines[0][..], &lines[1], &unsynced, &lines[2]].concat()).unwrap();
    assert_eq!(past.finished.keys().collect::<Vec<_>>(), [&*layout().tensors[1].name]);
}

#[test]
fn many_differences_are_counted() {
    let past = read(&lines()[0]).unwrap();
    let mut other = run();
    other.recipe = json!(
        (0..20).map(|i| (format!("key{i}\u{1b}"), json!(i))).collect::<serde_json::Map<_, _>>()
    );
    let said = past.changed(&opening(&other, layout())).unwrap();
    assert!(said.contains("and 17 more"), "{said}");
    assert!(!said.contains('\u{1b}'));
}
