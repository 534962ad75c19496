//! From bytes to text, refusing what no editor would call a text file.

use crate::source::JOB_FILE_BYTES_MAX;

/// The text without its byte order mark.
///
/// # Errors
/// What is wrong with the bytes and where; offsets count from 0.
pub(crate) fn decode(bytes: &[u8]) -> Result<&str, String> {
    if bytes.len() as u64 > JOB_FILE_BYTES_MAX {
        return Err("the job file is larger than 1 MiB".to_owned());
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("the file is UTF-16 (byte 0); save it as UTF-8".to_owned());
    }
    if let Some(offset) = bytes.iter().position(|byte| *byte == 0) {
        return Err(format!("there is a NUL at byte {offset}; a job file is text in UTF-8"));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(error) => {
            let offset = error.valid_up_to();
            Err(format!("byte {offset} is not UTF-8; a job file is text in UTF-8"))
        }
    }
}
