//! A private PostgreSQL server: in a temporary directory, on a free port of this machine, gone with its owner.

use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Where Debian has the programs of the server, which are not on the path.
const PROGRAMS: &str = "/usr/lib/postgresql";

/// The user that the server runs as when the tests run as root, which it refuses.
const USER: &str = "postgres";

/// [`row_hash`](crate::row_hash) of a row.
pub const ROW_HASH: &str = "'h' || left(encode(sha256(convert_to(
    concat_ws('|', id, version, day, name, coalesce(note, '')), 'UTF8')), 'hex'), 16)";

/// A running server with an empty database `test` and the superuser `postgres`, who needs no password.
pub struct Postgres {
    server: Mutex<Child>,
    port: u16,
    settings: Vec<String>,
    programs: PathBuf,
    folder: TempDir,
}

impl Postgres {
    /// Starts one.
    ///
    /// # Panics
    /// When PostgreSQL is not installed: `./scripts/test` installs it.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with settings of its own (`wal_level=logical`).
    pub fn start_with(settings: &[&str]) -> Self {
        let programs = programs();
        let folder = TempDir::with_prefix("etlrs-postgres-").unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let data = folder.path().join("data");
        copy(&template(&programs), &data);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings: Vec<_> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let server = Mutex::new(spawn(&programs, folder.path(), port, &settings));
        let postgres = Self { server, port, settings, programs, folder };
        postgres.wait();
        postgres
    }

    /// Stops it as a crash would, and starts it again; returns when it takes connections.
    pub fn restart(&self) {
        self.crash();
        *self.server.lock().unwrap() = spawn(&self.programs, self.folder.path(), self.port, &self.settings);
        self.wait();
    }

    /// Stops it at once, without a checkpoint.
    fn crash(&self) {
        let mut server = self.server.lock().unwrap();
        _ = Command::new("kill").args(["-QUIT", &server.id().to_string()]).status();
        _ = server.wait();
    }

    fn wait(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let ready = Command::new(self.programs.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-d", "test"])
                .status()
                .unwrap();
            if ready.success() {
                return;
            }
            let ended = self.server.lock().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "the server does not start:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the server wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URI of a table, or of the database if it is empty.
    pub fn uri(&self, table: &str) -> String {
        let hash = if table.is_empty() { "" } else { "#" };
        format!("postgres://postgres@127.0.0.1:{}/test{hash}{table}", self.port)
    }

    /// What psql prints of `sql`: rows on lines, columns with `|` between them.
    pub fn sql(&self, sql: &str) -> String {
        let output = self.try_sql(sql);
        assert!(output.status.success(), "{sql}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end_matches('\n').to_owned()
    }

    /// The same, which may fail.
    pub fn try_sql(&self, sql: &str) -> Output {
        let mut psql = self.psql().stdin(Stdio::piped()).spawn().unwrap();
        psql.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        psql.wait_with_output().unwrap()
    }

    /// psql, which reads commands from standard input.
    pub fn psql(&self) -> Command {
        let mut command = Command::new(self.programs.join("psql"));
        command
            .args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-U", "postgres", "-d", "test", "-f", "-"])
            .env("PGCLIENTENCODING", "UTF8")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Tables that a run made for itself and left.
    pub fn left_over(&self) -> String {
        self.sql("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^_etlrs' ORDER BY 1")
    }

    /// Makes a superuser who needs this password, by SCRAM.
    pub fn add_user_with_password(&self, name: &str, password: &str) {
        self.sql(&format!("CREATE ROLE {name} LOGIN SUPERUSER PASSWORD '{password}'"));
        let rules = format!("host all {name} 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n");
        std::fs::write(self.folder.path().join("data/pg_hba.conf"), rules).unwrap();
        self.sql("SELECT pg_reload_conf()");
    }

    /// Turns TLS on, with this certificate and key, and the authority of clients' certificates; `rules` are those of who may
    /// connect how (`pg_hba.conf`).
    pub fn use_tls(&self, certificate: &Path, key: &Path, authority: &Path, rules: &str) {
        let data = self.folder.path().join("data");
        for (from, name) in [(certificate, "server.crt"), (key, "server.key"), (authority, "root.crt")] {
            let to = data.join(name);
            std::fs::copy(from, &to).unwrap();
            std::fs::set_permissions(&to, PermissionsExt::from_mode(0o600)).unwrap();
            if rustix::process::geteuid().is_root() {
                run(Command::new("chown").arg(USER).arg(&to));
            }
        }
        std::fs::write(data.join("pg_hba.conf"), rules).unwrap();
        self.sql("ALTER SYSTEM SET ssl = on; ALTER SYSTEM SET ssl_ca_file = 'root.crt'");
        self.sql("SELECT pg_reload_conf()");
    }

    /// Where the server has its data, its socket and its log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Nothing is asked of the data any more.
        self.crash();
        let end = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn spawn(programs: &Path, folder: &Path, port: u16, settings: &[String]) -> Child {
    let data = folder.join("data");
    let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
    // Nobody needs the data when the machine crashes. Dies with the thread that starts it.
    let mut command = as_user(&programs.join("postgres"), true);
    command.arg("-D").arg(&data).args(["-F", "-p", &port.to_string(), "-k"]).arg(&data);
    for setting in settings {
        command.args(["-c", setting]);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

fn programs() -> PathBuf {
    let versions = std::fs::read_dir(PROGRAMS).into_iter().flatten().flatten();
    let mut found: Vec<_> =
        versions.map(|entry| entry.path().join("bin")).filter(|bin| bin.join("initdb").exists()).collect();
    found.sort_by_key(|bin| bin.parent().and_then(|version| version.file_name()?.to_str()?.parse::<u32>().ok()));
    found.pop().expect("PostgreSQL is not installed; ./scripts/test installs it")
}

/// `program`, as a user that the server takes.
fn as_user(program: &Path, dies_with_us: bool) -> Command {
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid", USER, "--regid", USER, "--init-groups"]);
    }
    if dies_with_us {
        command.args(["--pdeathsig", "QUIT"]);
    }
    command.arg("--").arg(program);
    command
}

/// A new cluster, made once for all tests: making one takes a second.
fn template(programs: &Path) -> PathBuf {
    let version = programs.parent().unwrap().file_name().unwrap().to_str().unwrap();
    let name = format!("etlrs-postgres-template-{version}");
    let place = std::env::temp_dir().join(&name);
    let lock = File::create(std::env::temp_dir().join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    if !place.join("ready").exists() {
        _ = std::fs::remove_dir_all(&place);
        std::fs::create_dir(&place).unwrap();
        if rustix::process::geteuid().is_root() {
            run(Command::new("chown").arg(USER).arg(&place));
        }
        let data = place.join("data");
        let options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync"];
        run(as_user(&programs.join("initdb"), false).arg("-D").arg(&data).args(options).stdout(Stdio::null()));
        let create = "CREATE DATABASE test;\n";
        let mut single = as_user(&programs.join("postgres"), false);
        single.args(["--single", "-F", "-D"]).arg(&data).arg("postgres").stdin(Stdio::piped()).stdout(Stdio::null());
        let mut single = single.spawn().unwrap();
        single.stdin.take().unwrap().write_all(create.as_bytes()).unwrap();
        assert!(single.wait().unwrap().success());
        std::fs::write(place.join("ready"), "").unwrap();
    }
    place.join("data")
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}");
}
