//! Kin: builds of the same thing by other tools, and which of them may stand in for one another.
//!
//! A distribution replaces kbuild's programs with every update of any kernel of a series, and the compiler now and then; hosts of a
//! fleet are at different patch levels. Mostly the bits that come out are the same. The setting `other-tools` says how far that is
//! relied on:
//!
//! | `other-tools` | a build is used that was made with |
//! |---|---|
//! | `never` | exactly the tools of this host |
//! | `kbuild` | other programs of the kernel's build tree, or another version of kcache's sandbox that makes the same bits |
//! | `same-compiler` | these, and another patch level of the tools: of the compiler the same family and major version, which must be those that built the kernel; of all others the same version number |
//!
//! Whatever stands in passes the same checks against the kernel as any build, and is reported.

use kcache_store::Field;

use crate::inputs::change::InputChange;
use crate::inputs::difference::{Difference, differences};
use crate::inputs::key;
use crate::run::policy::OtherTools;

/// Versions of the sandbox in which the same build gives the same bits. See `SANDBOX` in `key.rs`.
const SAME_BITS: [&str; 1] = ["4"];

/// The tools in which two builds differ.
pub fn tools(before: &[Field], now: &[Field]) -> Vec<Difference> {
    let (before, now) = (of_tools(before), of_tools(now));
    differences(&before, &now)
}

fn of_tools(fields: &[Field]) -> Vec<Field> {
    fields.iter().filter(|field| key::is_tool(&field.name)).cloned().collect()
}

/// Whether a build with these fields may stand in for one with `now`, which is of the same kin. `compiler` is how the kernel names
/// the one that built it (`CONFIG_CC_VERSION_TEXT`).
pub fn may_stand_in(policy: OtherTools, before: &[Field], now: &[Field], compiler: Option<&str>) -> bool {
    let find = |fields: &'_ [Field], name: &str| fields.iter().find(|field| field.name == name).cloned();
    let cc = |fields: &[Field]| Compiler::parse(&find(fields, "toolchain.cc")?.note?);
    let built_by = compiler.and_then(Compiler::parse);
    let is_same_compiler = built_by.is_some() && cc(before) == built_by && cc(now) == built_by;
    let differing: Vec<String> = tools(before, now).iter().map(|tool| tool.field.to_string()).collect();
    differing.iter().all(|name| match (find(before, name), find(now, name)) {
        (Some(before), Some(now)) => may_differ(policy, &before, &now, is_same_compiler),
        _ => false, // one of the two has a tool that the other has not
    })
}

fn may_differ(policy: OtherTools, before: &Field, now: &Field, is_same_compiler: bool) -> bool {
    match (policy, before.name.as_str()) {
        (OtherTools::Never, _) | (_, "environment") => false,
        (_, key::KBUILD) => true,
        (_, "sandbox") => [before, now].iter().all(|field| SAME_BITS.contains(&field.value.as_str())),
        (OtherTools::Kbuild, _) => false,
        // cc1 does not say which it is: it comes with cc.
        (OtherTools::SameCompiler, "toolchain.cc" | "toolchain.cc1") => is_same_compiler,
        (OtherTools::SameCompiler, _) => {
            let [before, now] = [before, now].map(|field| version(field.note.as_deref().unwrap_or_default()));
            before.is_some() && before == now
        }
    }
}

/// A compiler's family and major version.
#[derive(Debug, PartialEq, Eq)]
struct Compiler {
    is_clang: bool,
    major: String,
}

impl Compiler {
    /// Of how it introduces itself: `gcc-12 (Debian 12.2.0-14) 12.2.0`, `Debian clang version 14.0.6`.
    fn parse(text: &str) -> Option<Compiler> {
        let is_clang = text.contains("clang");
        let major = version(text)?.split('.').next()?.to_owned();
        (is_clang || text.contains("gcc")).then_some(Compiler { is_clang, major })
    }
}

/// The version number in how a tool introduces itself: the first that is not in parentheses, where distributions say theirs.
fn version(text: &str) -> Option<&str> {
    let outside = text.split('(').flat_map(|part| part.rsplit(')').next()).flat_map(str::split_whitespace);
    outside.map(|word| word.trim_start_matches('v')).find_map(|word| {
        let number = word.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        (number.starts_with(|c: char| c.is_ascii_digit()) && number.contains('.')).then_some(number)
    })
}

/// What to tell of a build that stands in: `cc: gcc (Debian 12.2.0-14) 12.2.0, here gcc (Debian 12.2.0-14+deb12u1) 12.2.0; kbuild`.
pub fn in_words(differences: &[Difference]) -> String {
    let each = differences.iter().map(|tool| match &tool.field {
        InputChange::Tool(role) if role == "kbuild" => "kbuild".to_owned(),
        InputChange::Tool(role) => {
            let [before, now] = [&tool.before, &tool.now]
                .map(|text| text.as_deref().map_or("none", |text| note(text)).to_owned());
            if before == now { role.clone() } else { format!("{role}: {before}, here {now}") }
        }
        other => other.to_string(),
    });
    each.collect::<Vec<_>>().join("; ")
}

/// The text for people of a tool: `0123456789ab (gcc 12)` is `gcc 12`.
fn note(text: &str) -> &str {
    text.split_once(" (").and_then(|(_, note)| note.strip_suffix(')')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0";

    fn field(name: &str, value: &str, note: &str) -> Field {
        let note = Some(note.to_owned()).filter(|note| !note.is_empty());
        Field { name: name.into(), value: value.into(), note }
    }

    fn fields() -> Vec<Field> {
        vec![
            field("source", "s", ""),
            field("toolchain.cc", "1", "gcc-12 (Debian 12.2.0-14) 12.2.0"),
            field("toolchain.cc1", "1", ""),
            field("toolchain.ld", "1", "GNU ld (GNU Binutils for Debian) 2.40"),
            field("toolchain.predef", "1", ""),
            field("toolchain.kbuild", "1", ""),
            field("environment", "LANG=C", ""),
            field("sandbox", "3", ""),
        ]
    }

    /// Whether the build stands in where one field is another.
    fn check(name: &str, value: &str, note: &str, expect: [bool; 3]) {
        let mut now = fields();
        *now.iter_mut().find(|field| field.name == name).unwrap() = field(name, value, note);
        let policies = [OtherTools::Never, OtherTools::Kbuild, OtherTools::SameCompiler];
        let found = policies.map(|policy| may_stand_in(policy, &fields(), &now, Some(DEBIAN)));
        assert_eq!(found, expect, "{name} {note}");
        let back = policies.map(|policy| may_stand_in(policy, &now, &fields(), Some(DEBIAN)));
        assert_eq!(back, expect, "{name} {note}, the other way");
    }

    #[test]
    fn each_tool_may_differ_as_the_setting_allows() {
        check("toolchain.kbuild", "2", "", [false, true, true]);
        check("toolchain.cc", "2", DEBIAN, [false, false, true]);
        check("toolchain.cc", "2", "gcc-12 (Debian 12.2.0-14) 12.3.0", [false, false, true]);
        check("toolchain.cc", "2", "gcc-13 (Debian 13.2.0-1) 13.2.0", [false; 3]);
        check("toolchain.cc", "2", "Debian clang version 12.0.6", [false; 3]);
        check("toolchain.cc", "2", "", [false; 3]);
        check("toolchain.cc1", "2", "", [false, false, true]);
        check("toolchain.ld", "2", "GNU ld (GNU Binutils for Debian, u1) 2.40", [false, false, true]);
        check("toolchain.ld", "2", "GNU ld (GNU Binutils for Debian) 2.41", [false; 3]);
        check("toolchain.predef", "2", "", [false; 3]);
        check("environment", "LANG=D", "", [false; 3]);
        check("sandbox", "2", "", [false; 3]);
        check("sandbox", "3", "", [true; 3]);
    }

    #[test]
    fn a_tool_that_one_has_alone_and_a_compiler_unlike_the_kernels_do_not_do() {
        let mut less = fields();
        less.retain(|field| field.name != "toolchain.ld");
        assert!(!may_stand_in(OtherTools::SameCompiler, &fields(), &less, Some(DEBIAN)));
        let mut now = fields();
        now[1] = field("toolchain.cc", "2", DEBIAN);
        for compiler in [None, Some("gcc-13 (Debian 13.2.0-1) 13.2.0"), Some("Debian clang version 12.0.1")] {
            assert!(!may_stand_in(OtherTools::SameCompiler, &fields(), &now, compiler), "{compiler:?}");
        }
    }

    #[test]
    fn versions_are_parsed_from_messages_of_tools() {
        for (text, expect) in [
            (DEBIAN, Some("12.2.0")),
            ("gcc (GCC) 13.2.1 20230918 (Red Hat 13.2.1-3)", Some("13.2.1")),
            ("GNU ld version 2.40-14.fc39", Some("2.40")),
            ("Ubuntu clang version 14.0.0-1ubuntu1.1", Some("14.0.0")),
            ("GNU ld (GNU Binutils for Debian) 2.40", Some("2.40")),
            ("Debian clang version 14.0.6", Some("14.0.6")),
            ("pahole v1.24", Some("1.24")),
            ("Debian LLD 14.0.6 (compatible with GNU linkers)", Some("14.0.6")),
            ("gcc", None),
            ("", None),
        ] {
            assert_eq!(version(text), expect, "{text}");
        }
    }

    #[test]
    fn a_stand_in_is_reported_by_its_compilers_versions() {
        let mut now = fields();
        now[1] = field("toolchain.cc", "2", DEBIAN);
        now[5] = field("toolchain.kbuild", "2", "");
        let expect =
            "cc: gcc-12 (Debian 12.2.0-14) 12.2.0, here gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0; kbuild";
        assert_eq!(in_words(&tools(&fields(), &now)), expect);
    }
}
