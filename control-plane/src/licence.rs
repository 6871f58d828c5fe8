//! Licence: may this title be watched there and now? A table of terms over the title's own (DESIGN §6, step 1).

use std::collections::BTreeMap;

use content::id::TitleId;
use content::title::{Term, Title};
use jiff::Timestamp;

use crate::refusal::Refusal;

/// The operator's table. What it says of a title replaces the title's own terms; what it says of `*` replaces those of
/// every title that it does not name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TermsTable {
    pub of_title: BTreeMap<TitleId, Vec<Term>>,
    pub of_others: Option<Vec<Term>>,
}

impl TermsTable {
    /// The terms that count for a title.
    pub fn terms_of<'a>(&'a self, title: &'a Title) -> &'a [Term] {
        let table = self.of_title.get(&title.title).or(self.of_others.as_ref());
        table.unwrap_or(&title.terms)
    }
}

/// One open permission is enough; else the refusal says what would be needed.
pub fn check(terms: &[Term], title: &TitleId, territory: &str, now: Timestamp) -> Result<(), Refusal> {
    let here = || terms.iter().filter(|term| covers(term, territory));
    if here().any(|term| is_open(term, now)) {
        return Ok(());
    }
    let (title, territory) = (title.to_string(), territory.to_owned());
    let next = here().map(|term| term.from).filter(|from| *from > now).min();
    let last = here().filter_map(|term| term.until).filter(|until| *until <= now).max();
    Err(match (next, last) {
        (Some(from), _) => Refusal::NotYet { title, territory, from },
        (None, Some(until)) => Refusal::Over { title, territory, until },
        (None, None) => Refusal::Territory { title, territory },
    })
}

/// `territory` is two upper-case letters, checked at the edge: so it is never the `*` of a term.
fn covers(term: &Term, territory: &str) -> bool {
    term.territories.iter().any(|listed| listed == "*" || listed == territory)
}

fn is_open(term: &Term, now: Timestamp) -> bool {
    term.from <= now && term.until.is_none_or(|until| now < until)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn term(territory: &str, from: &str, until: Option<&str>) -> Term {
        Term { territories: vec![territory.to_owned()], from: at(from), until: until.map(at) }
    }

    fn answer(terms: &[Term], territory: &str, now: &str) -> &'static str {
        match check(terms, &"film".parse().unwrap(), territory, at(now)) {
            Ok(()) => "open",
            Err(Refusal::Territory { .. }) => "territory",
            Err(Refusal::NotYet { .. }) => "not yet",
            Err(Refusal::Over { .. }) => "over",
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_window_opens_at_its_first_instant_and_is_shut_at_its_last() {
        let terms = [term("SE", "2026-01-01T00:00:00Z", Some("2026-02-01T00:00:00Z"))];
        assert_eq!(answer(&terms, "SE", "2025-12-31T23:59:59.999Z"), "not yet");
        assert_eq!(answer(&terms, "SE", "2026-01-01T00:00:00Z"), "open");
        assert_eq!(answer(&terms, "SE", "2026-01-31T23:59:59.999Z"), "open");
        assert_eq!(answer(&terms, "SE", "2026-02-01T00:00:00Z"), "over");
    }

    #[test]
    fn another_territory_and_no_terms_at_all_are_refused() {
        let terms = [term("SE", "2026-01-01T00:00:00Z", None)];
        assert_eq!(answer(&terms, "NO", "2026-06-01T00:00:00Z"), "territory");
        assert_eq!(answer(&[], "SE", "2026-06-01T00:00:00Z"), "territory");
        assert_eq!(answer(&[term("*", "2026-01-01T00:00:00Z", None)], "NO", "2026-06-01T00:00:00Z"), "open");
    }

    #[test]
    fn between_two_windows_the_refusal_names_the_next() {
        let terms = [
            term("SE", "2026-01-01T00:00:00Z", Some("2026-02-01T00:00:00Z")),
            term("SE", "2026-08-01T00:00:00Z", None),
        ];
        assert_eq!(answer(&terms, "SE", "2026-05-01T00:00:00Z"), "not yet");
        assert_eq!(answer(&terms, "SE", "2026-08-01T00:00:00Z"), "open");
    }
}
