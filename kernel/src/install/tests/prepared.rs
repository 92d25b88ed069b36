//! Tests of malicious trees, as of an untrusted image, with names and links that lead out of them.

use fs_err::os::unix::fs::symlink;

use super::foreign_files::{DKMS, crash_at, exchange, files, with_dkms};
use super::*;

/// A directory beside the trees, with a file for each name that could be reached.
fn elsewhere(host: &Host) -> PathBuf {
    let dir = host.dir.path().join("elsewhere");
    for path in ["empty/", "p/updates/dkms/one.ko", "modules.dep", "one.ko"] {
        let path = dir.join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        if !path.ends_with("empty") {
            fs_err::write(&path, "theirs").unwrap();
        }
    }
    fs_err::create_dir_all(dir.join("empty")).unwrap();
    dir
}

fn all_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        let paths: Vec<PathBuf> = fs_err::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        waiting.extend(paths.iter().filter(|path| path.is_dir()).cloned());
        found.extend(paths);
    }
    found.sort();
    found
}

fn kept_place(host: &Host) -> PathBuf {
    host.tree().with_file_name(format!(".kcache-{RELEASE}.adopted"))
}

fn staging(host: &Host) -> PathBuf {
    host.tree().with_file_name(format!(".kcache-{RELEASE}"))
}

fn begin(host: &Host) -> Result<Recovery, Error> {
    host.site_does(|site| Transaction::begin(site).map(|transaction| transaction.recovered()))
}

fn adopted() -> Host {
    let host = with_dkms();
    exchange(&host, &[host.package("p", "1", &["one"])], ForeignFiles::Take(files())).unwrap();
    host
}

#[test]
fn names_in_a_journal_cannot_lead_outside() {
    let out = "../../../elsewhere/modules.dep";
    let other = |package: &str, path: &str| serde_json::json!({"drop": [{"package": package, "path": path}]});
    let cases = [
        ("/indexes/0/name", out.into()),
        ("/indexes/0/name", "/elsewhere/modules.dep".into()),
        ("/indexes/0/name", "kernel".into()),
        ("/retire", serde_json::json!(["kernel"])),
        ("/retire", serde_json::json!(["kcache-0/../../kernel"])),
        ("/old", "0/../../kernel".into()),
        ("/new", "0/../../kernel".into()),
        ("/others", other("p", "../../../elsewhere/one.ko")),
        ("/others", other("p", "/elsewhere/one.ko")),
        ("/others", other("../p", DKMS)),
    ];
    for (field, value) in cases {
        let host = Host::indexed();
        host.install(&[host.package("p", "1", &["one"])]).unwrap();
        let elsewhere = elsewhere(&host);
        let before = (host.picture(), all_below(&elsewhere));
        host.crash_at(&[host.package("p", "2", &["one"])], 4).unwrap();
        let path = staging(&host).join("journal.json");
        let mut journal: serde_json::Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
        // An attacker can omit the checksum.
        journal.as_object_mut().unwrap().remove("checksum");
        *journal.pointer_mut(field).unwrap() = value.clone();
        for path in [checked_json::copy(&path), path] {
            fs_err::write(path, journal.to_string()).unwrap();
        }
        let tree = Tree::open(&host.tree()).unwrap();
        assert!(matches!(Journal::read(&tree), Err(Error::Damaged { .. })), "{field} {value}");
        assert_eq!(begin(&host).unwrap(), Recovery::Undone, "{field} {value}");
        assert_eq!((host.picture(), all_below(&elsewhere)), before, "{field} {value}");
    }
}

#[test]
fn a_staging_directory_with_links_is_refused() {
    for name in ["new", "old", "base", "base/usr/lib/modules", "kept"] {
        let host = with_dkms();
        let elsewhere = elsewhere(&host);
        let take = ForeignFiles::Take(files());
        crash_at(&host, &[host.package("p", "1", &["one"])], take, 4).unwrap();
        let dir = staging(&host).join(name);
        fs_err::remove_dir_all(&dir).unwrap();
        symlink(&elsewhere, &dir).unwrap();
        let before = all_below(&elsewhere);
        let error = begin(&host).unwrap_err().to_string();
        assert_eq!(error, format!("{} is a link or not a directory", dir.display()));
        assert_eq!(all_below(&elsewhere), before);
    }
}

#[test]
fn the_staging_directory_and_the_kept_place_are_real_and_private() {
    for place in [kept_place, staging] {
        let host = Host::indexed();
        let elsewhere = elsewhere(&host);
        let before = all_below(&elsewhere);
        symlink(&elsewhere, place(&host)).unwrap();
        let error = begin(&host).unwrap_err().to_string();
        assert_eq!(error, format!("{} is a link or not a directory", place(&host).display()));
        assert_eq!(all_below(&elsewhere), before);

        fs_err::remove_file(place(&host)).unwrap();
        fs_err::create_dir(place(&host)).unwrap();
        fs_err::set_permissions(place(&host), PermissionsExt::from_mode(0o777)).unwrap();
        let error = begin(&host).unwrap_err().to_string();
        assert_eq!(error, format!("{} is accessible by users other than its owner", place(&host).display()));
        fs_err::set_permissions(place(&host), PermissionsExt::from_mode(0o700)).unwrap();
        begin(&host).unwrap();
    }
}

#[test]
fn a_link_in_place_of_a_kept_package_is_not_followed() {
    let host = adopted();
    let elsewhere = elsewhere(&host);
    let place = kept_place(&host).join("p");
    fs_err::remove_dir_all(&place).unwrap();
    symlink(elsewhere.join("p"), &place).unwrap();
    let before = all_below(&elsewhere);
    let expect = format!("{} is a link or not a directory", place.display());
    assert_eq!(kept(&host.tree()).unwrap_err().to_string(), expect);
    let error = exchange(&host, &[], ForeignFiles::GiveBack(files())).unwrap_err();
    assert_eq!(error.to_string(), expect);
    assert_eq!(all_below(&elsewhere), before);
}

#[test]
fn modules_are_not_given_back_through_a_link() {
    let host = adopted();
    let elsewhere = elsewhere(&host);
    let dkms = host.tree().join("updates/dkms");
    symlink(elsewhere.join("empty"), &dkms).unwrap();
    let before = all_below(&elsewhere);
    let error = exchange(&host, &[], ForeignFiles::GiveBack(files())).unwrap_err();
    assert_eq!(error.to_string(), format!("{} is a link or not a directory", dkms.display()));
    assert_eq!(all_below(&elsewhere), before);
}
