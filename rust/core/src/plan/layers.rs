//! Layers by the names of tensors: no table of architectures is needed.

use std::collections::BTreeMap;

/// What layers are called in names, each followed by a number.
const WORDS: [&str; 5] = ["layers", "h", "blocks", "block", "layer"];

/// The layer of a tensor: the first number that follows a component such as `layers`.
pub(super) fn of(name: &str) -> Option<u64> {
    let mut components = name.split('.').peekable();
    while let Some(component) = components.next() {
        let number = components.peek().and_then(|next| next.parse().ok());
        if let (true, Some(layer)) = (WORDS.contains(&component), number) {
            return Some(layer);
        }
    }
    None
}

/// What stands before the layer's number in a tensor's name: towers of one model count theirs apart.
pub(super) fn stem(name: &str) -> Option<&str> {
    let mut at = 0;
    let mut components = name.split('.').peekable();
    while let Some(component) = components.next() {
        at += component.len() + 1;
        let number = components.peek().and_then(|next| next.parse::<u64>().ok());
        if WORDS.contains(&component) && number.is_some() {
            return Some(&name[..at]);
        }
    }
    None
}

/// How many layers each stem has among names.
pub(super) fn counts<'n>(names: impl Iterator<Item = &'n str>) -> BTreeMap<&'n str, u64> {
    let mut found = BTreeMap::new();
    for name in names {
        if let (Some(stem), Some(layer)) = (stem(name), of(name)) {
            let count = found.entry(stem).or_insert(0);
            *count = layer.saturating_add(1).max(*count);
        }
    }
    found
}

/// The name with another layer.
pub(super) fn with(name: &str, layer: u64) -> String {
    let mut components: Vec<&str> = name.split('.').collect();
    let at = components
        .windows(2)
        .position(|two| WORDS.contains(&two[0]) && two[1].parse::<u64>().is_ok());
    let number = layer.to_string();
    if let Some(at) = at {
        components[at + 1] = &number;
    }
    components.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_found_in_names() {
        assert_eq!(of("model.layers.17.mlp.experts.3.up_proj.weight"), Some(17));
        assert_eq!(of("transformer.h.2.attn.weight"), Some(2));
        assert_eq!(of("model.embed_tokens.weight"), None);
        assert_eq!(of("model.layers.weight"), None);
        assert_eq!(with("model.layers.17.mlp.experts.3.w", 2), "model.layers.2.mlp.experts.3.w");
        assert_eq!(with("model.norm.weight", 2), "model.norm.weight");
        let names = ["a.layers.0.x", "a.layers.11.x", "norm", "b.blocks.1.layers.7.x"];
        let counts = counts(names.into_iter()).into_iter().collect::<Vec<_>>();
        assert_eq!(counts, [("a.layers.", 12), ("b.blocks.", 2)]);
    }
}
