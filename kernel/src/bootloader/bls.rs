//! Boot Loader Specification entries of type 1: one `*.conf` file each, used by systemd-boot and by GRUB's `blscfg`.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::{Entry, Error};
use crate::release;
use crate::rootfs::Root;

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
    Ok(pick(entries(&directory_of(loader_conf))?, wanted))
}

/// The directory of the entries, relative to loader.conf.
pub(super) fn directory_of(loader_conf: &Path) -> PathBuf {
    loader_conf.with_file_name("entries")
}

/// All entries of a directory, in order of preference.
pub(super) fn entries(directory: &Path) -> Result<Vec<Entry>, Error> {
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
    found.sort_by(newest_first);
    Ok(found.into_iter().map(|(_, entry)| entry).collect())
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

/// Parses an entry; returns it with its version. A suffix `+N` of the name counts boot attempts and is not part of the
/// id.
fn entry(path: &Path) -> Result<(String, Entry), Error> {
    let text = crate::bounded_read::config(path)?;
    let last = |key: &str| text.lines().filter_map(|line| field(line, key)).next_back().map(str::to_owned);
    let options: Vec<&str> = text.lines().filter_map(|line| field(line, "options")).collect();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let id = match stem.rsplit_once('+') {
        Some((id, tries)) if tries.bytes().all(|c| c.is_ascii_digit() || c == b'-') => id,
        _ => &stem,
    };
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
    use super::super::tests::check;

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
