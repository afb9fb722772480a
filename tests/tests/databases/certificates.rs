//! Certificates for servers and clients, and authorities for them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn openssl(folder: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    command.current_dir(folder).args(arguments.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success(), "openssl {arguments}");
}

/// An authority named `name`.
pub(crate) fn authority(folder: &Path, name: &str) -> PathBuf {
    openssl(
        folder,
        &format!("req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {name}.key -out {name}.pem -subj /CN={name}"),
    );
    folder.join(format!("{name}.pem"))
}

/// A certificate for `subject` and a key for it, from an authority.
pub(crate) fn certificate(
    folder: &Path,
    authority: &str,
    name: &str,
    subject: &str,
    extension: &str,
) -> (PathBuf, PathBuf) {
    openssl(folder, &format!("req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={subject}"));
    std::fs::write(folder.join("extension"), extension).unwrap();
    openssl(
        folder,
        &format!(
            "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial -days 2 -extfile extension -out {name}.pem"
        ),
    );
    (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")))
}
