//! How many of a list of durations are longer than so long: a curve for each list, over a
//! logarithmic scale of time.

use std::fmt::Write as _;

use super::{BOTTOM, HEIGHT, LEFT, RIGHT, Scale, TOP, WIDTH, colour, escaped, grid, legend, page};

/// Times that are marked below, in seconds, with their names. The scale begins at the first, and ends
/// at the first that nothing is longer than.
const MARKS: [(f64, &str); 9] = [
    (10.0, "10 s"),
    (60.0, "1 min"),
    (600.0, "10 min"),
    (3_600.0, "1 h"),
    (36_000.0, "10 h"),
    (360_000.0, "100 h"),
    (3_600_000.0, "1000 h"),
    (36_000_000.0, "10000 h"),
    (360_000_000.0, "100000 h"),
];
/// Points of a curve.
const STEPS: usize = 240;

pub(crate) struct Curves {
    pub(crate) title: String,
    pub(crate) curves: Vec<Curve>,
}

/// A list of durations in seconds, in any order.
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) values: Vec<f64>,
}

/// Percent of each list that is longer, from nothing to the most of any.
pub(crate) fn curves(chart: &Curves) -> String {
    let longest = chart.curves.iter().flat_map(|curve| &curve.values).copied();
    let longest = longest.fold(0.0, f64::max);
    let last = MARKS.iter().position(|(mark, _)| *mark >= longest).unwrap_or(MARKS.len() - 1);
    let marks = &MARKS[..=last.max(1)];
    let (begin, end) = (marks[0].0, marks[marks.len() - 1].0);
    let lines: Vec<Vec<f64>> =
        chart.curves.iter().map(|curve| percents(&curve.values, begin, end)).collect();
    let top = lines.iter().flatten().copied().fold(0.0, f64::max);
    let scale = Scale { bottom: 0.0, top: top.max(1.0) };
    let mut svg = page(&chart.title);
    grid(&mut svg, "%", scale);
    let width = WIDTH - LEFT - RIGHT;
    for (mark, name) in marks {
        let x = LEFT + width * (mark / begin).ln() / (end / begin).ln();
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" stroke=\"#dddddd\"/>\n\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0
        );
    }
    for (which, (curve, percents)) in chart.curves.iter().zip(&lines).enumerate() {
        let mut points = String::new();
        for (step, percent) in percents.iter().enumerate() {
            let x = LEFT + width * step as f64 / STEPS as f64;
            let _ = write!(points, "{x:.1},{:.1} ", scale.y(*percent));
        }
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\">\
             <title>{}</title></polyline>",
            points.trim_end(),
            colour(which),
            escaped(&curve.name)
        );
    }
    legend(&mut svg, &chart.curves.iter().map(|curve| &*curve.name).collect::<Vec<&str>>());
    svg.push_str("</svg>\n");
    svg
}

/// At each step from `begin` to `end` the percent of the values that are longer.
fn percents(values: &[f64], begin: f64, end: f64) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = |step: usize| {
        let time = begin * (end / begin).powf(step as f64 / STEPS as f64);
        let longer = sorted.len() - sorted.partition_point(|value| *value <= time);
        longer as f64 * 100.0 / sorted.len().max(1) as f64
    };
    (0..=STEPS).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_falls_from_those_that_are_longer_to_none() {
        let values = vec![5.0, 3_000.0, 30.0, 3_000.0];
        let percents = percents(&values, 10.0, 3_600.0);
        assert_eq!((percents[0], percents[STEPS]), (75.0, 0.0));
        assert!(percents.is_sorted_by(|before, after| before >= after), "{percents:?}");
        let curve = Curve { name: "a < b".to_owned(), values };
        let svg = curves(&Curves { title: "waits".to_owned(), curves: vec![curve] });
        assert!(svg.contains("a &lt; b") && svg.contains("1 h") && !svg.contains("10 h"), "{svg}");
        let empty = Curve { name: "none".to_owned(), values: Vec::new() };
        assert!(curves(&Curves { title: String::new(), curves: vec![empty] }).contains("polyline"));
    }
}
