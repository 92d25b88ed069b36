//! The key that DKMS signs modules with on this host, carried over into kcache's settings.
//!
//! Where DKMS signs with an enrolled key and kcache has no `[signing]`, modules that kcache installs in DKMS's place would be
//! unsigned. So `kcache adopt`, the kernel's hooks and kcache as `dkms` write, once,
//!
//! ```text
//! /etc/kcache/config.d/10-dkms-signing.toml      [signing] with DKMS's paths, `$kernelver` in them included
//! ```
//!
//! and say so. A `[signing]` anywhere, `when = "never"` included, is the administrator's answer, and nothing is written. A key
//! that kcache cannot use is a warning. A system under `--root` names no keys of this machine, so there it is a warning too.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use fs_err as fs;
use kcache::kernel::dkms::framework::{DkmsKey, Framework};
use kcache::kernel::kernels;
use kcache::kernel::rootfs::Root;

use crate::args::Global;
use crate::exit::Failure;
use crate::file;
use crate::out::Out;
use crate::settings::Settings;

/// The file that is written. Later ones in its directory replace its table.
const FILE: &str = "/etc/kcache/config.d/10-dkms-signing.toml";

/// Carries DKMS's key over, if kcache has none and may. True if settings have to be read again.
pub fn carry_over(settings: &Settings, global: &Global, out: &Out) -> Result<bool, Failure> {
    let root = Root::new(&settings.root.value);
    if settings.signing.is_some() {
        return Ok(false);
    }
    let framework = Framework::of(&root);
    let Some(key) = framework.signing_key(&root) else { return Ok(false) };
    let shown = key.key.display().to_string();
    let warn = |why: &str| {
        out.warn(&format!("DKMS signs modules with {shown}, and kcache does not: {why}"));
        out.hint("see \"Signing modules\" in signing.md, or set `when = \"never\"` in [signing]");
        Ok(false)
    };
    if !root.is_host() {
        return warn("a system under --root chooses no key");
    }
    if global.config.is_some() {
        return warn("the settings are those of the file that --config names, which has no [signing]");
    }
    if !rustix::process::geteuid().is_root() {
        return Ok(false);
    }
    if !is_usable(&root, &key) {
        return warn("its key or certificate is missing");
    }
    if let Some(program) = framework.other_signer() {
        out.warn(&format!("DKMS signs with {program}; kcache signs itself, as the kernel's sign-file does"));
    }
    // Users read the settings too, whatever the umask is here.
    for directory in ["/etc/kcache", "/etc/kcache/config.d"].map(Path::new) {
        if !directory.exists() {
            fs::create_dir(directory)?;
            fs::set_permissions(directory, Permissions::from_mode(0o755))?;
        }
    }
    file::write(Path::new(FILE), |out| out.write_all(written(&key).as_bytes()).map_err(Failure::from))?;
    fs::set_permissions(FILE, Permissions::from_mode(0o644))?;
    out.print(&format!("signing modules with the key of DKMS, {shown} (written to {FILE})"));
    Ok(true)
}

/// Whether there is a key for any kernel.
fn is_usable(root: &Root, key: &DkmsKey) -> bool {
    if !key.is_per_kernel() {
        return key.is_there(root);
    }
    let trees = kernels::trees(root).unwrap_or_default();
    trees.iter().any(|tree| key.of_kernel(tree.release()).is_there(root))
}

fn written(key: &DkmsKey) -> String {
    let text = |path: &Path| toml::Value::from(path.to_string_lossy().into_owned());
    format!(
        "# Written by kcache: the key that DKMS signs modules with on this host (/etc/dkms/framework.conf).\n\
         # Change it at will. To sign nothing, add: when = \"never\"\n\
         [signing]\nkey = {}\ncertificate = {}\n",
        text(&key.key),
        text(&key.certificate)
    )
}
