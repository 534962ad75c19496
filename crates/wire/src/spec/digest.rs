//! The digest by which a specification is known: equal specifications have
//! equal digests on every machine and in every version that knows them.

use berth_model::{JobSpec, SpecDigest};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::job_spec_to_proto;

/// SHA-256 over the canonical encoding: fields in the order of their numbers,
/// defaults left out, maps in the order of their keys. A field that is added
/// later and left at its default does not change it.
pub fn spec_digest(spec: &JobSpec) -> SpecDigest {
    SpecDigest(Sha256::digest(job_spec_to_proto(spec).encode_to_vec()).into())
}
