//! What a recipe says of its models as wholes, slice by slice, or module by module.

use serde_json::{Map, Value};

use super::step::Frame;
use super::values::Level;
use super::{Part, Reading, Slice, inside, kind, show};
use crate::error::Error;

/// The ways to list models.
const WAYS: [&str; 3] = ["models", "slices", "modules"];
/// Keys of a slice.
const SLICE_KEYS: [&str; 4] = ["sources", "base_model", "parameters", "residual_weight"];
/// Keys of a module.
const MODULE_KEYS: [&str; 3] = ["models", "slices", "parameters"];

impl Reading {
    /// Reads the whole of a recipe; none where it is too wrong to go on with.
    pub(super) fn parts(&mut self, map: &Map<String, Value>) -> Option<Vec<Part>> {
        self.keys(map, "", true);
        self.one_way(map, "", &WAYS);
        let global = vec![("parameters".to_owned(), map.get("parameters"))];
        let modules = match map.get("modules") {
            None | Some(Value::Null) => return Some(vec![self.part(map, map, "", &global)?]),
            Some(Value::Object(modules)) if !modules.is_empty() => modules,
            Some(other) => {
                let expected = "modules by name, each with `models` or `slices`";
                self.problem("modules", Error::value("modules", kind(other), expected));
                return None;
            }
        };
        let mut parts = Vec::new();
        for (name, said) in modules {
            let at = format!("modules.{name}");
            let Value::Object(module) = said else {
                self.problem(&at, Error::value("modules", show(said), "`models` or `slices`"));
                continue;
            };
            for key in module.keys().filter(|key| !MODULE_KEYS.contains(&key.as_str())) {
                self.problem(&inside(&at, key), Error::unknown("key", key, MODULE_KEYS));
            }
            self.one_way(module, &at, &WAYS[..2]);
            let own = (inside(&at, "parameters"), module.get("parameters"));
            let levels: Vec<Level<'_>> = std::iter::once(own).chain(global.clone()).collect();
            // A recipe of one module names it `default`: it is the whole model.
            let module_name = (modules.len() > 1).then(|| name.clone());
            let part = self.part(map, module, &at, &levels);
            parts.extend(part.map(|part| Part { module: module_name, ..part }));
        }
        (parts.len() == modules.len()).then_some(parts)
    }

    /// Refuses models that are listed in several ways.
    fn one_way(&mut self, map: &Map<String, Value>, at: &str, ways: &[&str]) {
        let said: Vec<String> = ways
            .iter()
            .filter(|way| map.get(**way).is_some_and(|said| !said.is_null()))
            .map(|way| format!("`{way}`"))
            .collect();
        if said.len() > 1 {
            let what = format!("{} are given, expected one of them", said.join(" and "));
            self.problem(at, Error::recipe(what));
        }
    }

    /// What a mapping says of the layers: all at once, or slice by slice.
    fn part<'v>(
        &mut self,
        root: &'v Map<String, Value>,
        map: &'v Map<String, Value>,
        at: &str,
        levels: &[Level<'v>],
    ) -> Option<Part> {
        let frame =
            |models, shared| Frame { map: root, at: String::new(), models, shared, depth: 0 };
        let slices = match map.get("slices") {
            None | Some(Value::Null) => {
                let step = self.merge(&frame((map, at.to_owned(), "models"), levels.to_vec()))?;
                return Some(Part { module: None, slices: vec![Slice { step, layers: None }] });
            }
            Some(Value::Array(slices)) if !slices.is_empty() => slices,
            Some(other) => {
                let error = Error::value("slices", kind(other), "a list of `sources: […]`");
                self.problem(&inside(at, "slices"), error);
                return None;
            }
        };
        let mut found = Vec::new();
        for (i, said) in slices.iter().enumerate() {
            let at = inside(at, &format!("slices[{i}]"));
            let Value::Object(slice) = said else {
                self.problem(&at, Error::value("slices", show(said), "`sources: […]`"));
                continue;
            };
            for key in slice.keys().filter(|key| !SLICE_KEYS.contains(&key.as_str())) {
                self.problem(&inside(&at, key), Error::unknown("key", key, SLICE_KEYS));
            }
            if slice.contains_key("residual_weight") {
                let place = inside(&at, "residual_weight");
                self.warnings.push(format!("`{place}` does nothing here, as in mergekit"));
            }
            let own = (inside(&at, "parameters"), slice.get("parameters"));
            let shared = std::iter::once(own).chain(levels.iter().cloned()).collect();
            let step = self.merge(&frame((slice, at.clone(), "sources"), shared));
            let layers = Self::layers_of(slice);
            if layers.is_none() && slices.len() > 1 && step.is_some() {
                let what = "`layer_range` is missing, and there are several slices";
                self.problem(&inside(&at, "sources"), Error::recipe(what));
            }
            found.extend(step.map(|step| Slice { step, layers }));
        }
        (found.len() == slices.len()).then_some(Part { module: None, slices: found })
    }
}
