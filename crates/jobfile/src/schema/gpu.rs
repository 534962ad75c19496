//! `gpu = 1`, `gpu = "A100:2"`, or a table.

use berth_model::node::DEVICES_MAX;
use berth_model::{GpuRequest, ShareMilli};

use super::keys;
use super::walk::{Field, Walk};
use crate::text::shown;
use crate::tree::Value;

const FORMS: &str =
    "write gpu = 2, gpu = \"A100:2\" or gpu = { count = 2, type = \"A100\", vram = \"40GiB\" }";

/// Reads `MODEL:COUNT`, or `MODEL` for one of it.
///
/// # Errors
/// What is wrong, as a sentence.
pub fn parse_gpu(text: &str) -> Result<GpuRequest, String> {
    let (model, count) = text.split_once(':').unwrap_or((text, "1"));
    let seen = shown(text);
    let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    let Some(count) = count.parse().ok().filter(|_| digits) else {
        return Err(format!("expected MODEL:COUNT such as A100:2, found `{seen}`"));
    };
    let model = model.trim();
    if model.is_empty() || model.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("expected MODEL:COUNT such as A100:2, found `{seen}`"));
    }
    Ok(GpuRequest {
        count,
        models: vec![model.to_owned()],
        memory_min: None,
        share: berth_model::ShareMilli::WHOLE,
    })
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
                walk.note(format!("{}.count", field.path), field.node.span);
                Some(request)
            }
            Err(message) => {
                walk.complain_with_hint(field, message, FORMS);
                None
            }
        },
        Value::Float(text) => {
            let message = format!(
                "expected whole GPUs, found {text}; parts of a GPU are not supported by this version"
            );
            walk.complain_with_hint(field, message, FORMS);
            None
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
    Some(GpuRequest { count, models, memory_min, share: ShareMilli::WHOLE })
}
