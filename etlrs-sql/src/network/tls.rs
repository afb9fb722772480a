//! TLS.

use std::io;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme, crypto,
};

use super::{Answer, Failure, Protection, Socket, Tls};

/// Agrees on TLS with the server, which expects just that now.
pub(crate) async fn secure<R>(socket: Box<dyn Socket>, host: &str, tls: &Tls) -> Answer<Box<dyn Socket>, R> {
    let config = client_config(tls)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| Failure::Tls("the host has no valid name".into()))?;
    let secure = TlsConnector::from(Arc::new(config)).connect(name, socket).await.map_err(of_handshake)?;
    Ok(Box::new(secure))
}

fn of_handshake<R>(error: io::Error) -> Failure<R> {
    match error.get_ref().and_then(|error| error.downcast_ref::<TlsError>()) {
        Some(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            Failure::Tls("the certificate of the server is from no known authority".into())
        }
        Some(tls) => Failure::Tls(tls.to_string()),
        None => Failure::Io(error),
    }
}

fn client_config<R>(tls: &Tls) -> Answer<ClientConfig, R> {
    let failed = |what: &str| {
        let words = format!("cannot {what}");
        move |error: &dyn std::fmt::Display| Failure::Tls(format!("{words}: {error}"))
    };
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| failed("set up TLS")(&error))?;
    let verifier: Arc<dyn ServerCertVerifier> = match tls.protection {
        Protection::Prefer | Protection::NoVerify => Arc::new(Anybody(provider)),
        mode => {
            let roots = Arc::new(roots(tls)?);
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
            let verifier = verifier.map_err(|error| failed("use the authorities")(&error))?;
            if mode == Protection::VerifyCa { Arc::new(AnyName(verifier)) } else { verifier }
        }
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    match (&tls.cert, &tls.key) {
        (Some(certificate), Some(key)) => {
            let what = format!("read the client certificate {}", certificate.display());
            let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let chain = chain.map_err(|error| failed(&what)(&error))?;
            let what = format!("read the client key {}", key.display());
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(&what)(&error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| failed("use the client certificate")(&error))
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        _ => Err(Failure::Tls("sslcert and sslkey go together".into())),
    }
}

/// The authorities that the user names, or those of the system.
fn roots<R>(tls: &Tls) -> Answer<RootCertStore, R> {
    let mut store = RootCertStore::empty();
    if let Some(file) = &tls.root_cert {
        let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let found =
            found.map_err(|error| Failure::Tls(format!("cannot read sslrootcert {}: {error}", file.display())))?;
        store.add_parsable_certificates(found);
        if store.is_empty() {
            return Err(Failure::Tls(format!("there is no certificate in sslrootcert {}", file.display())));
        }
        return Ok(store);
    }
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        return Err(Failure::Tls("this system has no authorities to check a certificate with".into()));
    }
    Ok(store)
}

/// Takes any certificate, but for one that the server cannot prove to have.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Checks all of a certificate but the name that it is for.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        match self.0.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is looked at last.
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
