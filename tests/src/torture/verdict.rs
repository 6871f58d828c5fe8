//! What must never happen and did. The first one ends the run.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};

#[derive(Clone, Default)]
pub struct Verdict(Arc<Mutex<Vec<String>>>);

impl Verdict {
    pub fn broken(&self, what: String) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < 20 {
            known.push(what);
        }
    }

    pub fn check(&self) -> Result<()> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.is_empty() {
            bail!("{}", known.join("\n"));
        }
        Ok(())
    }
}
