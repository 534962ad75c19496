//! `[gateway]`

use std::path::PathBuf;

use super::scheduler::loopback;
use crate::kind::{ADDRESS, LISTEN, PATH, SIZE, SWITCH, WAIT};
use crate::reader::Reader;
use crate::source::Setting;
use crate::units::Address;

/// `[gateway]`: a gateway by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// The schedulers that tell the routes.
    pub servers: Setting<Vec<Address>>,
    /// Requests of callers.
    pub listen: Setting<Address>,
    /// Health and metrics.
    pub http: Option<Setting<Address>>,
    /// Where the last routes are kept; not kept where absent.
    pub data_dir: Option<Setting<PathBuf>>,
    /// Where decisions are recorded; not recorded where absent.
    pub record: Option<Setting<PathBuf>>,
    /// Certificate, key and authority for the schedulers; plain text where absent.
    pub tls_dir: Option<Setting<PathBuf>>,
    /// Whether to listen to other machines without encryption.
    pub plain_text: Setting<bool>,
    /// The largest body that is read whole in bytes.
    pub body_max: Setting<u64>,
    /// Milliseconds that answers may take to end when the gateway stops.
    pub drain: Setting<u64>,
}

impl Gateway {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            servers: reader.list("gateway.servers", &ADDRESS, vec![loopback(7070)]),
            listen: reader.setting("gateway.listen", &LISTEN, loopback(7072)),
            http: reader.optional("gateway.http", &LISTEN),
            data_dir: reader.optional("gateway.data_dir", &PATH),
            record: reader.optional("gateway.record", &PATH),
            tls_dir: reader.optional("gateway.tls_dir", &PATH),
            plain_text: reader.setting("gateway.plain_text", &SWITCH, false),
            body_max: reader.setting("gateway.body_max", &SIZE, 32 << 20),
            drain: reader.setting("gateway.drain", &WAIT, 30_000),
        }
    }
}
