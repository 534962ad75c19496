//! Claims on whole sets of NVIDIA's GPUs in fewer bytes: the plan of a gang has to fit one
//! entry, and most of it would be the text of uuids.

use berth_model::{DeviceClaim, MemoryBytes, ShareMilli};
use berth_proto::log::v1;
use bytes::{BufMut as _, BytesMut};

use crate::problem::{Cause, Field, Problems};

const UUID_BYTES: usize = 16;
const PREFIX: &str = "GPU-";
/// Digits before each dash of a uuid.
const DASHES: [usize; 4] = [8, 12, 16, 20];

/// The claims in short, if they have one form: uuids as NVIDIA writes them, and the same share
/// and memory of each.
pub(crate) fn pack(claims: &[DeviceClaim]) -> Option<v1::PackedDevices> {
    let first = claims.first().filter(|first| first.share != ShareMilli::ZERO)?;
    let mut uuids = BytesMut::with_capacity(claims.len() * UUID_BYTES);
    for claim in claims {
        if (claim.share, claim.memory) != (first.share, first.memory) {
            return None;
        }
        uuids.put_slice(&bytes_of(&claim.uuid)?);
    }
    let share = Some(first.share).filter(|share| *share != ShareMilli::WHOLE);
    Some(v1::PackedDevices {
        uuids: uuids.freeze(),
        share_milli: share.map_or(0, |share| share.0),
        memory_bytes: first.memory.0,
    })
}

pub(crate) fn unpack(
    at: Field<'_>,
    packed: &v1::PackedDevices,
    problems: &mut Problems,
) -> Option<Vec<DeviceClaim>> {
    let (uuids, rest) = packed.uuids.as_chunks::<UUID_BYTES>();
    if !rest.is_empty() || uuids.is_empty() {
        problems.add(at.named("uuids"), Cause::Contradiction("are no uuids of 16 bytes each"));
        return None;
    }
    let share = if packed.share_milli == 0 { ShareMilli::WHOLE.0 } else { packed.share_milli };
    let claim = |uuid: &[u8; UUID_BYTES]| DeviceClaim {
        uuid: text_of(uuid),
        share: ShareMilli(share),
        memory: MemoryBytes(packed.memory_bytes),
    };
    Some(uuids.iter().map(claim).collect())
}

/// `None` for what is not exactly the text that [`text_of`] writes.
fn bytes_of(uuid: &str) -> Option<[u8; UUID_BYTES]> {
    let digits: Vec<u8> = uuid.strip_prefix(PREFIX)?.bytes().filter(|byte| *byte != b'-').collect();
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let mut bytes = [0; UUID_BYTES];
    if pairs.len() != UUID_BYTES {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let digit = |digit: u8| u8::try_from(char::from(digit).to_digit(16)?).ok();
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    (text_of(&bytes) == uuid).then_some(bytes)
}

fn text_of(bytes: &[u8; UUID_BYTES]) -> String {
    let mut text = PREFIX.to_owned();
    for (position, digit) in bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).enumerate() {
        if DASHES.contains(&position) {
            text.push('-');
        }
        text.extend(char::from_digit(u32::from(digit), 16));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_out_the_same_is_packed() {
        const UUID: &str = "GPU-0123abcd-4567-89ef-0123-456789abcdef";
        let claim = |uuid: &str, share, memory| DeviceClaim {
            uuid: uuid.to_owned(),
            share: ShareMilli(share),
            memory: MemoryBytes(memory),
        };
        let check = |claims: &[DeviceClaim], is_packed: bool| {
            let packed = pack(claims);
            assert_eq!(packed.is_some(), is_packed, "{claims:?}");
            let mut problems = Problems::default();
            let back = packed.map(|packed| unpack(Field::ROOT, &packed, &mut problems));
            assert!(back.is_none_or(|back| back.as_deref() == Some(claims)), "{claims:?}");
        };
        check(&[claim(UUID, 1000, 7), claim(&UUID.replace('b', "0"), 1000, 7)], true);
        check(&[claim(UUID, 250, 0)], true);
        check(&[], false);
        check(&[claim(UUID, 0, 7)], false);
        check(&[claim(UUID, 1000, 7), claim(UUID, 1000, 8)], false);
        check(&[claim(UUID, 1000, 7), claim(UUID, 999, 7)], false);
        for uuid in ["GPU-0", "MIG-0123abcd-4567-89ef-0123-456789abcdef", ""] {
            check(&[claim(uuid, 1000, 7)], false);
        }
        check(&[claim(&UUID.to_uppercase(), 1000, 7)], false);
        check(&[claim(&UUID.replace('-', ""), 1000, 7)], false);
        check(&[claim(&UUID.replace("abcd-4", "abcd4-"), 1000, 7)], false);
        check(&[claim(&UUID.replace("ef", "eg"), 1000, 7)], false);
        check(&[claim(&format!("{UUID}00"), 1000, 7)], false);
    }

    #[test]
    fn half_a_uuid_is_none() {
        for bytes in [0, 8, 17] {
            let mut problems = Problems::default();
            let uuids = vec![1; bytes].into();
            let packed = v1::PackedDevices { uuids, ..Default::default() };
            assert_eq!(unpack(Field::ROOT, &packed, &mut problems), None);
            assert!(problems.verdict::<()>(None).is_err());
        }
    }
}
