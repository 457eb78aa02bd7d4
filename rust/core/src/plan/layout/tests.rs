//! Layouts read by the format's own reader.

use super::*;
use proptest::prelude::*;
use safetensors::SafeTensors;

type Asked = (String, Dtype, Vec<u64>);

fn asked(name: &str, dtype: Dtype, shape: &[u64]) -> Asked {
    (name.into(), dtype, shape.to_vec())
}

/// A file as it will be, with zeros for tensors.
fn bytes(file: &OutputFile) -> Vec<u8> {
    let mut bytes = file.header.clone();
    bytes.resize(file.bytes as usize, 0);
    bytes
}

/// Every file is read by the format's own reader, and has each tensor where the layout says.
fn check(layout: &Layout) {
    let mut found = 0;
    for (number, file) in layout.files.iter().enumerate() {
        let bytes = bytes(file);
        assert_eq!(file.header.len() % 8, 0);
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        let read = SafeTensors::deserialize(&bytes).unwrap();
        for tensor in layout.tensors.iter().filter(|tensor| tensor.file == number) {
            let view = read.tensor(&tensor.name).unwrap();
            let shape: Vec<u64> = view.shape().iter().map(|&side| side as u64).collect();
            assert_eq!(shape, tensor.shape);
            assert_eq!(view.data().len() as u64, tensor.bytes);
            let at = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
            assert!(tensor.bytes == 0 || at as u64 == tensor.offset, "{}", tensor.name);
            assert!(tensor.offset.is_multiple_of((tensor.dtype.bytes_for(8).unwrap() / 8).max(1)));
        }
        found += read.len();
    }
    assert_eq!(found, layout.tensors.len());
}

#[test]
fn the_formats_reader_reads_odd_files() {
    for tensors in [
        vec![],
        vec![asked("a", Dtype::F32, &[])],
        vec![asked("a", Dtype::F32, &[0])],
        vec![asked("", Dtype::U8, &[3]), asked("a\"\\\n\u{1f}é", Dtype::BF16, &[1])],
        vec![
            asked("z", Dtype::U8, &[3]),
            asked("a", Dtype::F64, &[1]),
            asked("m", Dtype::BF16, &[1]),
            asked("e", Dtype::F32, &[0, 5]),
            asked("b", Dtype::BOOL, &[1]),
            asked("f", Dtype::F4, &[2, 3]),
        ],
    ] {
        for shard_size in [1, 5, 1 << 30] {
            check(&lay_out(&tensors, shard_size).unwrap());
        }
    }
}

#[test]
fn larger_dtypes_come_first_then_names_by_value() {
    let layout = lay_out(
        &[
            asked("layer.10.w", Dtype::BF16, &[1]),
            asked("layer.9.w", Dtype::BF16, &[1]),
            asked("layer.2.b", Dtype::F32, &[1]),
        ],
        100,
    )
    .unwrap();
    let data = layout.files[0].header.len() as u64;
    let offsets: Vec<u64> = layout.tensors.iter().map(|tensor| tensor.offset - data).collect();
    assert_eq!(offsets, [6, 4, 0]);
}

#[test]
fn names_are_ordered_by_the_value_of_their_numbers() {
    let ordered = ["", "a", "a.2", "a.10", "a.10.b", "a.010.c", "a.11", "a2", "ab", "b"];
    for (i, a) in ordered.iter().enumerate() {
        for (j, b) in ordered.iter().enumerate() {
            assert_eq!(natural(a, b), i.cmp(&j), "{a} {b}");
        }
    }
    assert_eq!(natural("a01", "a1"), Ordering::Less);
}

#[test]
fn shards_are_split_and_named_as_transformers_does() {
    // Of huggingface_hub.split_state_dict_into_shards_factory with the same sizes and limit 10.
    let sizes = [4, 4, 4, 11, 10, 1, 9];
    let tensors: Vec<Asked> =
        (0..7).map(|i| asked(&format!("t{i}"), Dtype::U8, &[sizes[i]])).collect();
    let layout = lay_out(&tensors, 10).unwrap();
    let files: Vec<usize> = layout.tensors.iter().map(|tensor| tensor.file).collect();
    // t3 is larger than a shard: it gets its own, before the one that is being filled is closed.
    assert_eq!(files, [0, 0, 2, 1, 3, 4, 4]);
    assert_eq!(layout.files[4].name, "model-00005-of-00005.safetensors");
    let index = String::from_utf8(layout.index.unwrap()).unwrap();
    assert!(index.starts_with("{\n  \"metadata\": {\n    \"total_size\": 43\n  },\n  \"weight_map\": {\n    \"t0\": \"model-00001-of-00005.safetensors\",\n"));
    assert!(index.ends_with("\n  }\n}\n"));
    let one = lay_out(&tensors, 43).unwrap();
    assert_eq!((one.files.len(), &*one.files[0].name, one.index), (1, "model.safetensors", None));
}

#[test]
fn what_cannot_be_laid_out_is_refused_by_name() {
    for tensors in [
        vec![asked("a", Dtype::U8, &[1]), asked("a", Dtype::U8, &[2])],
        vec![asked("__metadata__", Dtype::U8, &[1])],
        vec![asked("a", Dtype::F4, &[3])],
        vec![asked("a", Dtype::U8, &[u64::MAX, 2])],
        vec![asked("a", Dtype::F64, &[u64::MAX / 8])],
    ] {
        let error = lay_out(&tensors, 100).unwrap_err();
        assert_eq!(error.tensor.as_deref(), Some(&*tensors[0].0), "{error}");
    }
    let large = [asked("a", Dtype::U8, &[1 << 62]), asked("b", Dtype::U8, &[1 << 62])];
    assert!(lay_out(&large, u64::MAX).is_err());
    assert!(lay_out::<String>(&[], 0).is_err());
}

proptest! {
    #[test]
    fn the_layout_does_not_depend_on_the_order(
        tensors in proptest::collection::btree_map(
            "[a-c0-2.]{0,4}",
            (0..Dtype::ALL.len(), proptest::collection::vec(0u64..5, 0..3)),
            0..12,
        ),
        shard_size in 1u64..200,
        turn in 0usize..12,
    ) {
        let mut tensors: Vec<Asked> = tensors
            .into_iter()
            .map(|(name, (dtype, shape))| (name, Dtype::ALL[dtype], shape))
            .filter(|(_, dtype, shape)| dtype.bytes_for(shape.iter().product()).is_some())
            .collect();
        let layout = lay_out(&tensors, shard_size).unwrap();
        check(&layout);
        let turn = turn % tensors.len().max(1);
        tensors.rotate_left(turn);
        let mut turned = lay_out(&tensors, shard_size).unwrap();
        turned.tensors.rotate_right(turn);
        prop_assert_eq!(turned, layout);
    }
}
