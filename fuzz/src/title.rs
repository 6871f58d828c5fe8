//! `title.json`, and what the control plane and the players make of one that was read.
//!
//! Input: the file's bytes, or its text without the seal.

use std::collections::BTreeSet;

use content::id::MediaPath;
use content::title::{StreamKind, Title};
use control_plane::snapshot::KnownTitle;

pub fn run(data: &[u8]) {
    for title in [Title::parse(data), Title::parse_unsealed(data)].into_iter().flatten() {
        check(title);
    }
}

fn check(title: Title) {
    let written = title.to_bytes();
    let again = Title::parse(&written).expect("what is written can be read");
    assert_eq!(again, title);
    assert_eq!(again.to_bytes(), written);
    let ids: BTreeSet<_> = title.streams.iter().map(|stream| &stream.id).collect();
    assert_eq!(ids.len(), title.streams.len());
    assert!(title.streams.iter().any(|stream| matches!(stream.kind, StreamKind::Video { .. })));
    for stream in &title.streams {
        let spans = [stream.init, stream.index].into_iter().flatten();
        let subtitles = matches!(stream.kind, StreamKind::Subtitles { .. });
        assert!(subtitles || spans.into_iter().all(|span| span.last() < stream.track.bytes));
    }
    for (path, _) in title.objects() {
        assert_eq!(path.to_string().parse::<MediaPath>().as_ref(), Ok(&path));
    }
    let known = KnownTitle::new(title);
    for (index, stream) in known.title.streams.iter().enumerate() {
        let (found, _) = known.stream(index).expect("every stream has its keys");
        assert_eq!(found, stream);
    }
}
