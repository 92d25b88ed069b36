//! The values of single settings: numbers, words, paths.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use fs_err as fs;
use kcache::kernel::rootfs::Root;

use super::choices::word;
use super::{MOST_MEMORY, Origin, Process, SIGNING_KEY, Setting, Texts};
use crate::exit::Failure;

/// Signatures that an entry can have (`store/src/envelope.rs`).
pub(super) const MAX_THRESHOLD: usize = 64;

/// So much memory or disk. What is more than there can be is no limit.
pub(super) fn mebibytes(texts: &Texts, key: &'static str, default: u64) -> Result<Setting<u64>, Failure> {
    let setting = number(texts, key, default)?;
    Ok(Setting { value: setting.value.min(MOST_MEMORY), origin: setting.origin })
}

/// One of a few words, of which the first is the default.
pub(super) fn one_of<T: ValueEnum>(texts: &Texts, key: &'static str) -> Result<Setting<T>, Failure> {
    let words = T::value_variants();
    let Some(Setting { value, origin }) = texts.get(key) else {
        return Ok(Setting { value: words[0].clone(), origin: Origin::Default });
    };
    match T::from_str(value, false) {
        Ok(value) => Ok(Setting { value, origin: origin.clone() }),
        Err(_) => {
            let words: Vec<_> = words.iter().map(word).collect();
            let must = words.join(" or ");
            Err(Failure::usage(format!("invalid {key} '{value}' ({origin}): must be {must}"), None))
        }
    }
}

pub(super) fn signing_key(texts: &Texts, root: &Root) -> Result<Setting<PathBuf>, Failure> {
    match placed(texts, "signing-key", root)? {
        Some(setting) => Ok(setting),
        None => Ok(Setting { value: root.place(SIGNING_KEY)?, origin: Origin::Default }),
    }
}

/// A path in a file is one of the system that is worked on, one in a variable is this machine's.
pub(super) fn placed(texts: &Texts, key: &str, root: &Root) -> Result<Option<Setting<PathBuf>>, Failure> {
    Ok(match texts.get(key) {
        Some(Setting { value, origin: origin @ Origin::File(_) }) => {
            Some(Setting { value: root.place(value)?, origin: origin.clone() })
        }
        Some(Setting { value, origin }) => {
            Some(Setting { value: PathBuf::from(value), origin: origin.clone() })
        }
        None => None,
    })
}

/// A directory of tools, as the system that builds names it.
pub(super) fn tool_path(setting: Setting<String>) -> Result<Setting<PathBuf>, Failure> {
    let Setting { value, origin } = setting;
    let path = PathBuf::from(&value);
    let is_plain = path.components().skip(1).all(|part| matches!(part, std::path::Component::Normal(_)));
    if path.is_absolute() && path.parent().is_some() && is_plain && !value.contains([':', '\n']) {
        return Ok(Setting { value: path.components().collect(), origin });
    }
    let must = "must be an absolute path of a directory, without `..` and `:`";
    Err(Failure::usage(format!("invalid tool-paths '{value}' ({origin}): {must}"), None))
}

pub(super) fn threshold(texts: &Texts) -> Result<Setting<usize>, Failure> {
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

pub(super) fn number(texts: &Texts, key: &'static str, default: u64) -> Result<Setting<u64>, Failure> {
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

pub(super) fn store(texts: &Texts, root: &Path, process: &Process) -> Result<Setting<PathBuf>, Failure> {
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

pub(super) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    match fs::canonicalize(path) {
        Ok(path) => Ok(path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !path.as_os_str().is_empty() => {
            Ok(std::path::absolute(path)?)
        }
        Err(e) => Err(Failure::usage(e.to_string(), None)),
    }
}
