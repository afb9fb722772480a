//! A run that waits at a failpoint, so that something can be done meanwhile.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{PAUSE_AT, Ran};

/// A run that waits.
pub struct Paused {
    child: Child,
    mark: PathBuf,
    /// What it wrote to standard error by now, as far as that was read.
    said: String,
    _folder: tempfile::TempDir,
}

impl Paused {
    /// Starts `command`, which gets to `moment`, a failpoint with a number: `partition-staged:3`.
    ///
    /// # Panics
    /// When it does not get there.
    pub fn at(command: &mut Command, moment: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("waits");
        command.env(PAUSE_AT, format!("{moment}:{}", mark.display()));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        while !mark.exists() {
            if Instant::now() > end || child.try_wait().unwrap().is_some() {
                _ = child.kill();
                panic!("it does not get to {moment}: {:?}", Ran::of(&child.wait_with_output().unwrap()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Self { child, mark, said: String::new(), _folder: folder }
    }

    /// Sends it a signal; returns when it says that it heard of it.
    pub fn signal(&mut self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
        let error = self.child.stderr.as_mut().unwrap();
        let mut byte = [0];
        while !self.said.ends_with('\n') && error.read(&mut byte).unwrap() > 0 {
            self.said.push(char::from(byte[0]));
        }
    }

    /// Lets it go on, to its end.
    pub fn go_on(self) -> Ran {
        std::fs::remove_file(&self.mark).unwrap();
        let mut ran = Ran::of(&self.child.wait_with_output().unwrap());
        ran.stderr.insert_str(0, &self.said);
        ran
    }
}
