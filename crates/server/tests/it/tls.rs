//! TLS: certificates made here, and replaced while the server runs.

use std::path::Path;
use std::sync::Arc;

use minerva_server::Sources;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::server::TestServer;

/// Writes a certificate for localhost and its key; gives the authority that signed it, in DER.
fn write_certificate(folder: &Path) -> Vec<u8> {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    std::fs::write(folder.join("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    authority.der().to_vec()
}

/// The status of a health check by a client that trusts this authority alone.
fn ask(server: &TestServer, authority: &[u8]) -> Result<u16, ureq::Error> {
    let roots = RootCerts::Specific(Arc::new(vec![Certificate::from_der(authority).to_owned()]));
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .build()
        .into();
    let url = format!("https://localhost:{}/health/live", server.address.port());
    Ok(agent.get(url).call()?.status().as_u16())
}

#[test]
fn a_certificate_is_replaced_while_the_server_runs() {
    let folder = crate::server::Folder::new("certificates");
    let first = write_certificate(&folder.0);
    let server = TestServer::with("tls", |settings| {
        settings.config.tls.cert = Some(folder.0.join("cert.pem"));
        settings.config.tls.key = Some(folder.0.join("key.pem"));
    });
    assert_eq!(ask(&server, &first).unwrap(), 200);
    let reload = || server.block_on(server.state.reload(&Sources::default()));
    let second = write_certificate(&folder.0);
    assert!(ask(&server, &second).is_err());
    reload();
    assert_eq!(ask(&server, &second).unwrap(), 200);
    assert!(ask(&server, &first).is_err());
    // One that cannot be used changes nothing.
    std::fs::write(folder.0.join("cert.pem"), "no certificate").unwrap();
    reload();
    assert_eq!(ask(&server, &second).unwrap(), 200);
}
