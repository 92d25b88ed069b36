//! Files by which a build tells the distribution, and the kernel's `System.map`.
//!
//! Sources test for `/etc/redhat-release` or grep `/etc/os-release` to tell a distribution's kernel from others, and some look up
//! symbols in `System.map`. They are shown to a build, and part of its key by content, only if the package's source, or what the
//! administrator adds to its recipe, mentions them: so a point release of the distribution, which changes `os-release`, leaves all
//! other packages as they are. They are those of the target system; a target without any, such as a directory with kernels
//! alone, has those of the system whose tools are used.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use kcache_kernel::bounded_read;
use kcache_kernel::kernels::{BuildTree, Kernel, Mount};
use kcache_kernel::packages::Package;
use kcache_kernel::recipe::dkms;
use kcache_kernel::rootfs::Root;
use kcache_kernel::sandbox::Sandbox;
use kcache_store::{Digest, Fingerprint};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::run::sandbox::overrides_dir;
use crate::run::session::{Session, Signature};

/// Limits on the files of `/etc`: bytes of each, and number. Real ones have some hundred bytes.
const MOST_RELEASE: u64 = 64 << 10;
const MOST_RELEASES: usize = 32;

/// Limit in bytes on `System.map`. Complete ones have up to 10 MiB.
const MOST_MAP: u64 = 64 << 20;

/// Limit in bytes on a source file that is searched. Longer ones are data.
const MOST_SOURCE: u64 = 16 << 20;

/// Limits on a source tree that is searched: files, and depth.
const MOST_FILES: usize = 200_000;
const MOST_DEPTH: usize = 64;

/// What a package mentions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Mentions {
    releases: bool,
    map: bool,
}

impl Mentions {
    fn add(&mut self, bytes: &[u8]) {
        self.releases = self.releases || mentions_release(bytes);
        self.map = self.map || memchr::memmem::find(bytes, b"System.map").is_some();
    }
}

/// The files that are shown to a package's builds for a kernel.
#[derive(Clone, Debug, Default)]
pub struct SystemFiles {
    /// Paths in the sandbox, with their contents.
    files: Vec<(PathBuf, Vec<u8>)>,
    /// Digest of the files of `/etc`; `None` if the package does not mention any.
    pub releases: Option<Digest>,
    /// Digest of `System.map`; `None` if the package does not mention it.
    pub map: Option<Digest>,
}

impl SystemFiles {
    /// Shows copies of them in a sandbox.
    pub fn show(&self, sandbox: &mut Sandbox) -> io::Result<()> {
        let copies = sandbox.own.join("system");
        if !self.files.is_empty() {
            fs::create_dir_all(&copies)?;
        }
        for (at, (inside, content)) in self.files.iter().enumerate() {
            let outside = copies.join(at.to_string());
            fs::write(&outside, content)?;
            // Explicitly, whatever the umask: the build's user must be able to read it.
            fs::set_permissions(&outside, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            sandbox.files.push(Mount { outside, inside: inside.clone() });
        }
        Ok(())
    }
}

impl Session<'_> {
    /// The files of the target system that a package mentions.
    pub fn system_files(
        &self,
        package: &Package,
        source: Fingerprint,
        kernel: &Kernel,
        tree: &BuildTree,
    ) -> Result<SystemFiles> {
        let root = &self.context.root;
        let mut mentions: Mentions = {
            let mut signature = Signature::new("mentions 1");
            signature.digest(source.digest);
            self.remembered("mentions", &signature.finish(), || Ok(in_tree(&package.source)))?
        };
        let release = &kernel.release;
        for path in dkms::override_files(&package.name, &package.version, release, &tree.arch) {
            let text =
                root.find(path).and_then(|path| bounded_read::bytes(&path, bounded_read::MOST_CONFIG).ok());
            mentions.add(&text.unwrap_or_default());
        }
        if let Some(overrides) = root.find(overrides_dir(package)) {
            let Mentions { releases, map } = in_tree(&overrides);
            mentions = Mentions { releases: mentions.releases || releases, map: mentions.map || map };
        }
        self.context.directives.iter().for_each(|directive| mentions.add(directive.as_bytes()));
        let releases = match mentions.releases {
            true => releases_of(root, &self.kernel(kernel, tree)?.tools_root)?,
            false => Vec::new(),
        };
        let maps = if mentions.map { maps(root, release) } else { Vec::new() };
        Ok(SystemFiles {
            releases: mentions.releases.then(|| digest(&releases)),
            map: mentions.map.then(|| digest(&maps)),
            files: releases.into_iter().chain(maps).collect(),
        })
    }
}

/// The target's files; those of the system whose tools are used if it has none, as a root with kernels alone.
fn releases_of(root: &Root, tools_root: &Root) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let own = releases(root)?;
    if own.is_empty() { releases(tools_root) } else { Ok(own) }
}

/// `/etc/os-release`, `/etc/redhat-release`, `/etc/debian_version`, ...: os-release(5) and its predecessors.
fn releases(root: &Root) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let Some(etc) = root.find("/etc") else { return Ok(Vec::new()) };
    let mut paths: Vec<PathBuf> = fs::read_dir(etc)?
        .filter_map(|entry| Some(Path::new("/etc").join(entry.ok()?.file_name())))
        .filter(|path| Sandbox::is_release_file(path))
        .collect();
    paths.sort();
    paths.truncate(MOST_RELEASES);
    let read = |inside: PathBuf| {
        let text = bounded_read::bytes(root.find(&inside)?, MOST_RELEASE).ok()?;
        Some((inside, text))
    };
    Ok(paths.into_iter().filter_map(read).collect())
}

/// A kernel's `System.map`, in each place that has it.
fn maps(root: &Root, release: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let places = [format!("/boot/System.map-{release}"), format!("/lib/modules/{release}/System.map")];
    let read = |place: &String| {
        let text = bounded_read::bytes(root.find(place)?, MOST_MAP).ok()?;
        Some((PathBuf::from(place), text))
    };
    places.iter().filter_map(read).collect()
}

/// A digest of files with their paths. Each is preceded by its length, so that no two lists are alike.
fn digest(files: &[(PathBuf, Vec<u8>)]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for (path, content) in files {
        for bytes in [path.as_os_str().as_encoded_bytes(), content] {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
    }
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

/// What the text files of a tree mention. What cannot be read mentions nothing.
fn in_tree(top: &Path) -> Mentions {
    let mut mentions = Mentions::default();
    let mut directories = vec![(top.to_owned(), 0)];
    let mut left = MOST_FILES;
    while let Some((directory, depth)) = directories.pop() {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        for entry in entries {
            if left == 0 || mentions.releases && mentions.map {
                break;
            }
            left -= 1;
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < MOST_DEPTH && entry.file_name() != ".git" => {
                    directories.push((entry.path(), depth + 1));
                }
                Ok(kind) if kind.is_file() => mentions.add(&text(top, &entry.path())),
                _ => {}
            }
        }
    }
    mentions
}

/// The bytes of a file of the tree if it is text: that is, has no NUL in its first part.
fn text(top: &Path, path: &Path) -> Vec<u8> {
    let bytes = bounded_read::bytes_in(top, path, MOST_SOURCE).ok().flatten().unwrap_or_default();
    let is_binary = bytes.iter().take(4096).any(|&byte| byte == 0);
    if is_binary { Vec::new() } else { bytes }
}

/// Whether a text names a file that tells the distribution: `/etc/redhat-release`, `/etc/*release`, `lsb_release`,
/// `debian_version`. Other words end in `-release`, too.
fn mentions_release(text: &[u8]) -> bool {
    let has = |word: &[u8]| memchr::memmem::find(text, word).is_some();
    let is_file = |at: usize| {
        let before = &text[..at];
        let word =
            before.iter().rev().take_while(|b| b.is_ascii_alphanumeric() || b"-_*?".contains(b)).count();
        let (before, word) = before.split_at(before.len() - word);
        let is_glob = word.contains(&b'*') || word.contains(&b'?');
        let is_joined = word.ends_with(b"-") || word.ends_with(b"_");
        let name = &word[..word.len().saturating_sub(1)];
        let is_known = matches!(name, b"os" | b"lsb") || name.ends_with(b"_os");
        (before.ends_with(b"/") && (is_glob || is_joined)) || (is_joined && is_known)
    };
    memchr::memmem::find_iter(text, b"release").any(is_file)
        || [&b"debian_version"[..], b"/etc/issue", b"/etc/*"].iter().any(|word| has(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_files_are_recognised_where_they_are_mentioned() {
        for text in [
            "ifneq ($(wildcard /etc/redhat-release),)",
            "cat /etc/*release",
            "cat /etc/*-release | grep ID",
            "cat /etc/*elease",
            "cat /etc/*version",
            "$(shell grep rocky /etc/os-release)",
            ". ${SYSROOT}/etc/os-release",
            "lsb_release -si",
            "platform.freedesktop_os_release()",
            "[ -f /etc/SuSE-release ]",
            "cat /etc/debian_version",
        ] {
            assert!(mentions_release(text.as_bytes()), "{text}");
        }
        for text in [
            "this is a pre-release",
            "make kernelrelease",
            "uname --kernel-release",
            "kernel_release = $(KVER)",
            "dev->release = free_it;",
            "include/config/kernel.release",
            "class_release, device-release",
        ] {
            assert!(!mentions_release(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_tree_is_searched_but_for_its_binary_files() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::create_dir(dir.path().join(".git")).unwrap();
        fs::write(dir.path().join("blob.o"), b"\x7fELF\0 System.map /etc/os-release").unwrap();
        fs::write(dir.path().join(".git/x"), "System.map").unwrap();
        assert_eq!(in_tree(dir.path()), Mentions::default());
        fs::write(dir.path().join("a/b/gen.sh"), "grep x /boot/System.map-$1").unwrap();
        assert_eq!(in_tree(dir.path()), Mentions { releases: false, map: true });
    }

    #[test]
    fn contents_and_places_make_the_digest() {
        let file = |path: &str, text: &str| (PathBuf::from(path), text.as_bytes().to_vec());
        let base = digest(&[file("/etc/a", "x")]);
        assert_ne!(base, digest(&[file("/etc/a", "y")]));
        assert_ne!(base, digest(&[file("/etc/b", "x")]));
        assert_ne!(base, digest(&[]));
        assert_ne!(digest(&[file("ab", "c")]), digest(&[file("a", "bc")]));
    }
}
