//! The report of a run as a page for a browser, which needs nothing besides.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use etlrs::{Error, ErrorKind, Result, RunReport, Uri};
use serde_json::{Value, json};

use crate::recorder::Moment;
use crate::report::run_json;

/// What runs of one command did.
#[derive(Default)]
pub(crate) struct Page {
    runs: Vec<Value>,
}

impl Page {
    pub(crate) fn add(
        &mut self,
        source: &Uri,
        target: &Uri,
        quarantine: Option<&Uri>,
        report: &RunReport,
        moments: &[Moment],
    ) {
        let moments = moments.iter().map(|moment| {
            let stages = moment.stages.iter().map(|stage| {
                [stage.busy.as_secs_f64(), stage.blocked.as_secs_f64(), stage.waiting.as_secs_f64(), stage.rows as f64]
            });
            json!({
                "at": moment.at.as_secs_f64(),
                "rows_read": moment.rows_read,
                "rows_written": moment.rows_written,
                "bytes_read": moment.bytes_read,
                "memory": moment.usage.resident_bytes,
                "stages": stages.collect::<Vec<_>>(),
            })
        });
        let partitions = report.loaded.iter().map(|partition| {
            json!({
                "descriptor": partition.descriptor,
                "source": partition.source.as_deref(),
                "began": partition.began.as_secs_f64(),
                "seconds": partition.elapsed.as_secs_f64(),
                "attempts": partition.attempts,
                "rows_read": partition.rows_read,
                "rows": partition.rows,
            })
        });
        self.runs.push(json!({
            "result": run_json(source, target, quarantine, report),
            "loading": report.loading.as_secs_f64(),
            "worker_time": report.worker_time.as_secs_f64(),
            "memory": report.memory,
            "moments": moments.collect::<Vec<_>>(),
            "partitions": partitions.collect::<Vec<_>>(),
        }));
    }

    /// A run that failed, and why.
    pub(crate) fn add_failed(&mut self, source: &Uri, target: &Uri, error: &Error) {
        let (source, target) = (source.to_string(), target.to_string());
        self.runs.push(json!({ "result": { "source": source, "target": target }, "error": error.to_string() }));
    }

    /// Writes it to `path`, in the place of an earlier page and of nothing else.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if !is_free(path).map_err(|error| Error::io("read", path, error))? {
            let message = format!("{} is there, and is no page of an earlier run", path.display());
            return Err(Error::new(ErrorKind::AlreadyExists, message).hint("name another file, or remove it"));
        }
        std::fs::write(path, self.text()).map_err(|error| Error::io("write", path, error))
    }

    fn text(&self) -> String {
        // Names of files may hold what would end the script.
        let data = Value::Array(self.runs.clone()).to_string().replace('<', "\\u003c");
        TEMPLATE.replacen("{{runs}}", &data, 1)
    }
}

const TEMPLATE: &str = include_str!("report.html");
/// How every page begins, and nothing else does.
const MARK: &str = "<!doctype html>\n<!-- A report of etlrs -->\n";

/// Whether a page may be put there: a slip of the hand must not cost somebody a table.
fn is_free(path: &Path) -> std::io::Result<bool> {
    // A pipe or a device holds nothing.
    if !path.is_file() {
        return Ok(true);
    }
    let mut beginning = Vec::new();
    File::open(path)?.take(MARK.len() as u64).read_to_end(&mut beginning)?;
    Ok(beginning.is_empty() || beginning == MARK.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_cannot_end_the_script() {
        let page = Page { runs: vec![json!({ "a": "</script><b>" })] };
        let text = page.text();
        assert!(!text.contains("</script><b>") && text.contains("\\u003c/script>\\u003cb>"), "{text}");
        assert!(!text.contains("{{runs}}") && text.starts_with(MARK));
    }
}
