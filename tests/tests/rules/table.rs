//! Tables of ARCHITECTURE.md, found by their first heading.

/// The rows of the table whose header line holds exactly `headings`, each as
/// its cells.
///
/// # Errors
/// If there is no such table, more than one, or a row of another width.
pub fn rows(document: &str, headings: &[&str]) -> Result<Vec<Vec<String>>, String> {
    let lines: Vec<&str> = document.lines().collect();
    let mut tables = lines.iter().enumerate().filter(|(_, line)| cells(line) == headings);
    let Some((header, _)) = tables.next() else {
        return Err(format!("no table with the headings {headings:?}"));
    };
    if tables.next().is_some() {
        return Err(format!("two tables with the headings {headings:?}"));
    }
    let body = lines[header + 1..].iter().take_while(|line| line.starts_with('|'));
    let rows: Vec<Vec<String>> = body.skip(1).map(|line| cells(line)).collect();
    match rows.iter().find(|row| row.len() != headings.len()) {
        Some(odd) => Err(format!("a row of {} cells: {odd:?}", odd.len())),
        None => Ok(rows),
    }
}

/// The names in a cell: with commas between them, perhaps in back quotes; a
/// cell that says `nothing` has none.
pub fn names(cell: &str) -> Vec<String> {
    cell.split(',')
        .map(|name| name.trim().trim_matches('`').to_owned())
        .filter(|name| !name.is_empty() && name != "nothing")
        .collect()
}

fn cells(line: &str) -> Vec<String> {
    let Some(inner) = line.trim().strip_prefix('|').and_then(|rest| rest.strip_suffix('|')) else {
        return Vec::new();
    };
    inner.split('|').map(|cell| cell.trim().to_owned()).collect()
}

#[test]
fn a_table_is_read_by_its_headings() {
    let text = "before\n\n| a | b |\n| --- | --- |\n| x | `y`, z |\n| w | nothing |\n\n| c |\n";
    let rows = rows(text, &["a", "b"]).unwrap();
    assert_eq!(rows, [["x", "`y`, z"], ["w", "nothing"]]);
    assert_eq!(names(&rows[0][1]), ["y", "z"]);
    assert_eq!(names(&rows[1][1]), [""; 0]);
}

#[test]
fn a_table_that_is_missing_double_or_crooked_is_an_error() {
    for text in [
        "no table",
        "| a | c |\n| --- | --- |\n",
        "| a | b |\n| --- | --- |\n\n| a | b |\n| --- | --- |\n",
        "| a | b |\n| --- | --- |\n| only one |\n",
    ] {
        assert!(rows(text, &["a", "b"]).is_err(), "{text}");
    }
}
