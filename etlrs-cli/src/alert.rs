//! What is done with the alerts of a run.

use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use etlrs::{Alert, AlertActions, Secret};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Writes a line for the user.
pub(crate) type Say = Arc<dyn Fn(String) + Send + Sync>;

/// Does what a pipeline file asks for.
pub(crate) struct Actions {
    actions: AlertActions,
    say: Say,
    begun: Mutex<Vec<JoinHandle<()>>>,
}

/// Whoever does not answer holds nobody up for longer.
const PATIENCE: Duration = Duration::from_secs(5);

impl Actions {
    pub(crate) fn new(actions: AlertActions, say: Say) -> Self {
        Self { actions, say, begun: Mutex::default() }
    }

    /// Begins with what there is to do for `alert` of `pipeline`. Whether it succeeds does not matter to the run.
    pub(crate) fn run(&self, runtime: &Handle, pipeline: &str, alert: &Alert) {
        let begin = |task| self.begun.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        if let Some(command) = &self.actions.command {
            match start(command, pipeline, alert) {
                Ok(child) => {
                    // By a thread of its own, for the end of the program waits for those of the runtime.
                    let (told, ended) = oneshot::channel();
                    let say = self.say.clone();
                    let waiting = Builder::new().spawn(move || {
                        wait(child, &*say);
                        told.send(())
                    });
                    if let Err(error) = waiting {
                        (self.say)(format!("alert: nobody waits for its command: {error}"));
                    }
                    begin(runtime.spawn(async move { drop(ended.await) }));
                }
                Err(error) => (self.say)(format!("alert: its command cannot be started: {error}")),
            }
        }
        if let Some(url) = &self.actions.webhook {
            let body = json!({
                "pipeline": pipeline,
                "alert": alert.name(),
                "message": alert.to_string(),
                // What chats show.
                "text": format!("{pipeline}: {alert}"),
            });
            begin(runtime.spawn(post(url.clone(), body.to_string(), self.say.clone())));
        }
    }

    /// Waits until all has been told. A command that takes longer goes on by itself.
    pub(crate) async fn finish(&self) {
        let begun = std::mem::take(&mut *self.begun.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async {
            for task in begun {
                // A panic has been told already.
                let _ = task.await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, all).await;
    }
}

fn start(command: &str, pipeline: &str, alert: &Alert) -> io::Result<Child> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).env("ETLRS_ALERT", alert.name()).env("ETLRS_MESSAGE", alert.to_string());
    // One that goes on must not keep our ends open for whoever reads them.
    shell.env("ETLRS_PIPELINE", pipeline).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.spawn()
}

fn wait(mut child: Child, say: &dyn Fn(String)) {
    match child.wait() {
        Ok(status) if status.success() => {}
        // As a shell says it.
        Ok(status) if status.code() == Some(127) => {
            say("alert: its command failed: there is no such command".to_owned());
        }
        Ok(status) => say(format!("alert: its command failed: {status}")),
        Err(error) => say(format!("alert: its command is lost: {error}")),
    }
}

async fn post(url: Secret, body: String, say: Say) {
    let sent = async {
        let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
        let request = client.post(url.expose()).header("content-type", "application/json").body(body);
        request.send().await
    };
    match sent.await {
        Ok(answer) if answer.status().is_success() => {}
        Ok(answer) => say(format!("alert: its webhook answered {}", answer.status())),
        // Without the URL, which holds a token.
        Err(error) => say(format!("alert: its webhook cannot be reached: {}", reason(&error.without_url()))),
    }
}

/// The innermost error is the one that says why.
fn reason(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
