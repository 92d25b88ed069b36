//! The build key: the hash of all inputs of a build.
//!
//! Identity: what is built.
//!
//! | field | what | why |
//! |---|---|---|
//! | `source` | tree digest of the package's source: relative paths, type, executable bit, content or link target; not time or owner; without `.git` | an edit without a version bump is another build |
//! | `recipe` | the recipe as evaluated for this kernel: commands, patches that apply, modules expected, strip flags | the same source builds differently |
//! | `overrides` | tree digest of the administrator's patches and scripts for the package, `/etc/dkms/NAME`; empty without | they replace the package's |
//! | `kernel.release`, `kernel.arch` | `uname -r`, `uname -m` | vermagic |
//! | `kernel.version` | the `uname -v` text | the same release, built another time |
//! | `kernel.config` | digest of `.config` | |
//! | `kernel.headers` | tree digest of the build tree and all that it reaches, without programs | also what an old kernel shares with a new one |
//! | `kernel.source` | where `/lib/modules/K/source` leads in the sandbox; empty where it is the build tree | `configure` scripts look for headers there; what lies there is part of `kernel.headers` |
//! | `dependencies` | kin of the packages it builds against | by content, not by version text |
//! | `cpu` | digest of the CPU's model, features and cache; only where the source or recipe has `-march=native` or the like | the compiler asks the CPU. Such builds are not shared |
//!
//! Tools: what it is built with.
//!
//! | field | what | why |
//! |---|---|---|
//! | `toolchain.ROLE` | digest of each program that shapes the modules' bits, with its version text for people | a patch-level upgrade is another compiler |
//! | `toolchain.rustc`, `.rustc.driver`, `.bindgen` | the same of Rust's, only where the package has Rust in it | others' modules do not change with them |
//! | `toolchain.kbuild` | digest of the programs in the build tree (modpost, objtool, fixdep, ...) | an update of any kernel of a series replaces those of all |
//! | `toolchain.path.DIR` | digest of a directory of the setting `tool-paths` | builds see all of it |
//! | `system.release`, `system.map` | digest of the target's `/etc/*-release` and of `System.map`; empty if the package does not mention them | sources that tell a distribution by them; a point release is another system to these alone |
//! | `environment` | the closed environment that the build gets | |
//! | `sandbox` | the version of the sandbox that builds run in | a change to it may change bits |
//!
//! ELF programs are told by what they do: build ids and debug links do not count (`store/src/tree/program.rs`).
//!
//! The **key** is over all fields. The **kin** is over the identity alone: builds of one kin are of the same thing, by other tools.
//! Whether one may stand in for another is a setting ([`crate::inputs::kin`]). Dependencies are in the key by their kin: they are
//! built by the same tools, which are in it themselves.
//!
//! No place on disk, host name, user, clock or number of CPUs is part of either: identical hosts compute identical keys.
//! A new field arrives with the test that would have caught its absence.

use std::path::Path;

use kcache_kernel::native;
use kcache_kernel::recipe::Recipe;
use kcache_kernel::rust;
use kcache_store::{Digest, Field, Key};

use crate::run::session::Tool;

/// The context string of BLAKE3's key derivation mode: it keeps build keys apart from every other hash.
/// Stored: changing it forgets every entry.
const CONTEXT: &str = "kcache 2026-11 build key v2";
/// Of keys whose headers have programs among them: what has such fields is read, and found by no look-up of today's.
const BEFORE: &str = "kcache 2026-11 build key v1";
/// The same for kin. Stored, in labels and in the names of pointers.
const KIN: &str = "kcache 2026-11 build kin v1";

/// The field for the programs in a kernel's build tree.
pub const KBUILD: &str = "toolchain.kbuild";

/// The field for the CPU.
const CPU: &str = "cpu";

/// Version of the sandbox. Increase it whenever what a build sees of the sandbox changes. 2: dependencies, the
/// kernel's configuration in /boot, and the kernel's compiler in the environment. 3: /lib/modules/K/source is the
/// kernel's own. 4: files that tell the distribution only where they are mentioned, then of the target, and System.map; the source in
/// /usr/src can be written.
const SANDBOX: &str = "4";

/// The environment of every build, except for the jobserver. `KBUILD_BUILD_*` replace the clock, the user and the host
/// name (Documentation/kbuild/reproducible-builds.rst).
pub const ENVIRONMENT: [(&str, &str); 8] = [
    ("HOME", "/tmp"),
    ("KBUILD_BUILD_HOST", "localhost"),
    ("KBUILD_BUILD_TIMESTAMP", "Sat Jan  1 00:00:00 UTC 2000"),
    ("KBUILD_BUILD_USER", "kcache"),
    ("LANG", "C"),
    ("LC_ALL", "C"),
    ("SOURCE_DATE_EPOCH", "946684800"),
    ("TZ", "UTC"),
];

/// All inputs of a build.
pub struct Inputs<'a> {
    /// Tree digest of the package's source.
    pub source: Digest,
    /// The evaluated recipe.
    pub recipe: &'a Recipe,
    /// Tree digest of the administrator's directory for the package, if any.
    pub overrides: Option<Digest>,
    /// The kernel's inputs.
    pub kernel: KernelInputs<'a>,
    /// The programs that affect the modules.
    pub tools: &'a [Tool],
    /// Packages it builds against: name and kin.
    pub dependencies: &'a [(String, Digest)],
    /// Digests of the files that tell the distribution and of `System.map`, if the package mentions them.
    pub system: [Option<Digest>; 2],
    /// Whether there is Rust in the package: only then are rustc and its companions inputs.
    pub rust: bool,
    /// What compilers know of this host's CPU, if flags of the source or recipe make them ask.
    pub cpu: Option<&'a str>,
    /// The environment.
    pub environment: &'a [(&'a str, &'a str)],
}

/// A kernel's inputs.
#[derive(Clone, Copy)]
pub struct KernelInputs<'a> {
    /// The release, as `uname -r` prints it.
    pub release: &'a str,
    /// The architecture, as `uname -m` prints it.
    pub arch: &'a str,
    /// The build of the kernel, as `uname -v` prints it.
    pub version: &'a str,
    /// Digest of `.config`.
    pub config: Digest,
    /// Tree digest of the headers and everything that they refer to.
    pub headers: Digest,
    /// Digest of those programs.
    pub programs: Digest,
    /// Where `/lib/modules/R/source` leads in the sandbox, where that is not the build tree.
    pub source: Option<&'a Path>,
}

/// The fields of a key, in order. They are stored in the entry, to explain a miss.
pub fn fields(inputs: &Inputs) -> Vec<Field> {
    let plain = |name: &str, value: String| Field { name: name.to_owned(), value, note: None };
    let kernel = &inputs.kernel;
    let mut fields = vec![
        plain("source", inputs.source.to_string()),
        plain("recipe", recipe_text(inputs.recipe)),
        plain("overrides", inputs.overrides.map_or(String::new(), |digest| digest.to_string())),
        plain("kernel.release", kernel.release.to_owned()),
        plain("kernel.arch", kernel.arch.to_owned()),
        plain("kernel.version", kernel.version.to_owned()),
        plain("kernel.config", kernel.config.to_string()),
        plain("kernel.headers", kernel.headers.to_string()),
        plain("kernel.source", kernel.source.map_or(String::new(), |path| path.display().to_string())),
    ];
    let tools = inputs.tools.iter().filter(|tool| inputs.rust || !rust::is_role(&tool.role));
    fields.extend(tools.map(|tool| Field {
        name: format!("toolchain.{}", tool.role),
        value: tool.digest.to_string(),
        note: Some(tool.version.clone()).filter(|text| !text.is_empty()),
    }));
    fields.push(plain(KBUILD, kernel.programs.to_string()));
    let dependencies: Vec<String> =
        inputs.dependencies.iter().map(|(name, kin)| format!("{name} {kin}")).collect();
    for (name, digest) in ["system.release", "system.map"].iter().zip(inputs.system) {
        fields.push(plain(name, digest.map_or(String::new(), |digest| digest.to_string())));
    }
    fields.push(plain("dependencies", dependencies.join("\n")));
    let environment: Vec<String> =
        inputs.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    fields.push(plain("environment", environment.join("\n")));
    fields.push(plain("sandbox", SANDBOX.to_owned()));
    fields.extend(inputs.cpu.map(|cpu| Field {
        name: CPU.to_owned(),
        value: Digest::of(cpu.as_bytes()).to_string(),
        note: native::model(cpu).map(str::to_owned),
    }));
    fields
}

/// Whether the build of a key is for CPUs like one host's only.
pub fn is_for_one_cpu(fields: &[Field]) -> bool {
    fields.iter().any(|field| field.name == CPU)
}

/// Whether a field is of the tools, and no part of the kin.
pub fn is_tool(name: &str) -> bool {
    name.starts_with("toolchain.") || matches!(name, "environment" | "sandbox")
}

/// The key of a sequence of fields.
pub fn key(fields: &[Field]) -> Key {
    Key::from_bytes(hash(CONTEXT, fields.iter()))
}

/// The kin of a sequence of fields. Entries that were made before there were files of the system have no fields for them.
pub fn kin(fields: &[Field]) -> Digest {
    let is_unused = |field: &Field| field.name.starts_with("system.") && field.value.is_empty();
    Digest::from_bytes(hash(KIN, fields.iter().filter(|field| !is_tool(&field.name) && !is_unused(field))))
}

/// Whether a key is that of these fields, also one that was made before programs were a field of their own.
pub fn is_of(key: &Key, fields: &[Field]) -> bool {
    let is_old = !fields.iter().any(|field| field.name == KBUILD);
    let context = if is_old { BEFORE } else { CONTEXT };
    *key.as_bytes() == hash(context, fields.iter())
}

/// Each name and value preceded by its length, so that no two sequences read alike.
fn hash<'a>(context: &str, fields: impl Iterator<Item = &'a Field>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for text in fields.flat_map(|field| [&field.name, &field.value]) {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// The parts of a recipe that affect the modules, as JSON. Automatic installation and notes do not.
fn recipe_text(recipe: &Recipe) -> String {
    serde_json::json!({
        "name": recipe.name,
        "version": recipe.version,
        "steps": recipe.steps,
        "modules": recipe.modules,
        "depends": recipe.depends,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kcache_kernel::recipe::{Modules, RecipeModule, Step, StepKind};
    use proptest::prelude::*;
    use std::path::PathBuf;

    fn recipe() -> Recipe {
        Recipe {
            name: "a".into(),
            version: "1".into(),
            excluded: None,
            steps: vec![Step { kind: StepKind::Make, command: "make".into() }],
            modules: Modules::Listed(vec![RecipeModule { built: "a".into(), name: "a".into(), strip: true }]),
            depends: vec![],
            automatic: true,
            hooks: vec![],
            notes: vec![],
            writes: false,
        }
    }

    /// The key after one change to otherwise fixed inputs.
    fn changed(
        change: impl FnOnce(&mut Recipe, &mut Vec<Tool>, &mut Vec<(String, Digest)>, &mut [String; 9]),
    ) -> Key {
        key(&fields_changed(change))
    }

    fn fields_changed(
        change: impl FnOnce(&mut Recipe, &mut Vec<Tool>, &mut Vec<(String, Digest)>, &mut [String; 9]),
    ) -> Vec<Field> {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let mut recipe = recipe();
        let mut tools = vec![Tool {
            role: "cc".into(),
            digest: digest("gcc"),
            version: "12".into(),
            path: PathBuf::new(),
        }];
        let mut dependencies = vec![];
        let mut texts =
            ["source", "release", "arch", "version", "config", "headers", "/src", "overrides", "programs"]
                .map(str::to_owned);
        change(&mut recipe, &mut tools, &mut dependencies, &mut texts);
        let [source, release, arch, version, config, headers, kernel_source, overrides, programs] = &texts;
        let (config, headers, programs) = (digest(config), digest(headers), digest(programs));
        let kernel_source = Some(Path::new(kernel_source));
        let kernel =
            KernelInputs { release, arch, version, config, headers, programs, source: kernel_source };
        let environment = ENVIRONMENT;
        fields(&Inputs {
            source: digest(source),
            recipe: &recipe,
            overrides: Some(digest(overrides)),
            kernel,
            tools: &tools,
            dependencies: &dependencies,
            system: [None, Some(Digest::of(b"map"))],
            rust: true,
            cpu: None,
            environment: &environment,
        })
    }

    #[test]
    fn kin_is_what_is_built_and_not_what_with() {
        let kin_after = |fields: Vec<Field>| kin(&fields);
        let base = kin_after(fields_changed(|_, _, _, _| {}));
        for at in 0..8 {
            assert_ne!(base, kin_after(fields_changed(|_, _, _, texts| texts[at].push('x'))), "text {at}");
        }
        let other = Digest::of(b"other");
        assert_ne!(base, kin_after(fields_changed(|recipe, _, _, _| recipe.steps[0].command.push('x'))));
        assert_ne!(
            base,
            kin_after(fields_changed(|_, _, dependencies, _| dependencies.push(("b".into(), other))))
        );
        assert_eq!(base, kin_after(fields_changed(|_, tools, _, _| tools[0].digest = other)));
        assert_eq!(base, kin_after(fields_changed(|_, tools, _, _| tools.clear())));
        assert_eq!(base, kin_after(fields_changed(|_, _, _, texts| texts[8].push('x'))), "kbuild");
        let mut fields = fields_changed(|_, _, _, _| {});
        for name in ["environment", "sandbox"] {
            fields.iter_mut().find(|field| field.name == name).unwrap().value.push('x');
        }
        assert_eq!(base, kin(&fields));
        assert_ne!(*kin(&fields).as_bytes(), *key(&fields).as_bytes());
    }

    #[test]
    fn a_key_from_before_programs_were_a_field_is_known_for_its_fields_and_no_others() {
        let now = fields_changed(|_, _, _, _| {});
        let old: Vec<Field> = now.iter().filter(|field| field.name != KBUILD).cloned().collect();
        let old_key = Key::from_bytes(hash(BEFORE, old.iter()));
        assert!(is_of(&old_key, &old) && is_of(&key(&now), &now));
        assert!(
            !is_of(&key(&old), &old)
                && !is_of(&old_key, &now)
                && !is_of(&Key::from_bytes(hash(BEFORE, now.iter())), &now)
        );
    }

    #[test]
    fn each_field_alone_changes_the_key() {
        let base = changed(|_, _, _, _| {});
        for at in 0..9 {
            assert_ne!(base, changed(|_, _, _, texts| texts[at].push('x')), "text {at}");
        }
        let other = Digest::of(b"other");
        assert_ne!(base, changed(|recipe, _, _, _| recipe.steps[0].command.push('x')));
        assert_ne!(base, changed(|recipe, _, _, _| recipe.steps[0].kind = StepKind::Clean));
        assert_ne!(base, changed(|recipe, _, _, _| recipe.version.push('x')));
        assert_ne!(base, changed(|recipe, _, _, _| recipe.modules = Modules::Found));
        assert_ne!(base, changed(|_, tools, _, _| tools[0].digest = Digest::of(b"other")));
        assert_ne!(base, changed(|_, tools, _, _| tools[0].role.push('x')));
        assert_ne!(base, changed(|_, _, dependencies, _| dependencies.push(("b".into(), other))));
        assert_eq!(base, changed(|_, _, _, _| {}));
    }

    /// The fields of a package that uses rustc, or asks for the CPU.
    fn with(cpu: Option<&str>, rust: bool) -> Vec<Field> {
        let tool = |role: &str| Tool {
            role: role.to_owned(),
            digest: Digest::of(role.as_bytes()),
            version: String::new(),
            path: PathBuf::new(),
        };
        let recipe = recipe();
        let (none, environment) = (Digest::of(b""), ENVIRONMENT);
        let kernel = KernelInputs {
            release: "r",
            arch: "a",
            version: "v",
            config: none,
            headers: none,
            programs: none,
            source: None,
        };
        let (source, recipe, overrides, tools, dependencies) =
            (none, &recipe, None, &["rustc", "rustc.driver", "bindgen"].map(tool), &[][..]);
        let environment = &environment[..];
        fields(&Inputs {
            source,
            recipe,
            overrides,
            kernel,
            tools,
            dependencies,
            cpu,
            rust,
            system: [None, None],
            environment,
        })
    }

    #[test]
    fn rustc_is_part_of_the_key_of_packages_with_rust_and_of_no_kin() {
        let (of_c, of_rust) = (with(None, false), with(None, true));
        let names = |fields: &[Field]| {
            let tools = fields.iter().filter(|field| is_tool(&field.name) && field.name != KBUILD);
            tools.map(|field| field.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&of_c), ["environment", "sandbox"]);
        let rust = ["toolchain.rustc", "toolchain.rustc.driver", "toolchain.bindgen"];
        assert_eq!(names(&of_rust), [&rust[..], &["environment", "sandbox"]].concat());
        assert_ne!(key(&of_c), key(&of_rust));
        assert_eq!(kin(&of_c), kin(&of_rust));
    }

    #[test]
    fn a_cpu_is_part_of_key_and_kin_if_flags_ask_for_it() {
        let with = |cpu: Option<&str>| with(cpu, false);
        let [none, one, other] = [None, Some("flags : avx"), Some("flags : sse")].map(with);
        assert!(key(&one) != key(&other) && key(&one) != key(&none));
        // No build for another CPU may stand in for it.
        assert!(kin(&one) != kin(&other) && kin(&one) != kin(&none));
        assert!(is_for_one_cpu(&one) && !is_for_one_cpu(&none));
    }

    #[test]
    fn environment_and_sandbox_are_fields() {
        let field = |name: &str, value: &str| Field { name: name.into(), value: value.into(), note: None };
        let with = |env: &str, room: &str| key(&[field("environment", env), field("sandbox", room)]);
        assert_ne!(with("LANG=C", "1"), with("LANG=C", "2"));
        assert_ne!(with("LANG=C", "1"), with("LANG=D", "1"));
    }

    #[test]
    fn inputs_without_effect_on_modules_are_not_in_the_key() {
        let base = changed(|_, _, _, _| {});
        assert_eq!(base, changed(|_, tools, _, _| tools[0].version.push_str(" (same program)")));
        assert_eq!(base, changed(|recipe, _, _, _| recipe.automatic = false));
        assert_eq!(base, changed(|recipe, _, _, _| recipe.notes.push("deprecated".into())));
    }

    #[test]
    fn names_and_values_cannot_be_confused() {
        let field = |name: &str, value: &str| Field { name: name.into(), value: value.into(), note: None };
        assert_ne!(key(&[field("ab", "c")]), key(&[field("a", "bc")]));
        assert_ne!(key(&[field("a", "b"), field("c", "d")]), key(&[field("a", "bcd")]));
    }

    /// Splits a text at these positions into pieces, which are alternately names and values.
    fn pieces(text: &str, cuts: &[usize]) -> Vec<Field> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
        cuts.sort();
        let from = std::iter::once(0).chain(cuts.iter().copied());
        let to = cuts.iter().copied().chain([text.len()]);
        let words: Vec<&str> = from.zip(to).map(|(from, to)| &text[from..to]).collect();
        let field = |pair: &[&str]| Field { name: pair[0].into(), value: pair[1..].concat(), note: None };
        words.chunks(2).map(field).collect()
    }

    proptest! {
        #[test]
        fn fields_cannot_be_confused(
            text in "[a-c\\x00 =\n]{0,12}",
            cuts in proptest::collection::vec(any::<usize>(), 1..6),
            others in proptest::collection::vec(any::<usize>(), 1..6),
        ) {
            let (one, other) = (pieces(&text, &cuts), pieces(&text, &others));
            prop_assert_eq!(key(&one) == key(&other), one == other);
        }

        #[test]
        fn what_moves_between_inputs_changes_the_key(text in "[a-z]{2,12}", at: usize, from in 0..9usize, to in 0..9usize) {
            prop_assume!(from != to);
            let (head, tail) = text.split_at(1 + at % (text.len() - 1));
            let with = |first: &str, second: &str| changed(|_, _, _, texts| {
                texts[from].push_str(first);
                texts[to].insert_str(0, second);
            });
            prop_assert_ne!(with(&text, ""), with(head, tail));
        }
    }

    #[test]
    fn the_key_of_given_fields_never_changes() {
        let field = Field { name: "kernel.release".into(), value: "6.1".into(), note: None };
        assert_eq!(
            key(std::slice::from_ref(&field)).to_string(),
            "4cce9ba713ffe1185ba764d502b328c90c58a768ceea906a5c64762203f4fa97"
        );
        let before = Key::from_bytes(hash(BEFORE, [&field].into_iter()));
        assert_eq!(before.to_string(), "44680592810e4af3178664dce9eb066daac924e52aa3da25282598db31ffbb95");
    }
}
