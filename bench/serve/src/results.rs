//! What was measured, beside what is asked for; written as JSON for programs and as a table for people.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// What is asked of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reach {
    AtLeast(f64),
    AtMost(f64),
}

impl Reach {
    pub fn bound(self) -> f64 {
        match self {
            Self::AtLeast(bound) | Self::AtMost(bound) => bound,
        }
    }

    pub fn met_by(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::AtLeast(_) => "at least",
            Self::AtMost(_) => "at most",
        }
    }
}

/// One figure of ours, measured several times; and a peer's, each time beside ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What was done, and which figure of it this is.
    pub work: String,
    pub unit: String,
    pub ours: Vec<f64>,
    pub peer: Option<Peer>,
    /// Of our figure divided by the peer's; without a peer, of our figure.
    pub reach: Option<Reach>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    /// As many as ours.
    pub figures: Vec<f64>,
}

/// Least, median, greatest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub least: f64,
    pub median: f64,
    pub most: f64,
}

impl Spread {
    /// None of no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let median =
            if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], upper) } else { upper };
        Some(Self { least: values[0], median, most: *values.last()? })
    }
}

/// As DESIGN §8 has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub work: String,
    pub against: String,
    pub value: f64,
    pub unit: String,
    pub reach: Option<f64>,
    pub met: Option<bool>,
}

impl Comparison {
    /// Ours divided by the peer's, measurement by measurement; without a peer, ours.
    pub fn judged(&self) -> Option<Spread> {
        match &self.peer {
            Some(peer) => Spread::of(self.ours.iter().zip(&peer.figures).map(|(ours, theirs)| ours / theirs)),
            None => Spread::of(self.ours.iter().copied()),
        }
    }

    pub fn met(&self) -> Option<bool> {
        Some(self.reach?.met_by(self.judged()?.median))
    }

    /// The figure that is judged, and behind it both figures that it was made of.
    pub fn rows(&self) -> Vec<Row> {
        let Some(judged) = self.judged() else { return Vec::new() };
        let bound = self.reach.map_or(String::new(), |reach| format!(", {}", reach.words()));
        let row = |against: &str, value, unit: String, judged: bool| Row {
            work: self.work.clone(),
            against: against.to_owned(),
            value: rounded(value),
            unit,
            reach: self.reach.filter(|_| judged).map(|reach| rounded(reach.bound())),
            met: self.met().filter(|_| judged),
        };
        let Some(peer) = &self.peer else {
            return vec![row("", judged.median, format!("{}{bound}", self.unit), true)];
        };
        let median =
            |figures: &[f64]| Spread::of(figures.iter().copied()).map_or(f64::NAN, |spread| spread.median);
        let raw = |name: &str, figures| Row {
            work: format!("{}: {name}", self.work),
            ..row("", median(figures), self.unit.clone(), false)
        };
        vec![
            row(&peer.name, judged.median, format!("ours / its{bound}"), true),
            raw("oca-appliance", &self.ours),
            raw(&peer.name, &peer.figures),
        ]
    }

    fn table_line(&self) -> String {
        let median = |figures: &[f64]| Spread::of(figures.iter().copied()).map(|spread| shown(spread.median));
        let ours = median(&self.ours).unwrap_or_default();
        let peer = self.peer.as_ref();
        let (name, theirs) =
            peer.map_or(("", String::new()), |peer| (&peer.name, median(&peer.figures).unwrap_or_default()));
        let judged = self.judged().map_or(String::new(), |spread| {
            format!("{} ({} to {})", shown(spread.median), shown(spread.least), shown(spread.most))
        });
        let judged = if peer.is_some() { judged } else { String::new() };
        let reach =
            self.reach.map_or(String::new(), |reach| format!("{} {}", reach.words(), shown(reach.bound())));
        let met = self.met().map_or("", |met| if met { "yes" } else { "**no**" });
        let (work, unit) = (&self.work, &self.unit);
        format!("| {work} | {unit} | {ours} | {name} | {theirs} | {judged} | {reach} | {met} |\n")
    }
}

/// The table, with what must be known to read it in front.
pub fn markdown(facts: &[String], comparisons: &[Comparison]) -> String {
    let mut text = String::from("# The segment server beside its peers\n\n");
    for fact in facts {
        writeln!(text, "- {fact}").expect("writing to a String cannot fail");
    }
    text.push_str(
        "\n| work | unit | oca-appliance | against | its figure | ours / its: median (least to most) | reach | met |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    comparisons.iter().for_each(|comparison| text.push_str(&comparison.table_line()));
    text
}

/// Four digits are more than can be believed.
fn rounded(value: f64) -> f64 {
    shown(value).parse().unwrap_or(value)
}

pub fn shown(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let places = (0..8).find(|places| value.abs() * 10f64.powi(*places) >= 1000.0).unwrap_or(8);
    format!("{value:.*}", usize::try_from(places).expect("below 9"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison() -> Comparison {
        Comparison {
            work: "hot: bytes per CPU second".to_owned(),
            unit: "MB".to_owned(),
            ours: vec![110.0, 300.0, 120.0],
            peer: Some(Peer { name: "nginx".to_owned(), figures: vec![100.0, 100.0, 100.0] }),
            reach: Some(Reach::AtLeast(1.15)),
        }
    }

    #[test]
    fn the_median_of_the_ratios_is_judged_and_not_the_ratio_of_the_best() {
        let rows = comparison().rows();
        assert_eq!(rows.len(), 3);
        let json = serde_json::to_value(&rows[0]).unwrap();
        let expected = serde_json::json!({
            "work": "hot: bytes per CPU second", "against": "nginx", "value": 1.2, "unit": "ours / its, at least",
            "reach": 1.15, "met": true,
        });
        assert_eq!(json, expected);
        assert_eq!((rows[2].value, rows[2].met, rows[2].reach), (100.0, None, None));
        let table = markdown(&["a fact".to_owned()], &[comparison()]);
        assert!(
            table.contains("| 120.0 | nginx | 100.0 | 1.200 (1.100 to 3.000) | at least 1.150 | yes |"),
            "{table}"
        );
    }

    #[test]
    fn without_a_peer_our_own_figure_is_judged() {
        let idle = Comparison {
            work: "idle".to_owned(),
            unit: "B".to_owned(),
            ours: vec![600.0],
            peer: None,
            reach: Some(Reach::AtMost(512.0)),
        };
        let rows = idle.rows();
        assert_eq!((rows.len(), rows[0].met, rows[0].unit.as_str()), (1, Some(false), "B, at most"));
        assert!(Comparison { ours: vec![], ..idle }.rows().is_empty());
    }

    #[test]
    fn a_spread_has_the_middle_of_an_even_count_between_two() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.5, 4.0));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn four_digits_are_shown() {
        for (value, text) in [(0.123_456, "0.1235"), (1234.6, "1235"), (12.0, "12.00"), (0.0, "0")] {
            assert_eq!(shown(value), text);
        }
    }
}
