//! TLS, and the ways of authentication.

use super::*;
use crate::certificates::{authority, certificate};

#[test]
fn certificates_are_checked_as_the_mode_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (good, other) = (authority(path, "good"), authority(path, "other"));
    let (certificate_, key) = certificate(path, "good", "server", "localhost", "subjectAltName=DNS:localhost");
    let (client, client_key) = certificate(path, "good", "client", "certified", "extendedKeyUsage=clientAuth");
    let server = Postgres::start();
    server.sql("CREATE ROLE certified LOGIN SUPERUSER; SET password_encryption = 'md5'; CREATE ROLE old LOGIN SUPERUSER PASSWORD 'old';
        SET password_encryption = 'scram-sha-256'; CREATE ROLE new LOGIN SUPERUSER PASSWORD 'n w'; CREATE ROLE clear LOGIN SUPERUSER PASSWORD 'c'");
    server.use_tls(
        &certificate_,
        &key,
        &good,
        "hostssl all certified 127.0.0.1/32 cert\nhost all certified 127.0.0.1/32 reject\nhost all old 127.0.0.1/32 md5
         host all new 127.0.0.1/32 scram-sha-256\nhost all clear 127.0.0.1/32 password\nhost all all 127.0.0.1/32 trust\n",
    );
    let [good, other, client, client_key] = [good, other, client, client_key].map(|path| path.display().to_string());
    // Whether the connection is over TLS, as the server sees it.
    let connect = |host: &str, parameters: &str| {
        let out = folder.path().join("out.csv");
        let uri = format!("postgres://{host}:{}/test?{parameters}", server.port());
        let query = [("query", "SELECT ssl, current_user::text AS name FROM pg_stat_ssl WHERE pid = pg_backend_pid()")];
        let copy = Copy { mode: LoadMode::Replace, source_options: &query, ..Copy::default() };
        copy.run(&uri, out.to_str().unwrap())?;
        Ok::<_, Error>(std::fs::read_to_string(out).unwrap().lines().last().unwrap().to_owned())
    };
    for (host, parameters, expected) in [
        ("postgres@localhost", String::new(), "true,postgres"),
        ("postgres@localhost", "sslmode=disable".into(), "false,postgres"),
        ("postgres@localhost", format!("sslmode=verify-full&sslrootcert={good}"), "true,postgres"),
        ("postgres@127.0.0.1", format!("sslmode=verify-ca&sslrootcert={good}"), "true,postgres"),
        ("postgres@127.0.0.1", "sslmode=require".into(), "true,postgres"),
        ("certified@127.0.0.1", format!("sslmode=require&sslcert={client}&sslkey={client_key}"), "true,certified"),
        ("old:old@127.0.0.1", String::new(), "true,old"),
        ("new:n%20w@127.0.0.1", "sslmode=disable".into(), "false,new"),
        ("clear:c@127.0.0.1", String::new(), "true,clear"),
    ] {
        assert_eq!(connect(host, &parameters).unwrap(), expected, "{host} {parameters}");
    }
    for (host, parameters, said) in [
        ("postgres@127.0.0.1", format!("sslmode=verify-full&sslrootcert={good}"), "not valid for name"),
        ("postgres@localhost", format!("sslmode=verify-full&sslrootcert={other}"), "from no known authority"),
        ("postgres@localhost", format!("sslmode=verify-ca&sslrootcert={other}"), "from no known authority"),
        ("postgres@localhost", "sslmode=verify-full".into(), "authority"),
        ("postgres@localhost", "sslmode=verify-full&sslrootcert=/no/such/file".into(), "cannot read sslrootcert"),
        ("certified@127.0.0.1", "sslmode=require".into(), "certificate"),
        ("certified@127.0.0.1", format!("sslcert={client}"), "go together"),
        ("old:wrong@127.0.0.1", String::new(), "password authentication failed"),
        ("new:wrong@127.0.0.1", String::new(), "password authentication failed"),
        ("new@127.0.0.1", String::new(), "there is none"),
    ] {
        let error = connect(host, &parameters).unwrap_err();
        assert!(error.to_string().contains(said), "{host} {parameters}: {error}");
    }
    let plain = Postgres::start();
    let uri =
        format!("postgres://postgres@localhost:{}/test?sslmode=verify-full&sslrootcert={good}#pg_class", plain.port());
    let error = copy(&uri, folder.path().join("x.csv").to_str().unwrap(), LoadMode::Replace).unwrap_err();
    assert!(error.to_string().contains("the server has no TLS"), "{error}");
}

#[test]
fn sockets_in_files_are_hosts_too() {
    let server = Postgres::start();
    server.sql("CREATE TABLE t AS SELECT 1 AS id");
    let folder = server.folder().join("data").display().to_string().replace('/', "%2F");
    let uri = format!("postgres://postgres@{folder}/test?port={}#t", server.port());
    copy(&uri, &server.uri("u"), LoadMode::Create).unwrap();
    assert_eq!(server.sql("SELECT * FROM u"), "1");
}
