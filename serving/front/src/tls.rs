//! The TLS of a front, and how it is exchanged while it serves.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// PEM of a certificate chain, of its key, and of those who sign clients (None: clients need no certificate).
pub type Pem = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

/// What connections are encrypted by from now on; None: they are not.
#[derive(Default)]
pub struct Tls(Mutex<Option<TlsAcceptor>>);

impl Tls {
    pub fn now(&self) -> Option<TlsAcceptor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes another certificate; connections that stand keep theirs. Nothing changes where the PEM does not belong together.
    pub fn renew(&self, pem: &Pem) -> Result<(), String> {
        let found = acceptor(pem)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Ok(())
    }
}

fn acceptor((chain, key, clients): &Pem) -> Result<TlsAcceptor, String> {
    let chain = certificates(chain, "certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("key: {error}"))?;
    let builder = ServerConfig::builder();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(pem, "client_ca")? {
                roots.add(certificate).map_err(|error| format!("client_ca: {error}"))?;
            }
            let verifier = WebPkiClientVerifier::builder(roots.into()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| format!("client_ca: {error}"))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| format!("certificate and key: {error}"))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(pem: &[u8], name: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| format!("{name}: {error}"))?;
    if found.is_empty() {
        return Err(format!("{name}: holds no certificate"));
    }
    Ok(found)
}
