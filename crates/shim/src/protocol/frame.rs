//! Length-prefixed frames. It refuses a length above the bound before it has read a byte of the body.

use prost::Message;

/// Upper bound of one frame's body in bytes: a spec is at most 48 KiB and an environment rarely larger, so 1 MiB
/// leaves room and still bounds what a confused peer can make the shim hold.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

const LENGTH_BYTES: usize = 4;
/// A buffer larger than this is given back once it is empty; most frames are far smaller.
const KEPT_CAPACITY_BYTES: usize = 16 << 10;

/// Why bytes from a peer are not a message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length prefix exceeds [`FRAME_BYTES_MAX`].
    #[error("frame of {length_bytes} bytes exceeds the bound of {FRAME_BYTES_MAX}")]
    TooLong {
        /// The announced length in bytes.
        length_bytes: usize,
    },
    /// The body is not the expected protobuf message.
    #[error("frame is not a valid message")]
    Garbled(#[from] prost::DecodeError),
}

/// Appends `message` as one frame to `out`.
///
/// # Errors
/// [`FrameError::TooLong`] if the encoded message exceeds [`FRAME_BYTES_MAX`]; nothing is appended then.
pub fn encode_frame(message: &impl Message, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let length_bytes = message.encoded_len();
    if length_bytes > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { length_bytes });
    }
    let prefix = u32::try_from(length_bytes).expect("bounded by FRAME_BYTES_MAX, which fits u32");
    out.reserve(LENGTH_BYTES + length_bytes);
    out.extend_from_slice(&prefix.to_le_bytes());
    out.extend_from_slice(&message.encode_to_vec());
    Ok(())
}

/// Bytes received so far, given out as whole messages.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    consumed: usize,
}

impl FrameBuffer {
    /// Adds bytes as they came from the socket.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// After an error the stream has lost its framing and the connection must be closed.
    pub fn next_message<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        let pending = &self.bytes[self.consumed..];
        let Some((prefix, rest)) = pending.split_first_chunk::<LENGTH_BYTES>() else {
            self.compact();
            return Ok(None);
        };
        let length_bytes = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
        if length_bytes > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong { length_bytes });
        }
        let Some(body) = rest.get(..length_bytes) else {
            self.compact();
            return Ok(None);
        };
        let message = M::decode(body)?;
        self.consumed += LENGTH_BYTES + length_bytes;
        Ok(Some(message))
    }

    fn compact(&mut self) {
        self.bytes.drain(..self.consumed);
        self.consumed = 0;
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT_CAPACITY_BYTES {
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Request, RequestBody, RetireRequest};

    fn retire(id: u64) -> Request {
        Request {
            id,
            body: Some(RequestBody::Retire(RetireRequest {
                allocation_id: format!("1.main.{id}.1"),
            })),
        }
    }

    #[test]
    fn messages_survive_any_split_of_the_stream() {
        let mut stream = Vec::new();
        for id in 1..=3 {
            encode_frame(&retire(id), &mut stream).unwrap();
        }
        for chunk_bytes in 1..stream.len() {
            let mut buffer = FrameBuffer::default();
            let mut seen = Vec::new();
            for chunk in stream.chunks(chunk_bytes) {
                buffer.extend(chunk);
                while let Some(message) = buffer.next_message::<Request>().unwrap() {
                    seen.push(message);
                }
            }
            assert_eq!(seen, (1..=3).map(retire).collect::<Vec<_>>(), "chunks of {chunk_bytes}");
        }
    }

    #[test]
    fn a_length_above_the_bound_is_refused_before_the_body() {
        let mut buffer = FrameBuffer::default();
        buffer.extend(&u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_le_bytes());
        assert!(matches!(buffer.next_message::<Request>(), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn a_body_that_is_no_message_is_refused() {
        let mut buffer = FrameBuffer::default();
        buffer.extend(&[3, 0, 0, 0, 0xff, 0xff, 0xff]);
        assert!(matches!(buffer.next_message::<Request>(), Err(FrameError::Garbled(_))));
    }

    #[test]
    fn a_message_above_the_bound_is_not_sent() {
        let mut request = retire(1);
        request.body =
            Some(RequestBody::Retire(RetireRequest { allocation_id: "x".repeat(FRAME_BYTES_MAX) }));
        let mut out = Vec::new();
        assert!(matches!(encode_frame(&request, &mut out), Err(FrameError::TooLong { .. })));
        assert!(out.is_empty());
    }
}
