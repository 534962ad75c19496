//! Behaviours of apply, and random lives of a cluster with every invariant
//! checked after every entry.

mod access;
mod away;
mod fences;
mod gang_places;
mod gangs;
mod jobs;
mod lending;
mod let_go;
mod lives;
mod moves;
mod namespaces;
mod node_reservations;
mod nodes;
mod orphans;
mod policies;
mod quota_races;
mod reservations;
mod restores;
mod scale;
mod truth;
mod world;
