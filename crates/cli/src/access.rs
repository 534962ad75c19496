//! What a command proves itself with: a certificate and a token out of files.

use std::error::Error;
use std::sync::Arc;

use berth_identity::folder::{Folder, FolderError, read_private};
use berth_identity::tls::Trust;
use berth_identity::{Dialer, Fingerprint, Token};

use crate::error::{CliError, Fault};

/// Reaches schedulers with the credentials of a folder.
pub(crate) fn dialer(folder: &Folder) -> Result<Dialer, CliError> {
    let credentials = folder.credentials().map_err(|error| of_folder(&error))?;
    Dialer::tls(Trust::Member(Arc::new(credentials)))
        .map_err(|error| CliError::failed(format!("set up TLS: {error}")))
}

/// The token to send: the one that was given, else the one in the folder, if
/// there is one. Never repeated in a complaint.
pub(crate) fn token(given: Option<&str>, folder: &Folder) -> Result<Option<String>, CliError> {
    let text = match given {
        Some(text) => text.to_owned(),
        None => {
            let path = folder.path().join("token");
            if !path.exists() {
                return Ok(None);
            }
            read_private(&path).map_err(|error| of_folder(&error))?
        }
    };
    let token: Token = text.parse().map_err(|error| {
        let fault = Fault::new(format!("{error}"));
        CliError::BadInput(vec![fault.hint("of a file: BERTH_TOKEN=\"$(cat FILE)\"")])
    })?;
    Ok(Some(token.to_text()))
}

/// The authority that tokens of this cluster pin, and its certificate.
pub(crate) fn authority(folder: &Folder) -> Result<(Fingerprint, Vec<u8>), CliError> {
    let authorities = folder.authorities().map_err(|error| of_folder(&error))?;
    let first = authorities.first().ok_or_else(|| CliError::failed("there is no authority"))?;
    Ok((Fingerprint::of(first), first.to_vec()))
}

/// A folder that is not as it must be, with every cause.
pub(crate) fn of_folder(error: &FolderError) -> CliError {
    CliError::bad_input(with_causes(error))
}

/// An error with what brought it about, in one line.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
