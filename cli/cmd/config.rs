//! `kcache config`: show each setting and where it comes from.

use kcache::run::policy::Rule;
use kcache::store::transport::without_credentials;

use crate::exit::Exit;
use crate::json;
use crate::out::Out;
use crate::settings::Settings;

pub fn run(settings: &Settings, out: &Out) -> Exit {
    let row = |name, value: String, origin: String| json::Setting { name, value, origin };
    let mut rows = vec![
        row("root", settings.root.value.display().to_string(), settings.root.origin.to_string()),
        row("store", settings.store.value.display().to_string(), settings.store.origin.to_string()),
        row("jobs", settings.jobs.value.to_string(), settings.jobs.origin.to_string()),
        row(
            "build-timeout",
            settings.build_timeout.value.as_secs().to_string(),
            settings.build_timeout.origin.to_string(),
        ),
        row(
            "build-memory",
            settings.build_memory.value.to_string(),
            settings.build_memory.origin.to_string(),
        ),
        row(
            "build-processes",
            settings.build_processes.value.to_string(),
            settings.build_processes.origin.to_string(),
        ),
        row("build-disk", settings.build_disk.value.to_string(), settings.build_disk.origin.to_string()),
        row("build-files", settings.build_files.value.to_string(), settings.build_files.origin.to_string()),
        row(
            "lock-timeout",
            settings.lock_timeout.value.as_secs().to_string(),
            settings.lock_timeout.origin.to_string(),
        ),
        row(
            "signing-key",
            settings.signing_key.value.display().to_string(),
            settings.signing_key.origin.to_string(),
        ),
        row("threshold", settings.threshold.value.to_string(), settings.threshold.origin.to_string()),
        row("depmod", settings.depmod.value.clone(), settings.depmod.origin.to_string()),
        row(
            "compiler-launcher",
            settings.compiler_launcher.value.clone(),
            settings.compiler_launcher.origin.to_string(),
        ),
        row("foreign", settings.foreign.value.clone(), settings.foreign.origin.to_string()),
        row(
            "on-failure",
            settings.on_failure.value.word().to_owned(),
            settings.on_failure.origin.to_string(),
        ),
    ];
    rows.extend(
        settings
            .default_kernel
            .iter()
            .map(|kernel| row("default-kernel", kernel.value.clone(), kernel.origin.to_string())),
    );
    rows.extend(
        settings.packages.iter().map(|name| row("packages", name.value.clone(), name.origin.to_string())),
    );
    rows.extend(
        settings
            .package_scripts
            .iter()
            .map(|glob| row("package-scripts", glob.value.clone(), glob.origin.to_string())),
    );
    rows.extend(settings.caches.iter().map(|cache| {
        let write = if cache.write { " (written to)" } else { "" };
        row("cache", format!("{}{write}", without_credentials(&cache.called())), cache.origin.to_string())
    }));
    rows.extend(settings.policy.iter().map(|rule| {
        let Rule { package, kernel, need } = &rule.value;
        row("policy", format!("{package} on {kernel} is {}", need.word()), rule.origin.to_string())
    }));
    if let Some(table) = &settings.signing {
        rows.extend(
            table.value.rows().into_iter().map(|(name, value)| row(name, value, table.origin.to_string())),
        );
    }
    if let Some(table) = &settings.gc {
        rows.extend(
            table.value.rows().into_iter().map(|(name, value)| row(name, value, table.origin.to_string())),
        );
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
