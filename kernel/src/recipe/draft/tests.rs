use std::path::Path;

use super::*;
use crate::kconfig::Kconfig;
use crate::recipe::{Step, Target, toml};

const RELEASE: &str = "6.1.0-56-amd64";
const PLAIN_NOW: &str = "make -C /lib/modules/6.1.0-56-amd64/build M=/var/lib/dkms/a/1/build modules";

fn recipe(steps: &[(StepKind, &str)], modules: &[&str]) -> Recipe {
    let module = |built: &&str| {
        let name = built.rsplit('/').next().unwrap_or_default().to_owned();
        RecipeModule { built: (*built).to_owned(), name, strip: true }
    };
    Recipe {
        name: "a".into(),
        version: "1".into(),
        excluded: None,
        steps: steps
            .iter()
            .map(|(kind, command)| Step { kind: *kind, command: (*command).to_owned() })
            .collect(),
        modules: Modules::Listed(modules.iter().map(module).collect()),
        depends: Vec::new(),
        automatic: true,
        notes: Vec::new(),
        writes: false,
        hooks: Vec::new(),
    }
}

/// The recipe that a draft gives for a kernel.
fn meaning(text: &str) -> Recipe {
    let path = Path::new("kcache.toml");
    let config = Kconfig::new(String::new());
    let target = Target { release: RELEASE, arch: "x86_64", config: &config };
    let file = toml::parse(path, text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    toml::recipe(path, &file, &target).unwrap()
}

#[test]
fn the_plain_command_is_omitted() {
    let build = "make -C /lib/modules/6.1.0-56-amd64/build M=/var/lib/dkms/a/1/build";
    let steps = [
        (StepKind::Clean, &*format!("{build} clean")),
        (StepKind::Make, &*build.replacen("make", "make KERNELRELEASE=6.1.0-56-amd64", 1)),
    ];
    let text = from_dkms("", &[(RELEASE, &recipe(&steps, &["a"]))]).unwrap();
    assert_eq!(text, "name = \"a\"\nversion = \"1\"\n\n[[module]]\nname = \"a\"\n");
}

#[test]
fn variables_are_restored_in_commands_even_in_quotes() {
    let recipe = recipe(&[], &[]);
    let check = |command: &str, expect: &str| assert_eq!(portable(command, &recipe, RELEASE), expect);
    check("make K=6.1.0-56-amd64", "make K=$kernelver");
    check("make K='x 6.1.0-56-amd64'", "make K='x '\"$kernelver\"''");
    check("make K=\"it's 6.1.0-56-amd64\"", "make K=\"it's $kernelver\"");
    check("x 6.1.0-56-amd64_old \\'6.1.0-56-amd64", "x ${kernelver}_old \\'$kernelver");
    check(
        "cd /var/lib/dkms/a/1/build/src; ls /usr/src/a-1",
        "cd $dkms_tree/$module/$module_version/build/src; ls $source_tree/$module-$module_version",
    );
}

#[test]
fn patches_hooks_cleaning_and_restrictions_keep_their_meaning() {
    let steps = [
        (StepKind::Patch, "patches/x.diff"),
        (StepKind::Hook, "pre.sh 1"),
        (StepKind::Clean, "make clean"),
        (StepKind::Make, "make all"),
        (StepKind::Hook, "post.sh"),
    ];
    let conf = "BUILD_EXCLUSIVE_CONFIG=\"CONFIG_A !CONFIG_B\"\nBUILD_EXCLUSIVE_ARCH='^(x86_64|aarch64)$'\nPOST_INSTALL=\"udev.sh\"\n";
    let text = from_dkms(conf, &[(RELEASE, &recipe(&steps, &["src/a", "b"]))]).unwrap();
    let commands: Vec<_> = meaning(&text).steps.into_iter().map(|step| (step.kind, step.command)).collect();
    let make = |command: &str| (StepKind::Make, command.to_owned());
    assert_eq!(
        commands,
        [
            (StepKind::Patch, "patches/x.diff".to_owned()),
            make("./pre.sh 1"),
            make("make clean || true"),
            make("make all"),
            make("./post.sh"),
        ]
    );
    assert!(
        text.contains("config = [\"CONFIG_A\", \"!CONFIG_B\"]\narch = [\"x86_64\", \"aarch64\"]"),
        "{text}"
    );
    assert!(text.contains("# dkms.conf:3: POST_INSTALL has no counterpart; not run: udev.sh"), "{text}");
    assert!(text.contains("name = \"a\"\npath = \"src\"\n"), "{text}");
}

#[test]
fn differences_between_kernels_become_comments() {
    let old = recipe(&[(StepKind::Patch, "patches/old.diff"), (StepKind::Make, "make old")], &["a", "b"]);
    let new = recipe(&[(StepKind::Make, "make new")], &["a"]);
    let text = from_dkms("", &[("5.10", &old), (RELEASE, &new)]).unwrap();
    for line in [
        "# dkms.conf has different commands for 5.10:",
        "#     make old",
        "# 5.10: a b",
        "# patches/old.diff is applied for 5.10",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let meaning = meaning(&text);
    assert_eq!(meaning.modules, Modules::Found);
    assert_eq!(meaning.steps.len(), 1);
}

#[test]
fn a_source_tree_lists_its_modules_unless_some_are_conditional() {
    let object = |name: &str, condition: Option<&str>| super::super::objects::Object {
        name: name.into(),
        dir: "src".into(),
        file: "Kbuild".into(),
        line: 1,
        condition: condition.map(str::to_owned),
        sources: Vec::new(),
        complete: true,
    };
    let text = |modules| {
        let objects = Objects { modules, complete: true, ..Objects::default() };
        from_source(&recipe(&[(StepKind::Make, PLAIN_NOW)], &[]), RELEASE, None, &objects)
    };
    assert!(
        matches!(meaning(&text(vec![object("x", None)])).modules, Modules::Listed(list) if list[0].built == "src/x")
    );
    let text = text(vec![object("x", None), object("y", Some("CONFIG_Y"))]);
    assert!(text.contains("src/y (CONFIG_Y)"), "{text}");
    assert_eq!(meaning(&text).modules, Modules::Found);
}

#[test]
fn a_source_tree_keeps_the_command_that_built_it() {
    let make = format!("make KDIR=/lib/modules/{RELEASE}/build KVER={RELEASE}");
    let recipe = recipe(&[(StepKind::Attempt, &make), (StepKind::Attempt, PLAIN_NOW)], &[]);
    let draft = |built_by| from_source(&recipe, RELEASE, built_by, &Objects::default());
    let line = "make = [\"make KDIR=$kernel_source_dir KVER=$kernelver\"]\n";
    let untried = draft(None);
    assert!(untried.contains(line) && untried.contains("# Not built yet."), "{untried}");
    assert!(untried.contains(&format!("#     {PLAIN} modules\n")), "{untried}");
    let built = draft(Some(&make));
    assert!(built.contains(line) && !built.contains("Not built yet"), "{built}");
    let by_kbuild = draft(Some(PLAIN_NOW));
    assert!(!by_kbuild.contains("make"), "{by_kbuild}");
}
