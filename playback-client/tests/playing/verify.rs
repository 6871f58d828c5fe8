//! `oca-play verify` finds what is wrong, and only that.

use std::path::PathBuf;

use crate::world::{Act, World};
use content::id::ApplianceId;
use playback_client::ledger::Fragment;
use playback_client::session::hex;
use playback_client::verify::{Verdict, VerifyError, verify};
use sha2::{Digest, Sha256};

struct Origin {
    world: World,
    folder: tempfile::TempDir,
    title: PathBuf,
}

fn origin() -> Origin {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(|_| Act::Serve);
    let title = world.write_origin(folder.path());
    Origin { world, folder, title }
}

impl Origin {
    fn fragment(&self, stream: &str, first: u64, last: u64) -> Fragment {
        let track = self.world.stream(stream).track;
        let range = usize::try_from(first).unwrap()..=usize::try_from(last).unwrap();
        let appliance: ApplianceId = "box-a".parse().unwrap();
        let sha256 = hex(&Sha256::digest(&self.world.objects[&track.object][range]));
        Fragment { object: track.object, extension: track.extension, first, last, sha256, appliance }
    }

    /// The whole track in two requests that are cut nowhere in particular.
    fn whole(&self, stream: &str) -> Vec<Fragment> {
        let bytes = self.world.stream(stream).track.bytes;
        vec![self.fragment(stream, 0, 70_000), self.fragment(stream, 70_001, bytes - 1)]
    }

    fn verify(&self, list: &[Fragment], complete: bool) -> Result<Verdict, VerifyError> {
        let path = self.folder.path().join("list.json");
        std::fs::write(&path, serde_json::to_vec(list).unwrap()).unwrap();
        verify(self.folder.path(), &path, complete.then_some(&*self.title))
    }
}

#[test]
fn a_complete_list_is_accepted_whatever_its_cuts() {
    let origin = origin();
    let list = [origin.whole("video-low"), origin.whole("audio-sv")].concat();
    assert_eq!(origin.verify(&list, true).unwrap().differences, Vec::<String>::new());
}

#[test]
fn two_rungs_may_cover_the_video_between_them() {
    let origin = origin();
    let (low, high) =
        (origin.world.stream("video-low").track.bytes, origin.world.stream("video-high").track.bytes);
    // Low: 200,000 bytes a segment, the first seven. High: 900,000 a segment, the last eight.
    let mut list = vec![
        origin.fragment("video-low", 0, 1_000 + 7 * 200_000 - 1),
        origin.fragment("video-high", 0, 799),
        origin.fragment("video-high", 1_000 + 7 * 900_000, high - 1),
    ];
    list.extend(origin.whole("audio-en"));
    assert_eq!(origin.verify(&list, true).unwrap().difference_count, 0);
    // Without its initialisation section a rung cannot be played.
    list.remove(1);
    assert_eq!(origin.verify(&list, true).unwrap().difference_count, 1);
    assert_eq!(origin.verify(&list, false).unwrap().difference_count, 0);
    assert!(low > 0);
}

#[test]
fn a_gap_is_named() {
    let origin = origin();
    let mut list = [origin.whole("video-low"), origin.whole("audio-sv")].concat();
    list[1] = origin.fragment("video-low", 80_000, origin.world.stream("video-low").track.bytes - 1);
    let verdict = origin.verify(&list, true).unwrap();
    assert_eq!(verdict.differences, ["video: 1 of 15 segments never arrived, the first is number 0"]);
    let silent = origin.verify(&origin.whole("video-low"), true).unwrap();
    assert_eq!(silent.differences, ["no audio was played"]);
}

#[test]
fn a_wrong_byte_a_strange_object_and_a_range_past_the_end_are_differences() {
    let origin = origin();
    let good = origin.fragment("video-low", 0, 799);
    let bytes = origin.world.stream("video-low").track.bytes;
    let breakers: [fn(&mut Fragment, u64); 5] = [
        |fragment, _| fragment.sha256 = hex(&Sha256::digest(b"other")),
        |fragment, _| fragment.object = content::id::ObjectId::of(b"nothing"),
        |fragment, _| fragment.extension = content::id::Extension::Vtt,
        |fragment, bytes| fragment.last = bytes,
        |fragment, _| (fragment.first, fragment.last) = (5, 4),
    ];
    for (index, breaker) in breakers.into_iter().enumerate() {
        let mut bad = good.clone();
        breaker(&mut bad, bytes);
        let verdict = origin.verify(&[good.clone(), bad], false).unwrap();
        assert_eq!(verdict.difference_count, 1, "breaker {index}: {verdict:?}");
    }
}

#[test]
fn an_empty_or_unreadable_list_is_no_success() {
    let origin = origin();
    assert!(matches!(origin.verify(&[], false), Err(VerifyError::Empty { .. })));
    let path = origin.folder.path().join("list.json");
    std::fs::write(&path, "{}").unwrap();
    assert!(matches!(verify(origin.folder.path(), &path, None), Err(VerifyError::NotAList { .. })));
    let missing = origin.folder.path().join("missing.json");
    assert!(matches!(verify(origin.folder.path(), &missing, None), Err(VerifyError::Unreadable { .. })));
}
