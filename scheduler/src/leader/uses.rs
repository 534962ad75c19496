//! What gateways see of services, as each of them last told.

use std::collections::BTreeMap;

use berth_model::StateMs;
use berth_proto::v1;

/// By gateway, and by namespace and name.
#[derive(Default)]
pub struct Uses(BTreeMap<String, BTreeMap<(String, String), Told>>);

/// What a gateway tells of a service.
#[derive(Clone, Debug)]
pub struct Told {
    pub used: v1::ServiceUse,
    at: StateMs,
    /// Requests that it sent on in a second, between its last two reports.
    pub per_second: f64,
    /// When it last had anything to do for it.
    pub busy_at: Option<StateMs>,
}

impl Uses {
    /// What a gateway has told of all services that it knows.
    pub fn hear(&mut self, gateway: &str, told: v1::ServiceUses, now: StateMs) {
        let mut before = self.0.remove(gateway).unwrap_or_default();
        let services = told.services.into_iter().map(|used| {
            let in_flight = used.replicas.iter().map(|used| u64::from(used.in_flight)).sum();
            let key = (used.namespace.clone(), used.name.clone());
            let used = v1::ServiceUse { gateway: gateway.to_owned(), in_flight, ..used };
            let told = Told::after(before.remove(&key), used, now);
            (key, told)
        });
        self.0.insert(gateway.to_owned(), services.collect());
    }

    /// Only what these gateways told.
    pub fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|gateway, _| is_there(gateway));
    }

    /// Of one service, in the order of the gateways.
    pub fn of(&self, namespace: &str, name: &str) -> impl Iterator<Item = &Told> {
        let key = (namespace.to_owned(), name.to_owned());
        self.0.values().filter_map(move |services| services.get(&key))
    }
}

impl Told {
    fn after(before: Option<Told>, used: v1::ServiceUse, now: StateMs) -> Told {
        let is_under_way = used.in_flight > 0 || used.waiting > 0;
        let Some(before) = before else {
            // What it counted before is not known to be new.
            let busy_at = is_under_way.then_some(now);
            return Told { used, at: now, per_second: 0.0, busy_at };
        };
        let sent = used.requests.saturating_sub(before.used.requests);
        let busy_at = if is_under_way || sent > 0 { Some(now) } else { before.busy_at };
        // Two reports at one moment say nothing of a rate.
        let span = now.since(before.at).0;
        #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
        let per_second = match span {
            0 => before.per_second,
            span => sent as f64 * 1_000.0 / span as f64,
        };
        Told { used, at: now, per_second, busy_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(requests: u64, in_flight: u32, waiting: u64) -> v1::ServiceUses {
        let replica = v1::ReplicaUse { in_flight, ..v1::ReplicaUse::default() };
        let used = v1::ServiceUse {
            namespace: "default".into(),
            name: "chat".into(),
            requests,
            waiting,
            replicas: vec![replica],
            ..v1::ServiceUse::default()
        };
        v1::ServiceUses { services: vec![used] }
    }

    #[test]
    fn a_rate_is_between_two_reports_and_something_to_do_is_remembered() {
        let mut uses = Uses::default();
        let mut hear = |at: u64, report| {
            uses.hear("a", report, StateMs(at));
            let told = uses.of("default", "chat").next().unwrap();
            (told.used.in_flight, told.per_second, told.busy_at.map(|at| at.0))
        };
        assert_eq!(hear(1_000, report(500, 0, 0)), (0, 0.0, None), "it may be long ago");
        assert_eq!(hear(3_000, report(560, 0, 0)), (0, 30.0, Some(3_000)));
        assert_eq!(hear(4_000, report(560, 0, 0)), (0, 0.0, Some(3_000)));
        assert_eq!(hear(5_000, report(560, 2, 0)), (2, 0.0, Some(5_000)));
        assert_eq!(hear(6_000, report(560, 0, 1)), (0, 0.0, Some(6_000)));
        // It has begun anew.
        assert_eq!(hear(7_000, report(3, 0, 0)), (0, 0.0, Some(6_000)));
        uses.keep(|gateway| gateway != "a");
        assert_eq!(uses.of("default", "chat").count(), 0);
    }
}
