//! Boot Loader Specification entries: one `*.conf` file each (type 1), used by systemd-boot and by GRUB's `blscfg`, or a
//! unified kernel image (type 2), used by systemd-boot.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::{Entry, Error};
use crate::release;
use crate::rootfs::Root;
use crate::uki::{self, Uki};

/// The entry that systemd-boot will start: the one in the firmware's variables, else the one that `default` of
/// loader.conf names, else the newest.
pub(super) fn systemd_default(root: &Root, loader_conf: &Path) -> Result<Option<Entry>, Error> {
    let text = crate::bounded_read::config(loader_conf)?;
    let configured = text
        .lines()
        .filter_map(|line| field(line, "default"))
        .next_back()
        .map(|glob| glob.trim_end_matches(".conf"));
    let remembered =
        ["LoaderEntryOneShot", "LoaderEntryDefault"].iter().find_map(|name| variable(root, name));
    let wanted = remembered.as_deref().or(configured);
    Ok(pick(systemd_entries(root, loader_conf)?, wanted))
}

/// All entries of systemd-boot, in order of preference.
pub(super) fn systemd_entries(root: &Root, loader_conf: &Path) -> Result<Vec<Entry>, Error> {
    let mut found = files(&directory_of(loader_conf))?;
    found.extend(uki::all(root).iter().map(|(inside, uki)| unified(inside, uki)));
    Ok(sorted(found))
}

/// The entry that a unified kernel image is.
fn unified(inside: &Path, uki: &Uki) -> (String, Entry) {
    let stem = inside.file_stem().unwrap_or_default().to_string_lossy();
    let id = format!("{}.efi", without_tries(&stem));
    let entry = Entry {
        title: uki.title().unwrap_or_else(|| id.clone()),
        id,
        image: inside.to_str().map(str::to_owned),
        arguments: uki.command_line().unwrap_or_default(),
    };
    (uki.release().unwrap_or_default(), entry)
}

/// The directory of the entries, relative to loader.conf.
pub(super) fn directory_of(loader_conf: &Path) -> PathBuf {
    loader_conf.with_file_name("entries")
}

/// All entries of a directory, in order of preference.
pub(super) fn entries(directory: &Path) -> Result<Vec<Entry>, Error> {
    Ok(sorted(files(directory)?))
}

fn sorted(mut found: Vec<(String, Entry)>) -> Vec<Entry> {
    found.sort_by(newest_first);
    found.into_iter().map(|(_, entry)| entry).collect()
}

/// The entries of a directory, with their versions.
fn files(directory: &Path) -> Result<Vec<(String, Entry)>, Error> {
    let mut found: Vec<(String, Entry)> = Vec::new();
    let names = match fs::read_dir(directory) {
        Ok(names) => names,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    for name in names {
        let path = name?.path();
        if path.extension().is_some_and(|extension| extension == "conf") {
            found.push(entry(&path)?);
        }
    }
    Ok(found)
}

/// The entry whose id matches `wanted`, or with this number in the menu; otherwise the first.
pub(super) fn pick(entries: Vec<Entry>, wanted: Option<&str>) -> Option<Entry> {
    let matches = |entry: &Entry| {
        wanted.is_some_and(|glob| release::matches(glob.trim_end_matches(".conf"), &entry.id))
    };
    let at = entries.iter().position(matches);
    let number = || wanted.and_then(|wanted| wanted.parse().ok()).filter(|at| *at < entries.len());
    let at = at.or_else(number).unwrap_or(0);
    entries.into_iter().nth(at)
}

/// The id in a name whose suffix `+N` counts boot attempts.
fn without_tries(stem: &str) -> &str {
    match stem.rsplit_once('+') {
        Some((id, tries)) if tries.bytes().all(|c| c.is_ascii_digit() || c == b'-') => id,
        _ => stem,
    }
}

/// Parses an entry; returns it with its version.
fn entry(path: &Path) -> Result<(String, Entry), Error> {
    let text = crate::bounded_read::config(path)?;
    let last = |key: &str| text.lines().filter_map(|line| field(line, key)).next_back().map(str::to_owned);
    let options: Vec<&str> = text.lines().filter_map(|line| field(line, "options")).collect();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let id = without_tries(&stem);
    let entry = Entry {
        title: last("title").unwrap_or_else(|| id.to_owned()),
        id: id.to_owned(),
        image: last("linux"),
        arguments: options.join(" "),
    };
    Ok((last("version").unwrap_or_default(), entry))
}

fn newest_first(a: &(String, Entry), b: &(String, Entry)) -> Ordering {
    release::compare(&b.0, &a.0).then_with(|| release::compare(&b.1.id, &a.1.id))
}

/// The value of a line `key value`, with any white space between.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let rest = line.trim_start().strip_prefix(key)?;
    rest.starts_with(char::is_whitespace).then(|| rest.trim())
}

/// A firmware variable of systemd-boot: four bytes of attributes, then UTF-16.
fn variable(root: &Root, name: &str) -> Option<String> {
    let path = format!("/sys/firmware/efi/efivars/{name}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f");
    let bytes = crate::bounded_read::bytes(&root.find(path)?, crate::bounded_read::MOST_CONFIG).ok()?;
    let units = bytes.get(4..)?.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    String::from_utf16(&units.take_while(|unit| *unit != 0).collect::<Vec<_>>()).ok()
}

#[cfg(test)]
mod tests {
    use fs_err as fs;

    use super::super::tests::check;
    use super::super::{command_line, default_kernel};
    use crate::rootfs::Root;
    use crate::uki::tests::uki;

    const OLD: (&str, &str) = (
        "efi/loader/entries/debian-6.1.conf",
        "title Debian\nversion 6.1.0-9\nlinux /debian/6.1.0-9/linux\noptions ro\n",
    );
    const NEW: (&str, &str) = (
        "efi/loader/entries/debian-6.12+3-0.conf",
        "title Debian\nversion 6.1.0-10\nlinux /debian/6.1.0-10/linux\n",
    );

    #[test]
    fn systemd_boot_starts_its_default_or_the_newest() {
        let loader = |text| ("efi/loader/loader.conf", text);
        check(&[loader("timeout 3\n"), OLD, NEW], Ok("6.1.0-10"));
        check(&[loader("default debian-6.1.conf\n"), OLD, NEW], Ok("6.1.0-9"));
        check(&[loader("default debian-6.12*\n"), OLD, NEW], Ok("6.1.0-10"));
    }

    #[test]
    fn unified_kernel_images_are_entries_too() {
        let root = tempfile::tempdir().unwrap();
        let images = root.path().join("efi/EFI/Linux");
        fs::create_dir_all(&images).unwrap();
        for (name, release) in [("mine-1+3.efi", "6.1.0-9"), ("mine-2.efi", "6.1.0-10")] {
            let image = uki(&[(".linux", b"kernel"), (".uname", release.as_bytes()), (".cmdline", b"ro")]);
            fs::write(images.join(name), image).unwrap();
        }
        let loader = root.path().join("efi/loader/loader.conf");
        fs::create_dir_all(loader.parent().unwrap()).unwrap();
        let root = Root::new(root.path());
        for (text, expect) in [("", "6.1.0-10"), ("default mine-1.efi\n", "6.1.0-9")] {
            fs::write(&loader, text).unwrap();
            assert_eq!(default_kernel(&root).unwrap().release, expect);
        }
        assert_eq!(command_line(&root, "6.1.0-9").as_deref(), Some("ro"));
        assert_eq!(command_line(&root, "6.1.0-11"), None);
    }

    #[test]
    fn the_firmwares_variable_overrides_the_file() {
        let mut value = String::from("\0\0\0\0");
        "debian-6.1.conf".chars().for_each(|c| value.extend([c, '\0']));
        let variable = "sys/firmware/efi/efivars/LoaderEntryDefault-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
        check(
            &[("efi/loader/loader.conf", "default debian-6.12*\n"), (variable, &value), OLD, NEW],
            Ok("6.1.0-9"),
        );
    }

    #[test]
    fn grub_with_blscfg_reads_the_same_entries() {
        let entry = |release: &'static str, text: &'static str| (release, text);
        let a = entry(
            "boot/loader/entries/m-6.11.4-300.fc41.x86_64.conf",
            "version 6.11.4-300.fc41.x86_64\nlinux /vmlinuz-6.11.4-300.fc41.x86_64\n",
        );
        let b = entry(
            "boot/loader/entries/m-6.12.0-1.fc41.x86_64.conf",
            "version 6.12.0-1.fc41.x86_64\nlinux /vmlinuz-6.12.0-1.fc41.x86_64\n",
        );
        let cfg = ("boot/grub2/grub.cfg", "set default=\"${saved_entry}\"\ninsmod blscfg\nblscfg\n");
        check(&[cfg, a, b], Ok("6.12.0-1.fc41.x86_64"));
        check(
            &[cfg, a, b, ("boot/grub2/grubenv", "saved_entry=m-6.11.4-300.fc41.x86_64\n")],
            Ok("6.11.4-300.fc41.x86_64"),
        );
    }
}
