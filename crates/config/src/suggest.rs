//! Finds what a misspelt word was probably meant to be.

/// The candidate nearest to `word`, if one is near enough to be a likely slip:
/// at most a third of its length away, and at least one change always allowed.
/// Letter case does not count. Among equals a candidate that continues the word
/// wins (`Gi` was `GiB` rather than `GB`), then the first.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    nearest_within(word, candidates, (word.chars().count() / 3).max(1))
}

/// As [`nearest`], with the most changes given.
pub(crate) fn nearest_within<'a>(
    word: &str,
    candidates: &[&'a str],
    changes_max: usize,
) -> Option<&'a str> {
    // Longer words are not names of ours, and the table below is quadratic.
    if word.len() > 128 {
        return None;
    }
    let wanted = word.to_lowercase();
    candidates
        .iter()
        .map(|candidate| {
            let lower = candidate.to_lowercase();
            let changes = distance(&wanted, &lower);
            ((changes, !lower.starts_with(&wanted)), *candidate)
        })
        .filter(|((changes, _), _)| *changes <= changes_max)
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, candidate)| candidate)
}

/// Edit distance with exchanges of neighbours as one change ("optimal string
/// alignment", Damerau 1964), since swapped letters are the commonest slip.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for row in 1..=left.len() {
        let mut current = vec![row];
        for column in 1..=right.len() {
            let substitution = usize::from(left[row - 1] != right[column - 1]);
            let mut best = (last[column] + 1)
                .min(current[column - 1] + 1)
                .min(last[column - 1] + substitution);
            let exchanged = row > 1
                && column > 1
                && left[row - 1] == right[column - 2]
                && left[row - 2] == right[column - 1];
            if exchanged {
                best = best.min(before_last[column - 2] + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[right.len()]
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn distance_counts_single_changes() {
        for (left, right, changes) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("prot", "port", 1),
            ("port", "prt", 1),
            ("kitten", "sitting", 3),
            ("", "abc", 3),
        ] {
            assert_eq!(distance(left, right), changes, "{left} {right}");
            assert_eq!(distance(right, left), changes, "{right} {left}");
        }
    }

    #[test]
    fn only_near_words_are_offered() {
        assert_eq!(nearest("prot", &["host", "port"]), Some("port"));
        assert_eq!(nearest("Gib", &["GB", "GiB"]), Some("GiB"));
        assert_eq!(nearest("Gi", &["GB", "GiB"]), Some("GiB"));
        assert_eq!(nearest("colour", &["host", "port"]), None);
        assert_eq!(nearest(&"x".repeat(500), &["port"]), None);
    }
}
