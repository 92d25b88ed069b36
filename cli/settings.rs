//! Settings, each with its origin: defaults < `/etc/kcache/config.toml` < `config.d/*.toml` < `KCACHE_*` < options.
//!
//! Files that other users could change are not used. [`image`] defines what the files of a tree under `--root` may set.

pub mod caches;
pub mod gc;
mod image;
pub mod signing;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use caches::Cache;
use fs_err as fs;
use kcache::kernel::rootfs::Root;
use kcache::run::policy::{Need, Rule};
use kcache::run::select;
use kcache::store::Exposed;
use serde::Deserialize;

use crate::args::Global;
use crate::exit::{Exit, Failure};
use crate::memory;

/// Everything that can be set, with the environment variable that also sets it.
const KEYS: [(&str, &str); 15] = [
    ("store", "KCACHE_STORE"),
    ("jobs", "KCACHE_JOBS"),
    ("build-timeout", "KCACHE_BUILD_TIMEOUT"),
    ("build-memory", "KCACHE_BUILD_MEMORY"),
    ("build-processes", "KCACHE_BUILD_PROCESSES"),
    ("build-disk", "KCACHE_BUILD_DISK"),
    ("build-files", "KCACHE_BUILD_FILES"),
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

/// MiB of disk that one build may use. NVIDIA's drivers with debug information take some 2 GiB.
const BUILD_DISK: u64 = 32 << 10;

/// Files and directories that one build may make. ZFS's configure makes some ten thousand.
const BUILD_FILES: u64 = 1_000_000;

/// MiB that no machine has: no limit.
const MOST_MEMORY: u64 = 1 << 40;

/// Longest that another kcache is waited for: longer than a build of most packages.
const LOCK_TIMEOUT: u64 = 600;

/// No configuration has so many bytes.
const MAX_FILE: u64 = 1 << 20;

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
    /// What of the files does not count, a line each.
    pub warnings: Vec<String>,
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
    warnings: Vec<String>,
    /// What the tree under `--root` set and may not.
    passed_over: BTreeSet<String>,
}

/// A file of settings.
struct Source {
    path: PathBuf,
    file: File,
    /// It is that of the tree under `--root`, and the caller has not named it.
    of_image: bool,
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
        for source in sources(global, &Root::new(&root.value), &mut written.warnings)? {
            read_file(source, &mut written)?;
        }
        let Written { mut texts, packages, package_scripts, mut caches, policy, signing, gc, .. } = written;
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
            build_memory: mebibytes(&texts, "build-memory", process.build_memory())?,
            build_processes: number(&texts, "build-processes", Process::build_processes(jobs.value))?,
            build_disk: mebibytes(&texts, "build-disk", BUILD_DISK)?,
            build_files: number(&texts, "build-files", BUILD_FILES)?,
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
            warnings,
            root,
        })
    }

    /// Whether modules are signed by way of a program or a library of the administrator's choice.
    pub fn runs_what_may_write_anywhere(&self) -> bool {
        self.signing.as_ref().is_some_and(|table| table.value.runs_others())
    }

    /// How large the store may be.
    pub fn gc(&self) -> gc::Table {
        self.gc.as_ref().map(|setting| setting.value.clone()).unwrap_or_default()
    }
}

/// So much memory or disk. What is more than there can be is no limit.
fn mebibytes(texts: &Texts, key: &'static str, default: u64) -> Result<Setting<u64>, Failure> {
    let setting = number(texts, key, default)?;
    Ok(Setting { value: setting.value.min(MOST_MEMORY), origin: setting.origin })
}

/// The configuration files that count, in order. What others could change is no word of the administrator's: a file that
/// the caller names is refused then, one that was found is passed over.
fn sources(global: &Global, root: &Root, warnings: &mut Vec<String>) -> Result<Vec<Source>, Failure> {
    if let Some(path) = &global.config {
        let file = fs::File::open(path).map_err(|e| Failure::usage(e.to_string(), None))?.into_parts().0;
        return match Exposed::find(path, &file.metadata()?) {
            None => Ok(vec![Source { path: path.clone(), file, of_image: false }]),
            Some(exposed) => Err(Failure {
                exit: Exit::Refused,
                message: exposed.to_string(),
                hint: Some(format!(
                    "if its content is correct, run `chown root {0} && chmod 644 {0}`",
                    path.display()
                )),
            }),
        };
    }
    let of_image = !root.is_host();
    let mut found = Vec::new();
    let etc = Path::new("/etc/kcache");
    for directory in [etc, &etc.join("config.d")] {
        let Some(there) = root.find(directory) else { continue };
        if let Some(exposed) = Exposed::find(&there, &fs::metadata(&there)?).filter(|_| !of_image) {
            warnings.push(format!("{exposed}; its files are ignored"));
            break;
        }
        let names = if directory == etc { vec!["config.toml".into()] } else { parts(&there)? };
        for name in names {
            let (path, inside) = (there.join(&name), directory.join(&name));
            let file = match root.open(&inside) {
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                file => file?,
            };
            match Exposed::find(&path, &file.metadata()?).filter(|_| !of_image) {
                Some(exposed) => warnings.push(format!("{exposed}; ignored")),
                None => found.push(Source { path, file, of_image }),
            }
        }
    }
    Ok(found)
}

/// The names of the files in `config.d`, in order.
fn parts(directory: &Path) -> Result<Vec<std::ffi::OsString>, Failure> {
    let mut names: Vec<_> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>()?;
    names.retain(|name| Path::new(name).extension().is_some_and(|extension| extension == "toml"));
    names.sort();
    Ok(names)
}

fn read_file(source: Source, written: &mut Written) -> Result<(), Failure> {
    let Source { path, file, of_image } = source;
    let wrong = |reason: &dyn fmt::Display| format!("{}: {reason}", path.display());
    let text = read_text(file).map_err(|e| Failure::usage(wrong(&e), None))?;
    // The parser's message shows the line. Of an image's file nobody wants to see more than where it is wrong.
    let bad = |e: toml::de::Error| {
        let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        let told = if of_image { format!("line {line}: {}", e.message()) } else { e.to_string() };
        Failure::usage(wrong(&told.trim_end()), None)
    };
    let origin = Origin::File(path.to_owned());
    for (name, value) in text.parse::<toml::Table>().map_err(bad)? {
        if of_image && !image::may_set(&name) {
            known(&name).map_err(|hint| unknown(&path, &name, hint))?;
            written.passed_over.insert(name);
            continue;
        }
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
                let mut tables: Vec<caches::Table> = value.try_into().map_err(bad)?;
                let cache = if of_image { Cache::of_image } else { Cache::of_table };
                if of_image {
                    tables = image::caches(tables, &mut written.passed_over);
                }
                written.caches.extend(tables.into_iter().map(|table| cache(table, origin.clone())));
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
                let key = key(&name).map_err(|hint| unknown(&path, &name, hint))?;
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

fn read_text(file: File) -> std::io::Result<String> {
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    match text.len() as u64 > MAX_FILE {
        true => Err(std::io::Error::other(format!("larger than {MAX_FILE} bytes"))),
        false => Ok(text),
    }
}

fn unknown(path: &Path, name: &str, hint: String) -> Failure {
    Failure::usage(format!("{}: unknown key '{name}'", path.display()), Some(hint))
}

/// That there is a setting of this name, in whichever form; else a hint.
fn known(name: &str) -> Result<(), String> {
    if LISTS.contains(&name) { Ok(()) } else { key(name).map(drop) }
}

fn rule(table: PolicyTable) -> Result<Rule, String> {
    let PolicyTable { package, kernel, is } = table;
    match Need::of_word(&is) {
        Some(need) => Ok(Rule { package, kernel, need }),
        None => Err(format!("invalid policy '{is}': must be required, optional or ignore")),
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
    let what = format!("invalid {key} '{value}' ({origin}): must be {} or {}", words[0], words[1]);
    Err(Failure::usage(what, None))
}

/// The key of this name; else a hint.
fn key(name: &str) -> Result<&'static str, String> {
    let keys = KEYS.map(|(key, _)| key);
    keys.into_iter().find(|key| *key == name).ok_or_else(|| {
        let known = || keys.iter().chain(&LISTS).copied();
        match select::nearest(name, known()) {
            Some(key) => format!("did you mean '{key}'?"),
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
            format!(
                "invalid threshold '{value}' ({origin}): must be at most {MAX_THRESHOLD}, because an entry has no more signatures"
            ),
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
            format!("invalid on-failure '{value}' ({origin}): must be \"warn\" or \"block\""),
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
            format!("invalid {key} '{}' ({}): must be a whole number above 0", setting.value, setting.origin),
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
        None => {
            Err(Failure::usage("cannot locate the store: HOME is not set", Some("use --store DIR".into())))
        }
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
    use std::os::unix::fs::PermissionsExt;

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
        let taken = (
            image.packages.len(),
            image.policy.len(),
            image.foreign.value.as_str(),
            image.depmod.value.as_str(),
        );
        assert_eq!(taken, (1, 1, "require", "always"));
        assert!(image.package_scripts.is_empty() && image.signing.is_none() && image.gc.is_none());
        assert!(image.default_kernel.is_none() && image.compiler_launcher.value == "none");
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
    fn what_an_image_says_gets_no_secret_of_the_callers() {
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
        check("on-failure = 'stop'\n", "must be \"warn\" or \"block\"");
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
