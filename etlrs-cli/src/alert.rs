//! What is done with the alerts of a run.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use etlrs::{Alert, AlertActions, Secret};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Does what a pipeline file asks for.
#[derive(Default)]
pub(crate) struct Actions {
    actions: AlertActions,
    posts: Mutex<Vec<JoinHandle<()>>>,
}

/// A target that does not answer holds nobody up for longer.
const PATIENCE: Duration = Duration::from_secs(5);

impl Actions {
    pub(crate) fn new(actions: AlertActions) -> Self {
        Self { actions, posts: Mutex::default() }
    }

    /// Begins with what there is to do for `alert` of `pipeline`. Whether it succeeds does not matter to the run.
    pub(crate) fn run(&self, runtime: &Handle, pipeline: &str, alert: &Alert) {
        if let Some(command) = &self.actions.command {
            run_command(command, pipeline, alert);
        }
        if let Some(url) = &self.actions.webhook {
            let body = json!({
                "pipeline": pipeline,
                "alert": alert.name(),
                "message": alert.to_string(),
                // What chats show.
                "text": format!("{pipeline}: {alert}"),
            });
            let post = runtime.spawn(post(url.clone(), body.to_string()));
            self.posts.lock().unwrap_or_else(PoisonError::into_inner).push(post);
        }
    }

    /// Waits until all has been told.
    pub(crate) async fn finish(&self) {
        let posts = std::mem::take(&mut *self.posts.lock().unwrap_or_else(PoisonError::into_inner));
        for post in posts {
            // A panic has been told already.
            let _ = post.await;
        }
    }
}

fn run_command(command: &str, pipeline: &str, alert: &Alert) {
    let mut shell = std::process::Command::new("sh");
    shell.arg("-c").arg(command).env("ETLRS_ALERT", alert.name()).env("ETLRS_MESSAGE", alert.to_string());
    shell.env("ETLRS_PIPELINE", pipeline).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    match shell.spawn() {
        // Waited for by a thread, so that it does not stay as a zombie.
        Ok(mut child) => drop(std::thread::spawn(move || child.wait())),
        Err(error) => crate::tell(&format!("alert: its command cannot be started: {error}")),
    }
}

async fn post(url: Secret, body: String) {
    let sent = async {
        let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
        let request = client.post(url.expose()).header("content-type", "application/json").body(body);
        request.send().await
    };
    match sent.await {
        Ok(answer) if answer.status().is_success() => {}
        Ok(answer) => crate::tell(&format!("alert: its webhook answered {}", answer.status())),
        // Without the URL, which holds a token.
        Err(error) => crate::tell(&format!("alert: its webhook cannot be reached: {}", reason(&error.without_url()))),
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
