//! What a person sees: numbered steps, and one line that changes while something takes its time.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::clock;

/// Where nobody can rewrite a line, a new one is written this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// "[2/5] What is done".
pub struct Steps {
    count: u32,
    next: u32,
}

impl Steps {
    pub const fn new(count: u32) -> Self {
        Self { count, next: 1 }
    }

    pub fn begin(&mut self, what: &str) {
        eprintln!("\n[{}/{}] {what}", self.next, self.count);
        self.next += 1;
    }
}

/// One line that tells how far a wait is.
pub struct Line {
    start: Instant,
    last: String,
    written: Option<Instant>,
    terminal: bool,
}

impl Line {
    pub fn new() -> Self {
        Self { start: clock::now(), last: String::new(), written: None, terminal: io::stderr().is_terminal() }
    }

    pub fn show(&mut self, text: &str) {
        let now = clock::now();
        let shown = format!("      {text} ({} s)", now.duration_since(self.start).as_secs());
        if shown == self.last {
            return;
        }
        if self.terminal {
            eprint!("\r\x1b[K{shown}");
            // A terminal that cannot be written to is no reason to stop.
            drop(io::stderr().flush());
        } else if self.written.is_none_or(|written| now.duration_since(written) >= LINE_EVERY) {
            eprintln!("{shown}");
            self.written = Some(now);
        }
        self.last = shown;
    }

    /// Ends the line with what it came to.
    pub fn end(self, text: &str) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        eprintln!("{clear}      {text} ({:.1} s)", self.start.elapsed().as_secs_f64());
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}
