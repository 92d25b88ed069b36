//! What an administrator shows others: the page of `kcache report`, and the figures of `kcache metrics`.

use crate::builder::{BUILDER, PACKAGE, url};
use crate::host::{FIXTURES, Host, PATH};
use crate::packages::{broken, hello, plain};
use fs_err as fs;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const HOSTILE: &str = "</pre></td><script>alert(1)</script>";

fn old() -> &'static str {
    &FIXTURES.old
}

fn new() -> &'static str {
    &FIXTURES.new
}

/// `CLASS -> count` of the matrix's cells.
fn cells(html: &str) -> BTreeMap<&str, usize> {
    let mut cells = BTreeMap::new();
    let classes = html.split("<td class=\"").skip(1).filter_map(|rest| rest.split('"').next());
    classes.for_each(|class| *cells.entry(class).or_default() += 1);
    cells
}

/// A host of which the new kernel has something of nearly everything, and the old kernel nothing.
fn host_with_everything() -> Host {
    let host = Host::new(&[old(), new()]);
    hello(&host, "");
    plain(&host, "edited", "");
    plain(&host, "damaged", "");
    let hostile = broken(&host);
    fs::write(hostile.join("broken.c"), format!("#error \"{HOSTILE}\"\n")).unwrap();
    let policy = "[[policy]]\npackage = \"hello\"\nkernel = \"6.1.0-*\"\nis = \"optional\"\n";
    host.write_config(&format!("default-kernel = \"{}\"\n{policy}", new()));
    host.kcache(&["install", "-k", new()]).exits(4);
    plain(&host, "edited", "since");
    let modules = host.modules(new());
    fs::write(&modules["damaged/damaged.ko"], "").unwrap();
    let foreign = host.kernel(new()).join("updates/dkms");
    fs::create_dir_all(&foreign).unwrap();
    fs::write(foreign.join("foreign.ko"), "no module").unwrap();
    host
}

#[test]
fn the_page_and_metrics_have_the_state_of_each_package_for_each_kernel() {
    let host = host_with_everything();
    check_page(&host);
    check_figures(&host);
}

fn check_page(host: &Host) {
    let file = host.dir().join("report.html");
    let before = host.tree();
    let run = host.kcache(&["report", "--html", file.to_str().unwrap()]).exits(0);
    assert_eq!(run.stdout, "", "{}", run.shown());
    assert_eq!(before, host.tree());
    let html = fs::read_to_string(&file).unwrap();
    let expect = BTreeMap::from([
        ("broken", 1),
        ("fails", 1),
        ("missing", 3),
        ("missing optional", 1),
        ("ready", 1),
        ("stale", 1),
    ]);
    assert_eq!(cells(&html), expect, "{html}");
    let tells =
        |texts: &[&str]| texts.iter().for_each(|text| assert!(html.contains(text), "no {text} in {html}"));
    tells(&[
        "Do not reboot yet",
        &format!("The boot loader starts {}.", new()),
        "Stale: edited; fails: broken; broken: damaged",
    ]);
    tells(&["next boot", "<li><code>source</code></li>", "updates/dkms/foreign.ko", "Foreign module"]);
    tells(&[
        "&lt;/pre&gt;&lt;/td&gt;&lt;script&gt;alert(1)",
        "exited with status 2",
        "<details>",
        "No shared cache",
    ]);
    assert!(!html.contains("<script"), "{html}");
    for (at, _) in html.match_indices("href=\"#") {
        let place = html[at + 7..].split('"').next().unwrap();
        assert!(html.contains(&format!("id=\"{place}\"")), "nothing at {place}");
    }
    in_a_browser(host, &file, &expect);
}

/// What a browser makes of the page, where there is one.
fn in_a_browser(host: &Host, file: &Path, expect: &BTreeMap<&str, usize>) {
    let Some(chromium) = program("chromium") else {
        return skipped("the page in a browser", "chromium");
    };
    let mut command = Command::new(chromium);
    command.env_clear().env("PATH", PATH).env("HOME", host.dir().join("home"));
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]);
    command.arg(format!("--user-data-dir={}", host.dir().join("browser").display()));
    let output = command.arg(format!("file://{}", file.display())).output().unwrap();
    let dom = String::from_utf8_lossy(&output.stdout);
    assert_eq!(cells(&dom), *expect, "{dom}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(dom.contains("<th scope=\"row\">hello<"), "{dom}");
    assert!(!dom.contains("<script"), "{dom}");
    assert_eq!(dom.matches("<pre").count(), 1, "{dom}");
}

#[expect(clippy::print_stderr, reason = "who runs the tests with --nocapture is to know what they left out")]
fn skipped(what: &str, lacks: &str) {
    eprintln!("skipped: {what}, for want of {lacks}");
}

fn program(name: &str) -> Option<String> {
    PATH.split(':').map(|dir| format!("{dir}/{name}")).find(|path| Path::new(path).exists())
}

#[test]
fn a_file_is_replaced_as_a_whole_or_not_at_all() {
    let host = Host::without_kernels();
    let out = host.dir().join("out");
    fs::create_dir(&out).unwrap();
    let (page, figures) = (out.join("report.html"), out.join("kcache.prom"));
    for (file, arguments) in [(&page, ["report", "--html"]), (&figures, ["metrics", "--textfile"])] {
        let path = file.to_str().unwrap();
        fs::write(file, "old").unwrap();
        let arguments = [arguments[0], arguments[1], path];
        host.kcache(&[&arguments[..], &["--dry-run"]].concat()).exits(0).says(&["would write"]);
        assert_eq!(fs::read_to_string(file).unwrap(), "old");
        host.kcache(&[&arguments[..], &["--json"]].concat()).exits(2).one_error().says(&["status --json"]);
        host.kcache(&arguments).exits(0);
        assert!(fs::read_to_string(file).unwrap().len() > 500);
        // A reader of the old file has it still: the new one is another file.
        let reader = fs::File::open(file).unwrap();
        host.kcache(&arguments).exits(0);
        let (old, new) = (reader.metadata().unwrap(), fs::metadata(file).unwrap());
        use std::os::unix::fs::MetadataExt;
        assert_ne!(old.ino(), new.ino());
    }
    let names: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let nowhere = out.join("nowhere/report.html");
    host.kcache(&["report", "--html", nowhere.to_str().unwrap()]).exits(1).one_error().says(&["nowhere"]);
    host.kcache(&["metrics", "--textfile", page.to_str().unwrap()]).exits(2).one_error().says(&[".prom"]);
}

#[test]
fn a_package_that_cannot_be_read_is_on_the_page_as_text() {
    let host = Host::without_kernels();
    fs::create_dir_all(host.root().join("etc/kcache/packages.d/<script>alert(1)")).unwrap();
    let html = host.kcache(&["report", "--html", "-"]).exits(0).stdout;
    assert!(html.contains("A package cannot be read") && !html.contains("<script"), "{html}");
    assert_eq!(metrics(&host)["kcache_unreadable_packages"], 1.0);
}

/// The samples that `kcache metrics` prints, by `NAME{LABELS}`.
#[track_caller]
fn metrics(host: &Host) -> BTreeMap<String, f64> {
    parse(&host.kcache(&["metrics"]).exits(0).stdout)
}

/// Reads the text format as strictly as Prometheus does, and holds it to the conventions that `promtool check metrics` knows.
#[track_caller]
fn parse(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'));
    let mut samples = BTreeMap::new();
    let (mut family, mut families) = (("", ""), Vec::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap_or_else(|| panic!("no help in {line}"));
            assert!(help.ends_with('.') && !help.contains('\\'), "{line}");
            let kind = lines.next().and_then(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
            let (of, kind) = kind.unwrap_or_else(|| panic!("no type after {line}"));
            assert_eq!(of, name);
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            assert!(matches!(kind, "counter" | "gauge"), "{line}");
            assert!(!families.contains(&name), "{name} comes twice");
            families.push(name);
            family = (name, kind);
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value in {line}"));
        let (name, labels) = series.split_once('{').map_or((series, ""), |(name, labels)| {
            (name, labels.strip_suffix('}').unwrap_or_else(|| panic!("{line} has no }}")))
        });
        assert_eq!(name, family.0, "{line} is not of its family");
        check_labels(labels, line);
        let value: f64 = value.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(family.1 == "gauge" || value >= 0.0, "{line}");
        assert!(samples.insert(series.to_owned(), value).is_none(), "{series} comes twice");
    }
    samples
}

/// `a="b",c="d"`, in which only `\\`, `\"` and `\n` begin with a backslash.
#[track_caller]
fn check_labels(labels: &str, line: &str) {
    let mut rest = labels;
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("no value in {line}"));
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(!name.is_empty() && name.chars().all(plain), "{line}");
        let mut chars = value.char_indices();
        let end = loop {
            match chars.next() {
                Some((_, '\\')) => assert!(matches!(chars.next(), Some((_, '\\' | '"' | 'n'))), "{line}"),
                Some((at, '"')) => break at,
                Some(_) => {}
                None => panic!("{line} has no end"),
            }
        };
        rest = &value[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or_else(|| {
            assert!(rest.is_empty(), "{line}");
            rest
        });
    }
}

fn check_figures(host: &Host) {
    let found = metrics(host);
    let (old, new) = (old(), new());
    let check = |series: String, expect: f64| {
        assert_eq!(found.get(&series), Some(&expect), "{series} in {found:#?}");
    };
    let state = |kernel: &str, package: &str, state: &str| {
        format!("kcache_package_state{{kernel=\"{kernel}\",package=\"{package}\",state=\"{state}\"}}")
    };
    check(format!("kcache_ready{{kernel=\"{old}\"}}"), 0.0);
    check(format!("kcache_default_kernel_ready{{kernel=\"{new}\"}}"), 0.0);
    for (package, word) in
        [("hello", "ready"), ("edited", "stale"), ("damaged", "broken"), ("broken", "fails")]
    {
        for other in ["ready", "excluded", "stale", "missing", "no-headers", "fails", "broken"] {
            check(state(new, package, other), f64::from(other == word));
        }
        check(state(old, package, "missing"), 1.0);
    }
    check(format!("kcache_package_required{{kernel=\"{new}\",package=\"hello\"}}"), 0.0);
    check(format!("kcache_package_required{{kernel=\"{new}\",package=\"edited\"}}"), 1.0);
    check(format!("kcache_foreign_broken{{kernel=\"{new}\"}}"), 1.0);
    check(format!("kcache_foreign_broken{{kernel=\"{old}\"}}"), 0.0);
    check(format!("kcache_install_interrupted{{kernel=\"{new}\"}}"), 0.0);
    check(format!("kcache_installed_modules{{kernel=\"{new}\"}}"), 3.0);
    check("kcache_store_entries".to_owned(), 4.0);
    assert!(found[&format!("kcache_build_seconds{{kernel=\"{new}\",package=\"hello\"}}")] > 0.0);
    assert!(found["kcache_verdict_timestamp_seconds"] > 1.7e9 && found["kcache_store_bytes"] > 1000.0);
    by_promtool(host);
}

#[test]
fn a_default_kernel_that_is_not_installed_is_not_ready_and_one_that_is_not_known_has_no_value() {
    let host = Host::without_kernels();
    assert!(!metrics(&host).keys().any(|series| series.starts_with("kcache_default_kernel_ready")));
    host.write_config("default-kernel = \"6.1.0-gone\"\n");
    assert_eq!(metrics(&host)["kcache_default_kernel_ready{kernel=\"6.1.0-gone\"}"], 0.0);
}

/// What Prometheus' own tool says of it, where it is installed.
fn by_promtool(host: &Host) {
    let Some(promtool) = program("promtool") else {
        return skipped("promtool check metrics", "promtool");
    };
    let file = host.dir().join("kcache.prom");
    host.kcache(&["metrics", "--textfile", file.to_str().unwrap()]).exits(0);
    let output = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(fs::File::open(file).unwrap().into_parts().0)
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn counters_report_hits_and_saved_time() {
    let host = Host::new(&[new()]);
    hello(&host, "");
    broken(&host);
    let counters = || {
        let found = metrics(&host);
        [
            "hits_total{cache=\"store\"}",
            "misses_total",
            "builds_total{result=\"built\"}",
            "builds_total{result=\"failed\"}",
        ]
        .map(|name| found[&format!("kcache_{name}")])
    };
    let saved = || metrics(&host)["kcache_saved_seconds_total"];
    assert_eq!(counters(), [0.0; 4]);
    host.kcache(&["check", "--build", "-k", new()]).exits(3);
    assert_eq!(counters(), [0.0, 2.0, 1.0, 1.0]);
    assert_eq!(saved(), 0.0);
    assert!(metrics(&host)["kcache_compile_seconds_total"] > 0.0);
    host.kcache(&["install", "-k", new()]).exits(4);
    assert_eq!(counters(), [2.0, 2.0, 1.0, 1.0]);
    let once = saved();
    assert!(once > 0.0);
    // What is in place already saves nothing, and looking counts nothing.
    host.kcache(&["install", "hello", "-k", new()]).exits(0);
    host.kcache(&["check"]).exits(3);
    host.kcache(&["status"]).exits(0);
    assert_eq!((counters(), saved()), ([3.0, 2.0, 1.0, 1.0], once));
    host.kcache(&["remove", "hello"]).exits(0);
    host.kcache(&["install", "hello", "-k", new()]).exits(0);
    assert_eq!((counters(), saved()), ([4.0, 2.0, 1.0, 1.0], 2.0 * once));
    // They lie in the index, which may be deleted at any time.
    fs::remove_file(host.store().join("index.sqlite")).unwrap();
    assert_eq!(counters(), [0.0; 4]);
}

#[test]
fn what_came_from_a_shared_cache_is_counted_and_shown_with_its_builder() {
    let cache = url(&BUILDER.cache_url());
    let host = Host::image_only().trusting(&BUILDER).with_caches(&[&cache]);
    host.kcache(&["install", "-k", new()]).exits(0);
    let found = metrics(&host);
    assert_eq!(found["kcache_hits_total{cache=\"shared\"}"], 1.0, "{found:#?}");
    assert_eq!((found["kcache_misses_total"], found["kcache_hits_total{cache=\"store\"}"]), (0.0, 0.0));
    let took = found[&format!("kcache_build_seconds{{kernel=\"{}\",package=\"{PACKAGE}\"}}", new())];
    assert!((found["kcache_saved_seconds_total"] - took).abs() < 0.01, "{found:#?}");
    let html = host.kcache(&["report", "--html", "-"]).exits(0).stdout;
    assert!(html.contains("<td>builder</td>") && html.contains(&BUILDER.cache_url()), "{html}");
    // Credentials in a URL are refused where a cache is used; offline it is not, and they are on no page either.
    host.write_config("[[cache]]\nurl = \"https://me:secret@cache.example/\"\n");
    let html = host.kcache(&["--offline", "report", "--html", "-"]).exits(0).stdout;
    assert!(html.contains("https://cache.example/") && !html.contains("secret"), "{html}");
}
