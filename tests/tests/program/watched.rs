//! What a run tells while it goes on and when it is over: alerts, metrics, spans and the report.

use etlrs_tests::receiver::Receiver;

use super::*;

#[test]
fn thresholds_that_a_run_goes_beyond_are_told_everywhere() {
    let folder = folder_with_csv();
    let folder = folder.path();
    let pipeline = "[source]\nuri='bad.csv'\n[target]\nuri='o.parquet'\n[errors]\non_error='quarantine'\n[alerts]\n\
        max_memory = '1MB'\nmax_seconds = 3600\nmax_error_rate = 0.2\n\
        command = 'echo \"$ETLRS_ALERT of $ETLRS_PIPELINE: $ETLRS_MESSAGE\" >> told.txt'\n";
    write(folder, &[("p.toml", pipeline.as_bytes()), ("bad.csv", b"a,b\n1,2\nx\n3,4\n")]);
    let ran = run_line(folder, "run p.toml --output json");
    assert_eq!(ran.code, 3, "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let names: Vec<_> =
        report["alerts"].as_array().unwrap().iter().map(|alert| alert["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["memory", "error_rate"], "{report:#}");
    assert!(
        ran.stderr.contains("alert: bad.csv → o.parquet: error rate: 33.33 % of the records, more than 20 %"),
        "{ran:?}"
    );
    let told = std::fs::read_to_string(folder.join("told.txt")).unwrap();
    assert_eq!(told.lines().count(), 2, "{told}");
    assert!(told.contains("error_rate of bad.csv → o.parquet: error rate: 33.33 %"), "{told}");
}

/// Records that a transform rejects are some of those that were read.
#[test]
fn the_error_rate_is_of_all_records_whoever_rejects_them() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let pipeline = "[source]\nuri='bad.csv'\n[target]\nuri='o.parquet'\n[errors]\non_error='quarantine'\n\
        [[transform]]\ntype = 'cast'\ncolumns = { b = 'int64' }\n[alerts]\nmax_error_rate = 0.1\n\
        command = 'exit 7'\n";
    write(folder, &[("p.toml", pipeline.as_bytes()), ("bad.csv", b"a,b\n1,x\n2,y\n3,z\n4,1\n")]);
    let ran = run_line(folder, "run p.toml");
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("error rate: 75.00 % of the records, more than 10 %"), "{ran:?}");
    assert!(ran.stderr.contains("alert: its command failed: exit status: 7"), "{ran:?}");
}

/// A command that does not end does not hold the run up for ever.
#[test]
fn a_command_that_takes_long_goes_on_by_itself() {
    let folder = folder_with_csv();
    let folder = folder.path();
    let pipeline = "[source]\nuri='ok.csv'\n[target]\nuri='o.parquet'\n[alerts]\nmax_memory = '1MB'\n\
        command = 'sleep 9; echo done > told.txt'\n";
    write(folder, &[("p.toml", pipeline.as_bytes())]);
    let begun = std::time::Instant::now();
    let ran = run_line(folder, "run p.toml");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(8), "{:?}", begun.elapsed());
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !folder.join("told.txt").exists() {
        assert!(std::time::Instant::now() < end, "the command was ended with the program");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// A report is opened in a browser, which draws what happened; names in it are text.
#[test]
fn a_report_is_a_page_that_a_browser_shows() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    etlrs_tests::write_csv(&folder.join("a <b>&amp;.csv"), 50_000, 1);
    let mut text = std::fs::read_to_string(folder.join("a <b>&amp;.csv")).unwrap();
    text.push_str("broken\n");
    std::fs::write(folder.join("a <b>&amp;.csv"), text).unwrap();
    let arguments = ["copy", "a <b>&amp;.csv", "b.parquet", "--report", "run.html", "--on-error", "quarantine"];
    let ran = run(PROGRAM, folder, &[&arguments[..], &["--partitions", "4"]].concat());
    assert_eq!(ran.code, 3, "{ran:?}");
    let page = folder.join("run.html");
    let text = std::fs::read_to_string(&page).unwrap();
    assert!(
        !["src=", "href=", "@import", "url("].iter().any(|outside| text.contains(outside)),
        "it needs nothing besides"
    );
    let is_there = |browser: &&str| std::process::Command::new(browser).arg("--version").output().is_ok();
    let browser = ["chromium", "google-chrome"].into_iter().find(is_there);
    let shown = std::process::Command::new("timeout")
        .args([
            "120",
            browser.expect("./scripts/test installs a browser"),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
        ])
        .args(["--disable-dev-shm-usage", "--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("data-shown=\"1\""), "the script did not come to its end: {shown}");
    for wanted in [
        "<h1>a &lt;b&gt;&amp;amp;.csv → b.parquet</h1>",
        "50,000",
        "1 record was set aside",
        "Limited by ",
        "<td>checksum</td>",
        "Pieces in time (4)",
    ] {
        assert!(shown.contains(wanted), "{wanted} is not in {shown}");
    }
    assert!(shown.matches("<polyline").count() >= 3 && shown.matches("<polygon").count() == 8, "{shown}");
    assert_eq!(shown.matches("<rect").count(), 4);
    assert!(!shown.contains("NaN"), "{shown}");

    let failed = run_line(folder, "copy missing.csv c.parquet --report run.html");
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(std::fs::read_to_string(&page).unwrap().contains("\"error\":\""));
    let unwritable = run_line(folder, "copy ok.csv c.parquet --report no/run.html");
    assert_eq!(unwritable.code, 1, "{unwritable:?}");
    assert!(unwritable.stderr.contains("--report: cannot write no/run.html"), "{unwritable:?}");
}

/// While a run waits for its source, what it read so far can be asked for.
#[test]
fn metrics_are_served_while_a_run_goes_on() {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::process::Stdio;
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["copy", "csv:-", "o.csv", "--metrics", "127.0.0.1:0", "--source-option", "sample=1"];
    let mut child = etlrs_tests::etlrs(PROGRAM, folder.path(), &arguments);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let rows: String = std::iter::once("n\n".to_owned()).chain((0..300_000).map(|n| format!("{n}\n"))).collect();
    input.write_all(rows.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("metrics at http://").unwrap().strip_suffix("/metrics").unwrap().to_owned();
    let read = || {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line =
            text.lines().find(|line| line.starts_with("etlrs_records_processed_total") && line.contains("source\"}"));
        line.and_then(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).unwrap_or(0)
    };
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while read() < 100_000 {
        assert!(std::time::Instant::now() < end, "the rows are not counted");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    drop(input);
    assert!(child.wait().unwrap().success());
    assert_eq!(std::fs::read_to_string(folder.path().join("o.csv")).unwrap().lines().count(), 300_001);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let failed = run_line(folder.path(), &format!("copy o.csv p.csv --metrics {}", taken.local_addr().unwrap()));
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.stderr.contains("--metrics: metrics cannot be served at 127.0.0.1:"), "{failed:?}");
}

/// A report takes the place of an earlier one, and of nothing else.
#[test]
fn a_report_overwrites_no_table() {
    let folder = folder_with_csv();
    let folder = folder.path();
    let before = fs::read(folder.join("ok.csv")).unwrap();
    write(folder, &[("other.csv", &before)]);
    for (page, code, needle) in [
        ("other.csv", 1, "other.csv is there, and is no page of an earlier run"),
        ("ok.csv", 2, "the page cannot be ok.csv, which is read or written by the run"),
        ("./o.parquet", 2, "the page cannot be o.parquet, which is read or written by the run"),
        ("-", 2, "the page is a file, such as run.html"),
    ] {
        let ran = run_line(folder, &format!("copy ok.csv o.parquet --report {page}"));
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.stderr.contains(needle), "{ran:?}");
    }
    assert_eq!(
        [fs::read(folder.join("ok.csv")).unwrap(), fs::read(folder.join("other.csv")).unwrap()],
        [before.clone(), before]
    );
    assert!(!folder.join("o.parquet").exists());
    works(folder, "copy ok.csv o.parquet --no-progress --report run.html");
    works(folder, "copy ok.csv o.parquet --no-progress --report run.html --mode replace");
}

/// Nobody who hangs up ends a run.
#[test]
fn a_run_does_not_need_to_be_listened_to() {
    let folder = folder_with_csv();
    let folder = folder.path();
    let pipeline = "[source]\nuri='ok.csv'\n[target]\nuri='o.parquet'\n[alerts]\nmax_memory = '1MB'\n";
    write(folder, &[("p.toml", pipeline.as_bytes())]);
    let mut command = etlrs(PROGRAM, folder, &words("run p.toml --metrics 127.0.0.1:0 --no-progress"));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = command.stdout(Stdio::null()).stderr(full).status().unwrap();
    assert!(status.success() && folder.join("o.parquet").exists(), "{status}");
}

/// An alert is posted to a webhook, and its URL, which holds a token, is not shown wherever it leads.
#[test]
fn an_alert_is_posted_to_a_webhook() {
    let folder = folder_with_csv();
    let folder = folder.path();
    let hook = Receiver::start();
    let pipeline = |url: &str| {
        let alerts = format!("[alerts]\nmax_memory = '1MB'\nwebhook = '{url}'\n");
        format!("[source]\nuri='ok.csv'\n[target]\nuri='o.parquet'\nmode='replace'\n{alerts}")
    };
    let url = format!("http://127.0.0.1:{}/hooks/s3cret", hook.port());
    write(folder, &[("p.toml", pipeline(&url).as_bytes())]);
    let ran = run_line(folder, "run p.toml");
    assert_eq!(ran.code, 0, "{ran:?}");
    let requests = hook.requests();
    let [request] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!((request.path.as_str(), request.content_type.as_str()), ("/hooks/s3cret", "application/json"));
    let posted: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!((&posted["pipeline"], &posted["alert"]), (&"ok.csv → o.parquet".into(), &"memory".into()), "{posted}");
    assert!(posted["text"].as_str().unwrap().starts_with("ok.csv → o.parquet: memory: "), "{posted}");
    assert!(!format!("{ran:?}").contains("s3cret"), "{ran:?}");

    // One that refuses, one that is not there, and one that is no URL.
    let gone = format!("http://127.0.0.1:{}/hooks/s3cret", etlrs_tests::free_port());
    let refusing = format!("http://127.0.0.1:{}/refuse/s3cret", hook.port());
    for (url, code, words) in [
        (refusing.as_str(), 0, "alert: its webhook answered 403 Forbidden"),
        (gone.as_str(), 0, "alert: its webhook cannot be reached: "),
        ("http://a b/s3cret", 0, "alert: its webhook cannot be reached: "),
        ("hooks.example/s3cret", 2, "webhook is no URL that begins with https:// or http://"),
    ] {
        write(folder, &[("p.toml", pipeline(url).as_bytes())]);
        let ran = run_line(folder, "run p.toml");
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.stderr.contains(words) && !format!("{ran:?}").contains("s3cret"), "{ran:?}");
    }
}

/// The spans of a run go to a collector, and a collector that is not there costs a warning and nothing else.
#[test]
fn spans_go_to_a_collector() {
    let folder = folder_with_csv();
    let folder = folder.path();
    let collector = Receiver::start();
    let run = |port: u16, line: &str| {
        let mut command = etlrs(PROGRAM, folder, &words(line));
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{port}"));
        command.env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=s3cret");
        Ran::of(&command.output().unwrap())
    };
    let ran = run(collector.port(), "copy ok.csv o.parquet --no-progress --verify full");
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    let requests = collector.requests();
    assert!(requests.iter().all(|request| request.path == "/v1/traces"), "{requests:?}");
    assert!(requests.iter().all(|request| request.authorization == "s3cret"), "{requests:?}");
    let sent: Vec<u8> = requests.into_iter().flat_map(|request| request.body).collect();
    let has = |name: &str| sent.windows(name.len()).any(|window| window == name.as_bytes());
    for name in ["scan", "run", "begin", "load", "partition", "verify", "commit", "service.name", "etlrs"] {
        assert!(has(name), "{name} is not among the spans");
    }
    assert!(!has("ERROR"));

    let failed = run(collector.port(), "copy gone.csv p.parquet --no-progress");
    assert_eq!(failed.code, 1, "{failed:?}");
    let sent: Vec<u8> = collector.requests().into_iter().flat_map(|request| request.body).collect();
    assert!(String::from_utf8_lossy(&sent).contains("gone.csv"));

    let unheard = run(etlrs_tests::free_port(), "copy ok.csv q.parquet --no-progress");
    assert_eq!(unheard.code, 0, "{unheard:?}");
    assert!(
        unheard.stderr.starts_with("warning: traces were not sent: the collector cannot be reached"),
        "{unheard:?}"
    );
    assert!(!unheard.stderr.contains("s3cret"), "{unheard:?}");
}
