//! Which rungs a source is encoded in. Pure.
//!
//! A rung is a 16:9 box that the picture is fitted into, never enlarged: every box that is smaller than the source, and the
//! smallest one that holds it, at its own size. At least two, so that a player has somewhere to go.

/// The boxes: lines of a 16:9 picture, and its peak rate in kbit/s at up to 30 frames a second.
const BOXES: [(u32, u32); 5] = [(2160, 14_000), (1080, 4_800), (720, 2_400), (540, 1_200), (360, 600)];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rung {
    pub width: u32,
    pub height: u32,
    /// The lines of a 16:9 picture of this class: what people call it by.
    pub lines: u32,
    /// The most that the encoder may send over its buffer, kbit/s.
    pub peak_kbps: u32,
}

impl Rung {
    /// `540p 1200k`: drawn into test material.
    pub fn label(&self) -> String {
        format!("{}p {}k", self.lines, self.peak_kbps)
    }

    /// `video-avc-540p-1200k`.
    pub fn stream_name(&self) -> String {
        format!("video-avc-{}p-{}k", self.lines, self.peak_kbps)
    }

    fn fitted(display: (u32, u32), box_lines: u32, box_kbps: u32, fast: bool) -> Self {
        let (width, height) = fit(display, box_lines);
        let box_pixels = u64::from(box_lines) * u64::from(box_lines) * 16 / 9;
        let share = u64::from(width) * u64::from(height) * 100 / box_pixels;
        // A fast picture changes less from frame to frame: half as much again, not twice.
        let rate = u64::from(box_kbps) * share.min(100) / 100 * if fast { 3 } else { 2 } / 2;
        let rounded = (rate.max(100) + 25) / 50 * 50;
        Self {
            width,
            height,
            lines: class_lines(width, height),
            peak_kbps: u32::try_from(rounded).unwrap_or(box_kbps),
        }
    }
}

/// Two to five rungs, the largest first. `display` is the picture's size in square pixels.
pub fn rungs(display: (u32, u32), frames_per_second: u32) -> Vec<Rung> {
    let fast = frames_per_second > 30;
    let lines = class_lines(display.0, display.1);
    // The smallest box that holds the source, then all below.
    let top = BOXES.iter().rposition(|(box_lines, _)| *box_lines >= lines).unwrap_or(0);
    let mut rungs: Vec<Rung> = Vec::new();
    for (box_lines, kbps) in BOXES.iter().skip(top) {
        let mut rung = Rung::fitted(display, *box_lines, *kbps, fast);
        // Rounding may turn the order of two rungs of a very narrow picture.
        rung.peak_kbps = rungs.last().map_or(rung.peak_kbps, |above| rung.peak_kbps.min(above.peak_kbps));
        // 576 lines beside 540 would be two rungs for one.
        let distinct = rungs.last().is_none_or(|above| rung.lines * 8 <= above.lines * 7);
        if distinct {
            rungs.push(rung);
        }
    }
    if rungs.len() < 2 {
        let lower = (lines * 2 / 3).max(36);
        rungs.push(Rung {
            peak_kbps: rungs[0].peak_kbps.div_ceil(2),
            ..Rung::fitted(display, lower, 300, fast)
        });
    }
    rungs
}

/// The lines of the 16:9 (or 9:16) box that a picture fills: 1920x800 is a 1080 line picture, cropped.
pub fn class_lines(width: u32, height: u32) -> u32 {
    let (long, short) = (width.max(height), width.min(height));
    let of_long = (u64::from(long) * 9 + 8) / 16;
    short.max(u32::try_from(of_long).unwrap_or(short))
}

/// The size of the same shape in the box, to the nearest even sides of at least 16, never larger than the picture.
fn fit(display: (u32, u32), box_lines: u32) -> (u32, u32) {
    let lines = class_lines(display.0, display.1).max(1);
    let even = |side: u32| {
        let half =
            (u64::from(side) * u64::from(box_lines.min(lines)) + u64::from(lines)) / (2 * u64::from(lines));
        // 4:2:0 halves both sides; a picture with an odd side loses its last line.
        (u32::try_from(half).unwrap_or(side) * 2).min(side & !1).max(16)
    };
    (even(display.0), even(display.1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes(display: (u32, u32)) -> Vec<(u32, u32, u32)> {
        rungs(display, 24).iter().map(|r| (r.width, r.height, r.peak_kbps)).collect()
    }

    #[test]
    fn a_source_of_540_lines_has_two_rungs() {
        assert_eq!(sizes((960, 540)), [(960, 540, 1200), (640, 360, 600)]);
        assert_eq!(rungs((960, 540), 24)[0].label(), "540p 1200k");
    }

    #[test]
    fn larger_sources_have_more() {
        assert_eq!(sizes((1280, 720)).len(), 3);
        assert_eq!(sizes((1920, 1080)).len(), 4);
        assert_eq!(sizes((3840, 2160)).len(), 5);
        assert_eq!(sizes((7680, 4320))[0], (3840, 2160, 14_000));
    }

    #[test]
    fn a_wide_film_is_of_the_class_of_its_width() {
        assert_eq!(
            sizes((1920, 800)).iter().map(|s| (s.0, s.1)).collect::<Vec<_>>()[..2],
            [(1920, 800), (1280, 534)]
        );
        assert_eq!(rungs((1920, 800), 24)[0].lines, 1080);
        assert_eq!(rungs((1080, 1920), 24)[0].lines, 1080);
        assert_eq!(sizes((1080, 1920))[0], (1080, 1920, 4_800));
    }

    #[test]
    fn a_small_source_keeps_its_size_and_gets_a_smaller_one() {
        let small = sizes((320, 180));
        assert_eq!((small.len(), small[0].0, small[0].1), (2, 320, 180));
        assert!(small[1].0 < 320 && small[1].2 < small[0].2);
    }

    #[test]
    fn a_fast_picture_gets_half_as_much_again() {
        assert_eq!(rungs((960, 540), 50)[0].peak_kbps, 1800);
    }

    proptest! {
        #[test]
        fn every_ladder_descends_and_never_enlarges(width in 32..8000_u32, height in 32..8000_u32, fps in 1..60_u32) {
            let rungs = rungs((width, height), fps);
            prop_assert!((2..=5).contains(&rungs.len()));
            for rung in &rungs {
                prop_assert!(rung.width <= width && rung.height <= height);
                prop_assert!(rung.width % 2 == 0 && rung.height % 2 == 0);
                // The shape is kept within the rounding to even sides.
                let skew = i64::from(rung.width) * i64::from(height) - i64::from(rung.height) * i64::from(width);
                let tolerance = i64::from(2 * width.max(height)) + i64::from(16 * width.max(height));
                prop_assert!(skew.abs() <= tolerance);
            }
            for pair in rungs.windows(2) {
                prop_assert!(pair[0].lines > pair[1].lines, "{:?}", rungs);
                prop_assert!(pair[0].peak_kbps >= pair[1].peak_kbps, "{:?}", rungs);
                prop_assert!(pair[0].stream_name() != pair[1].stream_name());
            }
        }
    }
}
