//! A cluster with what its leader has heard of its hosts.

use berth_model::{NodeId, StateMs};
use berth_reconcile::{GuardRules, HostUse, HostWatch};
use berth_state::Command;

use crate::world::World;

pub const BEAT_MS: u64 = 2_000;

pub struct Hosts {
    pub world: World,
    pub watch: HostWatch,
    pub rules: GuardRules,
}

impl Hosts {
    pub fn new(nodes: u64) -> Hosts {
        let world = World::new(nodes);
        let watch = HostWatch::new(StateMs(world.now));
        Hosts { world, watch, rules: GuardRules::default() }
    }

    pub fn now(&self) -> StateMs {
        StateMs(self.world.now)
    }

    pub fn hear_of(&mut self, node: NodeId, used: HostUse) {
        let now = self.now();
        self.watch.hear(node, used, &self.rules, now);
    }

    /// What the leader proposes about guards is granted.
    pub fn guard(&mut self) {
        let now = self.now();
        self.watch.look(&self.world.state, now);
        for command in self.watch.commands(&self.world.state, &self.rules, now) {
            let Command::SetGuards { node, .. } = command else { panic!("{command:?}") };
            self.watch.has_proposed(node, now);
            self.world.one(command).unwrap();
        }
    }
}
