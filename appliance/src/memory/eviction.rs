//! Which block gives way. A trait, so that the final policy (S3-FIFO class, pinned set) replaces [`Clock`] and nothing
//! else.

/// A place in the table of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame(pub u32);

impl Frame {
    pub fn index(self) -> usize {
        usize::try_from(self.0).expect("a frame's number fits a usize")
    }
}

/// Called under the memory's lock: short, and without allocation.
pub trait EvictionPolicy: Send {
    /// A block was filled and may be used from now on.
    fn inserted(&mut self, frame: Frame);
    /// It was used again.
    fn touched(&mut self, frame: Frame);
    /// It holds nothing any more.
    fn removed(&mut self, frame: Frame);
    /// The block to give up, among those that `evictable` allows; None if it allows none.
    fn victim(&mut self, evictable: &mut dyn FnMut(Frame) -> bool) -> Option<Frame>;
}

/// FIFO with reinsertion, as a clock: a block that was used since the hand last passed is passed over once.
pub struct Clock {
    frames: Vec<State>,
    hand: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Empty,
    Unused,
    Used,
}

impl Clock {
    pub fn new(frames: usize) -> Self {
        Self { frames: vec![State::Empty; frames], hand: 0 }
    }
}

impl EvictionPolicy for Clock {
    fn inserted(&mut self, frame: Frame) {
        self.frames[frame.index()] = State::Unused;
    }

    fn touched(&mut self, frame: Frame) {
        self.frames[frame.index()] = State::Used;
    }

    fn removed(&mut self, frame: Frame) {
        self.frames[frame.index()] = State::Empty;
    }

    fn victim(&mut self, evictable: &mut dyn FnMut(Frame) -> bool) -> Option<Frame> {
        // Two rounds: the first may only take marks away.
        for _ in 0..self.frames.len() * 2 {
            let frame = Frame(u32::try_from(self.hand).expect("there are fewer than 2³² frames"));
            let state = self.frames[self.hand];
            self.hand = (self.hand + 1) % self.frames.len();
            match state {
                State::Empty => {}
                State::Used if evictable(frame) => self.frames[frame.index()] = State::Unused,
                State::Unused if evictable(frame) => return Some(frame),
                State::Used | State::Unused => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_was_used_again_outlives_one_that_was_not() {
        let mut clock = Clock::new(3);
        for frame in [0, 1, 2] {
            clock.inserted(Frame(frame));
        }
        clock.touched(Frame(0));
        assert_eq!(clock.victim(&mut |_| true), Some(Frame(1)));
        clock.removed(Frame(1));
        assert_eq!(clock.victim(&mut |_| true), Some(Frame(2)));
        clock.removed(Frame(2));
        assert_eq!(clock.victim(&mut |_| true), Some(Frame(0)));
    }

    #[test]
    fn a_block_in_use_is_never_chosen() {
        let mut clock = Clock::new(2);
        clock.inserted(Frame(0));
        clock.inserted(Frame(1));
        assert_eq!(clock.victim(&mut |frame| frame == Frame(1)), Some(Frame(1)));
        assert_eq!(clock.victim(&mut |_| false), None);
    }
}
