//! The files of settings: which count, and what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use fs_err as fs;
use kcache::kernel::rootfs::Root;
use kcache::run::policy::{Need, Rule};
use kcache::run::select;
use kcache::store::Exposed;
use serde::Deserialize;

use super::caches::{self, Cache};
use super::choices::SITE;
use super::{Origin, Setting, gc, image, signing};
use crate::args::Global;
use crate::exit::{Exit, Failure};

/// Everything that can be set, with the environment variable that also sets it.
pub(super) const KEYS: [(&str, &str); 18] = [
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
    ("refresh", "KCACHE_REFRESH"),
    ("metrics-textfile", "KCACHE_METRICS_TEXTFILE"),
    ("other-tools", "KCACHE_OTHER_TOOLS"),
];

/// What can be set in files only, because it is more than a text or number.
const LISTS: [&str; 7] = ["packages", "package-scripts", "tool-paths", "cache", "policy", "signing", "gc"];

/// No configuration has so many bytes.
const MAX_FILE: u64 = 1 << 20;

/// The settings in the configuration files.
#[derive(Default)]
pub(super) struct Written {
    pub(super) texts: BTreeMap<&'static str, Setting<String>>,
    pub(super) packages: Vec<Setting<String>>,
    pub(super) package_scripts: Vec<Setting<String>>,
    pub(super) tool_paths: Vec<Setting<String>>,
    pub(super) caches: Vec<Cache>,
    pub(super) policy: Vec<Setting<Rule>>,
    pub(super) signing: Option<Setting<signing::Table>>,
    pub(super) gc: Option<Setting<gc::Table>>,
    pub(super) warnings: Vec<String>,
    /// What the tree under `--root` set and may not.
    pub(super) passed_over: BTreeSet<String>,
}

pub(super) struct Source {
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

pub(super) type Texts = BTreeMap<&'static str, Setting<String>>;

/// The configuration files that count, in order. What others could change is no word of the administrator's: a file that
/// the caller names is refused then, one that was found is passed over.
pub(super) fn sources(
    global: &Global,
    root: &Root,
    warnings: &mut Vec<String>,
) -> Result<Vec<Source>, Failure> {
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

pub(super) fn read_file(source: Source, written: &mut Written) -> Result<(), Failure> {
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
            "packages" | "package-scripts" | "tool-paths" => {
                let names: Vec<String> = match value {
                    // The one word that stands for others.
                    toml::Value::String(word) if name == "packages" && word == SITE => vec![word],
                    value => value.try_into().map_err(bad)?,
                };
                let list = match name.as_str() {
                    "packages" => &mut written.packages,
                    "tool-paths" => &mut written.tool_paths,
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
                    toml::Value::Boolean(is) if key == "refresh" => is.to_string(),
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
