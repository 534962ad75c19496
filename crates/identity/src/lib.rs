//! Who is who: certificates of machines, tokens of persons and of machines that
//! join, and what each call asks of its caller. It decides and proves; it keeps
//! no state, and it serves nothing by itself.

#![forbid(unsafe_code)]

mod authority;
mod certificate;
mod dialer;
pub mod folder;
mod machine;
mod pages;
mod renewal;
mod request;
mod rule;
mod seal;
pub mod tls;
mod token;

pub use authority::{Authority, AuthorityError, Validity, random_cluster_id, requested_key};
pub use certificate::{Certified, ReadError, read};
pub use dialer::Dialer;
pub use machine::{MachineId, ParseMachineError};
pub use pages::{Authenticate, serve_pages};
pub use renewal::keep_fresh;
pub use request::{KeyMaterial, RequestError};
pub use rule::{
    Caller, Denied, MachineProof, Page, Person, PersonProof, Rule, StandardCall, decide, rule_of,
    rule_of_page, rule_of_standard,
};
pub use seal::{SealError, SealKey};
pub use token::{Fingerprint, Secret, Token, TokenError, digest, random_token_id};

/// A machine's certificate, but not a person's, is good for this many days.
pub const CERTIFICATE_DAYS: u32 = 30;

/// A certificate that expired less than this many days ago may still be used,
/// for nothing but its own renewal.
pub const LAPSED_DAYS: u32 = 90;
