//! What does not fit together is told with tensor, branch, found, expected and the rule that would permit it.

use serde_json::{Value, json};

use crate::plan::fixture::{Asked, Room, USUAL, allowing, assert_told, task_arithmetic};
use crate::plan::plan::{Job, Plan, Work};
use crate::read::dtype::Dtype;

const LAYER: &str = "model.layers.0.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// `base` and `a` as usual, `b` with other tensors.
fn room(b: &[Asked<'_>]) -> Room {
    let room = Room::with(&["base", "a"]);
    room.checkpoint("b", b);
    room
}

fn without(name: &str) -> Vec<Asked<'static>> {
    USUAL.into_iter().filter(|(known, ..)| *known != name).collect()
}

fn with(name: &'static str, dtype: Dtype, shape: &'static [u64]) -> Vec<Asked<'static>> {
    let mut tensors = without(name);
    tensors.push((name, dtype, shape));
    tensors
}

fn merge() -> Value {
    task_arithmetic("base", &["a", "b"])
}

fn job<'p>(plan: &'p Plan, name: &str) -> &'p Job {
    plan.jobs.iter().find(|job| &*job.name == name).expect("a job")
}

fn operands(plan: &Plan, name: &str) -> u64 {
    let Work::Merge { expression, .. } = &job(plan, name).what else { return 0 };
    expression.operands()
}

fn allowed(plan: &Plan) -> Vec<(&str, Option<&str>, &str)> {
    plan.allowed.iter().map(|one| (one.rule, one.tensor.as_deref(), &*one.branch)).collect()
}

#[test]
fn a_missing_tensor_is_named_with_its_branch_and_rule() {
    let problems = room(&without(LAYER)).problems(&merge());
    let parts = ["`model.layers.0.weight`", "branch `b`", "missing", "BF16 [3, 4] as in `base`"];
    assert_told(&problems, &parts);
    assert_told(&problems, &["`--allow missing=base`"]);
}

#[test]
fn a_missing_tensor_is_the_bases_or_takes_no_part() {
    for (rule, count) in [("base", 3), ("skip", 2)] {
        let room = room(&without(LAYER));
        let plan = room.plan(&allowing(merge(), json!({ "missing": rule }))).expect("a plan");
        assert_eq!((operands(&plan, LAYER), operands(&plan, HEAD)), (count, 3), "{rule}");
        assert_eq!(allowed(&plan), [("missing", Some(LAYER), "b")]);
    }
}

#[test]
fn without_a_base_a_missing_tensor_can_only_be_skipped() {
    let room = room(&without(LAYER));
    let said = json!({
        "merge_method": "linear", "parameters": { "weight": 1 },
        "models": [{ "model": "a" }, { "model": "b" }],
    });
    let problems = room.problems(&allowing(said.clone(), json!({ "missing": "base" })));
    assert_told(&problems, &[LAYER, "branch `b`", "needs a base", "missing=skip"]);
    let plan = room.plan(&allowing(said, json!({ "missing": "skip" }))).expect("a plan");
    assert_eq!((operands(&plan, LAYER), operands(&plan, HEAD)), (1, 2));
}

#[test]
fn weights_that_sum_to_nothing_without_the_missing_branch_are_told() {
    let room = room(&without(LAYER));
    room.checkpoint("c", &USUAL);
    let said = json!({
        "merge_method": "linear", "allow": { "missing": "skip" },
        "models": [
            { "model": "a", "parameters": { "weight": 1 } },
            { "model": "b", "parameters": { "weight": 1 } },
            { "model": "c", "parameters": { "weight": -1 } },
        ],
    });
    assert_told(&room.problems(&said), &[LAYER, "sum to 0", "normalize"]);
}

#[test]
fn a_tensor_that_the_base_lacks_is_not_the_branches_to_miss() {
    let room = Room::with(&["a", "b"]);
    room.checkpoint("base", &without(LAYER));
    let problems = room.problems(&allowing(merge(), json!({ "missing": "base" })));
    assert_eq!(problems.len(), 2, "{problems:?}");
    for (problem, branch) in problems.iter().zip(["`a`", "`b`"]) {
        assert!(problem.contains("extra") && problem.contains(branch), "{problem}");
    }
}

#[test]
fn an_extra_tensor_is_named_copied_or_dropped() {
    let room = room(&with("model.layers.1.weight", Dtype::F16, &[2, 2]));
    let extra = "model.layers.1.weight";
    let parts = [extra, "branch `b`", "extra: found F16 [2, 2]", "as in `base`", "extra=drop"];
    assert_told(&room.problems(&merge()), &parts);
    let plan = room.plan(&allowing(merge(), json!({ "extra": "drop" }))).expect("a plan");
    assert!(plan.jobs.iter().all(|job| &*job.name != extra));
    assert_eq!(allowed(&plan), [("extra", Some(extra), "b")]);
    let plan = room.plan(&allowing(merge(), json!({ "extra": "copy" }))).expect("a plan");
    let copied = job(&plan, extra);
    assert_eq!((copied.dtype, &*copied.shape), (Dtype::F16, &[2, 2][..]));
    assert!(matches!(&copied.what, Work::Copy { inputs } if inputs.len() == 1));
}

#[test]
fn extra_tensors_that_disagree_are_not_copied() {
    let room = room(&with("extra", Dtype::F16, &[2, 2]));
    room.checkpoint("a", &with("extra", Dtype::F16, &[2, 3]));
    let problems = room.problems(&allowing(merge(), json!({ "extra": "copy" })));
    assert_told(&problems, &["`extra`", "branch `b`", "one dtype and shape"]);
}

#[test]
fn another_shape_is_told_and_only_embeddings_may_overlap() {
    let overlap = allowing(merge(), json!({ "shape": "overlap" }));
    let other = room(&with(LAYER, Dtype::BF16, &[3, 5]));
    for said in [&merge(), &overlap] {
        let problems = other.problems(said);
        assert_told(&problems, &[LAYER, "branch `b`", "found [3, 5], expected [3, 4]"]);
        assert!(!problems[0].contains("--allow"), "no rule permits it: {problems:?}");
    }
    let rows = room(&with(EMBEDDING, Dtype::BF16, &[8, 4]));
    let parts = [EMBEDDING, "found [8, 4], expected [6, 4]", "`--allow shape=overlap`"];
    assert_told(&rows.problems(&merge()), &parts);
    let plan = rows.plan(&overlap).expect("a plan");
    assert_eq!(job(&plan, EMBEDDING).shape, [6, 4]);
    assert_eq!(allowed(&plan), [("shape", Some(EMBEDDING), "b")]);
    let columns = room(&with(EMBEDDING, Dtype::BF16, &[6, 5]));
    assert_told(&columns.problems(&overlap), &["found [6, 5], expected [6, 4]"]);
}

#[test]
fn floating_dtypes_mix_and_integers_do_not() {
    let plan = room(&with(LAYER, Dtype::F64, &[3, 4])).plan(&merge()).expect("a plan");
    assert_eq!(job(&plan, LAYER).dtype, Dtype::BF16);
    assert!(matches!(job(&plan, LAYER).what, Work::Merge { double: true, .. }));
    assert!(matches!(job(&plan, HEAD).what, Work::Merge { double: false, .. }));
    let problems = room(&with(LAYER, Dtype::I32, &[3, 4])).problems(&merge());
    assert_told(&problems, &[LAYER, "branch `b`", "found I32, expected BF16"]);
}

#[test]
fn integers_of_one_dtype_are_compared_and_copied() {
    let position = [("position_ids", Dtype::I64, &[1, 9][..])];
    let room = Room::new();
    let all: Vec<Asked<'_>> = USUAL.into_iter().chain(position).collect();
    ["base", "a", "b"].iter().for_each(|name| room.checkpoint(name, &all));
    let plan = room.plan(&merge()).expect("a plan");
    let copied = job(&plan, "position_ids");
    assert!(matches!(&copied.what, Work::Copy { inputs } if inputs.len() == 3));
    room.checkpoint("b", &[&USUAL[..], &[("position_ids", Dtype::I64, &[1, 8])]].concat());
    assert_told(&room.problems(&merge()), &["`position_ids`", "found [1, 8]"]);
    room.checkpoint("b", &[&USUAL[..], &[("position_ids", Dtype::I32, &[1, 9])]].concat());
    assert_told(&room.problems(&merge()), &["found I32, expected I64"]);
}

#[test]
fn a_tied_head_beside_one_of_its_own_is_told_as_that() {
    let parts = [HEAD, "branch `b`", "tied to the embeddings?", "`--allow missing=base`"];
    assert_told(&room(&without(HEAD)).problems(&merge()), &parts);
    let tied = Room::with(&["a"]);
    ["base", "b"].iter().for_each(|name| tied.checkpoint(name, &without(HEAD)));
    let parts = [HEAD, "branch `a`", "expected no head of its own, as in `base`", "extra=drop"];
    assert_told(&tied.problems(&merge()), &parts);
}

#[test]
fn a_stranger_is_told_once() {
    let other = room(&[("encoder.conv1.weight", Dtype::BF16, &[1])]);
    let parts = ["branch `b`", "no tensor of `base`", "`encoder.conv1.weight`", "architecture"];
    assert_told(&other.problems(&merge()), &parts);
}

#[test]
fn codes_of_unknown_scales_and_quantised_weights_are_refused() {
    let room = Room::with(&["base"]);
    room.checkpoint("a", &with(LAYER, Dtype::F8E4M3, &[3, 4]));
    room.plan(&task_arithmetic("base", &["a"])).expect("8-bit floats without scales merge");
    let scaled = [("model.layers.0.other_scale", Dtype::F32, &[1][..])];
    let tensors: Vec<Asked<'_>> =
        with(LAYER, Dtype::F8E4M3, &[3, 4]).into_iter().chain(scaled).collect();
    room.checkpoint("a", &tensors);
    let problems = room.problems(&task_arithmetic("base", &["a"]));
    assert!(problems.iter().any(|one| one.contains("no scales beside them")), "{problems:?}");
    room.checkpoint("a", &with("model.layers.0.qweight", Dtype::I32, &[3, 4]));
    room.small("a", "config.json", r#"{ "quantization_config": { "bits": 4 } }"#);
    let problems = room.problems(&task_arithmetic("base", &["a"]));
    assert_told(&problems, &["branch `a`", "quantised", "the model that it was made from"]);
}

#[test]
fn tokenizers_are_compared_by_what_they_mean() {
    let tokenizer = |vocab: Value, rest: Value| {
        let mut said = json!({ "model": { "type": "BPE", "vocab": vocab } });
        rest.as_object().unwrap().iter().for_each(|(key, value)| said[key] = value.clone());
        said.to_string()
    };
    let usual = || json!({ "a": 0, "b": 1 });
    let room = Room::with(&["base", "a"]);
    room.small("base", "tokenizer.json", &tokenizer(usual(), json!({})));
    let warnings = |text: &str| {
        room.small("a", "tokenizer.json", text);
        room.plan(&task_arithmetic("base", &["a"])).map(|plan| plan.warnings)
    };
    // What a library writes besides, or in another order, is no difference.
    let same = json!({ "truncation": null, "padding": null });
    let same =
        tokenizer(usual(), same).replace("BPE\"", "BPE\", \"dropout\": null, \"fuse_unk\": false");
    assert_eq!(warnings(&same).unwrap(), [] as [&str; 0], "{same}");
    for (text, said) in [
        (tokenizer(json!({ "a": 0, "b": 1, "c": 2 }), json!({})), "1 tokens more"),
        (tokenizer(json!({ "a": 0 }), json!({})), "1 tokens fewer"),
        (tokenizer(usual(), json!({ "normalizer": { "type": "NFC" } })), "another `normalizer`"),
        ("[".into(), "could not be compared"),
    ] {
        let found = warnings(&text).unwrap();
        assert!(found.len() == 1 && found[0].contains(said), "{found:?}");
    }
    let problems = warnings(&tokenizer(json!({ "a": 1, "b": 0 }), json!({}))).unwrap_err();
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(problems[0].contains("the tokenizer has other tokens"), "{problems:?}");
}
