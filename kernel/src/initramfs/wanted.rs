//! Modules that belong into the initramfs because the configuration of the initramfs generator names them.
//!
//! | generator | configuration |
//! |---|---|
//! | initramfs-tools(7) | `modules` and `modules.d/*` in `/etc/initramfs-tools` and `/usr/share/initramfs-tools`: a name a line; hooks beside them that call `manual_add_modules NAME...` or `force_load NAME`, as zfs-initramfs's does |
//! | dracut.conf(5) | `add_drivers` and `force_drivers`; `add_dracutmodules`, where the module of dracut's has the name of the kernel's, as zfs-dracut's has |
//! | mkinitcpio.conf(5) | `MODULES=(NAME...)` in `/etc/mkinitcpio.conf` and `/etc/mkinitcpio.conf.d/*.conf`; `HOOKS`, where a hook has the name of the module |
//! | booster(1) | `modules` and `modules_force_load` in `/etc/booster.yaml`: names separated by commas |
//!
//! Decisions that depend on the machine (which disk contains the root file system) are not reproduced.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::bounded_read;
use crate::module_name::ModuleName;
use crate::rootfs::Root;

/// Limit in bytes on a configuration file.
const MOST: u64 = 1 << 20;

/// The names of modules in a configuration file.
type Names = fn(&str) -> Vec<&str>;

/// Those of the named modules that belong into an initramfs, with the file that says so.
pub fn wanted(root: &Root, names: &BTreeSet<ModuleName>) -> io::Result<BTreeMap<ModuleName, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut look = |inside: PathBuf, named: Names| -> io::Result<()> {
        let Some(path) = root.find(&inside) else { return Ok(()) };
        let Some(text) = bounded_read::text(&path, MOST)? else { return Ok(()) };
        for name in named(&text).into_iter().map(ModuleName::new) {
            if names.contains(&name) {
                found.entry(name).or_insert_with(|| inside.clone());
            }
        }
        Ok(())
    };
    if is_of_initramfs_tools(root) {
        for dir in ["/etc/initramfs-tools", "/usr/share/initramfs-tools"].map(Path::new) {
            look(dir.join("modules"), listed)?;
            for file in files(root, &dir.join("modules.d"))? {
                look(file, listed)?;
            }
            for file in files(root, &dir.join("hooks"))? {
                look(file, added_by_hook)?;
            }
        }
        return Ok(found);
    }
    // The others have different files, which are there only with them.
    let others: [(&str, &[&str], Names); 3] = [
        ("/etc/dracut.conf", &["/etc/dracut.conf.d", "/usr/lib/dracut/dracut.conf.d"], added_by_dracut),
        ("/etc/mkinitcpio.conf", &["/etc/mkinitcpio.conf.d"], added_by_mkinitcpio),
        ("/etc/booster.yaml", &[], added_by_booster),
    ];
    for (file, directories, named) in others {
        look(file.into(), named)?;
        for directory in directories {
            let files = files(root, Path::new(directory))?.into_iter();
            for file in files.filter(|file| file.extension().is_some_and(|ext| ext == "conf")) {
                look(file, named)?;
            }
        }
    }
    Ok(found)
}

/// Whether initramfs-tools makes the initramfs. Debian's dracut comes with an `update-initramfs` of its own, which calls it.
fn is_of_initramfs_tools(root: &Root) -> bool {
    let there =
        |name: &str| ["/usr/sbin", "/usr/bin"].iter().any(|dir| root.find(format!("{dir}/{name}")).is_some());
    there("update-initramfs") && (there("mkinitramfs") || !there("dracut"))
}

/// Paths inside the root of a directory's files, sorted; empty if it does not exist.
fn files(root: &Root, dir: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(outside) = root.find(dir).filter(|path| path.is_dir()) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in fs::read_dir(outside)? {
        found.push(dir.join(entry?.file_name()));
    }
    found.sort();
    Ok(found)
}

/// The names in a list: one per line, followed by parameters; comments begin with `#`.
fn listed(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.split('#').next()?.split_whitespace().next()).collect()
}

/// The arguments of each `manual_add_modules` or `force_load` at the beginning of a line.
fn added_by_hook(text: &str) -> Vec<&str> {
    let calls = ["manual_add_modules ", "force_load "];
    let call = |line: &'_ str| calls.iter().find_map(|call| line.strip_prefix(call)).map(str::len);
    let calls = text.lines().map(str::trim_start).filter_map(|line| Some(&line[line.len() - call(line)?..]));
    calls.flat_map(|names| names.split('#').next().unwrap_or_default().split_whitespace()).collect()
}

/// The modules that a dracut.conf(5) adds, with one assignment per line: `add_drivers+=" a b "`.
fn added_by_dracut(text: &str) -> Vec<&str> {
    let lists = ["add_drivers", "force_drivers", "add_dracutmodules"];
    let value = |line: &str| {
        let (name, value) = line.split_once('=')?;
        lists.contains(&name.trim().trim_end_matches('+')).then_some(value.len())
    };
    let values = text.lines().filter_map(|line| value(line).map(|length| &line[line.len() - length..]));
    values
        .flat_map(|value| value.split(|c: char| c.is_whitespace() || c == '"' || c == '\''))
        .filter(|word| !word.is_empty())
        .collect()
}

/// The words of the arrays `MODULES` and `HOOKS`, which may have several lines; `+=` adds to them. `NAME?` is a module that may
/// be missing.
fn added_by_mkinitcpio(text: &str) -> Vec<&str> {
    let start = |line: &'_ str| {
        let rest = line.strip_prefix("MODULES").or_else(|| line.strip_prefix("HOOKS"))?;
        rest.trim_start_matches('+').strip_prefix("=(").map(str::len)
    };
    let mut found = Vec::new();
    let mut is_inside = false;
    for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        let value = match start(line) {
            Some(length) => &line[line.len() - length..],
            None if is_inside => line,
            None => continue,
        };
        let words = value.split(')').next().unwrap_or_default();
        is_inside = !value.contains(')');
        found.extend(words.split_whitespace().map(|word| word.trim_matches(['"', '\'', '?'])));
    }
    found
}

/// The names in the lists of booster.yaml; `-NAME` leaves one out.
fn added_by_booster(text: &str) -> Vec<&str> {
    let lists = ["modules:", "modules_force_load:"];
    let value = |line: &str| lists.iter().find_map(|list| line.strip_prefix(list)).map(str::len);
    text.lines()
        .filter_map(|line| Some(&line[line.len() - value(line)?..]))
        .flat_map(|value| value.split('#').next().unwrap_or_default().split([',', ' ', '"', '\'']))
        .filter(|word| !word.is_empty() && !word.starts_with('-'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)], expect: &[(&str, &str)]) {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let names = ["zfs", "spl", "my_disk"].map(ModuleName::new).into();
        let found = wanted(&Root::new(dir.path()), &names).unwrap();
        let found: Vec<_> = found.iter().map(|(name, file)| (&name[..], file.to_str().unwrap())).collect();
        assert_eq!(found, expect, "{files:?}");
    }

    const TOOLS: (&str, &str) = ("usr/sbin/update-initramfs", "");

    #[test]
    fn initramfs_tools_reads_lists_and_hooks() {
        let modules = ("etc/initramfs-tools/modules", "# my-disk\n  my-disk speed=3 # of mine\next4\n");
        check(&[TOOLS, modules], &[("my_disk", "/etc/initramfs-tools/modules")]);
        let hook = "usr/share/initramfs-tools/hooks/zfs";
        let text =
            "copy_exec x\nif true; then\n\tmanual_add_modules zfs other\nfi\n# manual_add_modules spl\n";
        check(&[TOOLS, (hook, text)], &[("zfs", "/usr/share/initramfs-tools/hooks/zfs")]);
        check(
            &[TOOLS, ("usr/share/initramfs-tools/modules.d/a", "spl")],
            &[("spl", "/usr/share/initramfs-tools/modules.d/a")],
        );
        let forced = "force_load my-disk # early\n";
        check(&[TOOLS, (hook, forced)], &[("my_disk", "/usr/share/initramfs-tools/hooks/zfs")]);
        // The configuration of another generator has no effect.
        check(&[(hook, text)], &[]);
        let dracut = ("usr/bin/dracut", "");
        check(&[TOOLS, dracut, (hook, text)], &[]);
        check(
            &[TOOLS, dracut, ("usr/sbin/mkinitramfs", ""), (hook, forced)],
            &[("my_disk", "/usr/share/initramfs-tools/hooks/zfs")],
        );
        check(&[TOOLS, dracut, ("etc/dracut.conf", "force_drivers=\"spl\"")], &[("spl", "/etc/dracut.conf")]);
    }

    #[test]
    fn dracut_reads_drivers_and_dracut_modules() {
        let own = (
            "etc/dracut.conf.d/a.conf",
            "add_drivers+=\" my-disk \"\n#force_drivers+=\" spl \"\nomit_drivers+=\" spl \"\n",
        );
        check(&[own], &[("my_disk", "/etc/dracut.conf.d/a.conf")]);
        let zfs = ("usr/lib/dracut/dracut.conf.d/90-zfs.conf", "  add_dracutmodules+=' zfs '\n");
        check(&[zfs], &[("zfs", "/usr/lib/dracut/dracut.conf.d/90-zfs.conf")]);
        check(&[("etc/dracut.conf.d/a.txt", "add_drivers+=\" spl \"\n")], &[]);
        check(&[("etc/dracut.conf", "force_drivers=\"spl\""), TOOLS], &[]);
    }

    #[test]
    fn mkinitcpio_reads_modules_and_hooks() {
        let of = |text| ("etc/mkinitcpio.conf", text);
        let expect = [("my_disk", "/etc/mkinitcpio.conf"), ("spl", "/etc/mkinitcpio.conf")];
        check(&[of("MODULES=(ext4 my-disk 'spl?') # zfs\n")], &expect);
        check(&[of("MODULES=(\n  my-disk\n  spl # of mine\n)\nBINARIES=(zfs)\n")], &expect);
        check(&[of("HOOKS=(base zfs filesystems)\n")], &[("zfs", "/etc/mkinitcpio.conf")]);
        check(&[of("#MODULES=(zfs)\nMODULES=()\nFILES=(spl)\n")], &[]);
        let more = ("etc/mkinitcpio.conf.d/z.conf", "MODULES+=(spl)\n");
        check(&[of("MODULES=()"), more], &[("spl", "/etc/mkinitcpio.conf.d/z.conf")]);
    }

    #[test]
    fn booster_reads_its_lists() {
        let text = "compression: zstd\nmodules: ext4,my-disk,-spl\nmodules_force_load: zfs # root\n";
        let expect = [("my_disk", "/etc/booster.yaml"), ("zfs", "/etc/booster.yaml")];
        check(&[("etc/booster.yaml", text)], &expect);
        check(&[("etc/booster.yaml", "#modules: zfs\nmodules: -*\n")], &[]);
    }
}
