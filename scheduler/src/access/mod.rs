//! Who calls, and whether they may: one layer in front of every call and page.
//! What is behind it never asks for a certificate or a token again; it only
//! looks at the namespaces and the node that the caller is confined to.

mod audit;
mod caller;
mod founding;
mod gate;
mod granted;
mod refusals;
mod security;

pub use audit::{Audit, AuditOptions};
pub use caller::Authenticator;
pub use founding::{prepare_authority, prepare_founding, read_founding};
pub use gate::GateLayer;
pub use granted::{Granted, mark, may_speak};
pub use security::{Security, Signed, Term};
