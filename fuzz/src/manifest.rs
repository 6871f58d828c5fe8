//! Manifests, as they are and with a seal that fits.
//!
//! Input: the file's bytes, with or without its last line.

use content::id::ObjectId;
use content::manifest::Manifest;

pub fn run(data: &[u8]) {
    check(data);
    let mut sealed = data.to_vec();
    if !sealed.ends_with(b"\n") {
        sealed.push(b'\n');
    }
    let seal = format!("{{\"blake3\":\"{}\"}}\n", ObjectId::of(&sealed));
    sealed.extend(seal.as_bytes());
    check(&sealed);
}

fn check(bytes: &[u8]) {
    let Ok(manifest) = Manifest::parse(bytes) else { return };
    let written = manifest.to_bytes();
    let again = Manifest::parse(&written).expect("what is written can be read");
    assert_eq!(again, manifest);
    assert_eq!(again.to_bytes(), written);
    for entry in &manifest.entries {
        assert!(entry.worth.is_finite() && entry.worth >= 0.0);
        assert_eq!(entry.path.to_string().parse().as_ref(), Ok(&entry.path));
        assert!(entry.on.iter().all(|&index| usize::from(index) < manifest.appliances.len()));
    }
    // Each appliance's part is what names it, in order.
    let indexes = 0..u16::try_from(manifest.appliances.len().min(8)).expect("eight fit");
    for index in indexes {
        let found: Vec<u32> = manifest.entries_on(index).map(|(ordinal, _)| ordinal).collect();
        let named = manifest.entries.iter().zip(0u32..).filter(|(entry, _)| entry.on.contains(&index));
        assert_eq!(found, named.map(|(_, ordinal)| ordinal).collect::<Vec<_>>());
    }
    // A cut is noticed, wherever it is.
    assert!(Manifest::parse(&written[..written.len() / 2]).is_err());
}
