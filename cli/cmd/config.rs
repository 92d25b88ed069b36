//! `kcache config`: show each setting and where it comes from.

use std::fmt::Display;

use kcache::run::policy::Rule;
use kcache::store::transport::without_credentials;

use crate::exit::Exit;
use crate::json;
use crate::out::Out;
use crate::settings::choices::word;
use crate::settings::{Origin, Setting, Settings};

pub fn run(settings: &Settings, out: &Out) -> Exit {
    let row = |name, value: &dyn Display, origin: &Origin| json::Setting {
        name,
        value: value.to_string(),
        origin: origin.to_string(),
    };
    let s = settings;
    let mut rows = vec![
        row("root", &s.root.value.display(), &s.root.origin),
        row("store", &s.store.value.display(), &s.store.origin),
        row("jobs", &s.jobs.value, &s.jobs.origin),
        row("build-timeout", &s.build_timeout.value.as_secs(), &s.build_timeout.origin),
        row("build-memory", &s.build_memory.value, &s.build_memory.origin),
        row("build-processes", &s.build_processes.value, &s.build_processes.origin),
        row("build-disk", &s.build_disk.value, &s.build_disk.origin),
        row("build-files", &s.build_files.value, &s.build_files.origin),
        row("lock-timeout", &s.lock_timeout.value.as_secs(), &s.lock_timeout.origin),
        row("signing-key", &s.signing_key.value.display(), &s.signing_key.origin),
        row("threshold", &s.threshold.value, &s.threshold.origin),
        row("depmod", &word(&s.depmod.value), &s.depmod.origin),
        row("compiler-launcher", &word(&s.compiler_launcher.value), &s.compiler_launcher.origin),
        row("other-tools", &word(&s.other_tools.value), &s.other_tools.origin),
        row("foreign", &word(&s.foreign.value), &s.foreign.origin),
        row("on-failure", &word(&s.on_failure.value), &s.on_failure.origin),
        row("refresh", &word(&s.refresh.value), &s.refresh.origin),
    ];
    let texts = |name, list: &[Setting<String>]| {
        list.iter().map(|setting| row(name, &setting.value, &setting.origin)).collect::<Vec<_>>()
    };
    rows.extend(texts("default-kernel", s.default_kernel.as_slice()));
    let textfile = s.metrics_textfile.iter();
    rows.extend(textfile.map(|path| row("metrics-textfile", &path.value.display(), &path.origin)));
    rows.extend(texts("packages", &s.packages));
    rows.extend(texts("package-scripts", &s.package_scripts));
    rows.extend(s.tool_paths.iter().map(|path| row("tool-paths", &path.value.display(), &path.origin)));
    rows.extend(s.caches.iter().map(|cache| {
        let write = if cache.write { " (written to)" } else { "" };
        row("cache", &format!("{}{write}", without_credentials(&cache.called())), &cache.origin)
    }));
    rows.extend(s.policy.iter().map(|rule| {
        let Rule { package, kernel, need } = &rule.value;
        row("policy", &format!("{package} on {kernel} is {}", need.word()), &rule.origin)
    }));
    let signing = s.signing.iter().map(|table| (table.value.rows(), &table.origin));
    let gc = s.gc.iter().map(|table| (table.value.rows(), &table.origin));
    for (table, origin) in signing.chain(gc) {
        rows.extend(table.into_iter().map(|(name, value)| row(name, &value, origin)));
    }
    if out.json {
        out.document(&rows);
    } else {
        for setting in rows {
            out.data(&format!("{} = {}  # {}", setting.name, setting.value, setting.origin));
        }
    }
    Exit::Done
}
