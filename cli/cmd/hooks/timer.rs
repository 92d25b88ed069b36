//! Whether `kcache-retry.timer` is enabled on a system, and what a hook says of it.

use std::path::Path;

use kcache::kernel::rootfs::Root;
use kcache::run::context::Context;

use super::super::task::Ran;
use crate::out::Out;

const TIMER: &str = "kcache-retry.timer";
/// The administrator's directory of units, then that of packages.
const UNITS: [&str; 2] = ["/etc/systemd/system", "/usr/lib/systemd/system"];

/// Says what happens next for a kernel whose packages are missing: by itself, else what to type.
pub fn report_what_follows(context: &Context, out: &Out, release: &str, ran: &Ran) {
    match (ran.may_pass, is_enabled(&context.root)) {
        (true, true) => out.print(&format!(
            "{release}: {TIMER} asks the caches again, every hour at first, and installs what they have"
        )),
        (true, false) => {
            out.hint(&format!("run `kcache install -k {release}` once a builder has built it"));
        }
        (false, _) => out.hint(&format!("then run `kcache install -k {release}`")),
    }
}

/// Whether systemd starts the timer at boot: it is there, linked, and not masked.
pub fn is_enabled(root: &Root) -> bool {
    let is_file = |path: &Path| root.find(path).is_some_and(|path| path.is_file());
    let is_linked = |dir: &str| is_file(&Path::new(dir).join("timers.target.wants").join(TIMER));
    UNITS.iter().any(|dir| is_linked(dir)) && !is_masked(root)
}

/// Whether the administrator's unit of this name is a link to `/dev/null`.
fn is_masked(root: &Root) -> bool {
    let link = root.place(UNITS[0]).and_then(|dir| fs_err::read_link(dir.join(TIMER)));
    link.is_ok_and(|to| to == Path::new("/dev/null"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;
    use std::os::unix::fs::symlink;

    /// Makes a timer in `unit`, a link to it in `wants`, and what the administrator has.
    fn check(unit: &str, wants: Option<(&str, &str)>, masked: bool, expect: bool) {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(at(unit)).unwrap();
        fs::create_dir_all(at(UNITS[0])).unwrap();
        fs::write(at(unit).join(TIMER), "").unwrap();
        if let Some((wants, to)) = wants {
            let wants = at(wants).join("timers.target.wants");
            fs::create_dir_all(&wants).unwrap();
            symlink(to, wants.join(TIMER)).unwrap();
        }
        if masked {
            symlink("/dev/null", at(UNITS[0]).join(TIMER)).unwrap();
        }
        assert_eq!(is_enabled(&Root::new(dir.path())), expect, "{unit} {wants:?} {masked}");
    }

    #[test]
    fn the_timer_runs_where_it_is_linked_and_not_masked() {
        let [etc, usr] = UNITS;
        let near = "../kcache-retry.timer";
        check(etc, Some((etc, near)), false, true);
        check(usr, Some((usr, near)), false, true);
        // As systemctl links it.
        check(usr, Some((etc, "/usr/lib/systemd/system/kcache-retry.timer")), false, true);
        check(usr, Some((usr, near)), true, false);
        check(usr, None, false, false);
        check(usr, Some((etc, near)), false, false);
    }
}
