//! What a decision knows of a request.

use crate::prefix::Blocks;

/// Of one request, as far as it is known before anything is asked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Request {
    /// Tokens of the prompt; 0 where the request is not about text, so that every replica has the
    /// same work with it.
    pub prompt_tokens: u32,
    /// Of the user, session or address that asks, where requests of one are to stay together.
    pub key: Option<u64>,
    /// The prompt in blocks; empty where nothing is known of it.
    pub prefix: Blocks,
}
