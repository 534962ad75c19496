//! Values as they lie in sled: a version, a checksum over key and value, then
//! the content. sled's own checksums did not stop it from opening damaged
//! stores with rows missing (measured November 2026), so every value has one.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::device::Record;

/// Format of every value in the store.
pub(super) const VERSION: u8 = 1;
const HEAD_BYTES: usize = 5;

fn checksum(key: &[u8], content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), content)
}

fn seal(key: &[u8], mut value: BytesMut) -> Vec<u8> {
    value[0] = VERSION;
    let crc = checksum(key, &value[HEAD_BYTES..]);
    value[1..HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
    value.into()
}

fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], String> {
    let Some((head, content)) = value.split_first_chunk::<HEAD_BYTES>() else {
        return Err("value is cut short".to_owned());
    };
    if u32::from_le_bytes([head[1], head[2], head[3], head[4]]) != checksum(key, content) {
        return Err("checksum is wrong".to_owned());
    }
    if head[0] != VERSION {
        return Err(format!("value has format {}, this build reads {VERSION}", head[0]));
    }
    Ok(content)
}

pub(super) fn log_key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

pub(super) fn encode_record(record: &Record) -> Vec<u8> {
    let mut value = BytesMut::with_capacity(HEAD_BYTES + 9 + record.body.len());
    value.put_bytes(0, HEAD_BYTES);
    value.put_u64_le(record.term);
    value.put_u8(record.kind);
    value.put_slice(&record.body);
    seal(&log_key(record.index), value)
}

pub(super) fn decode_record(key: &[u8], value: &[u8]) -> Result<Record, String> {
    let index: [u8; 8] = key.try_into().map_err(|_| "key is no log index".to_owned())?;
    let content = unseal(key, value)?;
    let Some((head, body)) = content.split_first_chunk::<9>() else {
        return Err("value is cut short".to_owned());
    };
    let mut term = [0; 8];
    term.copy_from_slice(&head[..8]);
    Ok(Record {
        index: u64::from_be_bytes(index),
        term: u64::from_le_bytes(term),
        kind: head[8],
        body: Bytes::copy_from_slice(body),
    })
}

pub(super) fn encode_meta<T: Serialize>(key: &str, content: &T) -> std::io::Result<Vec<u8>> {
    let encoded = postcard::to_stdvec(content).map_err(std::io::Error::other)?;
    let mut value = BytesMut::with_capacity(HEAD_BYTES + encoded.len());
    value.put_bytes(0, HEAD_BYTES);
    value.put_slice(&encoded);
    Ok(seal(key.as_bytes(), value))
}

pub(super) fn decode_meta<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, String> {
    let content = unseal(key.as_bytes(), value)?;
    postcard::from_bytes(content).map_err(|error| error.to_string())
}
