//! What services are made with, and who wants to know what they decide.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_routing::record::{Happening, Tell};

use crate::clock::Clock;
use crate::routes::ServiceRoute;
use crate::service::Service;

/// Hears of all that pools are told and decide, of each pool in its order. It is called while the
/// pool is locked: whoever takes long holds requests up.
pub trait Witness: Send + Sync {
    /// A pool begins for a service, `NAMESPACE/NAME`; its number is no other's.
    fn begun(&self, pool: u64, service: &str);

    fn happened(&self, pool: u64, happening: Happening);
}

pub(crate) struct Making {
    pub clock: Arc<Clock>,
    pub witness: Option<Arc<dyn Witness>>,
    pools: AtomicU64,
}

impl Making {
    pub fn new(clock: Arc<Clock>, witness: Option<Arc<dyn Witness>>) -> Making {
        Making { clock, witness, pools: AtomicU64::new(0) }
    }

    pub fn service(&self, id: String, route: ServiceRoute) -> Service {
        let tell = self.witness.as_ref().map(|witness| {
            let pool = self.pools.fetch_add(1, Ordering::Relaxed) + 1;
            witness.begun(pool, &id);
            let witness = Arc::clone(witness);
            Box::new(move |happening| witness.happened(pool, happening)) as Tell
        });
        Service::new(id, route, Arc::clone(&self.clock), tell)
    }
}
