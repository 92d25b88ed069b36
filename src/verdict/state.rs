//! The states of a verdict.

use crate::inputs::change::InputChange;
use crate::run::policy::Need;

/// How one package stands for one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is in the way.
    Ready,
    /// Not installed.
    Missing,
    /// Its inputs have changed since it was installed.
    Stale,
    /// Known not to build.
    Fails,
    /// Not meant for this kernel.
    Excluded,
    /// Installed, and of no use.
    Broken,
    /// It cannot be built: no headers.
    NoHeaders,
}

impl State {
    /// All of them, the best first.
    pub const ALL: [State; 7] = [
        State::Ready,
        State::Excluded,
        State::Stale,
        State::Missing,
        State::NoHeaders,
        State::Fails,
        State::Broken,
    ];

    /// The word for it. Printed, and part of the JSON: never changed.
    pub fn word(self) -> &'static str {
        match self {
            State::Ready => "ready",
            State::Missing => "missing",
            State::Stale => "stale",
            State::Fails => "fails",
            State::Excluded => "excluded",
            State::Broken => "broken",
            State::NoHeaders => "no-headers",
        }
    }

    /// True where a reboot into the kernel is none the worse for this package.
    pub fn is_good(self) -> bool {
        matches!(self, State::Ready | State::Excluded)
    }
}

/// The state of one package for one kernel, and why.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The state.
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
    /// What the administrator asks of it.
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
            need: Need::Required,
        }
    }

    pub(super) fn because(state: State, reason: impl Into<String>) -> Standing {
        Standing::new(state, Some(reason.into()))
    }

    /// True where this alone keeps a kernel from being ready.
    pub fn blocks(&self) -> bool {
        self.need == Need::Required && !self.state.is_good()
    }
}

/// Somebody else's module in a kernel's tree.
#[derive(Clone, Debug)]
pub struct Foreign {
    /// Where it lies, relative to the tree.
    pub path: String,
    /// Why the kernel would not load it.
    pub fault: Option<String>,
}
