//! Idempotency keys.

/// A key that no other call has: 16 random bytes in hex.
///
/// # Panics
/// Where the system gives no random bytes: without them no key can be promised
/// to be new.
#[must_use]
pub fn new_key() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ() {
        let (first, second) = (new_key(), new_key());
        assert_ne!(first, second);
        assert_eq!(first.len(), 32);
    }
}
