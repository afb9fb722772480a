//! A private MariaDB server: in a temporary directory, on a free port of this machine, gone with its owner.

use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The user that the server runs as when the tests run as root, which it refuses.
const USER: &str = "mysql";

/// [`row_hash`](crate::row_hash) of a row.
pub const ROW_HASH: &str =
    "concat('h', left(sha2(concat_ws('|', id, version, day, name, coalesce(note, '')), 256), 16))";

/// A running server with an empty database `test` and the user `root`, who needs no password.
pub struct MariaDb {
    server: Mutex<Child>,
    port: u16,
    settings: Vec<String>,
    folder: TempDir,
}

impl MariaDb {
    /// Starts one.
    ///
    /// # Panics
    /// When MariaDB is not installed: `./scripts/test` installs it.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with settings of its own (`--local-infile=0`).
    pub fn start_with(settings: &[&str]) -> Self {
        let folder = TempDir::with_prefix("etlrs-mariadb-").unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let data = folder.path().join("data");
        run(Command::new("cp").arg("-a").arg(template()).arg(&data));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings: Vec<_> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let server = Mutex::new(spawn(folder.path(), port, &settings));
        let mariadb = Self { server, port, settings, folder };
        mariadb.wait();
        mariadb
    }

    /// Kills it, and starts it again; returns when it takes connections. What was committed is there if it was started with
    /// [`KEEPS_COMMITS`].
    pub fn restart(&self) {
        self.kill();
        *self.server.lock().unwrap() = spawn(self.folder.path(), self.port, &self.settings);
        self.wait();
    }

    fn kill(&self) {
        let mut server = self.server.lock().unwrap();
        _ = server.kill();
        _ = server.wait();
    }

    fn wait(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.try_sql("SELECT 1").status.success() {
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
        format!("mysql://root@127.0.0.1:{}/test{hash}{table}", self.port)
    }

    /// What the client prints of `sql`: rows on lines, columns with tabs between them, with backslashes before what is not to
    /// be printed.
    pub fn sql(&self, sql: &str) -> String {
        let output = self.try_sql(sql);
        assert!(output.status.success(), "{sql}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned()
    }

    /// The same, which may fail.
    pub fn try_sql(&self, sql: &str) -> Output {
        let mut client = self.client().stdin(Stdio::piped()).spawn().unwrap();
        // A client that cannot connect does not read.
        _ = client.stdin.take().unwrap().write_all(format!("SET time_zone = '+00:00';\n{sql}").as_bytes());
        client.wait_with_output().unwrap()
    }

    /// The client, which reads statements from standard input.
    pub fn client(&self) -> Command {
        let mut command = Command::new("mariadb");
        command
            .args(["--no-defaults", "-h", "127.0.0.1", "-P", &self.port.to_string(), "-u", "root", "-N", "-B"])
            .args(["--default-character-set=utf8mb4", "--binary-mode", "test"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Tables that a run made for itself and left.
    pub fn left_over(&self) -> String {
        self.sql("SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_NAME LIKE '\\_etlrs\\_%'")
    }

    /// Where the server has its data, its socket and its log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of the server:\n{}", self.log());
        }
        self.kill();
        let end = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A setting with which a commit outlives the process of the server, which is otherwise not asked of it.
pub const KEEPS_COMMITS: &str = "--innodb-flush-log-at-trx-commit=2";

fn spawn(folder: &Path, port: u16, settings: &[String]) -> Child {
    let data = folder.join("data");
    let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
    // Nobody needs the data when the machine crashes. Dies with the thread that starts it.
    let mut command = as_user(true, &program("mariadbd"));
    command.args(options(&data)).args(["--port", &port.to_string(), "--bind-address=127.0.0.1"]);
    command.arg(format!("--socket={}", data.join("socket").display()));
    // A server that starts removes the temporary tables of others from a folder that they share.
    command.arg(format!("--tmpdir={}", folder.display())).args(settings);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

fn options(data: &Path) -> Vec<String> {
    let mut options = vec!["--no-defaults".to_owned(), format!("--datadir={}", data.display())];
    let small = [
        "--skip-name-resolve",
        "--skip-log-bin",
        "--performance-schema=OFF",
        "--innodb-buffer-pool-size=64M",
        "--innodb-log-file-size=64M",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-flush-method=nosync",
        "--character-set-server=utf8mb4",
        "--lc-messages=en_US",
    ];
    options.extend(small.map(str::to_owned));
    options
}

fn program(name: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let found = places.iter().map(|place| Path::new(place).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("MariaDB ({name}) is not installed; ./scripts/test installs it"))
}

/// `program`, as a user that the server takes.
fn as_user(dies_with_us: bool, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid", USER, "--regid", USER, "--init-groups"]);
    }
    if dies_with_us {
        command.args(["--pdeathsig", "KILL"]);
    }
    command.arg("--").arg(program);
    command
}

/// A new data directory, made once for all tests: making one takes seconds.
fn template() -> PathBuf {
    let server = program("mariadbd");
    let version = Command::new(&server).args(["--no-defaults", "--version"]).output().unwrap().stdout;
    let version = String::from_utf8_lossy(&version);
    let version = version.split_whitespace().nth(2).unwrap_or("unknown");
    let name = format!("etlrs-mariadb-template-{version}");
    let place = std::env::temp_dir().join(&name);
    let lock = File::create(std::env::temp_dir().join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let data = place.join("data");
    if !place.join("ready").exists() {
        _ = std::fs::remove_dir_all(&place);
        std::fs::create_dir(&place).unwrap();
        if rustix::process::geteuid().is_root() {
            run(Command::new("chown").arg(USER).arg(&place));
        }
        let mut install = as_user(false, &program("mariadb-install-db"));
        install.args(options(&data)).args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
        run(install.stdout(Stdio::null()).stderr(Stdio::null()));
        let mut bootstrap = as_user(false, &server);
        bootstrap.args(options(&data)).arg("--bootstrap").stdin(Stdio::piped()).stderr(Stdio::null());
        let mut bootstrap = bootstrap.spawn().unwrap();
        bootstrap.stdin.take().unwrap().write_all(b"CREATE DATABASE test;\n").unwrap();
        assert!(bootstrap.wait().unwrap().success());
        std::fs::write(place.join("ready"), "").unwrap();
    }
    data
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}");
}
