//! TLS, sockets and the ways of authentication.

use super::*;
use crate::certificates::{authority, certificate};

#[test]
fn certificates_are_checked_as_the_mode_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (good, other) = (authority(path, "good"), authority(path, "other"));
    let (server_certificate, key) = certificate(path, "good", "server", "localhost", "subjectAltName=DNS:localhost");
    let (client, client_key) = certificate(path, "good", "client", "certified", "extendedKeyUsage=clientAuth");
    // The server reads them as another user.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    let settings = [
        format!("--ssl-cert={}", server_certificate.display()),
        format!("--ssl-key={}", key.display()),
        format!("--ssl-ca={}", good.display()),
    ];
    let server = MariaDb::start_with(&settings.each_ref().map(String::as_str));
    server.sql(
        "CREATE USER certified REQUIRE X509; CREATE USER old IDENTIFIED BY 'o/d'; CREATE USER long_name IDENTIFIED BY ''",
    );
    let [good, other, client, client_key] = [good, other, client, client_key].map(|path| path.display().to_string());
    // Whether the connection is over TLS, as the server sees it.
    let connect = |host: &str, parameters: &str| {
        let out = folder.path().join("out.csv");
        let uri = format!("mysql://{host}:{}/information_schema?{parameters}", server.port());
        let sql = "SELECT (SELECT VARIABLE_VALUE <> '' FROM information_schema.SESSION_STATUS
            WHERE VARIABLE_NAME = 'SSL_CIPHER') AS tls, substring_index(user(), '@', 1) AS name";
        let query = [("query", sql)];
        let copy = Copy { mode: LoadMode::Replace, source_options: &query, ..Copy::default() };
        copy.run(&uri, out.to_str().unwrap())?;
        Ok::<_, Error>(std::fs::read_to_string(out).unwrap().lines().last().unwrap().to_owned())
    };
    for (host, parameters, expected) in [
        ("root@127.0.0.1", String::new(), "1,root"),
        ("root@127.0.0.1", "ssl-mode=disabled".into(), "0,root"),
        ("old:o%2Fd@localhost", format!("ssl-mode=verify_identity&ssl-ca={good}"), "1,old"),
        ("root@127.0.0.1", format!("ssl-mode=VERIFY_CA&ssl-ca={good}"), "1,root"),
        ("root@127.0.0.1", "ssl-mode=required".into(), "1,root"),
        ("certified@127.0.0.1", format!("sslcert={client}&sslkey={client_key}"), "1,certified"),
        ("old:o%2Fd@127.0.0.1", "ssl-mode=disabled".into(), "0,old"),
        ("long_name@127.0.0.1", String::new(), "1,long_name"),
    ] {
        assert_eq!(connect(host, &parameters).unwrap(), expected, "{host} {parameters}");
    }
    for (host, parameters, said) in [
        ("root@127.0.0.1", format!("ssl-mode=verify_identity&ssl-ca={good}"), "not valid for name"),
        ("old:o%2Fd@localhost", format!("ssl-mode=verify_identity&ssl-ca={other}"), "from no known authority"),
        ("root@127.0.0.1", format!("ssl-mode=verify_ca&ssl-ca={other}"), "from no known authority"),
        ("root@127.0.0.1", "ssl-mode=verify_identity".into(), "authority"),
        ("certified@127.0.0.1", String::new(), "Access denied"),
        ("old:wrong@127.0.0.1", String::new(), "Access denied"),
        ("nobody@127.0.0.1", String::new(), "Access denied"),
    ] {
        let error = connect(host, &parameters).unwrap_err();
        assert!(error.to_string().contains(said), "{host} {parameters}: {error}");
    }
    let plain = MariaDb::start();
    let uri = format!("mysql://root@127.0.0.1:{}/mysql?ssl-mode=verify_ca&ssl-ca={good}#db", plain.port());
    let error = copy(&uri, folder.path().join("x.csv").to_str().unwrap(), LoadMode::Replace).unwrap_err();
    assert!(error.to_string().contains("the server has no TLS"), "{error}");
}

#[test]
fn sockets_in_files_are_hosts_too() {
    let server = MariaDb::start();
    server.sql("CREATE TABLE t AS SELECT 1 AS id");
    let socket = server.folder().join("data/socket").display().to_string();
    copy(&format!("mysql://root@localhost/test?socket={socket}#t"), &server.uri("u"), LoadMode::Create).unwrap();
    assert_eq!(server.sql("SELECT * FROM u"), "1");
}

#[test]
fn values_larger_than_a_packet_arrive() {
    let server = MariaDb::start_with(&["--max-allowed-packet=256M", "--innodb-log-file-size=512M"]);
    // Around the greatest length of a packet, and twice that.
    server.sql(
        "CREATE TABLE t (id int PRIMARY KEY, b longblob);
         INSERT INTO t SELECT seq, repeat(char(seq), 16777190 + seq * 5) FROM seq_1_to_10;
         INSERT INTO t VALUES (20, repeat('x', 33554430)), (21, ''), (22, NULL), (23, repeat('y', 40000000))",
    );
    for setting in ["SET GLOBAL local_infile = 1", "SET GLOBAL local_infile = 0"] {
        server.sql(&format!("{setting}; DROP TABLE IF EXISTS u"));
        let copy = Copy { partitions: Some(3), ..Copy::default() };
        copy.run(&server.uri("t"), &server.uri("u")).unwrap();
        let sql = |table: &str| server.sql(&format!("SELECT id, length(b), md5(b) FROM {table} ORDER BY id"));
        assert_eq!(sql("u"), sql("t"), "{setting}");
    }
}
