//! Messages on disk, each with its length and checksum, so that a torn or
//! changed one is never taken for another.

use std::io::{self, Read};

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

/// Reads one message of at most `bytes_max` bytes from where something else may follow, of which
/// nothing is taken.
///
/// # Errors
/// The system's; what was read is no message.
pub fn read_one<M: Message + Default>(source: &mut impl Read, bytes_max: u64) -> io::Result<M> {
    let mut bytes = vec![0; HEADER_BYTES];
    source.read_exact(&mut bytes)?;
    let [l0, l1, l2, l3, ..] = bytes[..] else { return Err(io::ErrorKind::InvalidData.into()) };
    let length = u64::from(u32::from_le_bytes([l0, l1, l2, l3])).min(bytes_max);
    source.take(length).read_to_end(&mut bytes)?;
    match decode(&bytes) {
        Framed::Message(message, _) => Ok(message),
        Framed::End => Err(io::ErrorKind::UnexpectedEof.into()),
        Framed::Garbled(problem) => Err(io::Error::new(io::ErrorKind::InvalidData, problem)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_follows_a_message_nothing_is_taken() {
        let bytes = [&*encode(&"berth".to_owned()), b"rest"].concat();
        let mut source = &*bytes;
        assert_eq!(read_one::<String>(&mut source, 64).unwrap(), "berth");
        assert_eq!(source, b"rest");
        // Nor is a longer one waited for.
        assert!(read_one::<String>(&mut &*bytes, 6).is_err());
        assert!(read_one::<String>(&mut &bytes[..9], 64).is_err());
    }

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
