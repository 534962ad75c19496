//! The layer of command line flags.

use crate::layer::{Layer, MAP_KEYS, insert_text, segments};
use crate::source::Source;

/// Values given on the command line, by the configuration key they set.
///
/// The command line parser has already refused a flag it does not know and one
/// repeated without need; the values are checked with everybody else's.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    entries: Vec<(String, String, String)>,
}

impl Flags {
    /// No flags.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Records that `flag` (`"--data-dir"`) gave `text` for `key`
    /// (`"scheduler.data_dir"`). A repeated list adds to it with commas between
    /// (`--label a=1 --label b=2`); any other repeated key takes the last.
    pub fn set(&mut self, key: &str, flag: &str, text: impl Into<String>) -> &mut Self {
        self.entries.push((key.to_owned(), flag.to_owned(), text.into()));
        self
    }

    /// As [`Flags::set`] where the flag was given, else nothing.
    pub fn set_if_given(&mut self, key: &str, flag: &str, text: Option<String>) -> &mut Self {
        match text {
            Some(text) => self.set(key, flag, text),
            None => self,
        }
    }

    pub(crate) fn layer(&self, list_keys: &[&str]) -> Layer {
        let mut layer = Layer::new();
        for (key, flag, text) in &self.entries {
            let source = Source::Flag { flag: flag.clone() };
            let is_list = list_keys.contains(&key.as_str());
            if is_list && !MAP_KEYS.contains(&key.as_str()) {
                let earlier: Vec<&str> = self
                    .entries
                    .iter()
                    .filter(|(other, _, _)| other == key)
                    .map(|(_, _, text)| text.as_str())
                    .collect();
                insert_text(&mut layer, segments(key), &earlier.join(","), source);
            } else {
                insert_text(&mut layer, segments(key), text, source);
            }
        }
        layer
    }
}
