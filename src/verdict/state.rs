//! The states of a verdict.

use std::collections::BTreeSet;

use kcache_kernel::module_name::ModuleName;

use crate::inputs::change::InputChange;
use crate::run::policy::Need;

/// The state of one package for one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Installed and up to date.
    Ready,
    /// Installed as a builder once built it, and a shared cache has a newer build.
    Outdated,
    /// Not installed.
    Missing,
    /// Its inputs have changed since it was installed.
    Stale,
    /// It does not build.
    Fails,
    /// It does not support this kernel.
    Excluded,
    /// Installed, but unusable.
    Broken,
    /// It cannot be built, because there are no headers.
    NoHeaders,
}

impl State {
    /// All states, the best first.
    pub const ALL: [State; 8] = [
        State::Ready,
        State::Outdated,
        State::Excluded,
        State::Stale,
        State::Missing,
        State::NoHeaders,
        State::Fails,
        State::Broken,
    ];

    /// Its name, printed and part of the JSON: never change it.
    pub fn word(self) -> &'static str {
        match self {
            State::Ready => "ready",
            State::Outdated => "outdated",
            State::Missing => "missing",
            State::Stale => "stale",
            State::Fails => "fails",
            State::Excluded => "excluded",
            State::Broken => "broken",
            State::NoHeaders => "no-headers",
        }
    }

    /// Whether the kernel can be booted as far as this package is concerned.
    pub fn is_good(self) -> bool {
        matches!(self, State::Ready | State::Outdated | State::Excluded)
    }
}

/// The state of one package for one kernel, with the reason.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The state itself.
    pub state: State,
    /// The version of the package that is meant for the kernel.
    pub version: String,
    /// In words, where there is more to say.
    pub reason: Option<String>,
    /// The inputs that have changed since it was installed.
    pub changed: Vec<InputChange>,
    /// The tools that are others now than those it was built with: nothing to do about.
    pub tools_changed: Vec<InputChange>,
    /// The store has a build of it, or knows that it fails.
    pub built: bool,
    /// Names of the modules that an installation would bring; empty where that is not known, or nothing is to be installed.
    pub modules: BTreeSet<ModuleName>,
    /// The policy's need of it.
    pub need: Need,
}

impl Standing {
    pub(super) fn new(state: State, reason: Option<String>) -> Standing {
        Standing {
            state,
            version: String::new(),
            reason,
            changed: Vec::new(),
            tools_changed: Vec::new(),
            built: false,
            modules: BTreeSet::new(),
            need: Need::Required,
        }
    }

    pub(super) fn because(state: State, reason: impl Into<String>) -> Standing {
        Standing::new(state, Some(reason.into()))
    }

    /// Whether this package alone makes the kernel not ready.
    pub fn blocks(&self) -> bool {
        self.need == Need::Required && !self.state.is_good()
    }
}

/// A foreign module in a kernel's tree.
#[derive(Clone, Debug)]
pub struct Foreign {
    /// Path relative to the tree.
    pub path: String,
    /// Why the kernel would not load it.
    pub fault: Option<String>,
}
