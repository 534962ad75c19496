//! Columns that fit the terminal: a row is one line, and what does not fit is
//! cut with a mark.

use comfy_table::{ContentArrangement, Row};

use crate::globals::Format;

/// Rows below a header; the last columns are shown with `-o wide` alone.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    header: Vec<&'static str>,
    /// Columns without `-o wide`.
    narrow: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(narrow: &[&'static str], wide: &[&'static str]) -> Table {
        let header = narrow.iter().chain(wide).copied().collect();
        Table { header, narrow: narrow.len(), rows: Vec::new() }
    }

    /// Adds a row with a cell for every column, wide ones included.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.header.len(), "a cell for every column");
        self.rows.push(cells);
    }

    /// The lines, each ended. `width` in columns, if there is a limit; `mark`, one
    /// column wide, stands for what was cut off.
    pub(crate) fn render(&self, format: Format, width: Option<u16>, mark: &str) -> String {
        let columns = match format {
            Format::Wide => self.header.len(),
            Format::Table | Format::Json | Format::Yaml => self.narrow,
        };
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING).set_truncation_indicator(mark);
        match width {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        table.set_header(one_line(self.header.iter().take(columns).map(ToString::to_string)));
        for row in &self.rows {
            table.add_row(one_line(row.iter().take(columns).map(|cell| printable(cell))));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.lines().map(|line| fitted(line.trim_end(), width, mark)).collect()
    }
}

fn one_line(cells: impl Iterator<Item = String>) -> Row {
    let mut row = Row::from(cells.collect::<Vec<String>>());
    row.max_height(1);
    row
}

/// Where even the narrowest columns are too many, the line itself is cut.
fn fitted(line: &str, width: Option<u16>, mark: &str) -> String {
    let width = width.map_or(usize::MAX, usize::from);
    if line.chars().count() <= width {
        return format!("{line}\n");
    }
    let kept: String = line.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}{mark}\n")
}

/// A cell that steers no terminal and breaks no line. Empty ones are a dash.
fn printable(cell: &str) -> String {
    if cell.is_empty() {
        return "-".to_owned();
    }
    cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&["ID", "NAME"], &["REASON"]);
        table.row(vec!["1".into(), "a-rather-long-name".into(), "two\nlines\x1b[31m".into()]);
        table.row(vec!["20".into(), String::new(), "ünïcode".into()]);
        table
    }

    #[test]
    fn columns_line_up() {
        let expected = "ID  NAME\n1   a-rather-long-name\n20  -\n";
        assert_eq!(sample().render(Format::Table, None, "…"), expected);
        let expected = "ID  NAME                REASON\n\
                        1   a-rather-long-name  two lines [31m\n\
                        20  -                   ünïcode\n";
        assert_eq!(sample().render(Format::Wide, None, "…"), expected);
    }

    #[test]
    fn a_narrow_terminal_cuts_with_a_mark() {
        let expected = "ID  NAME\n1   a-rather…\n20  -\n";
        assert_eq!(sample().render(Format::Table, Some(15), "…"), expected);
        let ascii = sample().render(Format::Table, Some(15), "~");
        assert!(ascii.is_ascii() && ascii.contains("a-rather~"), "{ascii}");
        for width in 1..40 {
            for format in [Format::Table, Format::Wide] {
                let text = sample().render(format, Some(width), "…");
                assert_eq!(text.lines().count(), 3, "{width}:\n{text}");
                let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
                assert!(widest <= usize::from(width), "{width}:\n{text}");
            }
        }
    }
}
