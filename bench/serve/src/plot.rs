//! The ratios as a picture: a line each, on a scale where twice and half are as far from even.

use std::fmt::Write as _;

use crate::results::{Comparison, Reach, Spread, shown};

const LINE: f64 = 20.0;
const TOP: f64 = 56.0;
const TEXT_WIDTH: f64 = 720.0;
const PLOT_WIDTH: f64 = 420.0;
const RIGHT: f64 = 80.0;
/// The scale's ends, as powers of two.
const LEAST: f64 = -5.0;
const MOST: f64 = 5.0;

/// Those that have a peer: ours divided by its.
pub fn svg(comparisons: &[Comparison]) -> String {
    let lines: Vec<_> = comparisons.iter().filter(|one| one.peer.is_some()).collect();
    let count = f64::from(u32::try_from(lines.len()).unwrap_or(u32::MAX));
    let (width, height) = (TEXT_WIDTH + PLOT_WIDTH + RIGHT, TOP + count * LINE + 12.0);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"16\" font-size=\"13\">oca-appliance divided by its peer: median, with least and most of the \
         rounds; the triangle is what is asked for</text>\n"
    );
    for power in [-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0] {
        let (x, label) = (place(f64::exp2(power)), shown(f64::exp2(power)));
        let colour = if power == 0.0 { "black" } else { "#ddd" };
        let label = label.trim_end_matches('0').trim_end_matches('.');
        let bottom = height - 8.0;
        push(
            &mut text,
            &format!("<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"{colour}\"/>"),
        );
        push(
            &mut text,
            &format!("<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}×</text>", TOP - 6.0),
        );
    }
    let mut y = TOP + LINE / 2.0;
    for comparison in lines {
        line(&mut text, comparison, y);
        y += LINE;
    }
    text + "</svg>\n"
}

fn push(text: &mut String, element: &str) {
    writeln!(text, "{element}").expect("writing to a String cannot fail");
}

fn line(text: &mut String, comparison: &Comparison, y: f64) {
    let name = comparison.peer.as_ref().map_or("", |peer| &peer.name);
    let label = escaped(&format!("{} / {name}", comparison.work));
    push(text, &format!("<text x=\"8\" y=\"{:.1}\">{label}</text>", y + 4.0));
    let Some(Spread { least, median, most }) = comparison.judged() else { return };
    let colour = match comparison.met() {
        Some(true) => "#2a7f3f",
        Some(false) => "#b3261e",
        None => "#666",
    };
    let (from, to, x) = (place(least), place(most), place(median));
    push(
        text,
        &format!(
            "<line x1=\"{from:.1}\" y1=\"{y}\" x2=\"{to:.1}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"2\"/>"
        ),
    );
    push(text, &format!("<circle cx=\"{x:.1}\" cy=\"{y}\" r=\"4\" fill=\"{colour}\"/>"));
    let right = TEXT_WIDTH + PLOT_WIDTH + 8.0;
    push(
        text,
        &format!("<text x=\"{right}\" y=\"{:.1}\" fill=\"{colour}\">{}×</text>", y + 4.0, shown(median)),
    );
    let Some(reach) = comparison.reach else { return };
    // Points to where the dot should be.
    let (edge, tip) = (place(reach.bound()), if matches!(reach, Reach::AtLeast(_)) { 7.0 } else { -7.0 });
    let (above, below, end) = (y - 6.0, y + 6.0, edge + tip);
    let points = format!("{edge:.1},{above} {edge:.1},{below} {end:.1},{y}");
    push(text, &format!("<polygon points=\"{points}\" fill=\"none\" stroke=\"black\"/>"));
}

/// What is off the scale lies at its end.
fn place(ratio: f64) -> f64 {
    let power = if ratio > 0.0 { ratio.log2().clamp(LEAST, MOST) } else { LEAST };
    TEXT_WIDTH + (power - LEAST) / (MOST - LEAST) * PLOT_WIDTH
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Peer;

    #[test]
    fn every_ratio_has_a_line_and_one_off_the_scale_stays_in_the_picture() {
        let comparison = |ours: f64| Comparison {
            work: "a < b & c".to_owned(),
            unit: "s".to_owned(),
            ours: vec![ours],
            peer: Some(Peer { name: "it".to_owned(), figures: vec![1.0] }),
            reach: Some(Reach::AtMost(0.3)),
        };
        let text = svg(&[comparison(0.25), comparison(1e9), comparison(0.0)]);
        assert_eq!(text.matches("<circle").count(), 3);
        assert!(text.contains("a &lt; b &amp; c / it"));
        assert!(place(1e9) <= TEXT_WIDTH + PLOT_WIDTH && place(0.0) >= TEXT_WIDTH);
        assert!((place(2.0) - place(1.0) - (place(1.0) - place(0.5))).abs() < 1e-9);
    }

    #[test]
    fn what_has_no_peer_has_no_line() {
        let alone = Comparison {
            work: "alone".to_owned(),
            unit: "s".to_owned(),
            ours: vec![1.0],
            peer: None,
            reach: None,
        };
        assert!(!svg(&[alone]).contains("<circle"));
    }
}
