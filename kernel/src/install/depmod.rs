//! The indexes of the staged base, made by [`super::reindex`] or by depmod, run where it can do no harm; neither is believed.
//!
//! depmod renames its outputs into place before it knows whether they were written, syncs nothing, and of two modules of
//! one name silently lists one. So it runs on the staged base, its exit status counts, and everything that was written, by whomever, is read
//! again before any of it is published: each binary index as a whole, `modules.dep` against `modules.dep.bin`, every
//! module of ours at its own file, and every module of others that is listed now.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};

use super::foreign_files::ForeignFiles;
use super::names::DIR_PREFIX;
use super::names::module_of;
use super::tree::{DEP_BIN, Tree};
use super::{Error, Indexed, Remark, Site, disk, reindex};
use crate::bounded_read::{self, MOST_DATA};
use crate::index::{self, DepIndex};

/// Where depmod looks for its configuration (`depmod.d(5)`).
pub(super) const CONFIG_DIRS: [&str; 5] = ["etc", "run", "usr/local/lib", "usr/lib", "lib"];
/// For what a wrapper around depmod may call.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// How long it may take. Of a whole kernel on a slow disk it takes a minute.
const LIMIT: Duration = Duration::from_secs(600);
/// How often it is looked whether it has ended.
const TICK: Duration = Duration::from_millis(5);
/// How much memory it may have, in bytes. Of a whole kernel it takes less than a tenth.
const MOST_MEMORY: u64 = 4 << 30;
/// Bytes of its words that are kept.
const MOST_WORDS: u64 = 1 << 20;

/// The indexes of the staged base.
pub(super) struct Made {
    /// The files, ready to be published, `modules.dep.bin` last.
    pub(super) names: Vec<String>,
    /// `modules.dep.bin`, read again.
    pub(super) index: DepIndex,
    /// The digest of the same.
    pub(super) digest: blake3::Hash,
    /// What depmod had to say.
    pub(super) remarks: Vec<Remark>,
    /// Who made them.
    pub(super) by: Indexed,
}

/// Makes the indexes of the staged base, with depmod where that has to be, and reads everything again.
pub(super) fn run(site: &Site<'_>, tree: &Tree, others: &ForeignFiles) -> Result<Made, Error> {
    let (by, remarks) = match reindex::reindex(site, tree)? {
        Ok(read) => (Indexed::Here { read }, Vec::new()),
        Err(reason) => (Indexed::ByDepmod { reason }, call(site, tree)?),
    };
    let names = written(&tree.base_tree())?;
    for name in &names {
        check_whole(tree, name)?;
        disk::settle_file(&tree.base_tree().join(name))?;
    }
    disk::sync_dir(&tree.base_tree())?;
    let bytes = bounded_read::bytes(tree.base_tree().join(DEP_BIN), MOST_DATA)?;
    let index =
        DepIndex::parse(&bytes).map_err(|source| Error::Index { name: DEP_BIN.to_owned(), source })?;
    check_agreement(&index, &bounded_read::config(&tree.base_tree().join("modules.dep"))?)?;
    check_others(tree, &index, others)?;
    others.check_index(&index)?;
    Ok(Made { names, index, digest: blake3::hash(&bytes), remarks, by })
}

pub(super) fn call(site: &Site<'_>, tree: &Tree) -> Result<Vec<Remark>, Error> {
    let mut command = Command::new(site.depmod);
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
    for dir in configuration(site.root, tree)? {
        command.arg("-C").arg(dir);
    }
    command.arg("-b").arg(tree.base()).arg(&tree.release);
    let failed = |source| Error::NoDepmod { program: site.depmod.to_owned(), source };
    let (status, stderr) = bounded(command, LIMIT).map_err(failed)?;
    if !status.success() || stderr.lines().any(is_fatal) {
        return Err(Error::Depmod { status, stderr });
    }
    Ok(stderr.lines().map(|line| Remark::Depmod(line.to_owned())).collect())
}

/// Runs it to its end, within bounds, and gives what it said. A tree under another root can have it read what never ends, or
/// unpack what fills all memory.
fn bounded(mut command: Command, limit: Duration) -> io::Result<(ExitStatus, String)> {
    command.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let (pid, most) = (Pid::from_child(&child), Some(MOST_MEMORY));
    let _ = prlimit(Some(pid), Resource::As, Rlimit { current: most, maximum: most }); // it may have ended
    let words = child.stderr.take();
    let listener = std::thread::spawn(move || {
        let (mut said, mut words) = (Vec::new(), words?);
        words.by_ref().take(MOST_WORDS).read_to_end(&mut said).ok()?;
        io::copy(&mut words, &mut io::sink()).ok()?;
        Some(said)
    });
    let start = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if start.elapsed() > limit => {
                kill_process_group(pid, Signal::KILL)?;
                let status = child.wait()?;
                return Ok((status, format!("it took longer than {} s", limit.as_secs())));
            }
            None => std::thread::sleep(TICK),
        }
    };
    let said = listener.join().ok().flatten().unwrap_or_default();
    Ok((status, String::from_utf8_lossy(&said).trim_end().to_owned()))
}

/// depmod can end with 0 although an index is incomplete. Other errors, such as a dangling link among the modules of
/// others, concern what was there before; those are warnings.
fn is_fatal(line: &str) -> bool {
    let error = line.contains("ERROR:") || line.contains("FATAL:");
    error && ["modules.", DIR_PREFIX, "runcated", "No space"].iter().any(|word| line.contains(word))
}

/// The directories of another root's configuration. For this machine's root depmod finds them itself.
fn configuration(root: &Path, tree: &Tree) -> io::Result<Vec<PathBuf>> {
    if root == Path::new("/") {
        return Ok(Vec::new());
    }
    let mut dirs: Vec<PathBuf> = CONFIG_DIRS.iter().map(|dir| root.join(dir).join("depmod.d")).collect();
    dirs.retain(|dir| dir.is_dir());
    for dir in &dirs {
        for name in disk::names(dir)?.iter().filter(|name| name.ends_with(".conf")) {
            bounded_read::bytes(dir.join(name), bounded_read::MOST_CONFIG)?; // depmod would wait for a FIFO
        }
    }
    if dirs.is_empty() {
        // Without any -C depmod would read this machine's.
        dirs.push(tree.depmod_dir());
        fs_err::create_dir(&dirs[0])?;
    }
    Ok(dirs)
}

/// What depmod wrote: links are what it was given to read.
pub(super) fn written(base: &Path) -> io::Result<Vec<String>> {
    let mut names = disk::names(base)?;
    names.retain(|name| {
        name.starts_with("modules.") && base.join(name).symlink_metadata().is_ok_and(|m| m.is_file())
    });
    names.retain(|name| name != DEP_BIN);
    names.push(DEP_BIN.to_owned());
    Ok(names)
}

fn check_whole(tree: &Tree, name: &str) -> Result<(), Error> {
    if !name.ends_with(".bin") {
        return Ok(());
    }
    let bytes = bounded_read::bytes(tree.base_tree().join(name), MOST_DATA)?;
    // Of a kernel that does not list its built-in modules depmod makes empty files.
    let listed =
        if name.starts_with("modules.builtin.alias") { "modules.builtin.modinfo" } else { "modules.builtin" };
    if bytes.is_empty() && name.starts_with("modules.builtin") && !disk::exists(&tree.path.join(listed))? {
        return Ok(());
    }
    index::verify(&bytes).map_err(|source| Error::Index { name: name.to_owned(), source })
}

/// `modules.dep` and `modules.dep.bin` are written one after the other: equal, they are both whole.
fn check_agreement(index: &DepIndex, text: &str) -> Result<(), Error> {
    let textual: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once(':')).collect();
    let differs = |entry: &index::Entry<'_>| {
        !textual.get(entry.path).is_some_and(|needs| needs.split_ascii_whitespace().eq(entry.depends()))
    };
    let binary: HashSet<&str> = index.iter().map(|entry| entry.path).collect();
    let different = index.iter().find(differs).map(|entry| entry.path);
    let only_text = || textual.keys().copied().filter(|path| !binary.contains(path)).min();
    match different.or_else(only_text) {
        Some(path) => Err(Error::Disagree { module: path.to_owned() }),
        None => Ok(()),
    }
}

/// A module of somebody else that is listed now and still there must be listed afterwards, unless it is to go.
fn check_others(tree: &Tree, index: &DepIndex, others: &ForeignFiles) -> Result<(), Error> {
    let Some(Ok(live)) = tree.dep_index()? else { return Ok(()) };
    let ours = format!("updates/{DIR_PREFIX}");
    // By the file's name: what the live index lists it under may have rotted.
    let is_listed =
        |e: &index::Entry<'_>| module_of(Path::new(e.path)).is_some_and(|m| index.lookup(&m).is_some());
    let gone = |e: &index::Entry<'_>| !e.path.starts_with(&ours) && !is_listed(e);
    match live.iter().find(|e| gone(e) && !others.lets_go(e.path) && tree.path.join(e.path).exists()) {
        Some(entry) => Err(Error::Lost { path: entry.path.to_owned() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_about_indexes_and_our_modules_count_and_others_do_not() {
        for (line, expect) in [
            (
                "depmod: ERROR: Could not create index 'modules.dep.bin'. Output is truncated: No space left",
                true,
            ),
            ("depmod: FATAL: could not load updates/kcache-0123/a/a.ko", true),
            ("depmod: ERROR: fstatat(5, gone.ko): No such file or directory", false),
            ("depmod: WARNING: could not open modules.order at /x: No such file or directory", false),
        ] {
            assert_eq!(is_fatal(line), expect, "{line}");
        }
    }

    #[test]
    fn indexes_that_differ_are_named() {
        let empty = DepIndex::default();
        assert!(check_agreement(&empty, "").is_ok());
        let error = check_agreement(&empty, "kernel/a.ko: kernel/b.ko\n").unwrap_err();
        assert!(error.to_string().ends_with("differ at kernel/a.ko"), "{error}");
    }

    fn call_shell(script: &str, limit: Duration) -> (ExitStatus, String) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        bounded(command, limit).unwrap()
    }

    #[test]
    fn what_never_ends_is_ended_with_all_that_it_has_started() {
        let start = Instant::now();
        let (status, said) = call_shell("sleep 600 & sleep 600", Duration::from_millis(300));
        assert!(!status.success() && said.contains("longer than"), "{status} {said}");
        assert!(start.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn its_words_and_its_memory_have_an_end() {
        let (status, said) = call_shell("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo end >&2", LIMIT);
        assert!(status.success());
        assert_eq!(said.len() as u64, MOST_WORDS);
        let (_, said) = call_shell("sleep 0.3; ulimit -v >&2", LIMIT);
        assert_eq!(said.parse::<u64>().unwrap() << 10, MOST_MEMORY);
        assert_eq!(call_shell("echo well >&2", LIMIT).1, "well");
    }
}
