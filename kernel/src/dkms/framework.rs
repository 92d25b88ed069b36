//! DKMS's own configuration, `/etc/dkms/framework.conf` and `framework.conf.d/*.conf` (dkms(8), "framework.conf").
//!
//! The files are shell; only literal assignments are read, and `$kernelver` is replaced. A value that takes a shell is reported
//! as such by whoever needs it.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use fs_err as fs;

use crate::bounded_read;
use crate::rootfs::Root;
use crate::sandbox::Sandbox;

/// Where DKMS keeps the key that it makes itself, and where Ubuntu's does.
const OWN: [[&str; 2]; 2] = [
    ["/var/lib/shim-signed/mok/MOK.priv", "/var/lib/shim-signed/mok/MOK.der"],
    ["/var/lib/dkms/mok.key", "/var/lib/dkms/mok.pub"],
];

/// The variable in paths that stands for the kernel's release.
const RELEASE: [&str; 2] = ["${kernelver}", "$kernelver"];

/// Programs that sign as the kernel's own does.
const SIGNERS: [&str; 2] = ["sign-file", "kmodsign"];

/// The key that DKMS signs with, as paths of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DkmsKey {
    /// Path of the private key, or a `pkcs11:` URI.
    pub key: PathBuf,
    /// Path of the certificate.
    pub certificate: PathBuf,
}

/// DKMS's settings.
#[derive(Clone, Debug, Default)]
pub struct Framework(BTreeMap<String, String>);

impl Framework {
    /// Reads a system's settings; later assignments have precedence.
    pub fn of(root: &Root) -> Framework {
        let mut found = BTreeMap::new();
        for text in texts(root) {
            found.extend(text.lines().filter_map(assignment).map(|(name, value)| (name.to_owned(), value)));
        }
        Framework(found)
    }

    /// The value of a setting; `None` if it is unset or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The key that modules are signed with, with `$kernelver` in its paths, whether or not it is there. `None` if DKMS would
    /// make one for itself, which nobody has enrolled.
    pub fn signing_key(&self, root: &Root) -> Option<DkmsKey> {
        let made = OWN.into_iter().find(|own| own.iter().all(|path| root.find(path).is_some()));
        let [_, own] = made.unwrap_or(OWN[1]);
        match self.get("mok_signing_key") {
            Some(key) => {
                let certificate = self.get("mok_certificate").unwrap_or(OWN[1][1]);
                Some(DkmsKey { key: key.into(), certificate: certificate.into() })
            }
            None => made.map(|[key, _]| DkmsKey {
                key: key.into(),
                certificate: self.get("mok_certificate").unwrap_or(own).into(),
            }),
        }
    }

    /// A program that DKMS signs with and that may do something else than the kernel's own.
    pub fn other_signer(&self) -> Option<&str> {
        let program = self.get("sign_file")?;
        let name = Path::new(program).file_name().unwrap_or_default();
        (!SIGNERS.iter().any(|signer| name == *signer)).then_some(program)
    }
}

/// What the file that DKMS reads before each build (`build_environment`, DKMS 3.4) sets, such as a toolset's `enable`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildEnvironment {
    /// Its path.
    pub file: PathBuf,
    /// Directories with the programs that it puts on the `PATH`, as the setting `tool-paths` takes them.
    pub tool_paths: Vec<PathBuf>,
    /// Variables that change builds and are no directories of programs: `CC`, `CFLAGS`.
    pub others: Vec<String>,
}

/// Variables that make and compilers read.
const OF_BUILDS: [&str; 14] = [
    "ARCH",
    "CC",
    "CFLAGS",
    "CROSS_COMPILE",
    "GCC_EXEC_PREFIX",
    "HOSTCC",
    "KCFLAGS",
    "LD",
    "LDFLAGS",
    "LLVM",
    "MAKEFLAGS",
    "PAHOLE",
    "RUSTC",
    "RUSTFLAGS",
];

impl Framework {
    /// What `build_environment` sets, without running it: of `PATH`, the directories that it names and that builds do not see
    /// anyway. `None` if there is none, or it cannot be read.
    pub fn build_environment(&self, root: &Root) -> Option<BuildEnvironment> {
        let file = PathBuf::from(self.get("build_environment")?);
        let text = bounded_read::config(&root.find(&file)?).ok()?;
        let (mut tool_paths, mut others) = (Vec::new(), Vec::new());
        for (name, value) in text.lines().filter_map(assignment) {
            if name == "PATH" {
                let found = value.split(':').filter_map(|piece| of_programs(piece, root));
                tool_paths.extend(found);
            } else if OF_BUILDS.contains(&name) {
                others.push(name.to_owned());
            }
        }
        tool_paths.dedup();
        Some(BuildEnvironment { file, tool_paths, others })
    }
}

/// A directory of tools, of a piece of `PATH`: `/opt/rh/gcc-toolset-13/root/usr/bin${PATH` is that toolset's `/usr`.
fn of_programs(piece: &str, root: &Root) -> Option<PathBuf> {
    let path = Path::new(piece.split('$').next()?);
    let is_plain = path.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    let is_there = root.find(path).is_some_and(|found| found.is_dir());
    let is_bin = ["bin", "sbin"].iter().any(|name| path.ends_with(name));
    let directory = if is_bin { path.parent()? } else { path };
    let is_usable = path.is_absolute() && is_plain && is_there && !Sandbox::shows(path);
    (is_usable && Sandbox::may_show(directory)).then(|| directory.to_owned())
}

impl DkmsKey {
    /// Whether key and certificate are others for each kernel.
    pub fn is_per_kernel(&self) -> bool {
        [&self.key, &self.certificate].iter().any(|path| names_release(&path.to_string_lossy()))
    }

    /// The same for a kernel.
    pub fn of_kernel(&self, release: &str) -> DkmsKey {
        let of = |path: &Path| PathBuf::from(with_release(&path.to_string_lossy(), release));
        DkmsKey { key: of(&self.key), certificate: of(&self.certificate) }
    }

    /// Whether the key is in a token.
    pub fn is_token(&self) -> bool {
        self.key.to_string_lossy().starts_with("pkcs11:")
    }

    /// Whether its files are there.
    pub fn is_there(&self, root: &Root) -> bool {
        let is_there = |path: &Path| path.is_absolute() && root.find(path).is_some();
        (self.is_token() || is_there(&self.key)) && is_there(&self.certificate)
    }
}

/// Whether a path has another meaning for each kernel.
pub fn names_release(path: &str) -> bool {
    RELEASE.iter().any(|name| path.contains(name))
}

/// A path for a kernel.
pub fn with_release(path: &str, release: &str) -> String {
    RELEASE.iter().fold(path.to_owned(), |path, name| path.replace(name, release))
}

/// The key that DKMS would sign a kernel's modules with, if it is there.
pub fn signing_key(root: &Root, release: &str) -> Option<DkmsKey> {
    let found = Framework::of(root).signing_key(root)?.of_kernel(release);
    found.is_there(root).then_some(found)
}

/// The name and the literal value of a line that assigns one.
fn assignment(line: &str) -> Option<(&str, String)> {
    let line = line.trim();
    let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (!name.is_empty() && name.chars().all(is_name)).then(|| (name, literal(value)))
}

/// What a value means: between its quotes, or up to white space.
fn literal(value: &str) -> String {
    let value = value.trim();
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            return rest.split(quote).next().unwrap_or_default().to_owned();
        }
    }
    value.split_whitespace().next().unwrap_or_default().to_owned()
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

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_key_of_dkms_is_found_where_its_configuration_says() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let put = |path: &str, text: &str| put(dir.path(), path, text);
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
        put("etc/dkms/framework.conf.d/b.conf", "mok_signing_key=\"pkcs11:token=a\" # the token\n");
        assert_eq!(found().as_deref(), Some("pkcs11:token=a"));
    }

    #[test]
    fn of_a_build_environment_the_directories_of_programs_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let put = |path: &str, text: &str| put(dir.path(), path, text);
        let found = || Framework::of(&root).build_environment(&root);
        let toolset = "/opt/rh/gcc-toolset-13";
        put("etc/dkms/framework.conf", &format!("build_environment=\"{toolset}/enable\"\n"));
        assert_eq!(found(), None, "it is not there");
        let enable = format!(
            "# General environment variables\nexport PATH={toolset}/root/usr/bin${{PATH:+:${{PATH}}}}\n\
             export MANPATH={toolset}/root/usr/share/man:${{MANPATH}}\nrpmlibdir=$(rpm --eval \"%{{_libdir}}\")\n"
        );
        put("opt/rh/gcc-toolset-13/enable", &enable);
        put("opt/rh/gcc-toolset-13/root/usr/bin/gcc", "");
        let expect = BuildEnvironment {
            file: format!("{toolset}/enable").into(),
            tool_paths: vec![format!("{toolset}/root/usr").into()],
            others: Vec::new(),
        };
        assert_eq!(found(), Some(expect));
        let more = "PATH=\"/usr/bin:/opt/../etc:bin:/opt/none/bin:/opt/rh:$HOME/bin:/bin:$PATH\"\nexport CC='gcc -m32'\nx=1\n";
        put("opt/rh/gcc-toolset-13/enable", more);
        let found = found().unwrap();
        assert_eq!((found.tool_paths, found.others), (vec!["/opt/rh".into()], vec!["CC".to_owned()]));
    }

    #[test]
    fn values_are_read_as_a_shell_would_and_programs_that_sign_as_the_kernel_does_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("etc/dkms/framework.conf");
        fs::create_dir_all(conf.parent().unwrap()).unwrap();
        let check = |text: &str, name: &str, expect: Option<&str>| {
            fs::write(&conf, text).unwrap();
            assert_eq!(Framework::of(&Root::new(dir.path())).get(name), expect, "{text}");
        };
        check("a=\"b c\" # d", "a", Some("b c"));
        check("a=b # c", "a", Some("b"));
        check("export a='b \"c\"'", "a", Some("b \"c\""));
        check("a=b\na=''\n", "a", None);
        check("# a=b\n", "a", None);
        for (program, is_other) in
            [("/usr/bin/kmodsign", false), ("/k/scripts/sign-file", false), ("/opt/sign", true)]
        {
            fs::write(&conf, format!("sign_file={program}\n")).unwrap();
            assert_eq!(Framework::of(&Root::new(dir.path())).other_signer().is_some(), is_other, "{program}");
        }
        let key = DkmsKey { key: "/k/${kernelver}.key".into(), certificate: "/k/$kernelver.der".into() };
        let of_kernel = DkmsKey { key: "/k/6.1.key".into(), certificate: "/k/6.1.der".into() };
        assert!(key.is_per_kernel() && !of_kernel.is_per_kernel());
        assert_eq!(key.of_kernel("6.1"), of_kernel);
    }
}
