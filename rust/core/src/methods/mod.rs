//! The merge methods: one file each, and the one list of them.

mod arcee;
mod breadcrumbs;
mod cabs;
mod consensus;
mod core_space;
mod dare;
mod della;
mod expo;
mod geometric_median;
mod iso_c;
mod karcher;
mod knots;
mod linear;
mod localize_and_stitch;
mod lot;
mod model_stock;
mod multislerp;
mod nearswap;
mod nuslerp;
mod param_delta;
mod parameters;
mod passthrough;
mod pcb;
mod ram;
mod regmean;
mod resmerge;
mod sce;
mod slerp;
mod swudi;
mod task_arithmetic;
mod ties;
mod tsv_m;
mod wsm;

use crate::fit::method::AnyMethod;

/// All methods, in the order in which people read them.
static ALL: [&dyn AnyMethod; 36] = [
    &arcee::Arcee,
    &linear::Linear,
    &slerp::Slerp,
    &nuslerp::NuSlerp,
    &multislerp::MultiSlerp,
    &karcher::Karcher,
    &task_arithmetic::TaskArithmetic,
    &ties::Ties,
    &dare::DareLinear,
    &dare::DareTies,
    &della::DellaLinear,
    &della::Della,
    &breadcrumbs::Breadcrumbs,
    &breadcrumbs::BreadcrumbsTies,
    &sce::Sce,
    &model_stock::ModelStock,
    &ram::Ram,
    &ram::RamPlus,
    &localize_and_stitch::LocalizeAndStitch,
    &consensus::Consensus,
    &cabs::Cabs,
    &pcb::Pcb,
    &iso_c::IsoC,
    &tsv_m::TsvM,
    &swudi::Swudi,
    &resmerge::ResMerge,
    &knots::Knots,
    &core_space::CoreSpace,
    &regmean::RegMean,
    &lot::Lot,
    &wsm::Wsm,
    &geometric_median::GeometricMedian,
    &expo::Expo,
    &param_delta::ParamDelta,
    &nearswap::NearSwap,
    &passthrough::Passthrough,
];

/// All methods.
#[must_use]
pub fn all() -> &'static [&'static dyn AnyMethod] {
    &ALL
}

/// The method that leaves a model as it is.
#[must_use]
pub fn passthrough() -> &'static dyn AnyMethod {
    &passthrough::Passthrough
}

/// The method of that name or alias.
#[must_use]
pub fn named(name: &str) -> Option<&'static dyn AnyMethod> {
    let called = |method: &&&dyn AnyMethod| {
        let spec = method.spec();
        spec.name == name || spec.aliases.contains(&name)
    };
    ALL.iter().find(called).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::parameters::{Type, Value};

    #[test]
    fn the_list_is_sound() {
        let mut names = Vec::new();
        for method in all() {
            let spec = method.spec();
            names.push(spec.name);
            names.extend(spec.aliases);
            assert!(!spec.sentence.is_empty() && !spec.formula.is_empty(), "{}", spec.name);
            let guide = &spec.guide;
            for text in [guide.detail, guide.when, guide.avoid] {
                assert!(!text.is_empty(), "{}", spec.name);
            }
            assert!(
                serde_json::from_str::<serde_json::Value>(guide.example).is_ok(),
                "{}",
                spec.name
            );
            for parameter in spec.parameters {
                assert!(!parameter.help.is_empty(), "{} {}", spec.name, parameter.name);
                let fits = match (parameter.kind, parameter.default) {
                    (_, None) => true,
                    (
                        Type::Number { low, high } | Type::Whole { low, high },
                        Some(Value::Number(value)),
                    ) => (low..=high).contains(&value),
                    (Type::Flag | Type::FlagOrChoice(_), Some(Value::Flag(_))) => true,
                    (
                        Type::Choice(words) | Type::FlagOrChoice(words),
                        Some(Value::Choice(word)),
                    ) => words.contains(&word),
                    _ => false,
                };
                assert!(fits, "default of {} {}", spec.name, parameter.name);
            }
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(named("arcee_fusion").is_some_and(|method| method.spec().name == "arcee"));
    }
}
