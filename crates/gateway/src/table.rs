//! The services by the names that callers use.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::Name;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::routes::{Routes, ServiceRoute};
use crate::service::{Newcomer, Service};

/// One state of it; another takes its place when the routes change.
#[derive(Clone, Default)]
pub(crate) struct Table {
    /// Whether anybody has told who serves what.
    pub is_told: bool,
    services: BTreeMap<(Name, Name), Arc<Service>>,
    by_model: BTreeMap<String, Arc<Service>>,
    by_name: BTreeMap<String, Arc<Service>>,
}

impl Table {
    /// With those services; of those that it had before, what is known of their replicas stays.
    pub fn with(
        &self,
        routes: &Routes,
        clock: &Arc<Clock>,
    ) -> (Table, Vec<(Arc<Service>, Newcomer)>) {
        let mut table = Table { is_told: true, ..Table::default() };
        let mut newcomers = Vec::new();
        for route in &routes.services {
            let key = (route.namespace.clone(), route.name.clone());
            let service = self.services.get(&key).cloned();
            let service = service.unwrap_or_else(|| {
                let id = format!("{}/{}", route.namespace, route.name);
                Arc::new(Service::new(id, route.clone(), Arc::clone(clock)))
            });
            let found = service.update(route).into_iter();
            newcomers.extend(found.map(|newcomer| (Arc::clone(&service), newcomer)));
            table.services.insert(key, service);
        }
        let ended = self.services.iter().filter(|(key, _)| !table.services.contains_key(key));
        ended.for_each(|(_, service)| service.end());
        table.by_model = named(routes, &table.services, |route| route.model.clone());
        table.by_name = named(routes, &table.services, |route| route.name.to_string());
        (table, newcomers)
    }

    pub fn of_model(&self, model: &str) -> Option<&Arc<Service>> {
        self.by_model.get(model)
    }

    pub fn of_name(&self, name: &str) -> Option<&Arc<Service>> {
        self.by_name.get(name)
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// As OpenAI's API lists models.
    pub fn models(&self) -> Value {
        let data: Vec<Value> =
            self.by_model.iter().map(|(id, service)| model(id, service)).collect();
        json!({ "object": "list", "data": data })
    }

    pub fn model(&self, id: &str) -> Option<Value> {
        self.by_model.get(id).map(|service| model(id, service))
    }
}

fn model(id: &str, service: &Service) -> Value {
    let route = service.route();
    json!({
        "id": id,
        "object": "model",
        "created": route.created_s,
        "owned_by": route.namespace.to_string(),
    })
}

/// By a name of theirs, where one alone has it; with the namespace before it else.
fn named(
    routes: &Routes,
    services: &BTreeMap<(Name, Name), Arc<Service>>,
    name_of: impl Fn(&ServiceRoute) -> String,
) -> BTreeMap<String, Arc<Service>> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for route in &routes.services {
        *counts.entry(name_of(route)).or_default() += 1;
    }
    let mut named = BTreeMap::new();
    for route in &routes.services {
        let name = name_of(route);
        let service = services.get(&(route.namespace.clone(), route.name.clone()));
        let Some(service) = service else { continue };
        let id = match counts.get(&name) {
            Some(1) => name,
            _ => format!("{}/{name}", route.namespace),
        };
        named.insert(id, Arc::clone(service));
    }
    named
}
