//! Layers by the names of tensors: no table of architectures is needed.

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

/// How many layers tensors of these names have.
pub(super) fn count<'n>(names: impl Iterator<Item = &'n str>) -> u64 {
    names.filter_map(of).max().map_or(0, |last| last.saturating_add(1))
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
        assert_eq!(count(["a.layers.0.x", "a.layers.11.x", "norm"].into_iter()), 12);
        assert_eq!(count(std::iter::empty()), 0);
    }
}
