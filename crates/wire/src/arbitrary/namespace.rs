//! What is set for namespaces: whatever the types hold.

use std::num::NonZeroU32;
use std::sync::Arc;

use berth_model::{Bounds, Guarantee, Limit, LimitRange, NamespaceSpec, Quota, Resource};
use berth_state::{Command, NamespaceRow};
use proptest::collection::btree_map;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::log::wall_ms;
use super::{name, number, text};

fn limit() -> impl Strategy<Value = Limit> {
    let amounts = btree_map(select(Resource::ALL.to_vec()), number(), 0..6);
    let rate = option::of((1_u32..).prop_map(|rate| NonZeroU32::new(rate).unwrap()));
    (amounts, rate).prop_map(|(amounts, submits_per_second)| Limit { amounts, submits_per_second })
}

fn guarantee() -> impl Strategy<Value = Guarantee> {
    btree_map(select(Guarantee::RESOURCES.to_vec()), number(), 0..4)
        .prop_map(|amounts| Guarantee { amounts })
}

fn range() -> impl Strategy<Value = LimitRange> {
    let amount = || option::of(number());
    let bounds =
        (amount(), amount(), amount()).prop_map(|(default, min, max)| Bounds { default, min, max });
    btree_map(select(LimitRange::RESOURCES.to_vec()), bounds, 0..4).prop_map(LimitRange)
}

fn spec() -> impl Strategy<Value = NamespaceSpec> {
    let quota = (limit(), guarantee());
    let quota = quota.prop_map(|(limit, guaranteed)| Quota { limit, guaranteed });
    let all = (name(), text(), quota, range(), any::<u32>());
    all.prop_map(|(name, description, quota, range, weight)| NamespaceSpec {
        name,
        description,
        quota,
        range,
        weight,
    })
}

pub(crate) fn namespace_row() -> impl Strategy<Value = NamespaceRow> {
    (spec(), any::<u32>(), wall_ms()).prop_map(|(spec, version, changed_at)| NamespaceRow {
        spec,
        version,
        changed_at,
    })
}

pub(crate) fn namespace_command() -> BoxedStrategy<Command> {
    let version = any::<Option<u32>>;
    prop_oneof![
        (spec(), version()).prop_map(|(spec, if_version)| Command::ApplyNamespace {
            spec: Arc::new(spec),
            if_version
        }),
        (name(), version())
            .prop_map(|(name, if_version)| Command::DeleteNamespace { name, if_version }),
    ]
    .boxed()
}
