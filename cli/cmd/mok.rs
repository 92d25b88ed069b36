//! `kcache keys mok`: create a machine owner's key (MOK) that signs modules and is enrolled with shim.
//!
//! An RSA key, which every kernel can verify, with a self-signed certificate for kernel modules only: with the object
//! identifier that shim looks for, the key can boot no kernel and no boot loader. `openssl` makes both in a directory that only
//! their owner can enter; then the certificate is renamed into place, and the key last, so that a crash leaves at most a
//! certificate without a key. Enrolling needs a person at the console after a reboot: kcache prints the `mokutil` command and
//! never runs it.

use std::fmt::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use fs_err as fs;
use kcache::kernel::rootfs::Root;

use super::context;
use crate::exit::{Exit, Failure};
use crate::json;
use crate::out::Out;
use crate::settings::Settings;

const KEY: &str = "key.pem";
const CERTIFICATE: &str = "certificate.der";
/// A common name has at most 64 characters (RFC 5280, appendix A.1), some of which are ours.
const NAME_MAX: usize = 40;

/// `codeSigning` satisfies what reads certificates for modules in general; the number is shim's for "modules only".
const REQUEST: &str = "\
[req]
distinguished_name = name
x509_extensions = module
string_mask = utf8only
prompt = no
[name]
CN = @NAME@ module signing key
[module]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = codeSigning, 1.3.6.1.4.1.2312.16.1.2
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
";

pub fn make(settings: &Settings, out: &Out, dir: &Path, name: Option<&str>) -> Result<Exit, Failure> {
    let name = plain(&name.map_or_else(context::hostname, str::to_owned))?;
    let root = Root::new(&settings.root.value);
    let there = root.place(dir)?;
    for file in [KEY, CERTIFICATE] {
        if there.join(file).symlink_metadata().is_ok() {
            return Err(Failure::usage(
                format!("a key already exists: {}", there.join(file).display()),
                Some("use --dir DIR for another one".into()),
            ));
        }
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&there)?;
    let desk = tempfile::Builder::new()
        .prefix(".mok-")
        .permissions(PermissionsExt::from_mode(0o700))
        .tempdir_in(&there)?;
    openssl(desk.path(), &REQUEST.replace("@NAME@", &name))?;
    for (file, mode) in [(CERTIFICATE, 0o644), (KEY, 0o600)] {
        let made = desk.path().join(file);
        fs::set_permissions(&made, PermissionsExt::from_mode(mode))?;
        fs::File::open(&made)?.sync_all()?;
        fs::rename(made, there.join(file))?;
    }
    fs::File::open(&there)?.sync_all()?;
    print_steps(out, dir);
    Ok(Exit::Done)
}

fn print_steps(out: &Out, dir: &Path) {
    let (key, certificate) = (dir.join(KEY), dir.join(CERTIFICATE));
    if out.json {
        let [key, certificate] = [key, certificate].map(|path| path.display().to_string());
        return out.record(&json::Mok { r#type: "mok", key, certificate });
    }
    out.print(
        "enroll this key once: run this command, choose a password, reboot, and confirm at the console:",
    );
    out.data(&format!("mokutil --import {}", certificate.display()));
    let mut lines =
        String::from("to sign modules with it, append to /etc/kcache/config.toml:\n\n[signing]\n");
    let _ = writeln!(lines, "key = \"{}\"", key.display()); // a String takes everything
    let _ = write!(lines, "certificate = \"{}\"", certificate.display());
    out.print(&lines);
}

/// Has openssl make both files in a directory.
fn openssl(dir: &Path, request: &str) -> Result<(), Failure> {
    fs::write(dir.join("request"), request)?;
    let mut openssl = Command::new(context::program("openssl"));
    openssl.current_dir(dir).env_clear();
    openssl.args(["req", "-config", "request", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256"]);
    // As long as other tools' keys for this purpose: no kernel looks at the date.
    openssl.args(["-days", "36500", "-keyout", KEY, "-outform", "DER", "-out", CERTIFICATE]);
    let output = openssl.output().map_err(|e| Failure {
        exit: Exit::Unexpected,
        message: format!("cannot run openssl: {e}"),
        hint: Some("install the package openssl".into()),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure {
        exit: Exit::Unexpected,
        message: format!("openssl failed ({}): {said}", output.status),
        hint: None,
    })
}

/// A name that stands in openssl's configuration as it is.
fn plain(name: &str) -> Result<String, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._- ".contains(c);
    let name = name.trim();
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(plain) {
        return Err(Failure::usage(
            format!("invalid key name '{}'", name.escape_debug()),
            Some(format!(
                "use --name NAME with up to {NAME_MAX} letters, digits, dots, underscores, dashes and spaces"
            )),
        ));
    }
    Ok(name.to_owned())
}
