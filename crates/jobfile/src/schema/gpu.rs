//! `gpu = 1`, `gpu = 0.5`, `gpu = "A100:2"`, or a table.

use berth_model::node::DEVICES_MAX;
use berth_model::{GpuRequest, ShareMilli};

use super::keys;
use super::walk::{Field, Walk};
use crate::text::shown;
use crate::tree::Value;

const FORMS: &str = "write gpu = 2, gpu = 0.5, gpu = \"A100:2\" or gpu = { count = 2, type = \"A100\", vram = \"40GiB\" }; of a part, gpu = { share = 0.5, vram = \"20GiB\" }";

/// Reads `MODEL:COUNT`, `MODEL:SHARE`, or `MODEL` for one of it.
///
/// # Errors
/// What is wrong, as a sentence.
pub fn parse_gpu(text: &str) -> Result<GpuRequest, String> {
    let (model, amount) = text.split_once(':').unwrap_or((text, "1"));
    let seen = shown(text);
    let model = model.trim();
    let digits = !amount.is_empty() && amount.bytes().all(|byte| byte.is_ascii_digit());
    let is_model = !model.is_empty() && !model.bytes().all(|byte| byte.is_ascii_digit());
    let (count, share) = match amount.parse().ok().filter(|_| digits) {
        Some(count) => (count, ShareMilli::WHOLE),
        None if is_model && amount.contains('.') => (1, parse_share(amount)?),
        None => return Err(format!("expected MODEL:COUNT such as A100:2, found `{seen}`")),
    };
    if !is_model {
        return Err(format!("expected MODEL:COUNT such as A100:2, found `{seen}`"));
    }
    Ok(GpuRequest { count, models: vec![model.to_owned()], memory_min: None, share })
}

/// Reads a part of one GPU: more than nothing, at most all of it, in thousandths.
///
/// # Errors
/// What is wrong, as a sentence.
pub fn parse_share(text: &str) -> Result<ShareMilli, String> {
    let refused = || {
        let seen = shown(text);
        format!(
            "expected a part of one GPU from 0.001 to 1, of at most three decimals, found {seen}"
        )
    };
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let thousandths = part.trim_end_matches('0');
    if !digits(whole) || !digits(part) || thousandths.len() > 3 {
        return Err(refused());
    }
    let milli = format!("{thousandths:0<3}").parse::<u32>().map_err(|_| refused())?;
    let whole = whole.parse::<u32>().ok().filter(|whole| *whole <= 1).ok_or_else(refused)?;
    let share = ShareMilli(whole * 1000 + milli);
    if share == ShareMilli::ZERO || share > ShareMilli::WHOLE { Err(refused()) } else { Ok(share) }
}

pub(super) fn read(walk: &mut Walk<'_>, field: &Field<'_>) -> Option<GpuRequest> {
    match &field.node.value {
        Value::Integer(_) => {
            let count = read_number(walk, field)?;
            walk.note(format!("{}.count", field.path), field.node.span);
            Some(GpuRequest::whole(count))
        }
        Value::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            walk.complain_with_hint(
                field,
                format!("expected integer, found string `{}`", shown(text)),
                FORMS,
            );
            None
        }
        Value::Text(text) => match parse_gpu(text) {
            Ok(request) => {
                for key in ["count", "share"] {
                    walk.note(format!("{}.{key}", field.path), field.node.span);
                }
                Some(request)
            }
            Err(message) => {
                walk.complain_with_hint(field, message, FORMS);
                None
            }
        },
        Value::Float(text) => {
            let share = read_share(walk, field, text)?;
            walk.note(format!("{}.share", field.path), field.node.span);
            Some(GpuRequest { share, ..GpuRequest::whole(1) })
        }
        Value::Table(_) => read_table(walk, field),
        Value::Null | Value::Boolean(_) | Value::Date | Value::List(_) => {
            let message = format!("expected integer, string or table, found {}", field.node.kind());
            walk.complain_with_hint(field, message, FORMS);
            None
        }
    }
}

/// In the words of the check of sense.
fn read_number(walk: &mut Walk<'_>, field: &Field<'_>) -> Option<u32> {
    let most = u32::try_from(DEVICES_MAX).expect("a node has few devices");
    walk.integer_of(field, 1..=most, " GPUs on one node")
}

fn read_share(walk: &mut Walk<'_>, field: &Field<'_>, text: &str) -> Option<ShareMilli> {
    match parse_share(text) {
        Ok(share) => Some(share),
        Err(message) => {
            walk.complain_with_hint(field, message, FORMS);
            None
        }
    }
}

fn read_table(walk: &mut Walk<'_>, field: &Field<'_>) -> Option<GpuRequest> {
    let table = walk.table(field, &keys::GPU)?;
    let count = match walk.field(table, &field.path, "count") {
        Some(count) => read_number(walk, &count)?,
        None => 1,
    };
    let models = match walk.field(table, &field.path, "type") {
        None => Vec::new(),
        Some(models) => match models.node.as_text() {
            Some(model) => vec![model.to_owned()],
            None => walk.texts(&models, "string or list of strings")?,
        },
    };
    let memory_min = match walk.field(table, &field.path, "vram") {
        Some(vram) => Some(walk.size(&vram)?),
        None => None,
    };
    let share = match walk.field(table, &field.path, "share") {
        Some(share) => match &share.node.value {
            Value::Float(text) => read_share(walk, &share, text)?,
            Value::Integer(Some(number)) => read_share(walk, &share, &number.to_string())?,
            Value::Integer(None)
            | Value::Null
            | Value::Boolean(_)
            | Value::Date
            | Value::Text(_)
            | Value::List(_)
            | Value::Table(_) => {
                walk.wrong_kind(&share, "a part of one GPU such as 0.5");
                return None;
            }
        },
        None => ShareMilli::WHOLE,
    };
    Some(GpuRequest { count, models, memory_min, share })
}
