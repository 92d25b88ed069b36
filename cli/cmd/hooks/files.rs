//! The hooks as files: where each belongs, its content, and its state.
//!
//! The last line of a hook names the kcache that it calls, and the digest of everything above the line:
//!
//! ```text
//! # kcache-hook /usr/bin/kcache 1f0c...      16 hex digits of BLAKE3
//! ```
//!
//! This distinguishes a hook written by an older kcache from one that the administrator changed, and both from an unrelated
//! file of the same name. A hook in `/etc` takes precedence over one of the same name under `/usr`, as it does for its callers.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fs_err as fs;
use kcache::kernel::bounded_read;
use kcache::kernel::rootfs::Root;

use crate::args::Family;

/// A file or link that a package manager or systemd looks for.
pub struct Hook {
    pub family: Family,
    pub name: &'static str,
    /// The directory that is the administrator's.
    etc: &'static str,
    /// The directory that is the packages', where there is one.
    vendor: &'static str,
    content: Content,
}

#[derive(Clone, Copy)]
enum Content {
    /// A program.
    Script(&'static str),
    /// A description of what to call.
    Text(&'static str),
    /// A link to the unit of this name, which makes systemd start it.
    Link(&'static str),
}

/// Stands in a hook where the path of kcache belongs.
const PROGRAM: &str = "@KCACHE@";
/// How a hook's last line begins.
const SEAL: &str = "# kcache-hook ";

const SYSTEMD: [&str; 2] = ["/etc/systemd/system", "/usr/lib/systemd/system"];
const SYSINIT: [&str; 2] =
    ["/etc/systemd/system/sysinit.target.wants", "/usr/lib/systemd/system/sysinit.target.wants"];
const MULTI_USER: [&str; 2] =
    ["/etc/systemd/system/multi-user.target.wants", "/usr/lib/systemd/system/multi-user.target.wants"];
const TIMERS: [&str; 2] =
    ["/etc/systemd/system/timers.target.wants", "/usr/lib/systemd/system/timers.target.wants"];
const PACMAN: [&str; 2] = ["/etc/pacman.d/hooks", "/usr/share/libalpm/hooks"];

pub static HOOKS: [Hook; 13] = [
    debian("/etc/kernel/postinst.d", include_str!("../../hooks/debian-postinst")),
    debian("/etc/kernel/postrm.d", include_str!("../../hooks/debian-postrm")),
    debian("/etc/kernel/header_postinst.d", include_str!("../../hooks/debian-header-postinst")),
    Hook {
        family: Family::KernelInstall,
        name: "50-depmod.kcache.install",
        etc: "/etc/kernel/install.d",
        vendor: "/usr/lib/kernel/install.d",
        content: Content::Script(include_str!("../../hooks/50-depmod.kcache.install")),
    },
    text(
        Family::Pacman,
        "71-kcache-install.hook",
        PACMAN,
        include_str!("../../hooks/71-kcache-install.hook"),
    ),
    text(Family::Pacman, "71-kcache-remove.hook", PACMAN, include_str!("../../hooks/71-kcache-remove.hook")),
    text(Family::Boot, "kcache-boot.service", SYSTEMD, include_str!("../../hooks/kcache-boot.service")),
    link("kcache-boot.service", SYSINIT),
    text(Family::Boot, "kcache-ready.service", SYSTEMD, include_str!("../../hooks/kcache-ready.service")),
    link("kcache-ready.service", MULTI_USER),
    text(Family::Boot, "kcache-retry.service", SYSTEMD, include_str!("../../hooks/kcache-retry.service")),
    text(Family::Boot, "kcache-retry.timer", SYSTEMD, include_str!("../../hooks/kcache-retry.timer")),
    link("kcache-retry.timer", TIMERS),
];

const fn debian(dir: &'static str, script: &'static str) -> Hook {
    let content = Content::Script(script);
    Hook { family: Family::Debian, name: "do-kcache", etc: dir, vendor: dir, content }
}

const fn text(
    family: Family,
    name: &'static str,
    [etc, vendor]: [&'static str; 2],
    text: &'static str,
) -> Hook {
    Hook { family, name, etc, vendor, content: Content::Text(text) }
}

const fn link(name: &'static str, [etc, vendor]: [&'static str; 2]) -> Hook {
    Hook { family: Family::Boot, name, etc, vendor, content: Content::Link(name) }
}

/// The state of a hook on a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As this kcache writes it.
    Installed,
    /// Not there.
    Absent,
    /// As another version of kcache wrote it.
    Outdated,
    /// Written by kcache and changed since, or taken the right to be run.
    Changed,
    /// Something else of the same name.
    Foreign,
}

impl State {
    /// The identifier that is printed and part of the JSON: never changed.
    pub fn word(self) -> &'static str {
        match self {
            State::Installed => "installed",
            State::Absent => "absent",
            State::Outdated => "outdated",
            State::Changed => "changed",
            State::Foreign => "foreign",
        }
    }

    /// Whether the file is as this or another version of kcache wrote it.
    pub fn is_ours(self) -> bool {
        matches!(self, State::Installed | State::Outdated)
    }
}

/// A hook on a system: where it is or would be.
pub struct Found {
    pub hook: &'static Hook,
    /// Path in the system under the root.
    pub inside: PathBuf,
    /// Path on this machine.
    pub path: PathBuf,
    pub state: State,
    /// Path, in the system under the root, of the kcache that it calls.
    pub program: Option<String>,
}

impl Hook {
    /// The hook where it is, or where it would be written: in `/etc`, for packages under `/usr`.
    pub fn find(&'static self, root: &Root, vendor: bool) -> io::Result<Found> {
        let dirs = if vendor { [self.vendor, self.etc] } else { [self.etc, self.vendor] };
        let first = self.look(root, dirs[0])?;
        if first.state != State::Absent || vendor {
            return Ok(first);
        }
        let second = self.look(root, dirs[1])?;
        Ok(if second.state == State::Absent { first } else { second })
    }

    fn look(&'static self, root: &Root, dir: &str) -> io::Result<Found> {
        let inside = Path::new(dir).join(self.name);
        let path = root.place(dir)?.join(self.name);
        let (state, program) = self.judge(&path)?;
        Ok(Found { hook: self, inside, path, state, program })
    }

    fn judge(&self, path: &Path) -> io::Result<(State, Option<String>)> {
        let metadata = match fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((State::Absent, None)),
            metadata => metadata?,
        };
        let template = match self.content {
            // systemctl makes absolute links, kcache relative ones.
            Content::Link(unit) => {
                let leads = metadata.is_symlink()
                    && fs::read_link(path)?.file_name().is_some_and(|name| name == unit);
                return Ok((if leads { State::Installed } else { State::Foreign }, None));
            }
            Content::Script(template) | Content::Text(template) => template,
        };
        if !metadata.is_file() {
            return Ok((State::Foreign, None));
        }
        let (state, program) =
            judge(&String::from_utf8_lossy(&bounded_read::bytes(path, bounded_read::MOST_CONFIG)?), template);
        let must_run = matches!(self.content, Content::Script(_));
        if state.is_ours() && must_run && metadata.permissions().mode() & 0o111 == 0 {
            return Ok((State::Changed, program));
        }
        Ok((state, program))
    }

    /// Writes the hook: whole or not at all.
    pub fn write(&self, path: &Path, program: &str) -> io::Result<()> {
        make_dirs(path.parent().unwrap_or(Path::new("/")))?;
        // None of those who call hooks takes a file of such a name for one.
        let draft = path.with_file_name(format!(".{}.new", self.name));
        match fs::remove_file(&draft) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        match self.content {
            Content::Link(unit) => fs_err::os::unix::fs::symlink(Path::new("..").join(unit), &draft)?,
            Content::Script(template) => put(&draft, &seal(template, program), 0o755)?,
            Content::Text(template) => put(&draft, &seal(template, program), 0o644)?,
        }
        fs::rename(&draft, path)
    }

    /// Whether systems that look as this one call it.
    pub fn is_called(family: Family, root: &Root) -> bool {
        let signs: &[&str] = match family {
            Family::Debian => &["/usr/bin/dpkg", "/etc/kernel/postinst.d"],
            Family::KernelInstall => &["/usr/bin/kernel-install", "/bin/kernel-install"],
            Family::Pacman => &["/etc/pacman.conf"],
            Family::Boot => &["/usr/lib/systemd/systemd", "/lib/systemd/systemd"],
        };
        signs.iter().any(|sign| root.find(sign).is_some())
    }
}

fn put(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    use std::io::Write;
    let mut file = fs::File::create_new(path)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(PermissionsExt::from_mode(mode))?;
    file.sync_all()
}

/// Makes a directory and those above it, for everyone to read whatever the umask.
fn make_dirs(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    make_dirs(dir.parent().unwrap_or(Path::new("/")))?;
    fs::create_dir(dir)?;
    fs::set_permissions(dir, PermissionsExt::from_mode(0o755))
}

/// The text of a hook that calls `program`.
fn seal(template: &str, program: &str) -> String {
    let body = template.replace(PROGRAM, program);
    let digest = digest(&body);
    format!("{body}{SEAL}{program} {digest}\n")
}

fn digest(body: &str) -> String {
    blake3::hash(body.as_bytes()).to_hex()[..16].to_owned()
}

fn judge(text: &str, template: &str) -> (State, Option<String>) {
    let Some(at) = text.rfind(SEAL) else { return (State::Foreign, None) };
    let (body, last) = text.split_at(at);
    let words: Vec<&str> = last[SEAL.len()..].split_whitespace().collect();
    let [program, digest] = words[..] else { return (State::Changed, None) };
    let state = match text {
        _ if self::digest(body) != digest => State::Changed,
        _ if text == seal(template, program) => State::Installed,
        _ => State::Outdated,
    };
    (state, Some(program.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "#!/bin/sh\nexec @KCACHE@\n";

    #[test]
    fn the_state_of_a_hook_is_recognised_by_its_text() {
        let check = |text: &str, state, program: Option<&str>| {
            assert_eq!(judge(text, TEMPLATE), (state, program.map(str::to_owned)), "{text}");
        };
        let whole = seal(TEMPLATE, "/bin/k");
        check(&whole, State::Installed, Some("/bin/k"));
        check(&seal("#!/bin/sh\n@KCACHE@\n", "/bin/k"), State::Outdated, Some("/bin/k"));
        check(&whole.replace("exec", "nice"), State::Changed, Some("/bin/k"));
        check(&format!("{whole}exit 0\n"), State::Changed, None);
        check("#!/bin/sh\n", State::Foreign, None);
        check("", State::Foreign, None);
    }

    #[test]
    fn run_parts_takes_the_names_of_debian_hooks_and_calls_them_before_the_initramfs_is_made() {
        for hook in HOOKS.iter().filter(|hook| hook.family == Family::Debian) {
            assert!(
                hook.name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)),
                "{}",
                hook.name
            );
            assert!("dkms" < hook.name);
            assert!(["dracut", "initramfs-tools", "zz-update-grub"].iter().all(|maker| hook.name < *maker));
        }
    }

    #[test]
    fn kernel_install_calls_the_plugin_between_depmod_and_the_initramfs() {
        let hook = HOOKS.iter().find(|hook| hook.family == Family::KernelInstall).unwrap();
        assert!("50-depmod.install" < hook.name);
        assert!(
            ["50-dracut.install", "50-mkinitcpio.install", "85-initrd.install"]
                .iter()
                .all(|m| hook.name < *m)
        );
    }

    #[test]
    fn every_hook_describes_itself_and_calls_kcache() {
        for hook in &HOOKS {
            let (Content::Script(text) | Content::Text(text)) = hook.content else { continue };
            assert!(
                text.contains("# kcache: ") && text.contains(PROGRAM) && text.ends_with('\n'),
                "{}",
                hook.name
            );
        }
    }
}
