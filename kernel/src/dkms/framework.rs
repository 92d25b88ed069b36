//! DKMS's own configuration, `/etc/dkms/framework.conf` and `framework.conf.d/*.conf`: what it signs modules with.
//!
//! The files are shell; only literal assignments are read, and `$kernelver` is replaced (dkms(8), "SIGNING").

use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::bounded_read;
use crate::rootfs::Root;

/// Where DKMS keeps the key that it makes itself.
const KEY: &str = "/var/lib/dkms/mok.key";
const CERTIFICATE: &str = "/var/lib/dkms/mok.pub";

/// The key that DKMS signs with, as paths of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DkmsKey {
    /// Path of the private key.
    pub key: PathBuf,
    /// Path of the certificate.
    pub certificate: PathBuf,
}

/// The key that DKMS would sign a kernel's modules with, if it is there.
pub fn signing_key(root: &Root, release: &str) -> Option<DkmsKey> {
    let (mut key, mut certificate) = (KEY.to_owned(), CERTIFICATE.to_owned());
    for text in texts(root) {
        for line in text.lines() {
            let Some((name, value)) = line.trim().split_once('=') else { continue };
            let value = value.trim().trim_matches(['"', '\'']);
            let value = value.replace("${kernelver}", release).replace("$kernelver", release);
            match name {
                "mok_signing_key" => key = value,
                "mok_certificate" => certificate = value,
                _ => {}
            }
        }
    }
    let found = DkmsKey { key: key.into(), certificate: certificate.into() };
    let is_there = |path: &Path| path.is_absolute() && root.find(path).is_some();
    (is_there(&found.key) && is_there(&found.certificate)).then_some(found)
}

/// The configuration files, in the order in which DKMS reads them.
fn texts(root: &Root) -> Vec<String> {
    let parts = root.find("/etc/dkms/framework.conf.d").and_then(|dir| fs::read_dir(dir).ok());
    let mut names: Vec<String> =
        parts.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.retain(|name| name.ends_with(".conf"));
    names.sort();
    let paths = std::iter::once("/etc/dkms/framework.conf".to_owned())
        .chain(names.into_iter().map(|name| format!("/etc/dkms/framework.conf.d/{name}")));
    paths.filter_map(|path| bounded_read::config(&root.find(path)?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_dkms_is_found_where_its_configuration_says() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let found = || signing_key(&root, "6.1").map(|key| key.key.display().to_string());
        assert_eq!(found(), None);
        put("var/lib/dkms/mok.key", "");
        put("var/lib/dkms/mok.pub", "");
        assert_eq!(found().as_deref(), Some("/var/lib/dkms/mok.key"));
        put("etc/dkms/framework.conf", "# mok_signing_key=/x\nmok_signing_key=\"/keys/$kernelver.key\"\n");
        assert_eq!(found(), None, "it is not there");
        put("keys/6.1.key", "");
        assert_eq!(found().as_deref(), Some("/keys/6.1.key"));
        put("etc/dkms/framework.conf.d/a.conf", "mok_signing_key='/var/lib/dkms/mok.key'\n");
        assert_eq!(found().as_deref(), Some("/var/lib/dkms/mok.key"));
    }
}
