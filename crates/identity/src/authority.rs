//! The authority of a cluster: it signs who is which machine.

use berth_model::{Machine, WallMs};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _,
    SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use thiserror::Error;
use time::OffsetDateTime;

use crate::certificate::SERIAL_BYTES;
use crate::machine::{MachineId, from_hex, hex};
use crate::request::{KeyMaterial, RequestError};
use crate::seal::{SealError, SealKey};
use crate::token::{Fingerprint, digest};

/// How long an authority is good for.
const AUTHORITY_DAYS: u32 = 3650;

/// Certificates begin this much before they are signed: clocks differ.
const SKEW: time::Duration = time::Duration::minutes(5);

/// A trust domain in SPIFFE's terms: what the names of its machines begin with.
const CLUSTER_URI: &str = "spiffe://";

/// Signs for one cluster.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    key: KeyMaterial,
}

/// When a certificate is signed, and how long it is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    pub now: WallMs,
    pub days: u32,
    /// How often the machine had been revoked when it was let in; a renewal says
    /// what the certificate before it said.
    pub times_revoked: u32,
}

/// Why the authority signed nothing, or is none.
#[derive(Debug, Error)]
pub enum AuthorityError {
    #[error("make the authority")]
    Make(#[source] rcgen::Error),
    #[error(transparent)]
    Key(#[from] RequestError),
    #[error("read the authority's certificate")]
    Certificate(#[source] rcgen::Error),
    #[error("the authority's key does not belong to its certificate")]
    OtherKey,
    #[error(transparent)]
    Sealed(#[from] SealError),
    #[error("read the certificate request; expected PKCS#10, signed by its own key")]
    Request(#[source] rcgen::Error),
    #[error("sign a certificate for {id}")]
    Sign { id: String, source: rcgen::Error },
    #[error("the system has no randomness to give")]
    Randomness(#[from] getrandom::Error),
    #[error("the system's clock shows a time that no certificate can hold")]
    Clock,
}

impl Authority {
    /// A new one, with a key of its own.
    ///
    /// # Errors
    /// When the system has no randomness to give, or shows an absurd time.
    pub fn create(cluster_id: [u8; 16], now: WallMs) -> Result<Authority, AuthorityError> {
        let key = KeyMaterial::generate()?;
        let mut params = CertificateParams::default();
        let (not_before, not_after) =
            span(Validity { now, days: AUTHORITY_DAYS, times_revoked: 0 })?;
        (params.not_before, params.not_after) = (not_before, not_after);
        params.serial_number = Some(serial(now, 0)?);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let cluster = format!("{CLUSTER_URI}{}", hex(&cluster_id));
        let cluster = cluster.try_into().map_err(AuthorityError::Make)?;
        params.subject_alt_names = vec![SanType::URI(cluster)];
        params.distinguished_name = name("Berth authority", &hex(&cluster_id));
        let certificate = params.self_signed(key.pair()).map_err(AuthorityError::Make)?;
        Authority::new(certificate.der().clone(), key)
    }

    /// The authority that a folder holds.
    ///
    /// # Errors
    /// When key and certificate do not belong together.
    pub fn new(
        certificate: CertificateDer<'static>,
        key: KeyMaterial,
    ) -> Result<Authority, AuthorityError> {
        // Issuer takes a key by value, and the key is also what gets sealed.
        let signing = KeyMaterial::from_pem(&key.to_pem())?;
        let said = x509_parser::parse_x509_certificate(&certificate)
            .map(|(_, read)| digest(read.public_key().raw))
            .map_err(|_| AuthorityError::Certificate(rcgen::Error::CouldNotParseCertificate))?;
        if said != digest(&key.pair().subject_public_key_info()) {
            return Err(AuthorityError::OtherKey);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, signing.into_pair())
            .map_err(AuthorityError::Certificate)?;
        Ok(Authority { certificate, issuer, key })
    }

    /// The authority whose signing key the replicated state holds.
    ///
    /// # Errors
    /// When the seal key is not the right one.
    pub fn unseal(
        certificate: &[u8],
        sealed_key: &[u8],
        key: &SealKey,
    ) -> Result<Authority, AuthorityError> {
        let pem = key.open(sealed_key, certificate)?;
        let pem = String::from_utf8(pem).map_err(|_| SealError::Mismatch)?;
        let certificate = CertificateDer::from(certificate.to_vec());
        Authority::new(certificate, KeyMaterial::from_pem(&pem)?)
    }

    /// The signing key, as the replicated state holds it.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn sealed_key(&self, key: &SealKey) -> Result<Vec<u8>, AuthorityError> {
        Ok(key.seal(self.key.to_pem().as_bytes(), &self.certificate)?)
    }

    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// For a file that its owner alone may read.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.to_pem()
    }

    /// The cluster that it signs for; none for an authority that is not ours.
    #[must_use]
    pub fn cluster_id(&self) -> Option<[u8; 16]> {
        let uri = crate::certificate::only_uri(&self.certificate).ok()?;
        from_hex(uri.strip_prefix(CLUSTER_URI)?)
    }

    /// What a token pins it by.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Certifies the key of a request as that of a machine. Whatever else the
    /// request asks for is not heard.
    ///
    /// # Errors
    /// When the request is not one, or the clock is absurd.
    pub fn sign(
        &self,
        request: &[u8],
        id: &MachineId,
        validity: Validity,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let request = CertificateSigningRequestDer::from(request);
        let mut request =
            CertificateSigningRequestParams::from_der(&request).map_err(AuthorityError::Request)?;
        let unsigned = |source| AuthorityError::Sign { id: id.to_string(), source };
        let mut params = CertificateParams::default();
        let uri = id.to_string().try_into().map_err(unsigned)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.distinguished_name = name(&id.name, id.machine.as_str());
        (params.not_before, params.not_after) = span(validity)?;
        params.serial_number = Some(serial(validity.now, validity.times_revoked)?);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        // Agents and gateways serve pages; clients serve nothing.
        match id.machine {
            Machine::Server | Machine::Agent | Machine::Gateway => {
                params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            }
            Machine::Client => {}
        }
        params.use_authority_key_identifier_extension = true;
        request.params = params;
        let signed = request.signed_by(&self.issuer).map_err(unsigned)?;
        Ok(signed.der().clone())
    }
}

/// The id of a new cluster.
///
/// # Errors
/// When the system has no randomness to give.
pub fn random_cluster_id() -> Result<[u8; 16], getrandom::Error> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    Ok(id)
}

/// SHA-256 of the public key that a request wants certified, as a certificate
/// for it will show it.
///
/// # Errors
/// When it is no request that its own key signed.
pub fn requested_key(request: &[u8]) -> Result<[u8; 32], AuthorityError> {
    let request = CertificateSigningRequestDer::from(request);
    let request = CertificateSigningRequestParams::from_der(&request);
    let request = request.map_err(AuthorityError::Request)?;
    Ok(digest(&request.public_key.subject_public_key_info()))
}

fn name(common: &str, unit: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name.push(DnType::OrganizationalUnitName, unit);
    name
}

fn span(validity: Validity) -> Result<(OffsetDateTime, OffsetDateTime), AuthorityError> {
    let seconds = i64::try_from(validity.now.0 / 1000).map_err(|_| AuthorityError::Clock)?;
    let now = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| AuthorityError::Clock)?;
    let end = now.checked_add(time::Duration::days(i64::from(validity.days)));
    let begin = now.checked_sub(SKEW).ok_or(AuthorityError::Clock)?;
    Ok((begin, end.ok_or(AuthorityError::Clock)?))
}

/// Tells when the certificate was signed, and how often its machine had been
/// revoked: so one row revokes all that a machine has.
fn serial(now: WallMs, times_revoked: u32) -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; SERIAL_BYTES];
    bytes[..8].copy_from_slice(&now.0.to_be_bytes());
    bytes[8..12].copy_from_slice(&times_revoked.to_be_bytes());
    getrandom::fill(&mut bytes[12..])?;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallMs = WallMs(1_800_000_000_000);
    const VALIDITY: Validity = Validity { now: NOW, days: 30, times_revoked: 7 };

    fn authority() -> Authority {
        Authority::create([1; 16], NOW).unwrap()
    }

    #[test]
    fn an_authority_knows_its_cluster_and_is_no_machine() {
        assert_eq!(authority().cluster_id(), Some([1; 16]));
        assert!(crate::read(authority().certificate()).is_err());
    }

    #[test]
    fn a_certificate_says_what_it_was_signed_for() {
        let key = KeyMaterial::generate().unwrap();
        let request = key.request().unwrap();
        let id = MachineId {
            cluster_id: [1; 16],
            machine: Machine::Agent,
            name: "a".to_owned(),
            pool: None,
        };
        let signed = authority().sign(&request, &id, VALIDITY).unwrap();
        let certified = crate::read(&signed).unwrap();
        assert_eq!(certified.id, id);
        assert_eq!((certified.issued, certified.times_revoked), (NOW, 7));
        assert_eq!(certified.expires, WallMs(NOW.0 + 30 * 86_400_000));
        assert_eq!(certified.key_hash, requested_key(&request).unwrap());
    }

    #[test]
    fn an_issue_time_of_any_size_survives_the_serial_number() {
        let key = KeyMaterial::generate().unwrap();
        let request = key.request().unwrap();
        let id = MachineId::scheduler([1; 16], 1);
        for ms in [1, 127, 128, 255, 256, 1_700_000_000_000, 0x7fff_ffff_ffff] {
            let now = WallMs(ms);
            let signed =
                authority().sign(&request, &id, Validity { now, days: 1, times_revoked: 0 });
            if let Ok(signed) = signed {
                assert_eq!(crate::read(&signed).unwrap().issued, now, "{ms}");
            }
        }
    }

    #[test]
    fn the_signing_key_comes_back_out_of_its_seal_alone() {
        let authority = authority();
        let seal = SealKey::generate().unwrap();
        let sealed = authority.sealed_key(&seal).unwrap();
        let again = Authority::unseal(authority.certificate(), &sealed, &seal).unwrap();
        assert_eq!(again.key_pem(), authority.key_pem());
        let other = SealKey::generate().unwrap();
        assert!(matches!(
            Authority::unseal(authority.certificate(), &sealed, &other),
            Err(AuthorityError::Sealed(SealError::Mismatch))
        ));
        let stranger = Authority::create([1; 16], NOW).unwrap();
        assert!(Authority::unseal(stranger.certificate(), &sealed, &seal).is_err());
        assert!(matches!(
            Authority::new(stranger.certificate().clone(), authority.key),
            Err(AuthorityError::OtherKey)
        ));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let mut garbled = KeyMaterial::generate().unwrap().request().unwrap();
        let last = garbled.len() - 1;
        garbled[last] ^= 1;
        for bad in [&b""[..], b"nonsense", &garbled] {
            let id = MachineId::scheduler([1; 16], 1);
            let error = authority().sign(bad, &id, VALIDITY).unwrap_err();
            assert!(matches!(error, AuthorityError::Request(_)), "{error:?}");
            assert!(requested_key(bad).is_err());
        }
    }

    #[test]
    fn an_absurd_clock_signs_nothing() {
        let request = KeyMaterial::generate().unwrap().request().unwrap();
        let id = MachineId::scheduler([1; 16], 1);
        let validity = Validity { now: WallMs(u64::MAX), days: 30, times_revoked: 0 };
        let error = authority().sign(&request, &id, validity).unwrap_err();
        assert!(matches!(error, AuthorityError::Clock), "{error:?}");
    }
}
