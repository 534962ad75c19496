//! Messages on disk, each with its length and checksum, so that a torn or
//! changed one is never taken for another.

use prost::Message;

const HEADER_BYTES: usize = 8;
/// The largest message in a file of the agent's: the desired state of a node
/// with its specifications.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// What follows at some place of a file.
#[derive(Debug, PartialEq)]
pub enum Framed<M> {
    /// A message, and how many bytes it takes.
    Message(M, usize),
    /// Nothing was ever written here.
    End,
    Garbled(&'static str),
}

/// Length, CRC32C and content, little-endian.
pub fn encode(message: &impl Message) -> Vec<u8> {
    let content = message.encode_to_vec();
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER_BYTES + content.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&content).to_le_bytes());
    bytes.extend_from_slice(&content);
    bytes
}

/// Reads what `bytes` begins with.
pub fn decode<M: Message + Default>(bytes: &[u8]) -> Framed<M> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return if bytes.iter().all(|byte| *byte == 0) {
            Framed::End
        } else {
            Framed::Garbled("it ends within a header")
        };
    };
    if *header == [0; HEADER_BYTES] {
        return Framed::End;
    }
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if length > MESSAGE_BYTES_MAX {
        return Framed::Garbled("a length is impossible");
    }
    let Some(content) = rest.get(..length) else {
        return Framed::Garbled("it ends within a message");
    };
    if crc32c::crc32c(content) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Framed::Garbled("a checksum does not match");
    }
    match M::decode(content) {
        Ok(message) => Framed::Message(message, HEADER_BYTES + length),
        Err(_) => Framed::Garbled("a message cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_back_and_nothing_else_is() {
        let bytes = encode(&"berth".to_owned());
        assert_eq!(decode(&bytes), Framed::Message("berth".to_owned(), bytes.len()));
        assert_eq!(decode::<String>(&[0; 64]), Framed::End);
        assert_eq!(decode::<String>(&[]), Framed::End);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(matches!(decode::<String>(&changed), Framed::Garbled(_)), "byte {at}");
            if at > 0 {
                assert!(matches!(decode::<String>(&bytes[..at]), Framed::Garbled(_)), "{at} bytes");
            }
        }
    }
}
