//! Settings, each with its origin: defaults < `/etc/kcache/config.toml` < `config.d/*.toml` < `KCACHE_*` < options.
//!
//! Files that other users could change are not used. [`image`] defines what the files of a tree under `--root` may set.

pub mod caches;
pub mod choices;
mod files;
pub mod gc;
mod image;
pub mod signing;
mod values;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use caches::Cache;
use choices::{CompilerLauncher, Depmod, Foreign, OnFailure, OtherTools, Refresh, word};
use files::{KEYS, Texts, Written, read_file, sources};
use kcache::kernel::rootfs::Root;
use kcache::run::policy::Rule;
use values::{absolute, mebibytes, number, one_of, placed, signing_key, store, threshold, tool_path};

use crate::args::Global;
use crate::exit::Failure;
use crate::memory;

/// Path of this host's own key under the root.
pub const SIGNING_KEY: &str = "/etc/kcache/signing-key.pem";
/// Directory of trusted keys under the root.
pub const TRUSTED_KEYS: &str = "/etc/kcache/trusted-keys";
/// Directory of revoked keys under the root.
pub const REVOKED_KEYS: &str = "/etc/kcache/revoked-keys";

/// Longest that one build may take. The slowest package of Debian takes some 3 minutes on two cores.
const BUILD_TIMEOUT: u64 = 3600;

/// MiB of disk that one build may use. NVIDIA's drivers with debug information take some 2 GiB.
const BUILD_DISK: u64 = 32 << 10;

/// Files and directories that one build may make. ZFS's configure makes some ten thousand.
const BUILD_FILES: u64 = 1_000_000;

/// MiB that no machine has: no limit.
const MOST_MEMORY: u64 = 1 << 40;

/// Longest that another kcache is waited for: longer than a build of most packages.
const LOCK_TIMEOUT: u64 = 600;

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(PathBuf),
    Environment(&'static str),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "default"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Environment(name) => write!(f, "environment variable {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Setting<T> {
    pub value: T,
    pub origin: Origin,
}

/// The settings of a run, each with its origin.
#[derive(Debug)]
pub struct Settings {
    pub root: Setting<PathBuf>,
    pub store: Setting<PathBuf>,
    pub jobs: Setting<usize>,
    pub build_timeout: Setting<Duration>,
    /// MiB.
    pub build_memory: Setting<u64>,
    pub build_processes: Setting<u64>,
    /// MiB.
    pub build_disk: Setting<u64>,
    pub build_files: Setting<u64>,
    pub lock_timeout: Setting<Duration>,
    /// A path of this machine.
    pub signing_key: Setting<PathBuf>,
    pub threshold: Setting<usize>,
    pub on_failure: Setting<OnFailure>,
    pub refresh: Setting<Refresh>,
    /// Where the retry writes metrics; a path of this machine.
    pub metrics_textfile: Option<Setting<PathBuf>>,
    /// Packages that are wanted also where their source is not.
    pub packages: Vec<Setting<String>>,
    /// Shell patterns for packages whose scripts for the system may be run.
    pub package_scripts: Vec<Setting<String>>,
    /// Directories of tools for builds, absolute.
    pub tool_paths: Vec<Setting<PathBuf>>,
    /// In order of priority.
    pub caches: Vec<Cache>,
    /// The release, or the path of an image, that the boot loader takes, where kcache cannot read that.
    pub default_kernel: Option<Setting<String>>,
    pub foreign: Setting<Foreign>,
    pub depmod: Setting<Depmod>,
    pub compiler_launcher: Setting<CompilerLauncher>,
    pub other_tools: Setting<OtherTools>,
    /// The need of packages for kernels; the last matching rule counts.
    pub policy: Vec<Setting<Rule>>,
    /// What modules are signed with.
    pub signing: Option<Setting<signing::Table>>,
    /// The limits of the store.
    pub gc: Option<Setting<gc::Table>>,
    /// Settings in files that are ignored, a line each.
    pub warnings: Vec<String>,
}

/// The parts of the process that settings depend on.
pub struct Process<'a> {
    /// A variable of the environment.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// kcache runs as root.
    pub is_root: bool,
    /// CPUs.
    pub cpus: usize,
    /// How much memory builds may take, in bytes, where that can be told.
    pub memory: Option<u64>,
    /// How much this machine has, in bytes, where that can be told.
    pub total_memory: Option<u64>,
}

impl Process<'_> {
    /// How many jobs there are, where nobody says it: one for each CPU that there is memory for.
    fn jobs(&self) -> u64 {
        let most = self.memory.map_or(u64::MAX, |bytes| (bytes / memory::OF_A_JOB).max(1));
        most.min(self.cpus as u64)
    }

    /// How much memory a build may have, in MiB, where nobody says it: so much that the machine goes on.
    fn build_memory(&self) -> u64 {
        self.total_memory.map_or(MOST_MEMORY, |bytes| (bytes >> 20) / 4 * 3).clamp(1, MOST_MEMORY)
    }

    /// How many processes, where nobody says it: a job of make is a handful (make, sh, gcc, cc1, as), and a build has as many
    /// jobs as the run.
    fn build_processes(jobs: u64) -> u64 {
        (512 + 16 * jobs).min(8192)
    }
}

impl Settings {
    /// Combines options, environment variables and files.
    pub fn resolve(global: &Global, process: &Process) -> Result<Settings, Failure> {
        let root = match &global.root {
            Some(dir) => Setting { value: absolute(dir)?, origin: Origin::Flag("--root") },
            None => Setting { value: PathBuf::from("/"), origin: Origin::Default },
        };
        let mut written = Written::default();
        for source in sources(global, &Root::new(&root.value), &mut written.warnings)? {
            read_file(source, &mut written)?;
        }
        let Written {
            mut texts,
            packages,
            package_scripts,
            mut tool_paths,
            mut caches,
            policy,
            signing,
            gc,
            ..
        } = written;
        let mut warnings = written.warnings;
        warnings.extend(image::warning(&written.passed_over, &root.value.join("etc/kcache")));
        for (key, variable) in KEYS {
            if let Some(value) = (process.variable)(variable) {
                texts.insert(key, Setting { value, origin: Origin::Environment(variable) });
            }
        }
        if let Some(dir) = &global.store {
            texts.insert(
                "store",
                Setting { value: dir.display().to_string(), origin: Origin::Flag("--store") },
            );
        }
        if let Some(jobs) = global.jobs {
            texts.insert("jobs", Setting { value: jobs.to_string(), origin: Origin::Flag("--jobs") });
        }
        if let Some(when) = global.depmod {
            texts.insert("depmod", Setting { value: word(&when), origin: Origin::Flag("--depmod") });
        }
        if let Some(paths) = (process.variable)("KCACHE_TOOL_PATHS") {
            let origin = Origin::Environment("KCACHE_TOOL_PATHS");
            let paths = paths.split(':').filter(|path| !path.is_empty());
            tool_paths.extend(paths.map(|path| Setting { value: path.to_owned(), origin: origin.clone() }));
        }
        if let Some(urls) = (process.variable)("KCACHE_CACHE") {
            let origin = Origin::Environment("KCACHE_CACHE");
            caches.extend(urls.split_whitespace().map(|url| Cache::of_url(url, origin.clone())));
        }
        caches.extend(global.cache.iter().map(|url| Cache::of_url(url, Origin::Flag("--cache"))));
        caches.sort_by_key(|cache| cache.priority);
        let seconds = |key, default| {
            let setting = number(&texts, key, default)?;
            Ok::<_, Failure>(Setting { value: Duration::from_secs(setting.value), origin: setting.origin })
        };
        let jobs = number(&texts, "jobs", process.jobs())?;
        Ok(Settings {
            store: store(&texts, &root.value, process)?,
            jobs: Setting { value: jobs.value.clamp(1, 4096) as usize, origin: jobs.origin },
            build_timeout: seconds("build-timeout", BUILD_TIMEOUT)?,
            build_memory: mebibytes(&texts, "build-memory", process.build_memory())?,
            build_processes: number(&texts, "build-processes", Process::build_processes(jobs.value))?,
            build_disk: mebibytes(&texts, "build-disk", BUILD_DISK)?,
            build_files: number(&texts, "build-files", BUILD_FILES)?,
            lock_timeout: seconds("lock-timeout", LOCK_TIMEOUT)?,
            signing_key: signing_key(&texts, &Root::new(&root.value))?,
            threshold: threshold(&texts)?,
            on_failure: one_of(&texts, "on-failure")?,
            refresh: one_of(&texts, "refresh")?,
            metrics_textfile: placed(&texts, "metrics-textfile", &Root::new(&root.value))?,
            packages,
            package_scripts,
            tool_paths: tool_paths.into_iter().map(tool_path).collect::<Result<_, _>>()?,
            caches,
            default_kernel: texts.get("default-kernel").cloned(),
            foreign: one_of(&texts, "foreign")?,
            depmod: one_of(&texts, "depmod")?,
            compiler_launcher: one_of(&texts, "compiler-launcher")?,
            other_tools: one_of(&texts, "other-tools")?,
            policy,
            signing,
            gc,
            warnings,
            root,
        })
    }

    /// Whether modules are signed by way of a program or a library of the administrator's choice.
    pub fn runs_what_may_write_anywhere(&self) -> bool {
        self.signing.as_ref().is_some_and(|table| table.value.runs_others())
    }

    /// The limits of the store.
    pub fn gc(&self) -> gc::Table {
        self.gc.as_ref().map(|setting| setting.value.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
#[path = "../fuzz/mutate.rs"]
mod mutate;

#[cfg(test)]
mod tests {
    use super::values::MAX_THRESHOLD;
    use super::*;
    use crate::args::Args;
    use crate::exit::Exit;
    use clap::Parser;
    use fs_err as fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    /// What a file that the caller names comes to.
    fn resolve(config: &str, variables: &[(&str, &str)], flags: &[&str]) -> Result<Settings, Failure> {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("config.toml");
        fs::write(&file, config).unwrap();
        let (root, file) = (root.path().to_str().unwrap(), file.to_str().unwrap());
        resolve_words(&[&["kcache", "--root", root, "--config", file, "config"], flags].concat(), variables)
    }

    /// What the files of a tree under `--root` come to.
    fn resolve_image(config: &str, flags: &[&str]) -> Result<Settings, Failure> {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/kcache/config.d")).unwrap();
        fs::write(root.path().join("etc/kcache/config.toml"), config).unwrap();
        fs::write(root.path().join("etc/kcache/config.d/10.toml"), "threshold = 7\n").unwrap();
        resolve_words(&[&["kcache", "--root", root.path().to_str().unwrap(), "config"], flags].concat(), &[])
    }

    fn resolve_words(words: &[&str], variables: &[(&str, &str)]) -> Result<Settings, Failure> {
        let args = Args::parse_from(words);
        let variable = |name: &str| {
            variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        };
        Settings::resolve(
            &args.global,
            &Process { variable: &variable, is_root: true, cpus: 3, memory: None, total_memory: None },
        )
    }

    #[test]
    fn flags_beat_the_environment_beats_files_beat_defaults() {
        let config = "jobs = 5\nbuild-timeout = 60\nstore = '/a'\n";
        let settings =
            resolve(config, &[("KCACHE_JOBS", "6"), ("KCACHE_STORE", "/b")], &["--store", "/c"]).unwrap();
        assert_eq!((settings.store.value, settings.store.origin), ("/c".into(), Origin::Flag("--store")));
        assert_eq!((settings.jobs.value, settings.jobs.origin), (6, Origin::Environment("KCACHE_JOBS")));
        assert_eq!(settings.build_timeout.value, Duration::from_secs(60));
        assert!(matches!(settings.build_timeout.origin, Origin::File(path) if path.ends_with("config.toml")));
        let image = resolve_image("threshold = 2\n", &[]).unwrap();
        assert!(matches!(image.threshold.origin, Origin::File(path) if path.ends_with("10.toml")));
        assert_eq!(image.threshold.value, 7);
        assert_eq!(resolve("", &[], &[]).unwrap().jobs.value, 3);
    }

    #[test]
    fn there_are_as_many_jobs_as_cpus_with_memory_for_a_compiler() {
        let jobs = |mebibytes: Option<u64>| {
            let memory = mebibytes.map(|mebibytes| mebibytes << 20);
            Process { variable: &|_| None, is_root: true, cpus: 8, memory, total_memory: None }.jobs()
        };
        assert_eq!(jobs(None), 8);
        assert_eq!(jobs(Some(1 << 20)), 8);
        assert_eq!(jobs(Some(2000)), 3);
        assert_eq!(jobs(Some(100)), 1);
    }

    #[test]
    fn a_tree_under_another_root_sets_what_is_its_own_alone() {
        let config = "packages = ['a']\nforeign = 'require'\ndepmod = 'always'\npackage-scripts = ['*']\nstore = '/host'\n\
            jobs = 99\nbuild-timeout = 1\nlock-timeout = 1\nsigning-key = '/k'\ndefault-kernel = 'k'\n\
            compiler-launcher = 'ccache'\non-failure = 'block'\n\
            [[policy]]\nis = 'optional'\n\
            [[cache]]\nurl = 'https://h/'\nwrite = true\ncredentials = '/c'\ncredentials-env = 'CI'\nca = '/x'\noptions = { a = 'b' }\n\
            [[cache]]\nurl = '/host/cache'\n[[cache]]\nurl = 'S3://b'\n\
            [signing]\nkey = 'pkcs11:token=a?module-path=/x.so'\ncertificate = '/c'\npassphrase-command = 'id'\n[gc]\nmax-size = '1G'\n";
        let image = resolve_image(config, &[]).unwrap();
        let taken = (image.packages.len(), image.policy.len(), image.foreign.value, image.depmod.value);
        assert_eq!(taken, (1, 1, Foreign::Require, Depmod::Always));
        assert!(image.package_scripts.is_empty() && image.signing.is_none() && image.gc.is_none());
        assert!(image.default_kernel.is_none() && image.compiler_launcher.value == CompilerLauncher::None);
        assert!(image.store.origin == Origin::Default && image.jobs.value == 3);
        assert!(
            image.build_timeout.value.as_secs() == BUILD_TIMEOUT && image.on_failure.value == OnFailure::Warn
        );
        let [cache] = &image.caches[..] else { panic!("{:?}", image.caches) };
        assert!(cache.of_image && !cache.write && cache.url == "https://h/");
        let [warning] = &image.warnings[..] else { panic!("{:?}", image.warnings) };
        for name in ["store", "package-scripts", "cache.credentials-env", "cache file://", "--config"] {
            assert!(warning.contains(name), "{warning}");
        }
        // The same file, named by the caller, counts in full.
        let named = resolve(&config.replace("compiler-launcher", "#"), &[], &[]).unwrap();
        assert!(named.caches.len() == 3 && named.signing.is_some() && named.warnings.is_empty());
    }

    #[test]
    fn settings_of_an_image_get_no_secret_of_the_callers() {
        let config = "[[cache]]\nurl = 'https://h/'\ncredentials-env = 'CI'\n";
        let image = resolve_image(config, &[]).unwrap();
        let variable = |_: &str| Some("secret".to_owned());
        let process =
            Process { variable: &variable, is_root: true, cpus: 1, memory: None, total_memory: None };
        let location = image.caches[0].location(&Root::new("/nowhere"), &process).unwrap();
        assert!(location.stranger && location.token.is_none() && location.password.is_none());
        assert!(location.options.is_empty());
    }

    #[test]
    fn links_of_an_image_lead_to_no_file_of_this_machine() {
        let (root, host) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        fs::write(host.path(), "root:$6$secret:1:0:99999:7:::\n").unwrap();
        let etc = root.path().join("etc/kcache");
        fs::create_dir_all(etc.join("config.d")).unwrap();
        std::os::unix::fs::symlink(host.path(), etc.join("config.toml")).unwrap();
        std::os::unix::fs::symlink(host.path(), etc.join("config.d/1.toml")).unwrap();
        let words = ["kcache", "--root", root.path().to_str().unwrap(), "config"];
        assert!(resolve_words(&words, &[]).unwrap().warnings.is_empty());
        fs::remove_file(etc.join("config.toml")).unwrap();
        fs::write(etc.join("config.toml"), "packages = []\nroot:$6$secret:1\n").unwrap();
        let failure = resolve_words(&words, &[]).unwrap_err();
        assert!(
            failure.message.contains("line 2") && !failure.message.contains("secret"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn a_file_that_others_can_change_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "jobs = 1\n").unwrap();
        for (mode, refused) in [(0o644, false), (0o600, false), (0o664, true), (0o646, true)] {
            fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
            let words = ["kcache", "--config", file.path().to_str().unwrap(), "config"];
            let failure = resolve_words(&words, &[]).err();
            assert_eq!(failure.is_some_and(|failure| failure.exit == Exit::Refused), refused, "{mode:o}");
        }
    }

    #[test]
    fn mistakes_are_usage_errors_that_name_key_and_file() {
        let check = |config: &str, expect: &str| {
            let failure = resolve(config, &[], &[]).unwrap_err();
            let told = format!("{} {}", failure.message, failure.hint.unwrap_or_default());
            assert!(told.contains(expect) && told.contains("config.toml"), "{told}");
        };
        check("jobz = 1\n", "did you mean 'jobs'?");
        check("colour = 1\n", "known keys: store");
        check("jobs = []\n", "cannot be a array");
        check("jobs = 0\n", "above 0");
        check("on-failure = 'stop'\n", "must be warn or block");
        check("depmod = 'never'\n", "must be auto or always");
        check("jobs = \n", "1");
    }

    #[test]
    fn any_file_is_settings_or_a_usage_error() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/config");
        let files = ["full", "odd"].map(|name| fs::read(corpus.join(name)).unwrap());
        let mut taken = 0;
        mutate::each(&files, 500, |bytes| match resolve(&String::from_utf8_lossy(bytes), &[], &[]) {
            Ok(settings) => {
                taken += 1;
                assert!(settings.jobs.value > 0 && (1..=MAX_THRESHOLD).contains(&settings.threshold.value));
            }
            Err(failure) => assert!(failure.exit == crate::exit::Exit::Usage, "{}", failure.message),
        });
        assert!(taken > 20, "only {taken} were taken");
    }
}
