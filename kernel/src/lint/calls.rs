//! Finding calls of make in shell text: directory, variables and goals of each.

use super::shell::{self, is_assignment};
use crate::makefile::{Given, Makefile};

/// A call of make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Directory in which make runs.
    pub place: Place,
    /// The module directory passed to Kbuild with `M=`.
    pub module: Option<Place>,
    /// Whether a module directory is passed with `SUBDIRS=`, and none with `M=`.
    pub subdirs_alone: bool,
    /// Variables on the command line.
    pub given: Given,
    /// The goals.
    pub goals: Vec<String>,
}

/// A directory, as far as the text determines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the source tree, relative to its top.
    Inside(String),
    /// The kernel's build tree.
    Kernel,
    /// It cannot be determined.
    Unknown,
}

/// The calls of make in a text that runs in directory `cwd` of a source tree, which is at `build` in the sandbox.
pub fn calls(text: &str, cwd: &str, build: &str, inherited: &Given) -> Vec<Call> {
    let mut here = Place::Inside(cwd.to_owned());
    let mut found = Vec::new();
    for command in shell::commands(text) {
        let (program, arguments) = command.program();
        match program {
            "cd" | "pushd" => {
                here = arguments.first().map_or(Place::Unknown, |word| Place::of(word, &here, build));
            }
            "make" | "gmake" | "$MAKE" => {
                let mut given = inherited.clone();
                given.environment.extend(command.environment().map(str::to_owned));
                found.push(call(arguments, &here, build, given));
            }
            _ => {}
        }
    }
    found
}

fn call(arguments: &[String], here: &Place, build: &str, given: Given) -> Call {
    let mut call = Call { place: here.clone(), module: None, subdirs_alone: false, given, goals: Vec::new() };
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let directory = match word {
            "-C" | "--directory" => words.next(),
            "-f" | "-I" | "-o" | "-W" | "-l" => {
                words.next();
                continue;
            }
            _ => word.strip_prefix("--directory=").or_else(|| word.strip_prefix("-C")),
        };
        match directory {
            Some(directory) => call.place = Place::of(directory, &call.place, build),
            None if is_assignment(word) => call.assign(word, here, build),
            None if word.starts_with(['-', '>', '<', '2', '$']) || word.is_empty() => {}
            None => call.goals.push(word.to_owned()),
        }
    }
    call.subdirs_alone &= call.module.is_none();
    call
}

impl Call {
    fn assign(&mut self, word: &str, here: &Place, build: &str) {
        let Some((name, value)) = word.split_once('=') else { return };
        match name {
            "M" | "KBUILD_EXTMOD" => self.module = Some(Place::of(value, here, build)),
            "SUBDIRS" => self.subdirs_alone = true,
            _ => {}
        }
        if !value.is_empty() {
            self.given.words.insert(name.to_owned());
        }
    }

    /// Whether it calls Kbuild to build modules without a module directory.
    pub fn lacks_module(&self) -> bool {
        let builds =
            |goal: &String| ["modules", "clean", "all"].contains(&goal.as_str()) || goal.ends_with(".ko");
        self.place == Place::Kernel
            && self.module.is_none()
            && !self.subdirs_alone
            && (self.goals.is_empty() || self.goals.iter().any(builds))
    }
}

impl Place {
    /// The directory that a word names, relative to `here`.
    fn of(word: &str, here: &Place, build: &str) -> Place {
        if let Some(rest) = word.strip_prefix(build) {
            return inside("", rest);
        }
        if word.starts_with("/lib/modules/") || word.starts_with("/usr/src/linux") {
            return Place::Kernel;
        }
        let rest =
            ["$PWD", "${PWD}", "$()"].iter().find_map(|prefix| word.strip_prefix(prefix)).unwrap_or(word);
        match here {
            Place::Inside(cwd)
                if !rest.contains(['$', '`']) && (rest.len() < word.len() || !rest.starts_with('/')) =>
            {
                inside(cwd, rest)
            }
            _ => Place::Unknown,
        }
    }
}

fn inside(cwd: &str, rest: &str) -> Place {
    let mut parts: Vec<&str> = cwd.split('/').filter(|part| !part.is_empty()).collect();
    for part in rest.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() => return Place::Unknown,
            ".." => {}
            part => parts.push(part),
        }
    }
    Place::Inside(parts.join("/"))
}

/// A makefile's text as the shell receives it, in directory `cwd`: known variables are expanded, and `$(shell x)`
/// becomes `$(x)`.
pub fn as_shell(makefile: &Makefile, text: &str, cwd: &str, build: &str) -> String {
    translated(&makefile.expanded(text), format!("{build}/{cwd}").trim_end_matches('/'), 0)
}

fn translated(text: &str, here: &str, depth: usize) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((inner, after)) = enclosed(rest).filter(|_| depth < 8) {
            out.push_str(&reference(inner, here, depth));
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// Splits a text that begins with a bracket into the enclosed text and the rest.
fn enclosed(text: &str) -> Option<(&str, &str)> {
    let close = match text.chars().next()? {
        '(' => ')',
        '{' => '}',
        _ => return None,
    };
    let open = text.chars().next()?;
    let mut depth = 0usize;
    let end = text.char_indices().find(|(_, c)| {
        if *c == open {
            depth += 1;
        } else if *c == close {
            depth -= 1;
        }
        depth == 0
    })?;
    Some((&text[1..end.0], &text[end.0 + 1..]))
}

fn reference(inner: &str, here: &str, depth: usize) -> String {
    match inner.split_once(char::is_whitespace) {
        Some(("shell", command)) => format!("$({})", translated(command, here, depth + 1)),
        Some(_) => "$()".to_owned(),
        None => match inner {
            "MAKE" => "make".to_owned(),
            "PWD" | "CURDIR" => here.to_owned(),
            name if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => format!("${name}"),
            _ => "$()".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::makefile;

    const BUILD: &str = "/var/lib/dkms/a/1/build";

    fn check(text: &str, place: Place, module: Option<Place>, goals: &[&str]) {
        let calls = calls(text, "", BUILD, &Given::default());
        let call = calls.last().unwrap();
        assert_eq!((&call.place, &call.module), (&place, &module), "{text}");
        assert_eq!(call.goals, goals, "{text}");
    }

    #[test]
    fn a_call_has_directory_module_directory_and_goals() {
        let inside = |dir: &str| Place::Inside(dir.to_owned());
        check(
            "make -C /lib/modules/6.1/build M=/var/lib/dkms/a/1/build/src modules",
            Place::Kernel,
            Some(inside("src")),
            &["modules"],
        );
        check("cd src && make V=1 all", inside("src"), None, &["all"]);
        check("make -C ./src/../lib -j4", inside("lib"), None, &[]);
        check("make -C /lib/modules/$(uname -r)/build M=$PWD", Place::Kernel, Some(inside("")), &[]);
        check("make -C $X", Place::Unknown, None, &[]);
    }

    #[test]
    fn a_kbuild_call_without_module_directory_is_detected() {
        let lacks = |text: &str| calls(text, "", BUILD, &Given::default())[0].lacks_module();
        assert!(lacks("make -C /lib/modules/6.1/build modules"));
        assert!(!lacks("make -C /lib/modules/6.1/build M=. modules"));
        assert!(!lacks("make -s -C /lib/modules/6.1/build kernelversion"));
        assert!(!lacks("make modules"));
    }

    #[test]
    fn makefile_text_is_expanded_for_the_shell() {
        let makefile = makefile::read("KDIR = /lib/modules/$(shell uname -r)/build\n", &Given::default());
        let text =
            as_shell(&makefile, "$(MAKE) -C $(KDIR) M=$$PWD/x A=${B} D=$(CURDIR) $(call f,x)", "sub", BUILD);
        assert_eq!(text, format!("make -C /lib/modules/$(uname -r)/build M=$PWD/x A=$B D={BUILD}/sub $()"));
    }
}
