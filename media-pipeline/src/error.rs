//! What can go wrong, one variant per remedy, and whose fault it is: the operator's (exit 2) or the host's (exit 1).

use std::io;
use std::path::PathBuf;

use crate::mp4::Mp4Error;
use crate::webvtt::VttError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the source {path} does not exist: check the path")]
    SourceMissing { path: PathBuf },
    #[error("the source {path} may not be read by this user: change its permissions or run as its owner")]
    SourceForbidden { path: PathBuf },
    #[error("the source {path} is a directory: name one film file in it")]
    SourceIsDirectory { path: PathBuf },
    #[error("the source {path} is neither a file nor a link to one: copy it into a file first")]
    SourceIsNoFile { path: PathBuf },
    #[error("the source {path} is empty (zero bytes): copy it again")]
    SourceEmpty { path: PathBuf },
    #[error("the source {path} is no film file that ffmpeg can read: {detail}")]
    SourceNotMedia { path: PathBuf, detail: String },
    #[error("the source {path} has no video track: {detail}")]
    SourceWithoutVideo { path: PathBuf, detail: String },
    #[error("the source {path} is truncated: {detail}; copy or export it again")]
    SourceTruncated { path: PathBuf, detail: String },
    #[error("the source {path} cannot be decoded: {detail}")]
    SourceUndecodable { path: PathBuf, detail: String },
    #[error("the source {path} changed while it was being published: publish again once it is at rest")]
    SourceChanged { path: PathBuf },
    #[error("the source {path} cannot be read: {cause}")]
    SourceUnreadable { path: PathBuf, cause: io::Error },

    #[error("{0} (see oca-media --help)")]
    Arguments(String),
    #[error("the terms file {path} cannot be read: {cause}")]
    TermsUnreadable { path: PathBuf, cause: io::Error },
    #[error("the terms file {path} is not valid: {cause}")]
    TermsInvalid { path: PathBuf, cause: Box<toml::de::Error> },
    #[error("the terms file {path} is not valid: term {index} {what}")]
    TermsInconsistent { path: PathBuf, index: usize, what: &'static str },
    #[error("the subtitle file {path} cannot be read: {cause}")]
    SubtitlesUnreadable { path: PathBuf, cause: io::Error },
    #[error("the subtitle file {path} is not valid: {cause}")]
    SubtitlesInvalid { path: PathBuf, cause: VttError },
    #[error(
        "title {title} was changed by another publisher meanwhile: look at what it has now, then publish again"
    )]
    TitleChanged { title: String },
    #[error(
        "titles/{title}/title.json in the origin cannot be understood: {detail}; publish again with --terms, because those in it cannot be believed, or move it away first"
    )]
    TitleUnreadable { title: String, detail: String },

    #[error("{tool} is not installed: install Debian's package {package}")]
    ToolMissing { tool: &'static str, package: &'static str },
    #[error("ffmpeg finds no font to draw with: install Debian's package fonts-dejavu-core")]
    FontMissing,
    #[error("{tool} failed while {doing}: {detail}")]
    ToolFailed { tool: &'static str, doing: String, detail: String },
    #[error("stream {stream} does not conform and was not published: {cause}")]
    Nonconforming { stream: String, cause: Mp4Error },
    #[error(
        "the origin has no room while {doing}: {cause}; free space there, then publish again: what is done is kept"
    )]
    OriginFull { doing: String, cause: Box<object_store::Error> },
    #[error("the origin failed while {doing}: {cause}")]
    Origin { doing: String, cause: Box<object_store::Error> },
    #[error("{path} cannot be {doing}: {cause}")]
    Io { path: PathBuf, doing: &'static str, cause: io::Error },
}

impl Error {
    /// 2: refused, the operator can cure it. 1: a failure of the host.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::SourceMissing { .. }
            | Self::SourceForbidden { .. }
            | Self::SourceIsDirectory { .. }
            | Self::SourceIsNoFile { .. }
            | Self::SourceEmpty { .. }
            | Self::SourceNotMedia { .. }
            | Self::SourceWithoutVideo { .. }
            | Self::SourceTruncated { .. }
            | Self::SourceUndecodable { .. }
            | Self::SourceChanged { .. }
            | Self::Arguments(_)
            | Self::TermsUnreadable { .. }
            | Self::TermsInvalid { .. }
            | Self::TermsInconsistent { .. }
            | Self::SubtitlesUnreadable { .. }
            | Self::SubtitlesInvalid { .. }
            | Self::TitleChanged { .. }
            | Self::TitleUnreadable { .. } => 2,
            Self::SourceUnreadable { .. }
            | Self::ToolMissing { .. }
            | Self::FontMissing
            | Self::ToolFailed { .. }
            | Self::Nonconforming { .. }
            | Self::OriginFull { .. }
            | Self::Origin { .. }
            | Self::Io { .. } => 1,
        }
    }
}
