//! A setting of the kernel that is another one while the bench runs, where it may be, and is put back.

use std::fs;
use std::path::{Path, PathBuf};

/// Dropping it puts back what was.
pub struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    /// None: it cannot be set here, or the kernel took something else.
    pub fn set(path: impl AsRef<Path>, value: &str, took: impl Fn(&str) -> bool) -> Option<Self> {
        let path = path.as_ref();
        let before = chosen(&fs::read_to_string(path).ok()?).to_owned();
        let setting = Self { path: path.to_owned(), before };
        fs::write(path, value).ok()?;
        fs::read_to_string(path).is_ok_and(|text| took(chosen(&text))).then_some(setting)
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(cause) = fs::write(&self.path, &self.before) {
            eprintln!("      {} could not be put back to {}: {cause}", self.path.display(), self.before);
        }
    }
}

/// "always [never]" gives "never"; a plain value itself.
pub fn chosen(text: &str) -> &str {
    let bracketed = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    bracketed.map_or(text.trim(), |(chosen, _)| chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_is_put_back_also_if_the_kernel_took_something_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = || fs::read_to_string(file.path()).unwrap();
        fs::write(file.path(), "always [never] deny").unwrap();
        let setting = Setting::set(file.path(), "advise", |took| took == "advise").unwrap();
        assert_eq!(read(), "advise");
        drop(setting);
        assert_eq!(read(), "never");
        assert!(Setting::set(file.path(), "8", |took| took == "9").is_none());
        assert_eq!(read(), "never");
    }
}
