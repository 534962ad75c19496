//! Charts as SVG, for reports: no scripts, no fonts of their own. Bars are readable in black
//! and white by their order, curves by what is written on them.

mod curves;

use std::fmt::Write as _;

pub(crate) use curves::{Curve, Curves, curves};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 420.0;
/// Around the chart: left for the scale, below for names and legend.
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 84.0;
/// Of a group, the part that is bars.
const FILLED: f64 = 0.82;
const GRID_LINES: usize = 6;
/// Told apart by people who see no red or no green (Okabe and Ito).
const COLOURS: [&str; 7] =
    ["#999999", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"];

/// A chart of groups with a bar for each series.
pub(crate) struct Bars {
    pub(crate) title: String,
    pub(crate) unit: String,
    pub(crate) groups: Vec<String>,
    pub(crate) series: Vec<Series>,
}

/// A value for each group, where there is one.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) values: Vec<Option<f64>>,
}

/// The chart. The scale begins a little below the least value, as the values are close to
/// each other; it is written beside.
pub(crate) fn bars(chart: &Bars) -> String {
    let values = || chart.series.iter().flat_map(|series| &series.values).flatten().copied();
    let top = values().fold(f64::MIN, f64::max).ceil();
    let least = values().fold(f64::MAX, f64::min);
    let bottom = (least - (top - least) * 0.15).floor().max(0.0);
    let scale = Scale { bottom, top: top.max(bottom + 1.0) };
    let mut svg = page(&chart.title);
    grid(&mut svg, &chart.unit, scale);
    let slot = (WIDTH - LEFT - RIGHT) / chart.groups.len().max(1) as f64;
    let bar = slot * FILLED / chart.series.len().max(1) as f64;
    for (position, group) in chart.groups.iter().enumerate() {
        let start = LEFT + slot * position as f64;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            start + slot / 2.0,
            HEIGHT - BOTTOM + 18.0,
            escaped(group)
        );
        for (which, series) in chart.series.iter().enumerate() {
            let Some(value) = series.values.get(position).copied().flatten() else { continue };
            let x = start + slot * (1.0 - FILLED) / 2.0 + bar * which as f64;
            let y = scale.y(value);
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\">\
                 <title>{} {}: {value:.2} {}</title></rect>",
                bar * 0.92,
                HEIGHT - BOTTOM - y,
                colour(which),
                escaped(group),
                escaped(&series.name),
                escaped(&chart.unit)
            );
        }
    }
    legend(&mut svg, &chart.series.iter().map(|series| &*series.name).collect::<Vec<&str>>());
    svg.push_str("</svg>\n");
    svg
}

/// A white page with its title, not ended.
fn page(title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
        escaped(title)
    )
}

#[derive(Clone, Copy)]
struct Scale {
    bottom: f64,
    top: f64,
}

impl Scale {
    fn y(self, value: f64) -> f64 {
        let part = (value - self.bottom) / (self.top - self.bottom);
        HEIGHT - BOTTOM - part.clamp(0.0, 1.0) * (HEIGHT - BOTTOM - TOP)
    }
}

fn grid(svg: &mut String, unit: &str, scale: Scale) {
    for line in 0..=GRID_LINES {
        let part = line as f64 / GRID_LINES as f64;
        let value = scale.bottom + (scale.top - scale.bottom) * part;
        let y = scale.y(value);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.1} {}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            escaped(unit)
        );
    }
}

fn legend(svg: &mut String, names: &[&str]) {
    let slot = (WIDTH - LEFT - RIGHT) / names.len().max(1) as f64;
    for (which, name) in names.iter().enumerate() {
        let x = LEFT + slot * which as f64;
        let y = HEIGHT - 24.0;
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"12\" height=\"12\" fill=\"{}\"/>\n\
             <text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
            y - 10.0,
            colour(which),
            x + 18.0,
            escaped(name)
        );
    }
}

fn colour(which: usize) -> &'static str {
    COLOURS[which % COLOURS.len()]
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_bar_and_text_is_text() {
        let chart = Bars {
            title: "a < b".to_owned(),
            unit: "%".to_owned(),
            groups: vec!["one".to_owned(), "two".to_owned()],
            series: vec![
                Series { name: "x".to_owned(), values: vec![Some(90.0), None] },
                Series { name: "y".to_owned(), values: vec![Some(95.0), Some(96.5)] },
            ],
        };
        let svg = bars(&chart);
        assert_eq!(svg.matches("<title>").count(), 3, "{svg}");
        assert!(svg.contains("a &lt; b") && svg.contains("two y: 96.50 %"), "{svg}");
        // The larger value is the higher bar.
        let top = |title: &str| {
            let before = &svg[..svg.find(title).unwrap()];
            let y = before.rfind(" y=\"").unwrap() + 4;
            before[y..].split('"').next().unwrap().parse::<f64>().unwrap()
        };
        assert!(top("two y") < top("one y") && top("one y") < top("one x"), "{svg}");
    }
}
