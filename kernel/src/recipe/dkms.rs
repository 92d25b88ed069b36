//! `dkms.conf`: a recipe that is a bash program.
//!
//! It is evaluated by bash, in the sandbox, once for each kernel, the way DKMS does it (dkms(8), and the functions
//! `read_conf` and `safe_source` of the `dkms` script), quirks included, because real packages lean on them:
//!
//! - The package's file comes first, then `/etc/dkms/NAME.conf`, `NAME-VERSION.conf`, `NAME-VERSION-KERNEL.conf` and
//!   `NAME-VERSION-KERNEL-ARCH.conf`. Of each only the directives survive, not other variables.
//! - The value of a directive is expanded a second time, between double quotes, after white space was folded.
//! - A scalar stands for element 0 of an array; `STRIP[0]` is the default for all.
//! - `MAKE_MATCH`: the last one that matches wins. Without `MAKE` it is the plain Kbuild line.
//! - A `MAKE` that begins with `make` gets `KERNELRELEASE=K` right behind it; `'make'` in quotes does not.
//!
//! The evaluation ends by printing what it decided, as text separated by NUL, behind a mark that no directive can hold.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::toml::{join, missing_config};
use super::{Error, Module, Modules, Recipe, Step, StepKind, Target, build_dir, checked, kernel_source_dir};
use crate::release;
use crate::sandbox::{Ended, Sandbox, Watch};

/// Longest that evaluating a recipe may take. Real ones take milliseconds; some run `sort -V`, a few a compiler.
const LIMIT: Duration = Duration::from_secs(20);

/// Most that an evaluation may print, in bytes; a module list is a few KiB.
const MOST_OUTPUT: usize = 1 << 20;

/// Stands for the number of jobs and of CPUs while a recipe is evaluated: the jobserver bounds the run, and this machine's
/// own number must not become part of a key. A number, because recipes calculate with it.
pub const JOBS: usize = 7919;

/// What stands before the answer in the output.
const MARK: &[u8] = b"\0kcache\0";

/// Evaluates a package's `dkms.conf` for the kernel that the sandbox claims to run. `source` is where the sandbox shows
/// the package's source.
pub fn evaluate(
    sandbox: &Sandbox,
    source: &Path,
    name: &str,
    version: &str,
    target: &Target,
    cancel: &AtomicBool,
) -> Result<Recipe, Error> {
    let conf = source.join("dkms.conf");
    let bad = |reason: String| Error::Bad { path: conf.clone(), reason };
    let script = script(&conf, name, version, target);
    let mut output = Vec::new();
    let mut keep = |piece: &[u8]| {
        output.extend_from_slice(&piece[..piece.len().min(MOST_OUTPUT - output.len().min(MOST_OUTPUT))])
    };
    let watch = Watch { limit: LIMIT, cancel, output: &mut keep, jobserver: None, opened: None };
    let env = [("LANG", "C"), ("LC_ALL", "C"), ("TZ", "UTC"), ("HOME", "/tmp")];
    let ended = sandbox.run(&script, source, &env, watch)?;
    if ended == Ended::Cancelled {
        return Err(Error::Cancelled);
    }
    if ended == Ended::TimedOut {
        return Err(bad(format!("still not evaluated after {} s", LIMIT.as_secs())));
    }
    let answer = find_last(&output, MARK);
    let (talk, answer) = match answer {
        Some(at) if ended == Ended::Status(0) => (&output[..at], &output[at + MARK.len()..]),
        _ => return Err(bad(complaint(&output, ended))),
    };
    let answer = Answer::parse(answer).ok_or_else(|| bad(complaint(talk, ended)))?;
    checked(answer.recipe(target).map_err(bad)?, &conf)
}

/// The name and version that a `dkms.conf` assigns in so many words; most do, and finding a package then takes no bash.
pub fn literal_name(text: &str) -> (Option<String>, Option<String>) {
    let assigned = |variable: &str| {
        text.lines().find_map(|line| {
            let value = line.trim().strip_prefix(variable)?.strip_prefix('=')?.trim_end();
            let value = value.split(" #").next().unwrap_or(value).trim_end();
            let value = match value.as_bytes() {
                [b'"', .., b'"'] | [b'\'', .., b'\''] => &value[1..value.len() - 1],
                _ => value,
            };
            super::is_version(value).then(|| value.to_owned())
        })
    };
    (assigned("PACKAGE_NAME"), assigned("PACKAGE_VERSION"))
}

/// The variables that recipes may use, as shell assignments (dkms(8), "dkms.conf"; evaluated here and when steps run).
pub fn variables(name: &str, version: &str, release: &str, arch: &str) -> String {
    let quote = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    format!(
        "dkms_tree=/var/lib/dkms source_tree=/usr/src install_tree=/lib/modules tmp_location=/tmp\n\
         module={name} PACKAGE_NAME={name} module_version={version} PACKAGE_VERSION={version}\n\
         kernelver={release} arch={arch} kernel_source_dir={source}\n",
        name = quote(name),
        version = quote(version),
        release = quote(release),
        arch = quote(arch),
        source = quote(&kernel_source_dir(release)),
    )
}

fn script(conf: &Path, name: &str, version: &str, target: &Target) -> String {
    let variables = variables(name, version, target.release, target.arch);
    let conf = conf.display().to_string().replace('\'', r"'\''");
    format!("{variables}parallel_jobs={JOBS}\nunset PACKAGE_NAME PACKAGE_VERSION\nconf='{conf}'\n{EVALUATE}")
}

const EVALUATE: &str = r#"
directives='CLEAN AUTOINSTALL NO_WEAK_MODULES PACKAGE_NAME PACKAGE_VERSION OBSOLETE_BY
    POST_ADD POST_BUILD POST_INSTALL POST_REMOVE PRE_BUILD PRE_INSTALL
    BUILD_DEPENDS BUILD_EXCLUSIVE_KERNEL BUILD_EXCLUSIVE_KERNEL_MIN BUILD_EXCLUSIVE_KERNEL_MAX
    BUILD_EXCLUSIVE_ARCH BUILD_EXCLUSIVE_CONFIG MAKE MAKE_MATCH PATCH PATCH_MATCH STRIP
    BUILT_MODULE_NAME BUILT_MODULE_LOCATION DEST_MODULE_NAME DEST_MODULE_LOCATION
    REMAKE_INITRD MODULES_CONF MODULES_CONF_OBSOLETES MODULES_CONF_ALIAS_TYPE MODULES_CONF_OBSOLETE_ONLY'

take() {
    bash -n "$1" || exit 65
    local text
    text=$(
        . "$1" >/dev/null
        set -f
        for _name in $directives; do
            declare -n _array=$_name
            for _i in "${!_array[@]}"; do
                echo "$_name[$_i]=\""${_array[_i]}\"
            done
            unset -n _array
        done
    )
    eval "$text"
}

take "$conf"
for _file in "$module" "$module-$module_version" "$module-$module_version-$kernelver" \
        "$module-$module_version-$kernelver-$arch"; do
    [[ -e /etc/dkms/$_file.conf ]] && take "/etc/dkms/$_file.conf"
done

make_command=
[[ ${MAKE_MATCH[0]} ]] || make_command=${MAKE[0]}
for ((i = 0; i < ${#MAKE[@]}; i++)); do
    [[ ${MAKE[i]} && ${MAKE_MATCH[i]} && $kernelver =~ ${MAKE_MATCH[i]} ]] && make_command=${MAKE[i]}
done

excluded=
[[ $BUILD_EXCLUSIVE_KERNEL && ! $kernelver =~ $BUILD_EXCLUSIVE_KERNEL ]] &&
    excluded="BUILD_EXCLUSIVE_KERNEL is $BUILD_EXCLUSIVE_KERNEL"
[[ $BUILD_EXCLUSIVE_ARCH && ! $arch =~ $BUILD_EXCLUSIVE_ARCH ]] &&
    excluded="BUILD_EXCLUSIVE_ARCH is $BUILD_EXCLUSIVE_ARCH"

printf '\0kcache\0'
record() { printf '%s\0' "$@"; }
record name "$PACKAGE_NAME" version "$PACKAGE_VERSION" make "$make_command" clean "$CLEAN" excluded "$excluded"
record pre_build "$PRE_BUILD" post_build "$POST_BUILD" automatic "$AUTOINSTALL"
record min "$BUILD_EXCLUSIVE_KERNEL_MIN" max "$BUILD_EXCLUSIVE_KERNEL_MAX" config "$BUILD_EXCLUSIVE_CONFIG"
for package in "${BUILD_DEPENDS[@]}"; do record depends "$package"; done
for ((i = 0; i < ${#PATCH[@]}; i++)); do
    [[ ${PATCH[i]} && ( ! ${PATCH_MATCH[i]} || $kernelver =~ ${PATCH_MATCH[i]} ) ]] && record patch "${PATCH[i]}"
done
for name in REMAKE_INITRD MODULES_CONF MODULES_CONF_OBSOLETES MODULES_CONF_ALIAS_TYPE MODULES_CONF_OBSOLETE_ONLY; do
    declare -n array=$name
    ((${#array[@]})) && record deprecated "$name"
    unset -n array
done
size=0
for count in ${#BUILT_MODULE_NAME[@]} ${#BUILT_MODULE_LOCATION[@]} ${#DEST_MODULE_NAME[@]} ${#DEST_MODULE_LOCATION[@]}; do
    ((count > size)) && size=$count
done
for ((i = 0; i < size; i++)); do
    built=${BUILT_MODULE_NAME[i]}
    [[ ! $built ]] && ((${#DEST_MODULE_LOCATION[@]} == 1)) && built=$PACKAGE_NAME
    record module "$i" built "$built" location "${BUILT_MODULE_LOCATION[i]}"
    record dest "${DEST_MODULE_NAME[i]:-$built}" strip "${STRIP[i]:-${STRIP[0]:-yes}}"
done
exit 0
"#;

/// What bash decided: names and values, in order.
struct Answer(Vec<(String, String)>);

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Answer> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut words = text.split_terminator('\0').map(str::to_owned);
        let mut records = Vec::new();
        while let Some(name) = words.next() {
            records.push((name, words.next()?));
        }
        Some(Answer(records))
    }

    /// The value of a directive that there is one of; empty is none.
    fn one(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn recipe(&self, target: &Target) -> Result<Recipe, String> {
        let required = |name: &str, directive: &str| {
            self.one(name).map(str::to_owned).ok_or_else(|| format!("it assigns no {directive}"))
        };
        let name = required("name", "PACKAGE_NAME")?;
        let version = required("version", "PACKAGE_VERSION")?;
        let modules = self.modules()?;
        if modules.is_empty() {
            return Err(
                "it names no module: neither BUILT_MODULE_NAME nor DEST_MODULE_LOCATION is assigned".into()
            );
        }
        Ok(Recipe {
            excluded: self.excluded(target),
            steps: self.steps(&name, &version, target),
            modules: Modules::Listed(modules),
            depends: self.all("depends").filter(|package| !package.is_empty()).map(str::to_owned).collect(),
            automatic: self.one("automatic").is_some_and(|value| value.starts_with(['y', 'Y', '1'])),
            notes: self
                .all("deprecated")
                .map(|name| format!("{name} is deprecated and does nothing"))
                .collect(),
            name,
            version,
        })
    }

    fn modules(&self) -> Result<Vec<Module>, String> {
        let mut modules = Vec::new();
        let columns =
            ["module", "built", "location", "dest", "strip"].map(|name| self.all(name).collect::<Vec<_>>());
        let [indexes, built, locations, names, strips] = &columns;
        for (at, index) in indexes.iter().enumerate() {
            let (built, name) = (built[at], names[at]);
            if built.is_empty() {
                return Err(format!("BUILT_MODULE_NAME[{index}] is not assigned"));
            }
            for (directive, value) in [("BUILT_MODULE_NAME", built), ("DEST_MODULE_NAME", name)] {
                if value.ends_with(".ko") || value.ends_with(".o") {
                    return Err(format!(
                        "{directive}[{index}] is {value}: module names are given without .ko"
                    ));
                }
            }
            let strip = !strips[at].starts_with(['n', 'N']);
            modules.push(Module { built: join(locations[at], built), name: name.to_owned(), strip });
        }
        Ok(modules)
    }

    fn steps(&self, name: &str, version: &str, target: &Target) -> Vec<Step> {
        let plain =
            format!("make -C {} M={}", kernel_source_dir(target.release), build_dir(name, version).display());
        let make = self.one("make").unwrap_or(&plain);
        let clean = self.one("clean").map_or_else(|| format!("{plain} clean"), str::to_owned);
        let step = |kind, command: String| Step { kind, command };
        let patches = self.all("patch").map(|file| step(StepKind::Patch, format!("patches/{file}")));
        let hook =
            |name: &'static str| self.one(name).map(|command| step(StepKind::Hook, without_jobs(command)));
        patches
            .chain(hook("pre_build"))
            .chain([
                step(StepKind::Clean, without_jobs(&clean)),
                step(StepKind::Make, make_command(make, target.release)),
            ])
            .chain(hook("post_build"))
            .collect()
    }

    fn excluded(&self, target: &Target) -> Option<String> {
        if let Some(reason) = self.one("excluded") {
            return Some(reason.to_owned());
        }
        let order = |limit: &str| release::compare(target.release, limit);
        if let Some(min) = self.one("min").filter(|min| order(min) == Ordering::Less) {
            return Some(format!("BUILD_EXCLUSIVE_KERNEL_MIN is {min}"));
        }
        if let Some(max) = self.one("max").filter(|max| order(max) == Ordering::Greater) {
            return Some(format!("BUILD_EXCLUSIVE_KERNEL_MAX is {max}"));
        }
        let symbols: Vec<&str> = self.one("config").unwrap_or_default().split_whitespace().collect();
        missing_config(&symbols, target)
    }
}

/// The command that builds: what DKMS makes of `MAKE`, without the number of jobs.
fn make_command(make: &str, release: &str) -> String {
    let make = match make.strip_prefix("make") {
        Some(rest) => format!("make KERNELRELEASE={release}{rest}"),
        None => make.to_owned(),
    };
    without_jobs(&make)
}

/// A command without the options that the number of jobs was given by.
fn without_jobs(command: &str) -> String {
    let mut command = command.to_owned();
    for option in
        [format!(" -j{JOBS}"), format!(" -j {JOBS}"), format!(" --jobs={JOBS}"), format!(" -l{JOBS}")]
    {
        command = command.replace(&option, "");
    }
    command
}

fn find_last(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).rposition(|window| window == needle)
}

/// What an evaluation that failed had to say, in a few lines.
fn complaint(output: &[u8], ended: Ended) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).take(5).collect();
    match (lines.is_empty(), ended) {
        (false, Ended::Status(65)) => format!("it is not bash: {}", lines.join("; ")),
        (false, _) => lines.join("; "),
        (true, Ended::Status(status)) => format!("evaluating it ended with status {status}"),
        (true, _) => "evaluating it ended early".to_owned(),
    }
}

/// Files of the administrator that override a package's recipe, as far as they are named after it.
pub fn override_files(name: &str, version: &str, release: &str, arch: &str) -> Vec<PathBuf> {
    [
        name.to_owned(),
        format!("{name}-{version}"),
        format!("{name}-{version}-{release}"),
        format!("{name}-{version}-{release}-{arch}"),
    ]
    .iter()
    .map(|stem| PathBuf::from(format!("/etc/dkms/{stem}.conf")))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_without_bash_where_they_are_literal() {
        let check = |text: &str, name: Option<&str>, version: Option<&str>| {
            assert_eq!(literal_name(text), (name.map(str::to_owned), version.map(str::to_owned)), "{text}");
        };
        check(
            "PACKAGE_NAME=\"acpi-call\"\r\nPACKAGE_VERSION='1.2~rc1'\n",
            Some("acpi-call"),
            Some("1.2~rc1"),
        );
        check("PACKAGE_NAME=a # comment\nPACKAGE_VERSION=$(cat VERSION)\n", Some("a"), None);
        check("", None, None);
    }

    #[test]
    fn a_make_gets_the_release_and_a_quoted_one_does_not() {
        assert_eq!(make_command("make -C x", "6.1"), "make KERNELRELEASE=6.1 -C x");
        assert_eq!(make_command("'make' -C x", "6.1"), "'make' -C x");
        assert_eq!(
            make_command("make -j7919 all && make -j 7919 x", "6.1"),
            "make KERNELRELEASE=6.1 all && make x"
        );
    }

    #[test]
    fn an_answer_of_odd_length_is_none() {
        assert!(Answer::parse(b"name\0a\0version\0").is_none());
        assert!(Answer::parse(b"name\0\xff\0").is_none());
    }
}
