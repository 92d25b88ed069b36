//! Generating the indexes of the staged base without depmod: reads the tree for [`crate::index::update`].
//!
//! # Which existing lines are used
//!
//! A module's lines are taken from the indexes if its file has not changed since they were written: if neither its
//! mtime nor its ctime, nor that of a link to it, is as new as the oldest index. The ctime is needed because package
//! managers set mtimes to the time of packaging, which may be long before the indexes of the same release were last
//! written. It also means that no line is used in a tree that was copied or unpacked together with its indexes; then
//! depmod runs, once. A depmod that is still reading while a file changes would miss the change. Whoever changes
//! in-tree modules runs depmod after that; all other files must be [`RACY`] older than the indexes.
//!
//! Added, removed or changed modules need no depmod, whoever changed them: the staged base is walked as depmod would
//! walk it, so listed files that do not exist are removed, and files that are not listed or have changed are read.
//!
//! Times mean nothing if the clock was wrong, so indexes from the future, or of different times, are not used. Whether
//! this version of depmod wrote the indexes is verified by their text: every line must be one that it would have
//! written there.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::indexes::may_be_empty;
use super::names::dir_name;
use super::stage::StagedFacts;
use super::tree::{DEP_BIN, Tree};
use super::{Error, Site, depmod, disk};
use crate::bounded_read::{self, MOST_DATA};
use crate::compress::Compression;
use crate::index::{
    self, DepmodReason, Facts, IndexedFile, Kmod, NewerKmod, Present, SearchRules, Texts, choose, update,
    verify,
};
use crate::parallel::both;
use crate::rootfs::Root;
use crate::symvers::Symvers;

/// Longer than a depmod run; depmod reads each file at some time before it writes the indexes.
const RACY: Duration = Duration::from_secs(10);
/// Largest difference between the times of the indexes, which one depmod writes in quick succession.
const TOGETHER: Duration = Duration::from_secs(60);
/// Limit on nested directories; deeper ones are a cycle of links.
const DEPTH_MAX: usize = 40;
/// Limit in bytes on a module. The largest have some 60 MiB with debug information.
const MODULE_MAX: u64 = 1 << 30;
/// Files of the kernel package that depmod reads.
const OF_THE_KERNEL: [&str; 3] = ["modules.order", "modules.builtin", "modules.builtin.modinfo"];
/// Indexes of built-in modules, which do not change with the others.
const OF_BUILT_IN: [&str; 2] = ["modules.builtin.bin", "modules.builtin.alias.bin"];
/// The index that only depmod of kmod 33 and later writes.
const WEAKDEP: &str = "modules.weakdep";

/// What was done without depmod.
pub(super) enum Reindexed {
    /// The indexes were written. So many modules were read.
    Written(usize),
    /// Nothing: depmod must do it.
    Not(DepmodReason),
    /// Nothing yet: depmod must do it, and is then to be compared with.
    Compare(Expected),
}

/// The indexes that a newer depmod writes if nothing has changed in it.
pub(super) struct Expected {
    depmod: NewerKmod,
    files: Vec<(&'static str, Vec<u8>)>,
}

impl Expected {
    /// Compares with what depmod has written, and has the result remembered.
    pub(super) fn compare(self, site: &Site<'_>, tree: &Tree) -> Result<DepmodReason, Error> {
        let base = tree.base_tree();
        let mut left = self.files;
        let mut other = None;
        for name in depmod::written(&base)? {
            let found =
                left.iter().position(|(expected, _)| *expected == name).map(|at| left.swap_remove(at).1);
            if found != Some(bounded_read::bytes(base.join(&name), MOST_DATA)?) {
                other.get_or_insert(name);
            }
        }
        let other = other.or_else(|| left.pop().map(|(name, _)| name.to_owned()));
        site.depmods.remember(&self.depmod, other.is_none());
        Ok(DepmodReason::Compared { found: self.depmod.version, other })
    }
}

/// Writes the indexes into the staged base, unless depmod must do it.
pub(super) fn reindex(
    site: &Site<'_>,
    tree: &Tree,
    new: Option<(&str, &StagedFacts)>,
) -> Result<Reindexed, Error> {
    if site.always_depmod {
        return Ok(Reindexed::Not(DepmodReason::Asked));
    }
    let kmod = match kmod(site.depmod) {
        Ok(kmod) => kmod,
        Err(reason) => return Ok(Reindexed::Not(reason)),
    };
    let is_same = kmod.newer().map(|newer| (newer, site.depmods.is_same(newer)));
    if let Some((newer, Some(false))) = is_same {
        return Ok(Reindexed::Not(DepmodReason::Differs { found: newer.version.clone() }));
    }
    let made = match make(site, tree, &kmod, new) {
        Ok(made) => made,
        Err(reason) => return Ok(Reindexed::Not(reason)),
    };
    if let Some((newer, None)) = is_same {
        return Ok(Reindexed::Compare(Expected { depmod: newer.clone(), files: made.files }));
    }
    for (name, bytes) in &made.files {
        // All indexes are synced together later, whichever program wrote them.
        fs_err::write(tree.base_tree().join(name), bytes)?;
    }
    Ok(Reindexed::Written(made.read))
}

fn make(
    site: &Site<'_>,
    tree: &Tree,
    kmod: &Kmod,
    new: Option<(&str, &StagedFacts)>,
) -> Result<index::WrittenIndexes, DepmodReason> {
    let written = time_of_indexes(tree, kmod)?;
    let rules = SearchRules::parse(&configuration(site.root, kmod)?, &tree.release, kmod)?;
    let text = |name: &str| read_text(&tree.index(name));
    let (order, builtin) = (text("modules.order")?, text("modules.builtin")?);
    let (dep, alias, softdep) = (text("modules.dep")?, text("modules.alias")?, text("modules.softdep")?);
    let weakdep = if kmod.writes_weakdep() { text(WEAKDEP)? } else { String::new() };
    let symbols = text("modules.symbols")?;
    let bin = |name: &str| bounded_read::bytes(tree.index(name), MOST_DATA);
    let (dep_bin, alias_bin, symbols_bin) =
        (bin(DEP_BIN)?, bin("modules.alias.bin")?, bin("modules.symbols.bin")?);
    let texts = Texts {
        order: &order,
        dep: &dep,
        alias: &alias,
        softdep: &softdep,
        weakdep: &weakdep,
        symbols: &symbols,
        bins: [&dep_bin, &alias_bin, &symbols_bin],
    };
    let (present, chosen) = both(|| Present::parse(texts, kmod), || chosen(tree, &rules, kmod));
    let present = present?;
    let file = |(name, path, changed): (String, String, Time)| {
        let unchanged = present.has(&path) && changed < limit(written, present.is_own(&path));
        (name, IndexedFile { path, unchanged })
    };
    let modules: BTreeMap<String, IndexedFile> = chosen?.into_iter().map(file).collect();
    check_built_in(&builtin, &modules)?;
    let mut made = update(&present, &modules, &mut Base { site, tree, new, symvers: None })?;
    for name in OF_BUILT_IN {
        let bytes = bounded_read::bytes(tree.index(name), MOST_DATA)?;
        if !(bytes.is_empty() && may_be_empty(name, Some(builtin.as_bytes()))) {
            verify(&bytes).map_err(|_| DepmodReason::Odd { name, line: 1 })?;
        }
        made.files.push((name, bytes));
    }
    Ok(made)
}

/// Refuses a module with the name of a built-in one, for which depmod may use the built-in one's data.
fn check_built_in(builtin: &str, modules: &BTreeMap<String, IndexedFile>) -> Result<(), DepmodReason> {
    let twice = builtin.lines().find_map(|path| modules.get(&index::module_name(path)));
    let what = || "a module of this name is built into the kernel".to_owned();
    twice.map_or(Ok(()), |file| Err(DepmodReason::Unclear { path: file.path.clone(), what: what() }))
}

fn read_text(path: &Path) -> Result<String, DepmodReason> {
    Ok(crate::bounded_read::config(path)?)
}

/// Identifies the depmod program, once per process.
fn kmod(program: &Path) -> Result<Kmod, DepmodReason> {
    static ASKED: Mutex<BTreeMap<PathBuf, Result<Kmod, DepmodReason>>> = Mutex::new(BTreeMap::new());
    let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = asked.get(program) {
        return known.clone();
    }
    let answer = ask(program);
    asked.insert(program.to_owned(), answer.clone());
    answer
}

fn ask(program: &Path) -> Result<Kmod, DepmodReason> {
    // A script in its place may have side effects, even if it is only asked for its version.
    let bytes = fs_err::read(program)?;
    if !bytes.starts_with(b"\x7fELF") {
        return Err(DepmodReason::Version { found: "a wrapper around depmod".to_owned() });
    }
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").current_dir("/").arg("--version").stdin(Stdio::null());
    let output = command.output().map_err(DepmodReason::from)?;
    Kmod::parse(&String::from_utf8_lossy(&output.stdout), &bytes)
}

/// Seconds and nanoseconds since 1970.
type Time = (i64, i64);

fn mtime(metadata: &std::fs::Metadata) -> Time {
    (metadata.mtime(), metadata.mtime_nsec())
}

fn ctime(metadata: &std::fs::Metadata) -> Time {
    (metadata.ctime(), metadata.ctime_nsec())
}

/// Time of the oldest index.
fn time_of_indexes(tree: &Tree, kmod: &Kmod) -> Result<Time, DepmodReason> {
    if !kmod.writes_weakdep() && tree.index(WEAKDEP).exists() {
        return Err(DepmodReason::Foreign { name: WEAKDEP.to_owned() });
    }
    let regular = |name: &str| match fs_err::symlink_metadata(tree.index(name)) {
        Ok(metadata) if metadata.is_file() => Ok(metadata),
        _ => Err(DepmodReason::Missing { name: name.to_owned() }),
    };
    let times = kmod.indexes().map(|name| Ok(mtime(&regular(name)?)));
    let times = times.collect::<Result<Vec<Time>, DepmodReason>>()?;
    let (Some(&oldest), Some(&newest)) = (times.iter().min(), times.iter().max()) else {
        return Err(DepmodReason::Time { what: "no existing indexes" });
    };
    if newest.0 - oldest.0 > TOGETHER.as_secs() as i64 {
        return Err(DepmodReason::Time { what: "the indexes were not written together" });
    }
    // The directory was just created, so its time shows this file system's clock.
    if newest > mtime(&fs_err::metadata(tree.base_tree())?) {
        return Err(DepmodReason::Time { what: "the indexes have a time in the future" });
    }
    for name in OF_THE_KERNEL {
        let metadata = regular(name)?;
        if mtime(&metadata).max(ctime(&metadata)) >= oldest {
            return Err(DepmodReason::Newer { name: name.to_owned() });
        }
    }
    Ok(oldest)
}

/// The files that depmod would choose: a module's name, its file, and the time of its last change.
fn chosen(
    tree: &Tree,
    rules: &SearchRules,
    kmod: &Kmod,
) -> Result<Vec<(String, String, Time)>, DepmodReason> {
    let mut walk = Walk { tree, rules, kmod, found: BTreeMap::new() };
    walk.dir(&tree.base_tree(), "", true, 0)?;
    let mut found = walk.found;
    let chosen = choose(rules, kmod, found.keys().cloned())?.into_iter();
    Ok(chosen.filter_map(|(name, path)| found.remove(&path).map(|changed| (name, path, changed))).collect())
}

/// Files changed before this time are older than the indexes.
fn limit(indexes: Time, own: bool) -> Time {
    if own { indexes } else { (indexes.0 - RACY.as_secs() as i64, indexes.1) }
}

/// Time of the last change of a file or of a link to it. Links of the staged base itself do not count.
fn newest(tree: &Tree, mut path: PathBuf) -> io::Result<Time> {
    let mut newest = (i64::MIN, 0);
    for _ in 0..DEPTH_MAX {
        let metadata = fs_err::symlink_metadata(&path)?;
        let is_link = metadata.is_symlink();
        if !is_link || !is_staged(tree, &path) {
            newest = newest.max(mtime(&metadata)).max(ctime(&metadata));
        }
        if !is_link {
            return Ok(newest);
        }
        let target = fs_err::read_link(&path)?;
        path = path.parent().unwrap_or(&path).join(target);
    }
    Err(io::Error::other(format!("{}: too many links", path.display())))
}

/// Whether a path is a link of the staged base itself, not one in a directory that such a link refers to.
fn is_staged(tree: &Tree, path: &Path) -> bool {
    let base = tree.base_tree();
    let above = path.ancestors().skip(1).take_while(|dir| *dir != base);
    path.starts_with(&base) && !above.into_iter().any(Path::is_symlink)
}

/// Collects every file of a directory that depmod would look at, following links, with the time of its last change.
struct Walk<'a> {
    tree: &'a Tree,
    rules: &'a SearchRules,
    kmod: &'a Kmod,
    found: BTreeMap<String, Time>,
}

impl Walk<'_> {
    /// Walks one directory. `staged` says that it is the base itself.
    fn dir(&mut self, dir: &Path, inside: &str, staged: bool, depth: usize) -> Result<(), DepmodReason> {
        let unclear =
            |what: &str| DepmodReason::Unclear { path: dir.display().to_string(), what: what.to_owned() };
        if depth > DEPTH_MAX {
            return Err(unclear("directories nested too deeply"));
        }
        for entry in fs_err::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|_| unclear("a name that is not text"))?;
            if self.rules.passes_over(&name) {
                continue;
            }
            let path = format!("{inside}{name}");
            let kind = entry.file_type()?;
            let found = if kind.is_symlink() { fs_err::metadata(entry.path())?.file_type() } else { kind };
            if found.is_dir() {
                let ours = staged && kind.is_symlink();
                if kind.is_symlink() && !(ours && leads_to_dir(&entry.path())?) {
                    return Err(DepmodReason::Unclear {
                        path,
                        what: "a directory that is a link".to_owned(),
                    });
                }
                self.dir(&entry.path(), &format!("{path}/"), staged && !ours, depth + 1)?;
            } else if !found.is_file() {
                return Err(DepmodReason::Unclear {
                    path,
                    what: "neither a file nor a directory".to_owned(),
                });
            } else if self.kmod.stem(&name).is_some() {
                let metadata = entry.metadata()?;
                let changed = match metadata.is_symlink() {
                    true => newest(self.tree, entry.path())?,
                    false => mtime(&metadata).max(ctime(&metadata)),
                };
                self.found.insert(path, changed);
            }
        }
        Ok(())
    }
}

/// Whether a link refers to a directory directly, and not to another link, which may have changed.
fn leads_to_dir(link: &Path) -> io::Result<bool> {
    Ok(fs_err::symlink_metadata(fs_err::read_link(link)?)?.is_dir())
}

/// depmod's configuration: of files with equal names the one in the first directory, sorted by name.
fn configuration(root: &Path, kmod: &Kmod) -> Result<Vec<(String, String)>, DepmodReason> {
    let mut dirs = depmod::CONFIG_DIRS.map(|dir| root.join(dir).join("depmod.d"));
    if root == Path::new("/") {
        if kmod.prefers_run() {
            let [etc, run, local, ..] = &mut dirs;
            std::mem::swap(etc, run);
            if local.exists() {
                let what = "not known to kmod 28".to_owned();
                return Err(DepmodReason::Unclear { path: local.display().to_string(), what });
            }
        }
        // depmod reads one of the last two, depending on how it was built.
        let [.., usr, plain] = &dirs;
        let real = |dir: &Path| dir.canonicalize().ok();
        if real(usr) != real(plain) {
            let what = "another directory than /lib/depmod.d".to_owned();
            return Err(DepmodReason::Unclear { path: usr.display().to_string(), what });
        }
    }
    let mut files = BTreeMap::new();
    for dir in dirs {
        for name in disk::names(&dir)? {
            let path = dir.join(&name);
            if name.starts_with('.')
                || name.len() < 6
                || !name.ends_with(".conf")
                || files.contains_key(&name)
            {
                continue;
            }
            if !path.is_file() {
                let what = "not a regular file".to_owned();
                return Err(DepmodReason::Unclear { path: path.display().to_string(), what });
            }
            files.insert(name, (path.display().to_string(), read_text(&path)?));
        }
    }
    Ok(files.into_values().collect())
}

/// The staged base, and files around it.
struct Base<'a> {
    site: &'a Site<'a>,
    tree: &'a Tree,
    /// The new generation's name, and what is known of its modules.
    new: Option<(&'a str, &'a StagedFacts)>,
    /// `Some` after the first attempt to read it.
    symvers: Option<Option<Symvers>>,
}

impl index::Disk for Base<'_> {
    fn facts(&mut self, path: &str) -> Result<Facts, DepmodReason> {
        let unclear = |what: String| DepmodReason::Unclear { path: path.to_owned(), what };
        if let Some(facts) = self.staged(path) {
            return facts.clone().map_err(unclear);
        }
        let file = path.rsplit('/').next().unwrap_or(path);
        let (_, compression) =
            Compression::of_file_name(file).ok_or_else(|| unclear("no module".to_owned()))?;
        let bytes = bounded_read::bytes(self.tree.base_tree().join(path), MOST_DATA)?;
        let module = match compression {
            Compression::None => bytes,
            compressed => compressed.decompress(&bytes, MODULE_MAX).map_err(|e| unclear(e.to_string()))?,
        };
        Facts::parse(&module).map_err(unclear)
    }

    fn is_checked(&self, path: &str) -> bool {
        self.new.is_some_and(|(generation, _)| inside(path, generation).is_some())
    }

    fn symvers(&mut self) -> Option<&Symvers> {
        let Self { site, tree, symvers, .. } = self;
        symvers.get_or_insert_with(|| read_symvers(site, tree)).as_ref()
    }
}

impl Base<'_> {
    /// What is known of a staged module, by its path in the base.
    fn staged(&self, path: &str) -> Option<&Result<Facts, String>> {
        let (generation, facts) = self.new?;
        facts.get(inside(path, generation)?)
    }
}

/// The path within a generation of one of its modules, given that in the base.
fn inside<'a>(path: &'a str, generation: &str) -> Option<&'a str> {
    path.strip_prefix("updates/")?.strip_prefix(&dir_name(generation))?.strip_prefix('/')
}

/// Reads `Module.symvers` from the headers that the tree's `build` refers to, or from the tree itself, as on Fedora.
fn read_symvers(site: &Site<'_>, tree: &Tree) -> Option<Symvers> {
    let inside = Path::new("/").join(tree.path.strip_prefix(site.root).ok()?);
    let headers = Root::new(site.root).find(inside.join("build/Module.symvers"));
    if let Some(bytes) = headers.and_then(|path| bounded_read::bytes(path, MOST_DATA).ok()) {
        return Symvers::parse(&bytes).ok();
    }
    [Compression::Gz, Compression::Xz, Compression::Zst].into_iter().find_map(|compression| {
        let path = tree.index(&format!("symvers{}", compression.extension()));
        let bytes = compression.decompress(&bounded_read::bytes(path, MOST_DATA).ok()?, MODULE_MAX).ok()?;
        Symvers::parse(&bytes).ok()
    })
}
