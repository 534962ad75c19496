//! The services by the names that callers use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::Name;
use serde_json::{Value, json};

use crate::making::Making;
use crate::routes::{Routes, ServiceRoute};
use crate::service::{Leaver, Newcomer, Service};

/// One state of it; another takes its place when the routes change.
#[derive(Clone, Default)]
pub(crate) struct Table {
    /// Whether anybody has told who serves what.
    pub is_told: bool,
    services: BTreeMap<(Name, Name), Arc<Service>>,
    by_model: Names,
    by_name: Names,
}

/// A table that takes another's place.
pub(crate) struct Next {
    pub table: Table,
    /// Replicas to look at from now on.
    pub newcomers: Vec<(Arc<Service>, Newcomer)>,
    /// Replicas that are asked no more.
    pub leavers: Vec<Leaver>,
}

impl Table {
    /// With those services; of those that it had before, what is known of their replicas stays.
    pub fn with(&self, routes: &Routes, gateways: u32, making: &Making) -> Next {
        let mut table = Table { is_told: true, ..Table::default() };
        let (mut newcomers, mut leavers) = (Vec::new(), Vec::new());
        for route in &routes.services {
            let key = (route.namespace.clone(), route.name.clone());
            let service = self.services.get(&key).cloned();
            let service = service.unwrap_or_else(|| {
                let id = format!("{}/{}", route.namespace, route.name);
                Arc::new(making.service(id, route.clone()))
            });
            let changes = service.update(route, gateways);
            let found = changes.newcomers.into_iter();
            newcomers.extend(found.map(|newcomer| (Arc::clone(&service), newcomer)));
            leavers.extend(changes.leavers);
            table.services.insert(key, service);
        }
        let ended = self.services.iter().filter(|(key, _)| !table.services.contains_key(key));
        leavers.extend(ended.flat_map(|(_, service)| service.end()));
        table.by_model = Names::of(routes, &table.services, |route| &route.model);
        table.by_name = Names::of(routes, &table.services, |route| route.name.as_str());
        Next { table, newcomers, leavers }
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
            self.by_model.told.iter().map(|(id, service)| model(id, service)).collect();
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

/// Services by a name of theirs. Of two of one namespace the one that was there first has it.
#[derive(Clone, Default)]
struct Names {
    /// As they are told of: the name alone where those of one namespace have it.
    told: BTreeMap<String, Arc<Service>>,
    /// With the namespace before it.
    full: BTreeMap<String, Arc<Service>>,
}

impl Names {
    fn of(
        routes: &Routes,
        services: &BTreeMap<(Name, Name), Arc<Service>>,
        name_of: impl Fn(&ServiceRoute) -> &str,
    ) -> Names {
        let mut namespaces: BTreeMap<&str, BTreeSet<&Name>> = BTreeMap::new();
        for route in &routes.services {
            namespaces.entry(name_of(route)).or_default().insert(&route.namespace);
        }
        let mut oldest: Vec<&ServiceRoute> = routes.services.iter().collect();
        oldest.sort_by_key(|route| route.created_s);
        let mut names = Names::default();
        for route in oldest {
            let name = name_of(route);
            let service = services.get(&(route.namespace.clone(), route.name.clone()));
            let Some(service) = service else { continue };
            let full = format!("{}/{name}", route.namespace);
            let is_one = namespaces.get(name).is_some_and(|namespaces| namespaces.len() == 1);
            let told = if is_one { name.to_owned() } else { full.clone() };
            names.told.entry(told).or_insert_with(|| Arc::clone(service));
            names.full.entry(full).or_insert_with(|| Arc::clone(service));
        }
        names
    }

    fn get(&self, name: &str) -> Option<&Arc<Service>> {
        self.told.get(name).or_else(|| self.full.get(name))
    }
}
