//! Tells a person on stderr how far long work has come: a line a second at most, rewritten in place on a terminal.
//! The only module that reads the clock.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const INTERVAL_TERMINAL: Duration = Duration::from_millis(200);
const INTERVAL_LOG: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Board {
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    begun: Instant,
    shown: Option<Instant>,
    line_open: bool,
}

impl Board {
    #[expect(clippy::disallowed_methods, reason = "progress is shown by the clock")]
    pub fn new() -> Self {
        let state = State { begun: Instant::now(), shown: None, line_open: false };
        Self { terminal: std::io::stderr().is_terminal(), state: Mutex::new(state) }
    }

    /// Shows the line if enough time has passed since the last.
    #[expect(clippy::disallowed_methods, reason = "progress is shown by the clock")]
    pub fn step(&self, line: impl FnOnce() -> String) {
        let interval = if self.terminal { INTERVAL_TERMINAL } else { INTERVAL_LOG };
        let now = Instant::now();
        let mut state = self.lock();
        let last = state.shown.unwrap_or(state.begun);
        if now.duration_since(last) >= interval {
            state.shown = Some(now);
            self.write(&mut state, &line(), false);
        }
    }

    /// Shows the line at once and keeps it.
    pub fn say(&self, line: &str) {
        let mut state = self.lock();
        self.write(&mut state, line, true);
    }

    #[expect(clippy::disallowed_methods, reason = "progress is shown by the clock")]
    pub fn elapsed_ms(&self) -> u64 {
        let elapsed = Instant::now().duration_since(self.lock().begun);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self, state: &mut State, line: &str, keep: bool) {
        let mut stderr = std::io::stderr().lock();
        let start = if state.line_open { "\r\x1b[K" } else { "" };
        let end = if keep || !self.terminal { "\n" } else { "" };
        state.line_open = end.is_empty();
        // Nobody may be listening; the work goes on.
        drop(write!(stderr, "{start}{line}{end}"));
        drop(stderr.flush());
    }
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

/// `37 %`.
pub fn percent(done: u64, all: u64) -> String {
    format!("{} %", done.min(all) * 100 / all.max(1))
}
