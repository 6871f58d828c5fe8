//! Language tags: what containers carry (ISO 639-2, sometimes ISO 639-1 or BCP 47) to BCP 47.

/// ISO 639-2 codes (both variants where there are two) and their ISO 639-1 form. BCP 47 wants the shortest
/// (RFC 5646 §2.2.1); languages without a two-letter code keep their three letters.
#[rustfmt::skip]
const SHORT: &[(&str, &str)] = &[
    ("afr", "af"), ("alb", "sq"), ("amh", "am"), ("ara", "ar"), ("arm", "hy"), ("asm", "as"), ("aze", "az"),
    ("baq", "eu"), ("bel", "be"), ("ben", "bn"), ("bos", "bs"), ("bul", "bg"), ("bur", "my"), ("cat", "ca"),
    ("ces", "cs"), ("chi", "zh"), ("cym", "cy"), ("cze", "cs"), ("dan", "da"), ("deu", "de"), ("dut", "nl"),
    ("ell", "el"), ("eng", "en"), ("epo", "eo"), ("est", "et"), ("eus", "eu"), ("fao", "fo"), ("fas", "fa"),
    ("fin", "fi"), ("fra", "fr"), ("fre", "fr"), ("fry", "fy"), ("geo", "ka"), ("ger", "de"), ("gla", "gd"),
    ("gle", "ga"), ("glg", "gl"), ("gre", "el"), ("guj", "gu"), ("hat", "ht"), ("hau", "ha"), ("heb", "he"),
    ("hin", "hi"), ("hrv", "hr"), ("hun", "hu"), ("hye", "hy"), ("ibo", "ig"), ("ice", "is"), ("ind", "id"),
    ("isl", "is"), ("ita", "it"), ("jav", "jv"), ("jpn", "ja"), ("kal", "kl"), ("kan", "kn"), ("kat", "ka"),
    ("kaz", "kk"), ("khm", "km"), ("kin", "rw"), ("kir", "ky"), ("kor", "ko"), ("kur", "ku"), ("lao", "lo"),
    ("lat", "la"), ("lav", "lv"), ("lit", "lt"), ("ltz", "lb"), ("mac", "mk"), ("mal", "ml"), ("mao", "mi"),
    ("mar", "mr"), ("may", "ms"), ("mkd", "mk"), ("mlg", "mg"), ("mlt", "mt"), ("mon", "mn"), ("mri", "mi"),
    ("msa", "ms"), ("mya", "my"), ("nep", "ne"), ("nld", "nl"), ("nno", "nn"), ("nob", "nb"), ("nor", "no"),
    ("oci", "oc"), ("ori", "or"), ("pan", "pa"), ("per", "fa"), ("pol", "pl"), ("por", "pt"), ("pus", "ps"),
    ("que", "qu"), ("roh", "rm"), ("ron", "ro"), ("rum", "ro"), ("rus", "ru"), ("san", "sa"), ("sin", "si"),
    ("slk", "sk"), ("slo", "sk"), ("slv", "sl"), ("sme", "se"), ("smo", "sm"), ("sna", "sn"), ("snd", "sd"),
    ("som", "so"), ("sot", "st"), ("spa", "es"), ("sqi", "sq"), ("srd", "sc"), ("srp", "sr"), ("sun", "su"),
    ("swa", "sw"), ("swe", "sv"), ("tam", "ta"), ("tat", "tt"), ("tel", "te"), ("tgk", "tg"), ("tgl", "tl"),
    ("tha", "th"), ("tib", "bo"), ("tir", "ti"), ("ton", "to"), ("tur", "tr"), ("tuk", "tk"), ("uig", "ug"),
    ("ukr", "uk"), ("urd", "ur"), ("uzb", "uz"), ("vie", "vi"), ("wel", "cy"), ("wol", "wo"), ("xho", "xh"),
    ("yid", "yi"), ("yor", "yo"), ("zho", "zh"), ("zul", "zu"),
];

/// What is said of a track whose language nobody knows (ISO 639-2).
pub const UNDETERMINED: &str = "und";

/// The BCP 47 tag for what a container or an operator wrote; [`UNDETERMINED`] if it is none.
pub fn tag(written: Option<&str>) -> String {
    written.and_then(parse).unwrap_or_else(|| UNDETERMINED.to_owned())
}

/// A BCP 47 tag by its shape (RFC 5646 §2.1), its language in the shortest form, in the usual case.
pub fn parse(written: &str) -> Option<String> {
    let mut parts = written.split(['-', '_']);
    let language = parts.next()?.to_ascii_lowercase();
    let letters = language.bytes().all(|b| b.is_ascii_lowercase());
    if !letters || !(2..=3).contains(&language.len()) {
        return None;
    }
    let shortest = SHORT.iter().find(|(long, _)| *long == language).map(|(_, short)| *short);
    let mut tag = shortest.unwrap_or(&language).to_owned();
    for part in parts {
        let valid = (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric());
        if !valid || tag.len() + part.len() > 34 {
            return None;
        }
        tag.push('-');
        tag.push_str(&usual_case(part));
    }
    Some(tag)
}

/// RFC 5646 §2.1.1: regions in capitals, scripts with a capital, the rest small.
fn usual_case(part: &str) -> String {
    let letters = part.bytes().all(|b| b.is_ascii_alphabetic());
    match part.len() {
        2 if letters => part.to_ascii_uppercase(),
        4 if letters => {
            let (first, rest) = part.split_at(1);
            first.to_ascii_uppercase() + &rest.to_ascii_lowercase()
        }
        _ => part.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_code_becomes_the_shortest_tag() {
        for (written, tag_) in [
            ("eng", "en"),
            ("swe", "sv"),
            ("fre", "fr"),
            ("fra", "fr"),
            ("en", "en"),
            ("SV", "sv"),
            ("pt_br", "pt-BR"),
            ("zh-hant-tw", "zh-Hant-TW"),
            ("fil", "fil"),
            ("es-419", "es-419"),
        ] {
            assert_eq!(tag(Some(written)), tag_);
        }
    }

    #[test]
    fn what_is_no_tag_is_undetermined() {
        for written in
            [None, Some(""), Some("english"), Some("e"), Some("en-"), Some("en/../x"), Some("日本")]
        {
            assert_eq!(tag(written), "und", "{written:?}");
        }
    }

    #[test]
    fn the_table_is_sorted_enough_to_be_read_and_has_no_code_twice() {
        let mut codes: Vec<_> = SHORT.iter().map(|(long, _)| *long).collect();
        codes.sort_unstable();
        assert!(codes.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
