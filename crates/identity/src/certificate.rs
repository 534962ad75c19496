//! What a certificate says, once a chain to the authority has been proved.

use berth_model::WallMs;
use thiserror::Error;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::machine::{MachineId, ParseMachineError};
use crate::token::digest;

/// Serial numbers are the time of issue in 8 bytes, how often the machine had been
/// revoked in 4, and 4 random ones.
pub(crate) const SERIAL_BYTES: usize = 16;

/// The holder of a certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certified {
    pub id: MachineId,
    /// When it was signed, by the clock of the scheduler that did.
    pub issued: WallMs,
    /// How often the machine had been revoked when it was let in.
    pub times_revoked: u32,
    pub expires: WallMs,
    /// SHA-256 of the public key with its algorithm, as in the certificate.
    pub key_hash: [u8; 32],
}

/// Why a certificate says nothing that counts here.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ReadError {
    #[error("not an X.509 certificate")]
    Garbled,
    #[error("the certificate names no machine of a cluster in its subject alternative names")]
    NoMachine,
    #[error("the certificate names more than one machine")]
    ManyMachines,
    #[error("the certificate names a machine in a way that is not ours")]
    BadMachine(#[from] ParseMachineError),
    #[error("the certificate's serial number does not tell when it was issued")]
    Serial,
}

/// Reads a certificate in DER. It proves nothing about who signed it.
///
/// # Errors
/// When it is not one that an authority of a cluster signs.
pub fn read(der: &[u8]) -> Result<Certified, ReadError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| ReadError::Garbled)?;
    let (issued, times_revoked) = read_serial(certificate.raw_serial())?;
    Ok(Certified {
        id: only_uri(der)?.parse()?,
        issued,
        times_revoked,
        expires: WallMs(seconds_to_ms(certificate.validity().not_after.timestamp())),
        key_hash: digest(certificate.public_key().raw),
    })
}

/// The one name of a certificate that is a URI.
pub(crate) fn only_uri(der: &[u8]) -> Result<String, ReadError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| ReadError::Garbled)?;
    let names = certificate.subject_alternative_name().map_err(|_| ReadError::Garbled)?;
    let names = names.map(|extension| extension.value.general_names.as_slice());
    let mut uris = names.unwrap_or_default().iter().filter_map(|name| {
        let GeneralName::URI(uri) = name else { return None };
        Some(*uri)
    });
    let uri = uris.next().ok_or(ReadError::NoMachine)?;
    match uris.next() {
        Some(_) => Err(ReadError::ManyMachines),
        None => Ok(uri.to_owned()),
    }
}

/// DER drops leading zeroes and adds one where the first bit is set.
fn read_serial(serial: &[u8]) -> Result<(WallMs, u32), ReadError> {
    let first = serial.iter().position(|byte| *byte != 0).ok_or(ReadError::Serial)?;
    let digits = &serial[first..];
    let mut whole = [0; SERIAL_BYTES];
    let start = SERIAL_BYTES.checked_sub(digits.len()).ok_or(ReadError::Serial)?;
    whole[start..].copy_from_slice(digits);
    let (time, rest) = whole.split_at(8);
    let (times, _) = rest.split_at(4);
    let time = <[u8; 8]>::try_from(time).map_err(|_| ReadError::Serial)?;
    let times = <[u8; 4]>::try_from(times).map_err(|_| ReadError::Serial)?;
    Ok((WallMs(u64::from_be_bytes(time)), u32::from_be_bytes(times)))
}

fn seconds_to_ms(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1000)
}
