//! The kept corpus, replayed without libFuzzer: `cargo test --manifest-path fuzz/Cargo.toml`.

use std::fs;
use std::path::Path;

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 12] = [
    ("catalogue", fuzz::catalogue::run),
    ("conditional", fuzz::conditional::run),
    ("control_api", fuzz::control_api::run),
    ("footer", fuzz::footer::run),
    ("hls_playlist", fuzz::hls_playlist::run),
    ("manifest", fuzz::manifest::run),
    ("range", fuzz::range::run),
    ("request_head", fuzz::request_head::run),
    ("resume_record", fuzz::resume_record::run),
    ("title", fuzz::title::run),
    ("tls_feed", fuzz::tls_feed::run),
    ("token", fuzz::token::run),
];

#[test]
fn every_input_of_the_kept_corpus_passes() {
    for (target, run) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        let entries = fs::read_dir(&folder).expect("each target has a corpus");
        let inputs: Vec<_> = entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
        assert!(!inputs.is_empty(), "{target} has no corpus");
        inputs.iter().for_each(|input| run(input));
    }
}
