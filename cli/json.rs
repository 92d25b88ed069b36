//! What `--json` prints. These types are an API: fields are added, never renamed or removed. docs/json.md describes them.

mod upkeep;

use kcache::inputs::change::InputChange;
use serde::Serialize;

pub use upkeep::*;

/// One line of a dry run: of `install`, `build` and `pull` (`plan`), or of `remove` and `rollback` (`change`).
#[derive(Debug, Serialize)]
pub struct Planned<'a> {
    pub r#type: &'static str,
    pub kernel: &'a str,
    pub package: &'a str,
    pub version: &'a str,
    /// Words for people, kept for one release.
    pub act: &'a str,
    pub action: Action,
    /// Only of `plan`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Option<&'a str>>,
}

/// `export`.
#[derive(Debug, Serialize)]
pub struct Exported {
    pub r#type: &'static str,
    pub entries: u64,
    pub objects: u64,
    pub pointers: usize,
    /// Whether the site file is in it.
    pub site: bool,
    pub bytes: u64,
}

/// `import`.
#[derive(Debug, Serialize)]
pub struct Imported {
    pub r#type: &'static str,
    pub entries: u64,
    pub present: u64,
    pub refused: u64,
    pub objects: u64,
    pub pointers: u64,
    /// Whether a site file was accepted from it.
    pub site: bool,
}

/// What a dry run would do, or what was done to a file. `action` in records: identifiers, added and never renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Ready,
    Excluded,
    NoHeaders,
    Fail,
    AlreadyBuilt,
    Install,
    Build,
    BuildAndInstall,
    Fetch,
    FetchAndInstall,
    FetchOrBuild,
    FetchOrBuildAndInstall,
    Repair,
    Resign,
    Add,
    Replace,
    Remove,
    TakeOver,
    GiveBack,
    Write,
    Keep,
    Load,
    BuildRequired,
    Regenerate,
    RegenerationRequired,
}

impl Action {
    /// The words on a terminal.
    pub fn words(self, dry_run: bool) -> &'static str {
        match (self, dry_run) {
            (Action::Ready, _) => "ready",
            (Action::Excluded, _) => "excluded",
            (Action::NoHeaders, _) => "no-headers",
            (Action::Fail, _) => "would fail",
            (Action::AlreadyBuilt, _) => "already built",
            (Action::Install, _) => "would install",
            (Action::Build, _) => "would build",
            (Action::BuildAndInstall, _) => "would build and install",
            (Action::Fetch, _) => "would fetch",
            (Action::FetchAndInstall, _) => "would fetch and install",
            (Action::FetchOrBuild, _) => "would fetch or build",
            (Action::FetchOrBuildAndInstall, _) => "would fetch or build, and install",
            (Action::Repair, _) => "would repair",
            (Action::Resign, _) => "would re-sign",
            (Action::Add, _) => "would add",
            (Action::Replace, _) => "would replace",
            (Action::Remove, false) => "removed",
            (Action::Remove, true) => "would remove",
            (Action::TakeOver, false) => "taken over",
            (Action::TakeOver, true) => "would take over",
            (Action::GiveBack, false) => "given back",
            (Action::GiveBack, true) => "would give back",
            (Action::Write, false) => "written",
            (Action::Write, true) => "would write",
            (Action::Keep, _) => "kept",
            (Action::Load, _) => "would load",
            (Action::BuildRequired, _) => "would build or fetch first",
            (Action::Regenerate, false) => "regenerated",
            (Action::Regenerate, true) => "would regenerate",
            (Action::RegenerationRequired, _) => "to be regenerated",
        }
    }

    /// The value of the older field `act`, kept for one release.
    pub fn act(self, dry_run: bool) -> &'static str {
        match self {
            Action::AlreadyBuilt => "is built",
            Action::Resign => "would sign anew",
            Action::BuildRequired => "would be had first",
            Action::Keep => "left",
            other => other.words(dry_run),
        }
    }
}

/// `install` and `build`: one line a package and kernel.
#[derive(Debug, Serialize)]
pub struct Record {
    pub r#type: &'static str,
    pub package: String,
    pub version: String,
    pub kernel: String,
    /// installed, built, fetched, failed, excluded, refused, no-headers, missing, not-reproducible, error.
    pub state: &'static str,
    /// store, shared-cache, built, failure-remembered.
    pub how: Option<&'static str>,
    /// URL of the shared cache that had it.
    pub cache: Option<String>,
    pub key: Option<String>,
    pub seconds: f64,
    pub modules: Vec<String>,
    /// Why there is no build, of `no-headers`: not-built-yet, cache-unreachable, untrusted, no-trusted-key, not-asked, no-cache,
    /// unknown-package.
    pub reason: Option<&'static str>,
    pub error: Option<String>,
    /// same, different: how a second build compares; absent where none was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub again: Option<&'static str>,
}

/// A shared cache, at the end of `install`, `build` and `pull`.
#[derive(Debug, Serialize)]
pub struct AskedCache<'a> {
    pub r#type: &'static str,
    pub url: &'a str,
    /// answered, unreachable, not-asked.
    pub state: &'static str,
    pub error: Option<String>,
}

/// `install`, `remove`, `rollback` and `adopt`: one line a kernel.
#[derive(Debug, Serialize)]
pub struct Generation {
    pub r#type: &'static str,
    pub kernel: String,
    pub generation: Option<String>,
    pub changed: bool,
    /// Packages that are not as they were before.
    pub changes: Vec<GenerationChange>,
    pub seconds: f64,
    pub error: Option<String>,
}

/// A package of a [`Generation`].
#[derive(Debug, Serialize)]
pub struct GenerationChange {
    /// add, replace, remove, resign.
    pub action: Action,
    pub package: String,
    /// Installed before and now; null: it was not, or is not.
    pub from: Option<String>,
    pub to: Option<String>,
}

/// `install`, `remove`, `rollback` and `adopt`: a kernel whose initramfs has other modules than are installed now.
#[derive(Debug, Serialize)]
pub struct Initramfs {
    pub r#type: &'static str,
    pub kernel: String,
    /// regenerate: it was; regeneration_required: the command is to be run in the tree under `--root`.
    pub action: Action,
    pub command: String,
    pub error: Option<String>,
}

/// The last line of `install`, `build`, `remove` and `rollback`, unless an error ended them or it was a dry run.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub r#type: &'static str,
    pub exit: u8,
}

/// `boot-test`: one line a module; one a package of which there is none.
#[derive(Debug, Serialize)]
pub struct Module {
    pub r#type: &'static str,
    pub package: String,
    pub version: String,
    pub module: Option<String>,
    pub kernel: String,
    /// loads, no-device, warns, fails, untested, excluded.
    pub state: &'static str,
    pub error: Option<String>,
    /// Lines of the kernel's log.
    pub log: Vec<String>,
    /// Letters.
    pub taints: String,
    pub unloaded: bool,
    pub seconds: f64,
}

/// The last line of `boot-test`.
#[derive(Debug, Serialize)]
pub struct BootTested {
    pub r#type: &'static str,
    pub exit: u8,
    /// kvm, tcg.
    pub acceleration: Option<&'static str>,
}

/// `push`: one line an entry and cache.
#[derive(Debug, Serialize)]
pub struct Push {
    pub r#type: &'static str,
    pub package: String,
    pub version: String,
    pub kernel: String,
    pub key: Option<String>,
    pub cache: Option<String>,
    /// pushed, present, signed, conflict, missing, error; with `--dry-run` would push.
    pub state: &'static str,
    pub dry_run: bool,
    pub error: Option<String>,
}

/// `signatures export` and `import`: one line a module.
#[derive(Debug, Serialize)]
pub struct Signature {
    pub r#type: &'static str,
    /// Of the module as it was built.
    pub digest: String,
    /// exported, imported; with `--dry-run` would export, would import.
    pub state: &'static str,
    pub dry_run: bool,
    pub path: String,
}

/// `use`: the file with the cache's settings.
#[derive(Debug, Serialize)]
pub struct UsedCache {
    pub r#type: &'static str,
    pub cache: String,
    pub path: String,
    pub action: Action,
    pub dry_run: bool,
}

/// `use`: the site file that the cache has.
#[derive(Debug, Serialize)]
pub struct UsedSite {
    pub r#type: &'static str,
    /// The packages that it names.
    pub packages: Vec<String>,
    /// The file that was written, which says `packages = "@site"`.
    pub path: Option<String>,
    /// Absent if this host does not follow it.
    pub action: Option<Action>,
    pub dry_run: bool,
}

/// `keys generate`, `keys trust`, `keys revoke` and `use`.
#[derive(Debug, Serialize)]
pub struct KeyChange {
    pub r#type: &'static str,
    #[serde(flatten)]
    pub key: Key,
    /// Whether the key's state is new.
    pub changed: bool,
    /// Only of `keys generate`: the file of the private key.
    pub signing_key: Option<String>,
    /// Only of a key that was revoked now: entries in the store that are signed with it.
    pub entries: Option<u64>,
    /// Only of a dry run of `use`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// `keys mok`.
#[derive(Debug, Serialize)]
pub struct Mok {
    pub r#type: &'static str,
    /// The file of the private key.
    pub key: String,
    /// The file to enroll.
    pub certificate: String,
}

/// `keys list`; also a part of [`KeyChange`].
#[derive(Debug, Serialize)]
pub struct Key {
    /// trusted, revoked.
    pub state: &'static str,
    pub name: String,
    pub id: String,
    /// Whether it is what this host signs with.
    pub own: bool,
    pub path: String,
}

/// `status` and `check`.
#[derive(Debug, Serialize)]
pub struct Status {
    pub kernels: Vec<Kernel>,
    pub packages: Vec<Package>,
    /// Releases of removed kernels whose directories are still there; they do not count.
    pub leftovers: Vec<String>,
    /// Every kernel is ready.
    pub ready: bool,
}

#[derive(Debug, Serialize)]
pub struct Kernel {
    pub release: String,
    pub version: Option<String>,
    pub headers: bool,
    pub generation: Option<String>,
    /// Who signed the generation's modules.
    pub signer: Option<Signer>,
    /// Nothing that is required is missing or broken.
    pub ready: bool,
    pub warnings: Vec<String>,
    /// Modules in the kernel's tree that others installed.
    pub foreign: Vec<Foreign>,
}

#[derive(Debug, Serialize)]
pub struct Signer {
    pub subject: String,
    /// SHA-256 of the certificate's DER.
    pub certificate: String,
    /// sha256, sha384, sha512; null where a signing service chose it.
    pub hash: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub struct Foreign {
    /// Relative to the kernel's tree.
    pub path: String,
    /// loads, broken.
    pub state: &'static str,
    pub reason: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub kernels: std::collections::BTreeMap<String, Standing>,
}

#[derive(Debug, Serialize)]
pub struct Standing {
    /// ready, missing, stale, fails, excluded, broken, no-headers.
    pub state: &'static str,
    /// The version that is meant for this kernel.
    pub version: String,
    pub reason: Option<String>,
    /// The inputs that have changed since it was installed: fields of the key, or initramfs.
    pub changed: Vec<InputChange>,
    /// The tools that are others than those it was built with: fields of the key. It is ready all the same.
    pub tools_changed: Vec<InputChange>,
    /// The store has a build of it, or knows that it fails.
    pub built: bool,
    /// required, optional, ignore.
    pub policy: &'static str,
}

/// `explain`.
#[derive(Debug, Serialize)]
pub struct Explanation {
    pub package: String,
    pub version: String,
    pub kernel: String,
    pub key: String,
    pub fields: Vec<kcache::store::Field>,
    pub excluded: Option<String>,
    /// built or failed, if there is an entry.
    pub entry: Option<&'static str>,
    /// Of the entry, which may be in a shared cache only.
    pub provenance: Option<Provenance>,
    /// The same as `undeclared_inputs`, kept for one release.
    pub observed: Vec<Observed>,
    /// Files outside the declared inputs that the build of the entry read.
    pub undeclared_inputs: Vec<Observed>,
    pub nearest: Option<Nearest>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Observed {
    pub path: String,
    pub digest: Option<String>,
    /// It is the same here.
    pub same: bool,
}

#[derive(Debug, Serialize)]
pub struct Nearest {
    pub key: String,
    pub kernel: Option<String>,
    /// Why it is used all the same: installed, or other-tools (the setting allows it).
    pub stands_in: Option<&'static str>,
    pub differences: Vec<Difference>,
    pub provenance: Provenance,
}

/// Who made a build.
#[derive(Debug, Serialize)]
pub struct Provenance {
    /// The building host, as it calls itself.
    pub builder: String,
    /// Whether this host built it.
    pub here: bool,
    /// Names of the trusted keys that signed it.
    pub signers: Vec<String>,
    /// How long it took.
    pub seconds: Option<f64>,
    /// Seconds since 1970.
    pub created: u64,
    /// URL of the shared cache that it was found in; null if it is in the store.
    pub cache: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Difference {
    pub field: InputChange,
    pub before: Option<String>,
    pub now: Option<String>,
    /// Of a tree: the files that differ, `A`, `D` or `M` and the path, at most 20.
    pub files: Vec<String>,
    /// How many there are.
    pub files_total: usize,
}

/// `log`.
#[derive(Debug, Serialize)]
pub struct Log {
    pub package: String,
    pub kernel: String,
    pub key: String,
    /// built or failed.
    pub result: &'static str,
    pub log: String,
}

/// `hooks status`.
#[derive(Debug, Serialize)]
pub struct Hook {
    /// debian, kernel-install, pacman, boot.
    pub family: String,
    /// As the system it is for names it.
    pub path: String,
    /// installed, absent, outdated, changed, foreign.
    pub state: &'static str,
    /// The kcache that it calls.
    pub program: Option<String>,
    /// Whether there is such a file.
    pub program_exists: Option<bool>,
}

/// `hooks install` and `hooks remove`: one line for each file that is changed or kept.
#[derive(Debug, Serialize)]
pub struct HookChange {
    pub r#type: &'static str,
    pub family: String,
    pub path: String,
    /// Words for `action`, kept for one release.
    pub act: &'static str,
    /// write, remove, keep.
    pub action: Action,
    pub dry_run: bool,
}

/// `lint`: one line a finding.
#[derive(Debug, Serialize)]
pub struct LintFinding {
    pub r#type: &'static str,
    pub package: String,
    pub version: String,
    pub rule: &'static str,
    /// error, warning, note.
    pub severity: &'static str,
    pub file: String,
    /// Null where it is about the whole file.
    pub line: Option<usize>,
    pub what: String,
    pub why: &'static str,
    pub instead: &'static str,
}

/// `init`.
#[derive(Debug, Serialize)]
pub struct Init {
    pub r#type: &'static str,
    pub path: String,
    /// dkms.conf, kbuild.
    pub from: &'static str,
    /// The kernels that dkms.conf was asked about.
    pub kernels: Vec<String>,
}

/// `adopt`: one line a file of DKMS's.
#[derive(Debug, Serialize)]
pub struct Adopted {
    pub r#type: &'static str,
    pub kernel: String,
    pub package: String,
    /// Relative to the kernel's tree.
    pub path: String,
    /// Words for `action`, kept for one release.
    pub act: &'static str,
    /// take_over, give_back.
    pub action: Action,
    pub dry_run: bool,
}

/// `debuginfo`: one line a module.
#[derive(Debug, Serialize)]
pub struct DebugInfo {
    pub r#type: &'static str,
    pub package: String,
    pub version: String,
    pub kernel: String,
    pub module: String,
    pub build_id: String,
    pub path: String,
    /// written, present; with `--dry-run` would write.
    pub state: &'static str,
}

/// `config`.
#[derive(Debug, Serialize)]
pub struct Setting {
    pub name: &'static str,
    pub value: String,
    pub origin: String,
}
