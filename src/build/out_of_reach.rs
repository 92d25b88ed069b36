//! Why a build failed for want of something that is on this host, but that builds do not see.
//!
//! A build sees the system's own programs and libraries, the headers, its source, and the packages that it declares to build
//! against. DKMS shows it the whole host. So where a failed build looked for another package's source, for a program by its path, or
//! for one that is elsewhere on `PATH`, the failure says how to show it. It is this host's and not remembered.

use std::path::{Path, PathBuf};

use fs_err as fs;
use kcache_kernel::bounded_read;
use kcache_kernel::build::Sought;
use kcache_kernel::packages::Package;
use kcache_kernel::rootfs::Root;
use kcache_kernel::sandbox::{SCRIPT, Sandbox};

use crate::build::dependencies::Dependency;
use crate::run::request::Request;
use crate::run::session::Session;

/// Limits on what is searched: bytes of a file, files, and how deep.
const MOST_TEXT: u64 = 1 << 20;
const MOST_FILES: usize = 5_000;
const MOST_DEPTH: usize = 8;

/// What to do so that the next build finds what this one did not; `None` if nothing of it is on this host. `log` is the
/// build's, and `source` what it was given.
pub(super) fn advice(
    session: &Session,
    request: &Request,
    needed: &[Dependency],
    sought: &[Sought],
    log: &str,
    source: &Path,
) -> Option<String> {
    let is_dependency = |package: &Package| needed.iter().any(|other| other.package.name == package.name);
    let others: Vec<&Package> = request
        .all
        .iter()
        .filter(|other| other.name != request.package.name && !is_dependency(other))
        .collect();
    let context = session.context;
    of_link(session, source, log)
        .or_else(|| of_other_package(request.package, &others, log))
        .or_else(|| {
            in_files(source, MOST_DEPTH, &mut { MOST_FILES }, &|text| {
                of_other_package(request.package, &others, text)
            })
        })
        .or_else(|| of_etc(&context.root, &request.package.name, log))
        .or_else(|| of_path(&context.root, log))
        .or_else(|| of_program(&context.root, &context.search_path, sought))
        .or_else(|| of_recipe(log))
}

/// The other package whose source or results a text names.
fn of_other_package(package: &Package, others: &[&Package], text: &str) -> Option<String> {
    let names = |place: &str| -> Vec<&str> { text.split(place).skip(1).collect() };
    let (sources, records) = (names("/usr/src/"), names("/var/lib/dkms/"));
    let is_meant = |other: &&&Package| {
        let name = other.name.as_str();
        let ends =
            |rest: &&str, ends: &[char]| rest.strip_prefix(name).is_some_and(|rest| rest.starts_with(ends));
        // `find /usr/src -name 'NAME-*'`
        let pattern = format!("{name}-*");
        let is_alone =
            |before: &str| !before.ends_with(|c: char| c.is_alphanumeric() || c == '-' || c == '_');
        let is_named = |line: &str| line.match_indices(&pattern).any(|(at, _)| is_alone(&line[..at]));
        let is_searched = || text.lines().any(|line| line.contains("/usr/src") && is_named(line));
        sources.iter().any(|rest| ends(rest, &['-']))
            || records.iter().any(|rest| ends(rest, &['/', ' ']))
            || is_searched()
    };
    let other = others.iter().find(is_meant)?;
    let (name, other) = (&package.name, &other.name);
    Some(format!(
        "it looks for {other}, which builds see only if they declare it: add BUILD_DEPENDS[0]=\"{other}\" to dkms.conf, or to /etc/dkms/{name}.conf"
    ))
}

/// What the first text file of a tree says for which `look` finds anything.
fn in_files(
    top: &Path,
    depth: usize,
    left: &mut usize,
    look: &dyn Fn(&str) -> Option<String>,
) -> Option<String> {
    let mut directories = Vec::new();
    for entry in fs::read_dir(top).ok()?.flatten() {
        *left = left.checked_sub(1)?;
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => directories.push(entry.path()),
            Ok(kind) if kind.is_file() => {
                let text = bounded_read::text(&entry.path(), MOST_TEXT).ok().flatten();
                if let Some(found) = text.and_then(|text| look(&text)) {
                    return Some(found);
                }
            }
            _ => {}
        }
    }
    let depth = depth.checked_sub(1)?;
    directories.iter().find_map(|directory| in_files(directory, depth, left, look))
}

/// A file of the source that is a link to one outside of it, and that the log names.
fn of_link(session: &Session, source: &Path, log: &str) -> Option<String> {
    let link = outward(source, source, MOST_DEPTH, &mut { MOST_FILES }, log)?;
    let target = fs::read_link(source.join(&link)).ok()?;
    let is_there = session.context.root.find(&target).is_some();
    is_there.then(|| {
        let (link, target) = (link.display(), target.display());
        format!("{link} of its source is a link to {target}, outside of what builds see; copy that file in its place")
    })
}

/// The first link below `directory` whose target is an absolute path elsewhere, and whose name is in the log's errors.
fn outward(top: &Path, directory: &Path, depth: usize, left: &mut usize, log: &str) -> Option<PathBuf> {
    let mut directories = Vec::new();
    for entry in fs::read_dir(directory).ok()?.flatten() {
        *left = left.checked_sub(1)?;
        let (path, name) = (entry.path(), entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => directories.push(path),
            Ok(kind) if kind.is_symlink() => {
                let target = fs::read_link(&path).unwrap_or_default();
                let is_named = log.lines().any(|line| {
                    let fails =
                        ["No such file", "No rule to make target"].iter().any(|sign| line.contains(sign));
                    fails && name.to_str().is_some_and(|name| line.contains(name))
                });
                if target.is_absolute() && !target.starts_with("/usr/src") && is_named {
                    return path.strip_prefix(top).ok().map(Path::to_owned);
                }
            }
            _ => {}
        }
    }
    let depth = depth.checked_sub(1)?;
    directories.iter().find_map(|directory| outward(top, directory, depth, left, log))
}

/// Words of the lines that say that something does not exist, if they are absolute paths.
fn missing_paths(log: &str) -> impl Iterator<Item = &str> + Clone {
    log.lines()
        .filter(|line| ["No such file", "not found"].iter().any(|sign| line.contains(sign)))
        .flat_map(|line| line.split([' ', ':', '\'', '"', '`', '(', ')', ',', ';', '=']))
        .filter(|word| word.len() > 2 && word.starts_with('/'))
}

/// The first file of `/etc` that the log says does not exist, and that this host has: builds see next to nothing there.
fn of_etc(root: &Root, package: &str, log: &str) -> Option<String> {
    let is_hidden = |path: &&str| path.starts_with("/etc/") && root.find(path).is_some();
    let path = missing_paths(log).find(is_hidden)?;
    Some(format!(
        "{path} is on this host, but of /etc builds see only /etc/dkms/{package}.conf and what is in /etc/dkms/{package}/, where a copy can be put"
    ))
}

/// The first path that the log says does not exist, and that this host has.
fn of_path(root: &Root, log: &str) -> Option<String> {
    let missing = missing_paths(log);
    let is_hidden = |path: &&str| {
        let path = Path::new(path);
        let is_own =
            ["/run", "/tmp", "/proc", "/dev", "/var/lib/dkms", "/lib/modules", "/boot", "/usr/src/kernels"]
                .iter()
                .any(|own| path.starts_with(own));
        let is_of_kernel = is_own || path.to_string_lossy().starts_with("/usr/src/linux");
        !is_of_kernel && !Sandbox::shows(path) && root.find(path).is_some()
    };
    // Builds have a /tmp of their own.
    let is_elsewhere = |path: &&str| {
        let below = ["/tmp/", "/dev/shm/", "/var/tmp/"].iter().any(|own| path.starts_with(own));
        below && root.find(path).is_some()
    };
    let path = missing.clone().find(is_hidden).or_else(|| missing.clone().find(is_elsewhere))?;
    Some(format!(
        "{path} is on this host, but outside of what builds see; list its directory in the setting `tool-paths` to show it to them"
    ))
}

/// The first path that a command of the recipe calls and that is not there. It is not looked up on this machine, whose files are
/// no concern of another root's.
fn of_recipe(log: &str) -> Option<String> {
    let called = |line: &str| {
        let rest = line.strip_prefix(SCRIPT)?.strip_prefix(": line ")?;
        let path = rest.split_once(": ")?.1.strip_suffix(": No such file or directory")?;
        path.starts_with('/').then(|| path.to_owned())
    };
    let path = log.lines().find_map(called)?;
    Some(format!(
        "the recipe calls {path}, which is outside of what builds see, or does not exist; copy it into the source, or list its directory in the setting `tool-paths`"
    ))
}

/// The first program that was not found and is elsewhere on this host.
fn of_program(root: &Root, search_path: &[PathBuf], sought: &[Sought]) -> Option<String> {
    let optional = root.find("/opt").and_then(|opt| fs::read_dir(opt).ok()).into_iter().flatten().flatten();
    let optional = optional.map(|entry| Path::new("/opt").join(entry.file_name()).join("bin"));
    let places: Vec<PathBuf> = search_path
        .iter()
        .cloned()
        .chain(["/usr/local/sbin", "/usr/local/bin"].map(PathBuf::from))
        .chain(optional)
        .filter(|place| place.is_absolute())
        .collect();
    let names = sought.iter().filter_map(|sought| match sought {
        Sought::Program(name) => Some(name),
        _ => None,
    });
    names.flat_map(|name| places.iter().map(move |place| (name, place))).find_map(|(name, place)| {
        // Programs of this machine build for another root, too.
        let there = root.find(place.join(name)).is_some() || place.join(name).is_file();
        there.then(|| {
            let place = place.display();
            format!("{name} is in {place}, which is not on the PATH of builds; list {place} in the setting `tool-paths`")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kcache_kernel::packages::RecipeFile;

    fn package(name: &str) -> Package {
        Package {
            name: name.into(),
            version: "1".into(),
            source: PathBuf::new(),
            recipe: RecipeFile::Dkms,
            declared: None,
        }
    }

    #[test]
    fn another_package_is_found_by_its_source_or_its_record() {
        let (own, gpu) = (package("rdma"), package("gpu"));
        let says = |text: &str| of_other_package(&own, &[&gpu], text).is_some();
        assert!(says("gpu source not found in /usr/src/gpu-*"));
        assert!(says("cat: /usr/src/gpu-535.1/p2p.h: No such file or directory"));
        assert!(says("ls /var/lib/dkms/gpu/535.1/source"));
        assert!(says("D=`find /usr/src -maxdepth 1 -name 'gpu-*' -print | tail -1`"));
        assert!(says("B=`find /var/lib/dkms/gpu -maxdepth 1 -print`"));
        assert!(!says("D=`find /opt -name 'gpu-*'`"));
        assert!(!says("D=`find /usr/src -name 'vgpu-*'`"));
        assert!(!says("/usr/src/gpu2-1.0 /usr/src/rdma-2.5 /var/lib/dkms/gpus/1 gpu"));
        let said = of_other_package(&own, &[&gpu], "/usr/src/gpu-1").unwrap();
        assert!(said.contains("BUILD_DEPENDS[0]=\"gpu\"") && said.contains("/etc/dkms/rdma.conf"), "{said}");
    }

    #[test]
    fn a_path_or_program_that_is_on_the_host_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["opt/tool/bin", "home/me", "usr/include"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        for path in ["opt/tool/bin/kc-x", "home/me/wrapper", "usr/include/a.h"] {
            fs::write(dir.path().join(path), "").unwrap();
        }
        let root = Root::new(dir.path());
        let path = |log: &str| of_path(&root, log);
        assert!(
            path("script: line 3: /home/me/wrapper: No such file or directory")
                .unwrap()
                .starts_with("/home/me/wrapper")
        );
        assert!(path("/bin/sh: 1: /opt/tool/bin/kc-x: not found").is_some());
        assert_eq!(path("cat: /home/me/other: No such file or directory"), None);
        assert_eq!(path("x.c:1:1: fatal error: /usr/include/a.h: No such file or directory"), None);
        assert_eq!(path("reads /home/me/wrapper"), None);
        let recipe = |log: &str| of_recipe(&format!("make: x\n/run/kcache/script: line 3: {log}"));
        assert!(recipe("/x/make: No such file or directory").unwrap().contains("calls /x/make,"));
        assert_eq!(recipe("x/make: No such file or directory"), None);
        assert_eq!(recipe("/x/make: Permission denied"), None);
        let program = |name: &str| of_program(&root, &[], &[Sought::Program(name.into())]);
        assert!(program("kc-x").unwrap().contains("list /opt/tool/bin in the setting"));
        assert_eq!(program("kc-y"), None);
    }
}
