//! Which entries are used where the store has none for exactly this host's key: of each field of the key, under each setting.
//!
//! The entries lie in a real store with the fields of a real key, one at a time. Nothing is compiled, and there is no kernel.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use kcache_kernel::kconfig::Kconfig;
use kcache_kernel::kernels::{Headers, Kernel, Mount};
use kcache_kernel::packages::{Package, RecipeFile};
use kcache_kernel::recipe::{Modules, Recipe};
use kcache_kernel::rootfs::Root;
use kcache_kernel::sandbox::{Entrance, Identities, Limits};
use kcache_store::{Field, Fingerprint, Observed, Output, Role, SharedCaches, SigningKey, Store, Trust};
use proptest::prelude::*;

use super::*;
use crate::inputs::key::{ENVIRONMENT, Inputs, KernelInputs};
use crate::run::context::Context;
use crate::run::policy::Policy;
use crate::run::progress::Progress;
use crate::run::select::Elsewhere;
use crate::run::services::Services;
use crate::run::session::{KernelFacts, Tool};

const SETTINGS: [OtherTools; 3] = [OtherTools::Never, OtherTools::Kbuild, OtherTools::SameCompiler];
const COMPILER: &str = "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0";

/// Every field of a key, and under which of [`SETTINGS`] an entry is used that has another value there, of a tool the same version in
/// another build.
const FIELDS: [(&str, [bool; 3]); 25] = [
    ("source", NOT),
    ("recipe", NOT),
    ("overrides", NOT),
    ("kernel.release", NOT),
    ("kernel.arch", NOT),
    ("kernel.version", NOT),
    ("kernel.config", NOT),
    ("kernel.headers", NOT),
    ("kernel.source", NOT),
    ("toolchain.cc", [false, false, true]),
    ("toolchain.cc1", [false, false, true]),
    ("toolchain.as", [false, false, true]),
    ("toolchain.ld", [false, false, true]),
    ("toolchain.objcopy", [false, false, true]),
    ("toolchain.strip", [false, false, true]),
    ("toolchain.pahole", [false, false, true]),
    ("toolchain.predef", NOT),
    ("toolchain.rustc", [false, false, true]),
    ("toolchain.rustc.driver", NOT),
    ("toolchain.bindgen", [false, false, true]),
    ("toolchain.kbuild", [false, true, true]),
    ("system.release", NOT),
    ("system.map", NOT),
    ("dependencies", NOT),
    ("environment", NOT),
];
/// The sandbox's version: there is one alone yet whose bits are known to be the same.
const SANDBOX: &str = "sandbox";
const NOT: [bool; 3] = [false; 3];

/// How an entry's field differs from this host's.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Other {
    /// Another value; of a tool that says its version, the same one in another build.
    Value,
    /// Another value; of a tool that says its version, another one.
    Version,
    /// There is no such field.
    Gone,
}

/// What each tool says of itself, and what another build and another version of it say.
fn notes(role: &str) -> [&'static str; 3] {
    match role {
        "cc" => [COMPILER, "gcc-12 (Debian 12.2.0-14) 12.2.0", "gcc-13 (Debian 13.2.0-5) 13.2.0"],
        "as" => [
            "GNU assembler (GNU Binutils) 2.40",
            "GNU assembler (GNU Binutils, u1) 2.40",
            "GNU assembler 2.41",
        ],
        "ld" => {
            ["GNU ld (GNU Binutils) 2.40", "GNU ld (GNU Binutils, u1) 2.40", "GNU ld (GNU Binutils) 2.41"]
        }
        "objcopy" => ["GNU objcopy 2.40", "GNU objcopy (u1) 2.40", "GNU objcopy 2.41"],
        "strip" => ["GNU strip 2.40", "GNU strip (u1) 2.40", "GNU strip 2.41"],
        "rustc" => {
            ["rustc 1.85.1 (4eb161250 2025-03-15)", "rustc 1.85.1 (u1)", "rustc 1.85.2 (1a2b3c 2025-04-01)"]
        }
        "bindgen" => ["bindgen 0.71.1", "bindgen (u1) 0.71.1", "bindgen 0.72.0"],
        "pahole" => ["pahole v1.24", "pahole (u1) v1.24", "pahole v1.25"],
        _ => ["", "", ""],
    }
}

fn other(field: &Field, how: Other) -> Option<Field> {
    let [_, build, version] = notes(field.name.strip_prefix("toolchain.").unwrap_or_default());
    let note = match how {
        Other::Value => build,
        Other::Version => version,
        Other::Gone => return None,
    };
    let note = Some(note.to_owned()).filter(|note| !note.is_empty());
    Some(Field { name: field.name.clone(), value: format!("other {}", field.value), note })
}

/// What [`FIELDS`] says of one field.
fn is_let(name: &str, how: Other, setting: usize) -> bool {
    let says_version = !notes(name.strip_prefix("toolchain.").unwrap_or_default())[0].is_empty();
    let row = FIELDS.iter().find(|(field, _)| *field == name);
    let may = row.is_some_and(|(_, may)| may[setting]);
    // An entry from before there was such a field, of a package that mentions no file of the system.
    let is_old = how == Other::Gone && name.starts_with("system.") && SETTINGS[setting] != OtherTools::Never;
    is_old || may && (how == Other::Value || how == Other::Version && !says_version)
}

struct Quiet;

impl Progress for Quiet {
    fn print(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn hint(&self, _: &str) {}
}

fn services() -> Services {
    Services {
        caches: SharedCaches::new(Vec::new(), Trust::default()),
        signer: None,
        signing: None,
        identities: Identities::Own,
        entrance: Arc::new(Entrance::new(|| Err(std::io::ErrorKind::NotFound.into()))),
        control_groups: LazyLock::new(|| None),
        now: || 2_000_000,
        available_memory: || None,
        cancel: Arc::new(AtomicBool::new(false)),
        progress: Arc::new(Quiet),
    }
}

/// A host with a store, a package and a kernel of which nothing is there but its name.
struct Host {
    dir: tempfile::TempDir,
    /// Whether it signs its builds for others.
    is_builder: bool,
    package: Package,
    kernel: Kernel,
    tree: BuildTree,
}

impl Host {
    fn new() -> Host {
        let dir = tempfile::tempdir().unwrap();
        let headers = dir.path().join("headers");
        let inside = PathBuf::from("/usr/src/headers");
        let source = dir.path().join("hello-1.0");
        let package = Package {
            name: "hello".into(),
            version: "1.0".into(),
            source,
            recipe: RecipeFile::Kbuild,
            declared: None,
        };
        let kernel = Kernel {
            release: "6.1.0-1-amd64".into(),
            modules: None,
            headers: Headers::Missing { leads_to: None },
            image_version: None,
            is_leftover: false,
        };
        let tree = BuildTree {
            inside: inside.clone(),
            source: inside.clone(),
            links: Vec::new(),
            mounts: vec![Mount { outside: headers, inside }],
            config: Kconfig::new(format!("CONFIG_CC_VERSION_TEXT=\"{COMPILER}\"\n")),
            config_place: ".config",
            arch: "x86_64".into(),
            version: "#1 SMP".into(),
        };
        Host { dir, is_builder: false, package, kernel, tree }
    }

    fn context(&self, other_tools: OtherTools) -> Context {
        Context {
            site: None,
            root: Root::new(self.dir.path()),
            store: self.dir.path().join("store"),
            temporary: self.dir.path().to_owned(),
            bwrap: "/nonexistent".into(),
            depmod: "/nonexistent".into(),
            always_depmod: false,
            launches_ccache: false,
            limits: Limits { memory: 0, processes: 0, cpus: 1, disk: 0, files: 0 },
            jobs: 1,
            build_limit: Duration::ZERO,
            lock_limit: Duration::from_secs(20),
            builder: "test".into(),
            elsewhere: Elsewhere::default(),
            default_kernel: None,
            policy: Policy::default(),
            other_tools,
            directives: Vec::new(),
            says_signing: false,
            without_dependencies: false,
            package_scripts: Vec::new(),
            tool_paths: Vec::new(),
            search_path: Vec::new(),
            roll_back: false,
            cpu: String::new(),
            number: 0,
            services: Services {
                signer: self.is_builder.then(|| SigningKey::generate().unwrap()),
                ..services()
            },
        }
    }

    fn identified(&self) -> Identified {
        let (recipe, fields) = (recipe(), fields());
        let none = Digest::of(b"");
        let headers = Fingerprint { digest: none, programs: none, stamp: none, written: Default::default() };
        let tools_root = Root::new(self.dir.path());
        let facts =
            Arc::new(KernelFacts { config: none, headers, tools_root, tools: Vec::new(), links: Vec::new() });
        let (key, kin) = (key::key(&fields), key::kin(&fields));
        let dependencies = Vec::new();
        Identified {
            recipe,
            source: none,
            overrides: None,
            system: Default::default(),
            rust: false,
            fields,
            key,
            kin,
            facts,
            dependencies,
        }
    }

    /// Under which settings an entry with these fields is used, if it is all that the store has.
    fn uses(&self, entry: &Entry) -> [bool; 3] {
        let id = self.identified();
        let request = Request { package: &self.package, kernel: &self.kernel, all: &[], exact: false };
        let found = SETTINGS.map(|setting| {
            let context = self.context(setting);
            let store = context.open_store().unwrap();
            store.insert(entry, 1_000_000).unwrap();
            let session = Session::new(&context, Some(store)).unwrap();
            let exact = resolve::look_up(&session, &request, &self.tree, &id).unwrap();
            assert!(exact.is_none() || entry.manifest().key == id.key);
            let standing_in = stored(&session, &request, &self.tree, &id).unwrap();
            matches!(exact.or(standing_in), Some(Resolution::Ready { .. }))
        });
        self.store().forget(&entry.manifest().key).unwrap();
        found
    }

    fn store(&self) -> Store {
        self.context(OtherTools::Never).open_store().unwrap()
    }
}

fn recipe() -> Recipe {
    Recipe {
        name: "hello".into(),
        version: "1.0".into(),
        excluded: None,
        steps: Vec::new(),
        modules: Modules::Found,
        depends: Vec::new(),
        automatic: true,
        hooks: Vec::new(),
        notes: Vec::new(),
        writes: false,
    }
}

/// The fields of this host's key.
fn fields() -> Vec<Field> {
    let digest = |text: &str| Digest::of(text.as_bytes());
    let roles =
        ["cc", "cc1", "as", "ld", "objcopy", "strip", "pahole", "predef", "rustc", "rustc.driver", "bindgen"];
    let tool = |role: &str| Tool {
        role: role.to_owned(),
        digest: digest(role),
        version: notes(role)[0].to_owned(),
        path: PathBuf::new(),
    };
    key::fields(&Inputs {
        source: digest("source"),
        recipe: &recipe(),
        overrides: Some(digest("overrides")),
        kernel: KernelInputs {
            release: "6.1.0-1-amd64",
            arch: "x86_64",
            version: "#1 SMP",
            config: digest("config"),
            headers: digest("headers"),
            programs: digest("programs"),
            source: Some(Path::new("/usr/src/source")),
        },
        system: [None, None],
        tools: &roles.map(tool),
        dependencies: &[("base".to_owned(), digest("base"))],
        rust: true,
        cpu: None,
        environment: &ENVIRONMENT,
    })
}

/// An entry whose key and labels are those of its fields, but for the kin that it claims.
fn entry(fields: Vec<Field>, kin: Option<Digest>) -> Entry {
    let kin = kin.unwrap_or_else(|| key::kin(&fields)).to_string();
    let labels =
        Labels { package: "hello", version: "1.0", kernel: "6.1.0-1-amd64", kin: &kin, ..Labels::default() };
    Entry::new(Manifest {
        format: kcache_store::FORMAT,
        key: key::key(&fields),
        labels: labels.stored(),
        fields,
        outcome: Outcome::Built,
        outputs: Vec::new(),
        observed: Vec::new(),
        facts: serde_json::Map::new(),
        builder: "test".into(),
        created: 1_000_000,
    })
    .unwrap()
}

/// This host's fields, of which these are others.
fn fields_but(others: &[(usize, Other)]) -> Vec<Field> {
    let changed = |(at, field): (usize, Field)| match others.iter().find(|(other, _)| *other == at) {
        Some((_, how)) => other(&field, *how),
        None => Some(field),
    };
    fields().into_iter().enumerate().filter_map(changed).collect()
}

#[test]
fn a_build_that_differs_in_one_field_is_used_as_the_table_allows() {
    let host = Host::new();
    assert_eq!(host.uses(&entry(fields(), None)), [true; 3], "of exactly these inputs");
    let fields = fields();
    let mut names: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).chain([SANDBOX]).collect();
    let mut found: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
    names.sort();
    found.sort();
    assert_eq!(names, found, "each field has its row");
    for (at, field) in fields.iter().enumerate() {
        for how in [Other::Value, Other::Version, Other::Gone] {
            let expect = [0, 1, 2].map(|setting| is_let(&field.name, how, setting));
            assert_eq!(host.uses(&entry(fields_but(&[(at, how)]), None)), expect, "{}, {how:?}", field.name);
        }
    }
}

#[test]
fn a_build_of_something_else_is_not_used_whatever_its_labels() {
    let host = Host::new();
    let kin = key::kin(&fields());
    for (at, field) in fields().iter().enumerate().filter(|(_, field)| !key::is_tool(&field.name)) {
        let hows = [Other::Value, Other::Gone];
        for how in hows.into_iter().filter(|how| !is_let(&field.name, *how, 1)) {
            let forged = entry(fields_but(&[(at, how)]), Some(kin));
            assert_eq!(host.uses(&forged), NOT, "{}, {how:?}", field.name);
        }
    }
}

#[test]
fn a_failure_by_other_tools_does_not_count() {
    let host = Host::new();
    let built = by_another_kbuild();
    let failed = Outcome::Failed { status: Some(2), command: "make".into(), first_error: "error".into() };
    let failed = Entry::new(Manifest { outcome: failed, ..built.into_manifest() }).unwrap();
    assert_eq!(host.uses(&failed), NOT);
}

#[test]
fn a_build_by_other_tools_that_read_another_file_is_not_used() {
    let host = Host::new();
    fs_err::create_dir_all(host.dir.path().join("usr/include")).unwrap();
    fs_err::write(host.dir.path().join("usr/include/read.h"), "here").unwrap();
    let reading = |text: &str, entry: Entry| {
        let observed =
            vec![Observed { path: "/usr/include/read.h".into(), digest: Some(Digest::of(text.as_bytes())) }];
        Entry::new(Manifest { observed, ..entry.into_manifest() }).unwrap()
    };
    assert_eq!(host.uses(&reading("here", by_another_kbuild())), [false, true, true]);
    assert_eq!(host.uses(&reading("elsewhere", by_another_kbuild())), NOT);
    assert_eq!(host.uses(&reading("elsewhere", entry(fields(), None))), NOT, "nor of exactly these inputs");
}

/// An entry that has another kbuild, which the settings but `never` let pass.
fn by_another_kbuild() -> Entry {
    let at = fields().iter().position(|field| field.name == key::KBUILD).unwrap();
    entry(fields_but(&[(at, Other::Value)]), None)
}

#[test]
fn a_host_that_signs_for_others_can_say_never() {
    let host = Host { is_builder: true, ..Host::new() };
    assert_eq!(host.uses(&by_another_kbuild()), [false, true, true]);
}

#[test]
fn a_build_by_other_tools_that_a_stranger_signed_is_not_used() {
    let host = Host::new();
    let mut signed = by_another_kbuild();
    signed.sign(&SigningKey::generate().unwrap());
    assert_eq!(host.uses(&signed), NOT);
    // Nor is one of exactly this host's key.
    let mut exact = entry(fields(), None);
    exact.sign(&SigningKey::generate().unwrap());
    assert_eq!(host.uses(&exact), NOT);
}

#[test]
fn a_build_by_other_tools_whose_modules_the_kernel_would_not_load_is_not_used() {
    let host = Host::new();
    let stored = host.store().put_object(&mut &b"no module"[..]).unwrap();
    let (name, role) = ("hello.ko".to_owned(), Role::Module);
    let output = Output { name, role, size: stored.size, digest: stored.digest };
    let with_module = |entry: Entry| {
        Entry::new(Manifest { outputs: vec![output.clone()], ..entry.into_manifest() }).unwrap()
    };
    assert_eq!(host.uses(&with_module(by_another_kbuild())), NOT);
    assert_eq!(host.uses(&with_module(entry(fields(), None))), NOT, "nor of exactly these inputs");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// No false hit, and no hit missed: each difference has to be one that is let pass.
    #[test]
    fn a_build_is_used_if_each_difference_is_let_pass_alone(
        others in prop::collection::btree_map(
            0..FIELDS.len() + 1,
            prop_oneof![4 => Just(Other::Value), 1 => Just(Other::Version), 1 => Just(Other::Gone)],
            1..4,
        ),
        only_tools: bool,
    ) {
        static HOST: LazyLock<Host> = LazyLock::new(Host::new);
        let all = fields();
        let others: Vec<(usize, Other)> =
            others.into_iter().filter(|(at, _)| !only_tools || key::is_tool(&all[*at].name)).collect();
        let expect = [0, 1, 2].map(|setting| others.iter().all(|(at, how)| is_let(&all[*at].name, *how, setting)));
        prop_assert_eq!(HOST.uses(&entry(fields_but(&others), None)), expect, "{:?}", others);
    }
}
