//! What a lenient reader would let through is refused; what was written is read back; memory stays bounded.

use proptest::prelude::*;

use super::*;

fn refused(text: impl AsRef<[u8]>) -> String {
    let error = parse(text.as_ref(), "config.json", 1 << 20).unwrap_err().to_string();
    assert!(error.starts_with("config.json is "), "{error}");
    error
}

#[test]
#[cfg_attr(miri, ignore = "slow")]
fn what_is_not_strict_is_refused() {
    for text in [r#"{"a":1,"a":1}"#, r#"[{"b":{"a":1,"c":2,"\u0061":3}}]"#] {
        assert!(refused(text).contains("the key `a` stands twice at line 1 column"));
    }
    assert!(refused("\u{feff}{}").contains("byte order mark"));
    assert!(refused(b"{\"a\":\"\xff\"}").contains("byte 6 is no UTF-8"));
    assert!(refused(b"\"\xed\xa0\x80\"").contains("byte 1 is no UTF-8"));
    for text in [r#""\ud800""#, r#""\udc00 ""#, r#"{"\ud800\ud800":1}"#, r#""\ud800x""#] {
        assert!(refused(text).contains("JSON"));
    }
    for text in ["", " ", "{} {}", "1 2", "{},", "[1,]", "{\"a\":1,}", "NaN", "[Infinity]", "-"] {
        assert!(refused(text).contains("line"), "{text}");
    }
    for text in ["01", "1.", ".5", "+1", "1e400", "'a'", "{a:1}", "\"\t\"", "// a\n1", "nul", "\"a"]
    {
        assert!(refused(text).contains("line"), "{text}");
    }
    assert!(refused("\"\0\"").contains("control character"));
    assert!(refused("1".repeat((1 << 20) + 1)).contains("1048577 bytes, expected at most 1048576"));
    assert!(refused("{\"\u{1b}[2J\":1,\"\\u001b[2J\":1}").contains("control character"));
    let hostile = refused("{\"\\u001b[2J\":1,\"\\u001b[2J\":1}");
    assert!(hostile.contains("`\\u{1b}[2J`"), "{hostile}");
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse(nested(127).as_bytes(), "it", 1000).is_ok());
    assert!(refused(nested(128)).contains("recursion limit"));
    assert!(refused("[".repeat(1 << 20)).contains("recursion limit"));
    assert!(refused("{\"a\":".repeat(200_000)).contains("recursion limit"));
}

#[test]
fn memory_is_bounded() {
    for part in ["[],", "[[0],[0]],", "{\"\":0},", "0,", "\"\",", "{\"\":{\"\":0}},", "\"a\","] {
        let size = if cfg!(miri) { 1 << 13 } else { 1 << 24 };
        let text = format!("[{}0]", part.repeat(size / part.len()));
        let result = parse(text.as_bytes(), "it", 1 << 25);
        if size > 1 << 20 {
            assert!(result.unwrap_err().to_string().contains("too much memory"), "{part}");
        } else {
            assert!(result.is_ok());
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "slow")]
fn the_tables_of_large_models_are_read() {
    let index = |i| {
        format!(
            "\"model.layers.{i}.mlp.experts.{i}.down_proj.weight\":\"model-00001-of-00163.safetensors\""
        )
    };
    let entry = |i| {
        format!(
            "\"model.layers.{i}.mlp.down_proj.weight\":{{\"dtype\":\"BF16\",\"shape\":[{i},7168],\"data_offsets\":[{i},{i}]}}"
        )
    };
    let table = |count: usize, line: &dyn Fn(usize) -> String| {
        format!("{{{}}}", (0..count).map(line).collect::<Vec<_>>().join(","))
    };
    for text in [table(400_000, &index), table(100_000, &entry)] {
        let value = parse(text.as_bytes(), "it", 1 << 26).unwrap();
        assert!(value.as_object().unwrap().len() >= 100_000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: if cfg!(miri) { 4 } else { 512 }, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "slow")]
    fn what_is_read_is_what_was_written(value in any_value()) {
        for text in [serde_json::to_string(&value).unwrap(), serde_json::to_string_pretty(&value).unwrap()] {
            prop_assert_eq!(&parse(text.as_bytes(), "it", 1 << 20).unwrap(), &value);
        }
    }

    #[test]
    fn nothing_panics_and_what_is_taken_another_reader_takes(text in "[\\[\\]{}\",:0-9a\\\\u. ]{0,24}") {
        if let Ok(value) = parse(text.as_bytes(), "it", 1 << 20) {
            prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        }
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            proptest::collection::btree_map(any::<String>(), inner, 0..20)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
