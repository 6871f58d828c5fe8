//! The certificate that a box serves with, read from its files again when they change; and the rules of TLS that all
//! workers share (one ticket key among them, or resumption fails). Impure.

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use content::box_config::TlsConfig;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Why a certificate cannot be served with; the file is named.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{}: cannot be read: {cause}", .file.display())]
    Unreadable { file: PathBuf, cause: io::Error },
    #[error("{}: {what}", .file.display())]
    Wrong { file: PathBuf, what: String },
    #[error("the key of {} is not that of the first certificate in {}: {cause}", .key.display(), .certificate.display())]
    Mismatch { certificate: PathBuf, key: PathBuf, cause: rustls::Error },
}

/// The certificate that is served with now.
pub struct Certificates {
    files: TlsConfig,
    current: ArcSwap<CertifiedKey>,
    seen: Mutex<Seen>,
}

/// What was read last, whether it could be used or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    stamps: [Option<Stamp>; 2],
    /// Why the files that are there now are not used.
    refused: Option<String>,
}

/// Tells a file from what it was: a new one has another inode, one written in place another time or size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Certificates {
    pub fn load(files: &TlsConfig) -> Result<Arc<Self>, CertificateError> {
        let stamps = stamps(files);
        let current = ArcSwap::from_pointee(read(files)?);
        let seen = Mutex::new(Seen { stamps, refused: None });
        Ok(Arc::new(Self { files: files.clone(), current, seen }))
    }

    /// Reads the files again if they have changed. What cannot be used leaves the one before in its place.
    pub fn look_again(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.files);
        if stamps == seen.stamps {
            return;
        }
        let refused = match read(&self.files) {
            Ok(certified) => {
                tracing::info!(file = %self.files.certificate.display(), "serving with a new certificate");
                self.current.store(Arc::new(certified));
                None
            }
            // Certificate and key are two files: between the two they do not belong together, and soon do.
            Err(cause) => {
                tracing::error!("the new certificate is not used: {cause}; the one before is served with");
                Some(cause.to_string())
            }
        };
        *seen = Seen { stamps, refused };
    }

    /// Why the files that are there now are not used; None: they are.
    pub fn refused(&self) -> Option<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).refused.clone()
    }

    /// The rules for every worker.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
        let resolver: Arc<Self> = Arc::clone(self);
        let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
        // AES-GCM first, whatever the client prefers: processors of these boxes have it in hardware.
        config.ignore_client_order = true;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}

fn provider() -> CryptoProvider {
    use aws_lc_rs::cipher_suite as suites;
    CryptoProvider {
        cipher_suites: vec![
            suites::TLS13_AES_128_GCM_SHA256,
            suites::TLS13_AES_256_GCM_SHA384,
            suites::TLS13_CHACHA20_POLY1305_SHA256,
            suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    }
}

fn read(files: &TlsConfig) -> Result<CertifiedKey, CertificateError> {
    let wrong =
        |file: &Path, what: &str| CertificateError::Wrong { file: file.to_owned(), what: what.to_owned() };
    let text = read_file(&files.certificate)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|cause| wrong(&files.certificate, &format!("not PEM: {cause}")))?;
    if chain.is_empty() {
        return Err(wrong(
            &files.certificate,
            "no certificate is in it; give the chain in PEM, the box's own first",
        ));
    }
    let text = read_file(&files.key)?;
    let key = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|cause| wrong(&files.key, &format!("no private key in PEM: {cause}")))?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|cause| CertificateError::Mismatch {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        cause,
    })
}

fn read_file(file: &Path) -> Result<Vec<u8>, CertificateError> {
    fs::read(file).map_err(|cause| CertificateError::Unreadable { file: file.to_owned(), cause })
}

fn stamps(files: &TlsConfig) -> [Option<Stamp>; 2] {
    [&files.certificate, &files.key].map(|file| fs::metadata(file).ok().map(|meta| stamp(&meta)))
}

fn stamp(meta: &Metadata) -> Stamp {
    Stamp { inode: meta.ino(), bytes: meta.len(), changed: (meta.mtime(), meta.mtime_nsec()) }
}
