//! Checkpoints whose weights are 8-bit codes with scales beside them: read as the numbers that they stand for.
//!
//! Understood are a scale for each block (`weight_scale_inv`, as DeepSeek-V3 has it, arXiv 2412.19437, section 3.3), for
//! each row or for all (`weight_scale`, as compressed-tensors has it).

use std::collections::BTreeSet;

use serde_json::Value;

use crate::error::{Error, Result, shown};
use crate::plan::expression::{Expression, StoredAt, View};
use crate::plan::inputs::Inputs;
use crate::read::checkpoint::Checkpoint;
use crate::read::dtype::Dtype;
use crate::read::header::Stored;

/// What follows a weight's name in that of its scales.
const SCALES: [&str; 2] = ["_scale_inv", "_scale"];
/// Ends of the names of scales of what flows through a layer, which mean nothing where it is not quantised.
const OF_ACTIVATIONS: [&str; 7] = [
    ".input_scale",
    ".input_scale_inv",
    ".activation_scale",
    ".output_scale",
    ".q_scale",
    ".k_scale",
    ".v_scale",
];
/// Ends of the names of codes that are no numbers.
const CODES: [&str; 6] = [".weight", "weight_packed", "qweight", "_blocks", "_packed", "qzeros"];
/// Rows and columns of a block, where the config does not tell.
const BLOCK: [u64; 2] = [128, 128];

/// The scales of a weight.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    /// Their name.
    tensor: String,
    /// Rows and columns of a block.
    block: [u64; 2],
}

/// Finds the scales of all models' codes and puts them aside; what is not understood is a problem. Returns the checkpoints
/// of which that is so.
pub(super) fn pair(
    inputs: &mut Inputs,
    problems: &mut Vec<Error>,
    warnings: &mut Vec<String>,
) -> BTreeSet<usize> {
    let mut refused = BTreeSet::new();
    for input in inputs.of_models() {
        let label = inputs.labels[input].clone();
        let config = match inputs.checkpoints[input].config() {
            Ok(config) => config.unwrap_or_default(),
            Err(error) => {
                problems.push(error.branch(&label));
                continue;
            }
        };
        match of(&mut inputs.checkpoints[input], &config) {
            Ok(found) => {
                if !found.is_empty() {
                    let count = found.len();
                    warnings.push(format!(
                        "{count} tensors of `{}` are 8-bit codes with scales: they are read as the numbers that \
                         they stand for, and the result has them in BF16",
                        shown(&label)
                    ));
                } else if section(&config).is_some() {
                    warnings.push(format!(
                        "config.json of `{}` says that its weights are quantised, which they are not",
                        shown(&label)
                    ));
                }
                inputs.scales.insert(input, found.into_iter().collect());
                inputs.configs.insert(input, config);
            }
            Err(error) => {
                problems.push(error.branch(&label));
                refused.insert(input);
            }
        }
    }
    refused
}

/// What the config says of quantisation.
fn section(config: &Value) -> Option<&Value> {
    let said = ["quantization_config", "compression_config"].map(|key| config.get(key));
    said.into_iter().flatten().find(|said| !said.is_null())
}

/// The codes of a checkpoint, each with its scales, which are put aside.
fn of(checkpoint: &mut Checkpoint, config: &Value) -> Result<Vec<(String, Scale)>> {
    let said = section(config);
    let tensors = &checkpoint.tensors;
    let integers = |(name, stored): &(&String, &Stored)| {
        !stored.dtype.is_float() && CODES.iter().any(|end| name.ends_with(end))
    };
    if let (Some(said), Some((name, _))) = (said, tensors.iter().find(integers)) {
        let method = said.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
        let what = format!("its weights are quantised (`{}`)", shown(method));
        return Err(Error::recipe_with_hint(what, way_out(method)).tensor(name));
    }
    let narrow = |stored: &Stored| stored.dtype.is_float() && stored.dtype.bits() == 8;
    let some = tensors.keys().any(|name| SCALES.iter().any(|end| name.ends_with(end)));
    let mut found = Vec::new();
    for (name, stored) in tensors.iter().filter(|(_, stored)| narrow(stored)) {
        let known = SCALES.map(|end| format!("{name}{end}"));
        if let Some(tensor) = known.into_iter().find(|name| tensors.contains_key(name)) {
            let block =
                block(stored, &tensors[&tensor], said).map_err(|error| error.tensor(&*tensor))?;
            found.push((name.clone(), Scale { tensor, block }));
        } else if said.is_some() || some {
            let what = "its 8-bit codes have no scales beside them";
            let hint = format!("they are looked for as `{name}{}`", SCALES[0]);
            return Err(Error::recipe_with_hint(what, hint).tensor(name));
        }
    }
    let aside = |name: &String| {
        let of_weights = found.iter().any(|(_, scale)| scale.tensor == *name);
        of_weights || !found.is_empty() && OF_ACTIVATIONS.iter().any(|end| name.ends_with(end))
    };
    let aside: Vec<String> = tensors.keys().filter(|name| aside(name)).cloned().collect();
    for name in aside {
        checkpoint.aside.extend(checkpoint.tensors.remove_entry(&name));
    }
    Ok(found)
}

/// Rows and columns of the codes that share a scale.
fn block(codes: &Stored, scales: &Stored, said: Option<&Value>) -> Result<[u64; 2]> {
    let (lead, rows, columns) = match codes.shape[..] {
        [rows] => (&[][..], 1, rows),
        [ref lead @ .., rows, columns] => (lead, rows, columns),
        [] => (&[][..], 1, 1),
    };
    let told = told(said);
    let grid = |[down, across]: [u64; 2]| {
        [lead, &[rows.div_ceil(down), columns.div_ceil(across)]].concat()
    };
    let whole = [rows.max(1), columns.max(1)];
    let fits = |block: &[u64; 2]| {
        let mut grid = grid(*block);
        let mut shape = scales.shape.clone();
        // How many dimensions of size 1 are written differs.
        grid.retain(|&size| size != 1);
        shape.retain(|&size| size != 1);
        grid == shape
    };
    let known = [told, whole, [1, whole[1]]];
    let block = known.into_iter().find(fits).filter(|_| scales.dtype.is_float());
    block.ok_or_else(|| {
        Error::recipe(format!(
            "the scales are {} {:?}, expected {:?} for blocks of {told:?}, one a row or one for all",
            scales.dtype.name(),
            scales.shape,
            grid(told)
        ))
    })
}

/// Rows and columns of a block as the config tells them.
fn told(said: Option<&Value>) -> [u64; 2] {
    let pair = |said: &Value| {
        let sizes: Vec<u64> = said.as_array()?.iter().filter_map(Value::as_u64).collect();
        <[u64; 2]>::try_from(sizes).ok().filter(|sizes| !sizes.contains(&0))
    };
    let said = said.unwrap_or(&Value::Null);
    let groups = said["config_groups"].as_object().into_iter().flatten();
    let groups = groups.filter_map(|(_, group)| pair(&group["weights"]["block_structure"]));
    pair(&said["weight_block_size"]).or(groups.into_iter().next()).unwrap_or(BLOCK)
}

/// How to come from a kind of quantisation to plain weights.
fn way_out(method: &str) -> &'static str {
    match method {
        "mxfp4" => "load it with transformers' `Mxfp4Config(dequantize=True)` and save it",
        "bitsandbytes" => "load it with transformers, call `model.dequantize()` and save it",
        _ => "merge the model that it was made from",
    }
}

impl Inputs {
    /// A stored tensor as the numbers that it stands for.
    pub(super) fn plain(&self, at: StoredAt) -> Expression {
        let scales = self.scales.get(&at.input).and_then(|scales| scales.get(&*at.tensor));
        let Some(Scale { tensor, block }) = scales else { return Expression::Stored(at) };
        let scales = StoredAt { input: at.input, tensor: tensor.as_str().into() };
        Expression::View(Box::new(View::Scaled { codes: at, scales, block: *block }))
    }

    /// The dtype in which a tensor is kept where nothing else is said.
    pub(super) fn kept_as(&self, input: usize, name: &str) -> Dtype {
        let scaled = self.scales.get(&input).is_some_and(|scales| scales.contains_key(name));
        if scaled { Dtype::BF16 } else { self.checkpoints[input].tensors[name].dtype }
    }
}
