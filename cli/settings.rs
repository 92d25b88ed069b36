//! Settings, each with where it comes from: defaults < `/etc/kcache/config.toml` < `config.d/*.toml` < `KCACHE_*` < flags.

pub mod caches;
pub mod gc;
pub mod signing;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use caches::Cache;
use fs_err as fs;
use kcache::kernel::rootfs::Root;
use kcache::policy::{Need, Rule};
use kcache::select;
use serde::Deserialize;

use crate::args::Global;
use crate::exit::Failure;
use crate::memory;

/// Everything that can be set, with the environment variable that also sets it.
const KEYS: [(&str, &str); 11] = [
    ("store", "KCACHE_STORE"),
    ("jobs", "KCACHE_JOBS"),
    ("build-timeout", "KCACHE_BUILD_TIMEOUT"),
    ("lock-timeout", "KCACHE_LOCK_TIMEOUT"),
    ("signing-key", "KCACHE_SIGNING_KEY"),
    ("threshold", "KCACHE_THRESHOLD"),
    ("default-kernel", "KCACHE_DEFAULT_KERNEL"),
    ("foreign", "KCACHE_FOREIGN"),
    ("depmod", "KCACHE_DEPMOD"),
    ("compiler-launcher", "KCACHE_COMPILER_LAUNCHER"),
    ("on-failure", "KCACHE_ON_FAILURE"),
];

/// What can be set in files only, because it is more than a text or number.
const LISTS: [&str; 6] = ["packages", "package-scripts", "cache", "policy", "signing", "gc"];

/// Where this host's own key is, if it has one.
pub const SIGNING_KEY: &str = "/etc/kcache/signing-key.pem";
/// Where the keys of those are whose entries are used.
pub const TRUSTED_KEYS: &str = "/etc/kcache/trusted-keys";
/// Where the keys of those are whose entries are never used again.
pub const REVOKED_KEYS: &str = "/etc/kcache/revoked-keys";

/// Longest that one build may take. The slowest package of Debian takes some 3 minutes on two cores.
const BUILD_TIMEOUT: u64 = 3600;

/// Longest that another kcache is waited for: longer than a build of most packages.
const LOCK_TIMEOUT: u64 = 600;

/// Signatures that an entry can have (`store/src/envelope.rs`).
const MAX_THRESHOLD: usize = 64;

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

/// A value and its origin.
#[derive(Clone, Debug)]
pub struct Setting<T> {
    pub value: T,
    pub origin: Origin,
}

/// What a hook does where modules could not be made ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Says so; the package manager goes on.
    Warn,
    /// Fails, and the package manager's transaction with it.
    Block,
}

impl OnFailure {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            OnFailure::Warn => "warn",
            OnFailure::Block => "block",
        }
    }
}

/// All settings of a run.
#[derive(Debug)]
pub struct Settings {
    pub root: Setting<PathBuf>,
    pub store: Setting<PathBuf>,
    pub jobs: Setting<usize>,
    pub build_timeout: Setting<Duration>,
    pub lock_timeout: Setting<Duration>,
    /// A path of this machine.
    pub signing_key: Setting<PathBuf>,
    pub threshold: Setting<usize>,
    pub on_failure: Setting<OnFailure>,
    /// Packages that are wanted also where their source is not.
    pub packages: Vec<Setting<String>>,
    /// Shell patterns for packages whose scripts for the system may be run.
    pub package_scripts: Vec<Setting<String>>,
    /// In order of priority.
    pub caches: Vec<Cache>,
    /// The release, or the path of an image, that the boot loader takes, where kcache cannot read that.
    pub default_kernel: Option<Setting<String>>,
    /// Whether other people's modules count: `report` or `require`.
    pub foreign: Setting<String>,
    /// When depmod runs: `auto` or `always`.
    pub depmod: Setting<String>,
    /// What is before the compiler: `none` or `ccache`.
    pub compiler_launcher: Setting<String>,
    /// Which packages matter for which kernels.
    pub policy: Vec<Setting<Rule>>,
    /// What modules are signed with.
    pub signing: Option<Setting<signing::Table>>,
    /// How large the store may be.
    pub gc: Option<Setting<gc::Table>>,
}

/// What of the process the settings depend on.
pub struct Process<'a> {
    /// A variable of the environment.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// kcache runs as root.
    pub is_root: bool,
    /// CPUs.
    pub cpus: usize,
    /// How much memory builds may take, in bytes, where that can be told.
    pub memory: Option<u64>,
}

impl Process<'_> {
    /// How many jobs there are, where nobody says it: one for each CPU that there is memory for.
    fn jobs(&self) -> u64 {
        let most = self.memory.map_or(u64::MAX, |bytes| (bytes / memory::OF_A_JOB).max(1));
        most.min(self.cpus as u64)
    }
}

/// What the files say.
#[derive(Default)]
struct Written {
    texts: BTreeMap<&'static str, Setting<String>>,
    packages: Vec<Setting<String>>,
    package_scripts: Vec<Setting<String>>,
    caches: Vec<Cache>,
    policy: Vec<Setting<Rule>>,
    signing: Option<Setting<signing::Table>>,
    gc: Option<Setting<gc::Table>>,
}

/// One `[[policy]]`, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyTable {
    #[serde(default = "all")]
    package: String,
    #[serde(default = "all")]
    kernel: String,
    is: String,
}

fn all() -> String {
    "*".to_owned()
}

type Texts = BTreeMap<&'static str, Setting<String>>;

impl Settings {
    /// Works out the settings of this process.
    pub fn resolve(global: &Global, process: &Process) -> Result<Settings, Failure> {
        let root = match &global.root {
            Some(dir) => Setting { value: absolute(dir)?, origin: Origin::Flag("--root") },
            None => Setting { value: PathBuf::from("/"), origin: Origin::Default },
        };
        let mut written = Written::default();
        for path in files(global, &Root::new(&root.value))? {
            read_file(&path, &mut written)?;
        }
        let Written { mut texts, packages, package_scripts, mut caches, policy, signing, gc } = written;
        if let Some(table) = signing.as_ref().filter(|_| global.config.is_none()) {
            signing::refuse_code(table, &root.value)?;
        }
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
            texts.insert(
                "depmod",
                Setting { value: when.word().to_owned(), origin: Origin::Flag("--depmod") },
            );
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
            lock_timeout: seconds("lock-timeout", LOCK_TIMEOUT)?,
            signing_key: signing_key(&texts, &Root::new(&root.value))?,
            threshold: threshold(&texts)?,
            on_failure: on_failure(&texts)?,
            packages,
            package_scripts,
            caches,
            default_kernel: texts.get("default-kernel").cloned(),
            foreign: one_of(&texts, "foreign", ["report", "require"])?,
            depmod: one_of(&texts, "depmod", ["auto", "always"])?,
            compiler_launcher: one_of(&texts, "compiler-launcher", ["none", "ccache"])?,
            policy,
            signing,
            gc,
            root,
        })
    }

    /// How large the store may be.
    pub fn gc(&self) -> gc::Table {
        self.gc.as_ref().map(|setting| setting.value.clone()).unwrap_or_default()
    }
}

/// The configuration files that count, in order.
fn files(global: &Global, root: &Root) -> Result<Vec<PathBuf>, Failure> {
    if let Some(file) = &global.config {
        fs::metadata(file).map_err(|e| Failure::usage(e.to_string(), None))?;
        return Ok(vec![file.clone()]);
    }
    let mut files: Vec<PathBuf> = root.find("/etc/kcache/config.toml").into_iter().collect();
    if let Some(directory) = root.find("/etc/kcache/config.d") {
        let mut parts: Vec<PathBuf> =
            fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        parts.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        parts.sort();
        files.extend(parts);
    }
    Ok(files)
}

fn read_file(path: &Path, written: &mut Written) -> Result<(), Failure> {
    let text = fs::read_to_string(path)?;
    let wrong = |reason: &dyn fmt::Display| format!("{}: {reason}", path.display());
    let bad = |e: toml::de::Error| Failure::usage(wrong(&e.to_string().trim_end()), None);
    let origin = Origin::File(path.to_owned());
    for (name, value) in text.parse::<toml::Table>().map_err(bad)? {
        match name.as_str() {
            "packages" | "package-scripts" => {
                let names: Vec<String> = value.try_into().map_err(bad)?;
                let list = match name.as_str() {
                    "packages" => &mut written.packages,
                    _ => &mut written.package_scripts,
                };
                list.extend(names.into_iter().map(|value| Setting { value, origin: origin.clone() }));
            }
            "cache" => {
                let tables: Vec<caches::Table> = value.try_into().map_err(bad)?;
                written.caches.extend(tables.into_iter().map(|table| Cache::of_table(table, origin.clone())));
            }
            "policy" => {
                let tables: Vec<PolicyTable> = value.try_into().map_err(bad)?;
                for table in tables {
                    let value = rule(table).map_err(|problem| Failure::usage(wrong(&problem), None))?;
                    written.policy.push(Setting { value, origin: origin.clone() });
                }
            }
            "signing" => {
                let value = value.try_into().map_err(bad)?;
                written.signing = Some(Setting { value, origin: origin.clone() });
            }
            "gc" => {
                let value = value.try_into().map_err(bad)?;
                written.gc = Some(Setting { value, origin: origin.clone() });
            }
            _ => {
                let key = key(&name)
                    .map_err(|hint| Failure::usage(wrong(&format!("unknown key '{name}'")), Some(hint)))?;
                let value = match value {
                    toml::Value::String(text) => text,
                    toml::Value::Integer(number) => number.to_string(),
                    other => {
                        let kind = other.type_str();
                        return Err(Failure::usage(wrong(&format!("{name} cannot be a {kind}")), None));
                    }
                };
                written.texts.insert(key, Setting { value, origin: origin.clone() });
            }
        }
    }
    Ok(())
}

fn rule(table: PolicyTable) -> Result<Rule, String> {
    let PolicyTable { package, kernel, is } = table;
    match Need::of_word(&is) {
        Some(need) => Ok(Rule { package, kernel, need }),
        None => Err(format!("a policy is '{is}': it must be required, optional or ignore")),
    }
}

/// One of two words, the first of which is the default.
fn one_of(texts: &Texts, key: &'static str, words: [&str; 2]) -> Result<Setting<String>, Failure> {
    let default = || Setting { value: words[0].to_owned(), origin: Origin::Default };
    let setting = texts.get(key).cloned().unwrap_or_else(default);
    if words.contains(&setting.value.as_str()) {
        return Ok(setting);
    }
    let (value, origin) = (&setting.value, &setting.origin);
    let what = format!("{key} is '{value}' ({origin}): it must be {} or {}", words[0], words[1]);
    Err(Failure::usage(what, None))
}

/// The key of this name; else a hint.
fn key(name: &str) -> Result<&'static str, String> {
    let keys = KEYS.map(|(key, _)| key);
    keys.into_iter().find(|key| *key == name).ok_or_else(|| {
        let known = || keys.iter().chain(&LISTS).copied();
        match select::nearest(name, known()) {
            Some(key) => format!("did you mean {key}?"),
            None => format!("known keys: {}", known().collect::<Vec<_>>().join(", ")),
        }
    })
}

/// A path in a file is one of the system that is worked on, one in a variable is this machine's.
fn signing_key(texts: &Texts, root: &Root) -> Result<Setting<PathBuf>, Failure> {
    Ok(match texts.get("signing-key") {
        Some(Setting { value, origin: origin @ Origin::File(_) }) => {
            Setting { value: root.place(value)?, origin: origin.clone() }
        }
        Some(Setting { value, origin }) => Setting { value: PathBuf::from(value), origin: origin.clone() },
        None => Setting { value: root.place(SIGNING_KEY)?, origin: Origin::Default },
    })
}

fn threshold(texts: &Texts) -> Result<Setting<usize>, Failure> {
    let Setting { value, origin } = number(texts, "threshold", 1)?;
    match usize::try_from(value).ok().filter(|threshold| *threshold <= MAX_THRESHOLD) {
        Some(value) => Ok(Setting { value, origin }),
        None => Err(Failure::usage(
            format!("threshold is {value} ({origin}): an entry has at most {MAX_THRESHOLD} signatures"),
            None,
        )),
    }
}

fn on_failure(texts: &Texts) -> Result<Setting<OnFailure>, Failure> {
    let Some(Setting { value, origin }) = texts.get("on-failure") else {
        return Ok(Setting { value: OnFailure::Warn, origin: Origin::Default });
    };
    match [OnFailure::Warn, OnFailure::Block].into_iter().find(|known| known.word() == value) {
        Some(known) => Ok(Setting { value: known, origin: origin.clone() }),
        None => Err(Failure::usage(
            format!("on-failure is '{value}' ({origin}): it must be \"warn\" or \"block\""),
            None,
        )),
    }
}

fn number(texts: &Texts, key: &'static str, default: u64) -> Result<Setting<u64>, Failure> {
    let Some(setting) = texts.get(key) else {
        return Ok(Setting { value: default, origin: Origin::Default });
    };
    match setting.value.parse() {
        Ok(value) if value > 0 => Ok(Setting { value, origin: setting.origin.clone() }),
        _ => Err(Failure::usage(
            format!("{key} is '{}' ({}): it must be a whole number above 0", setting.value, setting.origin),
            None,
        )),
    }
}

fn store(texts: &Texts, root: &Path, process: &Process) -> Result<Setting<PathBuf>, Failure> {
    if let Some(setting) = texts.get("store") {
        return Ok(Setting { value: absolute(Path::new(&setting.value))?, origin: setting.origin.clone() });
    }
    if process.is_root {
        let value = Root::new(root).place("/var/cache/kcache")?;
        return Ok(Setting { value, origin: Origin::Default });
    }
    let cache = (process.variable)("XDG_CACHE_HOME").filter(|dir| dir.starts_with('/')).map(PathBuf::from);
    let home = || (process.variable)("HOME").map(|home| PathBuf::from(home).join(".cache"));
    match cache.or_else(home) {
        Some(dir) => Ok(Setting { value: dir.join("kcache"), origin: Origin::Default }),
        None => Err(Failure::usage(
            "no place for the store: HOME is not set",
            Some("give one with --store DIR".into()),
        )),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    match fs::canonicalize(path) {
        Ok(path) => Ok(path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !path.as_os_str().is_empty() => {
            Ok(std::path::absolute(path)?)
        }
        Err(e) => Err(Failure::usage(e.to_string(), None)),
    }
}

#[cfg(test)]
#[path = "../fuzz/mutate.rs"]
mod mutate;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Args;
    use clap::Parser;
    fn resolve(config: &str, variables: &[(&str, &str)], flags: &[&str]) -> Result<Settings, Failure> {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/kcache/config.d")).unwrap();
        fs::write(root.path().join("etc/kcache/config.toml"), config).unwrap();
        fs::write(root.path().join("etc/kcache/config.d/10.toml"), "lock-timeout = 7\n").unwrap();
        let root = root.path().to_str().unwrap();
        let args = Args::parse_from([&["kcache", "--root", root, "config"], flags].concat());
        let variable = |name: &str| {
            variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        };
        Settings::resolve(
            &args.global,
            &Process { variable: &variable, is_root: true, cpus: 3, memory: None },
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
        assert!(matches!(settings.lock_timeout.origin, Origin::File(path) if path.ends_with("10.toml")));
        assert_eq!(resolve("", &[], &[]).unwrap().jobs.value, 3);
    }

    #[test]
    fn there_are_as_many_jobs_as_cpus_with_memory_for_a_compiler() {
        let jobs = |mebibytes: Option<u64>| {
            let memory = mebibytes.map(|mebibytes| mebibytes << 20);
            Process { variable: &|_| None, is_root: true, cpus: 8, memory }.jobs()
        };
        assert_eq!(jobs(None), 8);
        assert_eq!(jobs(Some(1 << 20)), 8);
        assert_eq!(jobs(Some(2000)), 3);
        assert_eq!(jobs(Some(100)), 1);
    }

    #[test]
    fn a_system_under_another_root_does_not_choose_what_runs_here() {
        let check = |line: &str, what: &str| {
            let config = format!("[signing]\ncertificate = '/c'\n{line}\n");
            let failure = resolve(&config, &[], &[]).unwrap_err();
            assert!(failure.exit == crate::exit::Exit::Usage && failure.message.contains(what));
            assert!(failure.hint.unwrap().contains("--config"));
            let own = tempfile::NamedTempFile::new().unwrap();
            fs::write(own.path(), config).unwrap();
            assert!(resolve("", &[], &["--config", own.path().to_str().unwrap()]).is_ok());
        };
        check("key = '/k'\npassphrase-command = 'id'", "passphrase-command");
        check("key = 'pkcs11:token=a?module-path=/x.so'", "a pkcs11: key");
        assert!(resolve("[signing]\nkey = '/k'\npassphrase-file = '/p'\n", &[], &[]).is_ok());
    }

    #[test]
    fn mistakes_are_usage_errors_that_name_key_and_file() {
        let check = |config: &str, expect: &str| {
            let failure = resolve(config, &[], &[]).unwrap_err();
            let told = format!("{} {}", failure.message, failure.hint.unwrap_or_default());
            assert!(told.contains(expect) && told.contains("config.toml"), "{told}");
        };
        check("jobz = 1\n", "did you mean jobs?");
        check("colour = 1\n", "known keys: store");
        check("jobs = []\n", "cannot be a array");
        check("jobs = 0\n", "above 0");
        check("on-failure = 'stop'\n", "it must be \"warn\" or \"block\"");
        check("depmod = 'never'\n", "it must be auto or always");
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
