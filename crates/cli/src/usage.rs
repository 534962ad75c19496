//! What is wrong with a command line, in the shape of all other errors.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::ffi::OsString;

use crate::console::Console;
use crate::error::{CliError, Fault};
use crate::globals::Format;

/// Tells what clap found; the exit status. Help and version go to stdout.
/// `arguments` are those of the process, to find out how errors are wanted.
#[must_use]
pub fn report(console: &mut Console<'_>, error: &clap::Error, arguments: &[OsString]) -> u8 {
    let is_answer = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if is_answer {
        let text = error.render().to_string();
        return match console.data(text.as_bytes()) {
            Ok(()) => 0,
            Err(failure) => failure.exit_status(),
        };
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        console.error_line(error.render().to_string().trim_end());
        return 2;
    }
    let failure = CliError::BadInput(vec![fault(error)]);
    failure.print(console, format(arguments));
    failure.exit_status()
}

fn fault(error: &clap::Error) -> Fault {
    let text = |kind: ContextKind| {
        if let Some(ContextValue::String(text)) = error.get(kind) {
            return Some(text.clone());
        }
        let Some(ContextValue::Strings(texts)) = error.get(kind) else { return None };
        texts.first().cloned()
    };
    let suggestion =
        [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue]
            .into_iter()
            .find_map(text);
    let hint = suggestion.map(|word| format!("did you mean `{word}`?"));
    let unknown = text(ContextKind::InvalidSubcommand);
    let message = if let (ErrorKind::InvalidSubcommand, Some(word)) = (error.kind(), unknown) {
        format!("unknown command `{word}`")
    } else if let (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(missing))) =
        (error.kind(), error.get(ContextKind::InvalidArg))
    {
        format!("missing argument: {}", missing.join(", "))
    } else {
        first_paragraph(error)
    };
    let fault = Fault::new(message);
    fault.hint(hint.unwrap_or_else(|| "see `--help`".to_owned()))
}

/// clap's own sentence, without its tips and usage.
fn first_paragraph(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let paragraph = rendered.split("\n\n").next().unwrap_or_default();
    let sentence = paragraph.strip_prefix("error: ").unwrap_or(paragraph);
    sentence.split_whitespace().collect::<Vec<&str>>().join(" ")
}

/// The format that the arguments ask for, as far as they can be read.
fn format(arguments: &[OsString]) -> Format {
    let mut wanted = None;
    let mut arguments = arguments.iter().filter_map(|argument| argument.to_str());
    while let Some(argument) = arguments.next() {
        match argument {
            "--" => break,
            "-o" | "--output" => wanted = arguments.next(),
            _ => {
                let value = argument.strip_prefix("--output=").or_else(|| {
                    argument.strip_prefix("-o=").or_else(|| argument.strip_prefix("-o"))
                });
                wanted = value.or(wanted);
            }
        }
    }
    if wanted == Some("json") { Format::Json } else { Format::Table }
}
