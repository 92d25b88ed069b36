//! Verifying kmod's indexes.
//!
//! Each binary index contains the same data as a text file beside it. Another depmod than the transaction's may have
//! written them, which is not a fault; but it wrote both, so they agree. If they do not, one is corrupt:
//!
//! ```text
//! modules.dep.bin              modules.dep                path and dependencies, under the name of the path
//! modules.alias.bin            modules.alias              in modprobe's order of preference
//! modules.symbols.bin          modules.symbols
//! modules.builtin.bin          modules.builtin            names only
//! modules.builtin.alias.bin    modules.builtin.modinfo    written by the kernel's build
//! ```
//!
//! kmod 28 leaves `modules.builtin.alias.bin` empty, and kmod 29 adds each module's name as an alias of itself (`output_builtin_alias_bin`
//! of `tools/depmod.c`).
//!
//! If a text file is missing, the index must still be readable completely; so must unknown indexes. Flipped bits
//! without an effect, such as in the priority of a value without a rival, are not detected.

use crate::bounded_read::{self, MOST_DATA};
use std::collections::BTreeMap;
use std::path::Path;

use super::fault::Fault;
use super::tree::{DEP_BIN, Tree};
use super::{Error, disk};
use crate::index::{self, DepIndex};
use crate::module_name::ModuleName;
use crate::modules_dir::ModulesDir;

/// Values by key, in order of preference.
type Names = BTreeMap<Vec<u8>, Vec<Vec<u8>>>;

/// The index that old versions of depmod write in other ways.
const BUILTIN_ALIASES: &str = "modules.builtin.alias.bin";

/// Whether depmod may have written an empty index: kmod 28 does, and any depmod for a kernel that does not list its built-in modules.
pub(super) fn may_be_empty(name: &str, text: Option<&[u8]>) -> bool {
    name == BUILTIN_ALIASES || name == "modules.builtin.bin" && text.is_none_or(<[u8]>::is_empty)
}

/// Verifies every index of a kernel, whichever program wrote it.
pub fn verify_indexes(tree: impl Into<ModulesDir>) -> Result<Vec<Fault>, Error> {
    let tree = Tree::open(tree)?;
    let mut faults = Vec::new();
    for name in disk::names(&tree.path)? {
        if name.starts_with("modules.") && name.ends_with(".bin") {
            faults.extend(fault_of(&tree, &name)?);
        }
    }
    Ok(faults)
}

/// The fault of a readable `modules.dep.bin`, if any.
pub(super) fn fault_of_dep(tree: &Tree, index: &DepIndex) -> Result<Option<Fault>, Error> {
    let found = index.iter().map(|entry| {
        let words: Vec<&str> = std::iter::once(entry.path).chain(entry.depends()).collect();
        (entry.name.into(), words.join(" ").into_bytes())
    });
    let found = names(found);
    Ok(text(tree, "modules.dep")?
        .and_then(|text| disagreement(tree, DEP_BIN, "modules.dep", &found, &of_dep(&text))))
}

fn fault_of(tree: &Tree, name: &str) -> Result<Option<Fault>, Error> {
    let fault = |why: String| Some(Fault::Index { path: tree.index(name), why });
    let bytes = bounded_read::bytes(tree.index(name), MOST_DATA)?;
    if name == DEP_BIN {
        return match DepIndex::parse(&bytes) {
            Ok(index) => fault_of_dep(tree, &index),
            Err(damage) => Ok(fault(damage.to_string())),
        };
    }
    let beside = match name {
        "modules.alias.bin" => "modules.alias",
        "modules.symbols.bin" => "modules.symbols",
        "modules.builtin.bin" => "modules.builtin",
        "modules.builtin.alias.bin" => "modules.builtin.modinfo",
        _ => return Ok(index::verify(&bytes).err().and_then(|damage| fault(damage.to_string()))),
    };
    let text = text(tree, beside)?;
    if bytes.is_empty() && may_be_empty(name, text.as_deref()) {
        return Ok(None);
    }
    let mut values = match index::values(&bytes) {
        Ok(values) => values,
        Err(damage) => return Ok(fault(damage.to_string())),
    };
    // modprobe's order: by priority, and among equals the first one written.
    values.sort_by_key(|value| value.priority);
    let mut found = names(values.into_iter().map(|value| (value.key, value.bytes)));
    let mut expected = text.map(|text| match beside {
        "modules.builtin" => of_builtin(&text),
        "modules.builtin.modinfo" => of_modinfo(&text),
        // depmod normalizes aliases, and not symbols, whose namespaces may have dashes: `symbol:module:kvm-amd`.
        "modules.symbols" => of_aliases(&text, <[u8]>::to_vec),
        _ => of_aliases(&text, normal),
    });
    if name == BUILTIN_ALIASES {
        let no_name = |alias: &Vec<u8>, names: &mut Vec<Vec<u8>>| names[..] != [&alias[..]];
        found.retain(no_name);
        if let Some(expected) = &mut expected {
            expected.retain(no_name);
        }
    }
    Ok(expected.and_then(|expected| disagreement(tree, name, beside, &found, &expected)))
}

fn text(tree: &Tree, name: &str) -> Result<Option<Vec<u8>>, Error> {
    Ok(disk::if_found(bounded_read::bytes(tree.index(name), MOST_DATA))?)
}

fn names(pairs: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Names {
    let mut names = Names::new();
    pairs.for_each(|(name, value)| names.entry(name).or_default().push(value));
    names
}

fn disagreement(tree: &Tree, name: &str, beside: &str, found: &Names, expected: &Names) -> Option<Fault> {
    let mut all = found.keys().chain(expected.keys());
    let first = all.find(|name| found.get(*name) != expected.get(*name))?;
    let why = format!("it and {beside} differ at {}", first.escape_ascii());
    Some(Fault::Index { path: tree.index(name), why })
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&c| c == b'\n').filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

/// Parses lines such as `kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko`.
fn of_dep(text: &[u8]) -> Names {
    let text = String::from_utf8_lossy(text);
    let module = |line: &str| {
        let (path, depends) = line.split_once(':')?;
        let words: Vec<&str> = std::iter::once(path).chain(depends.split_ascii_whitespace()).collect();
        Some((String::from(ModuleName::of_file(Path::new(path))?).into_bytes(), words.join(" ").into_bytes()))
    };
    names(text.lines().map(|line| module(line).unwrap_or_else(|| (line.into(), Vec::new()))))
}

/// Parses lines such as `alias pci:v00001217d* sdhci_pci` and `alias symbol:crc16 crc16`.
fn of_aliases(text: &[u8], key: fn(&[u8]) -> Vec<u8>) -> Names {
    let alias = |line: &[u8]| {
        let mut words = line.splitn(3, |&c| c == b' ').skip(1).map(<[u8]>::to_vec);
        (key(&words.next().unwrap_or_default()), words.next().unwrap_or_default())
    };
    names(lines(text).map(alias))
}

/// Parses lines such as `kernel/lib/crc16.ko`.
fn of_builtin(text: &[u8]) -> Names {
    let name =
        |line: &[u8]| ModuleName::of_file(Path::new(&*String::from_utf8_lossy(line))).unwrap_or_default();
    names(lines(text).map(|line| (String::from(name(line)).into_bytes(), Vec::new())))
}

/// Parses strings such as `crc16.alias=...`, separated by NUL; sorted by module, the order in which depmod reads them.
fn of_modinfo(text: &[u8]) -> Names {
    let alias = |field: &[u8]| {
        let field = String::from_utf8_lossy(field).into_owned();
        let (module, alias) = field.split_once(".alias=")?;
        Some((normal(alias.as_bytes()), module.as_bytes().to_vec()))
    };
    names(text.split(|&c| c == 0).filter_map(alias))
}

/// Normalizes a name as modprobe does: `_` for `-`, but not in brackets (kmod, `alias_normalize`).
fn normal(alias: &[u8]) -> Vec<u8> {
    let mut bracketed = false;
    let one = |&c: &u8| {
        bracketed = c == b'[' || bracketed && c != b']';
        if c == b'-' && !bracketed { b'_' } else { c }
    };
    alias.iter().map(one).collect()
}
