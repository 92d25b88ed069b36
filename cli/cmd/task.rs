//! The common part of `install`, `build` and `pull`.

use crate::args::{Building, Selection};
use crate::exit::Exit;

/// Set to anything but 0: as `--verify`, for the programs that call kcache.
const VERIFY: &str = "KCACHE_VERIFY";

/// A request of `install`, `build` or `pull`.
pub struct Task<'a> {
    pub which: &'a Selection,
    pub rebuild: bool,
    pub fetch_only: bool,
    /// Only builds by exactly the tools of this host.
    pub refresh_tools: bool,
    /// Whatever was found and not built now is built again and compared.
    pub verify: bool,
    pub check: bool,
    pub install: bool,
    /// Somebody typed it: no hook follows that makes the initramfs.
    pub by_hand: bool,
}

impl Task<'_> {
    /// Obtains builds for the selection without installing them.
    pub fn of(which: &Selection) -> Task<'_> {
        Task {
            which,
            rebuild: false,
            fetch_only: false,
            refresh_tools: false,
            verify: false,
            check: false,
            install: false,
            by_hand: false,
        }
    }

    /// The same, as the common options of `install` and `build` say.
    pub fn building<'a>(which: &'a Selection, building: &Building) -> Task<'a> {
        let Building { rebuild, refresh_tools, verify, .. } = *building;
        let asked = std::env::var_os(VERIFY).is_some_and(|value| !value.is_empty() && value != "0");
        Task { rebuild, refresh_tools, verify: verify || asked, ..Task::of(which) }
    }
}

/// The result of a run.
pub struct Ran {
    pub exit: Exit,
    /// Names of the packages that failed.
    pub failed: Vec<String>,
    /// The state of each result, as it was printed.
    pub states: Vec<&'static str>,
    /// Whether a package without source here has no build: no headers would help it.
    pub lacks_builds: bool,
    /// Whether any of what failed may come later without anybody's changing this host.
    pub may_pass: bool,
    /// Whether any kernel has other modules now.
    pub changed: bool,
}
