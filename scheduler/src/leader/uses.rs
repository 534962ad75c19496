//! What gateways see of services, as each of them last told.

use std::collections::BTreeMap;

use berth_proto::v1;

/// By gateway, and by namespace and name.
#[derive(Default)]
pub struct Uses(BTreeMap<String, BTreeMap<(String, String), v1::ServiceUse>>);

impl Uses {
    /// What a gateway has told of all services that it knows.
    pub fn hear(&mut self, gateway: &str, told: v1::ServiceUses) {
        let services = told.services.into_iter().map(|used| {
            let in_flight = used.replicas.iter().map(|used| u64::from(used.in_flight)).sum();
            let key = (used.namespace.clone(), used.name.clone());
            (key, v1::ServiceUse { gateway: gateway.to_owned(), in_flight, ..used })
        });
        self.0.insert(gateway.to_owned(), services.collect());
    }

    /// Only what these gateways told.
    pub fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|gateway, _| is_there(gateway));
    }

    /// Of one service, in the order of the gateways.
    pub fn of(&self, namespace: &str, name: &str) -> impl Iterator<Item = &v1::ServiceUse> {
        let key = (namespace.to_owned(), name.to_owned());
        self.0.values().filter_map(move |services| services.get(&key))
    }
}
