//! Parsing makefiles without running make.
//!
//! The result contains what the text literally says: assignments, rules, and their commands, each with its line.
//! Functions are not evaluated. Conditions are decided only if they test whether a variable is empty and that is
//! known: `ifneq ($(KERNELRELEASE),)` is how one file serves both users and Kbuild. A line in a branch that is not
//! taken is left out; one in an undecided branch is kept, and not [`Line::sure`].
//!
//! Parsing never fails. A text that is not a makefile gives meaningless lines.

use std::collections::BTreeSet;

/// Limit on nested references to variables. Real files nest three or four.
const DEEPEST: usize = 8;
/// Limit on values substituted into one text: a hundred names in each of a hundred values, eight levels deep, would
/// not end.
const MOST_VALUES: usize = 4096;

/// Variables that make itself or every environment sets.
const OF_MAKE: [&str; 16] = [
    "AR",
    "AS",
    "CC",
    "CPP",
    "CURDIR",
    "CXX",
    "HOME",
    "LD",
    "MAKE",
    "MAKECMDGOALS",
    "MAKEFILE_LIST",
    "MAKEFLAGS",
    "MAKELEVEL",
    "PATH",
    "PWD",
    "SHELL",
];

/// Variables that have a value before the first line is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Given {
    /// From make's command line: assignments in the file have no effect.
    pub words: BTreeSet<String>,
    /// From the environment: `?=` has no effect.
    pub environment: BTreeSet<String>,
    /// Kbuild reads the file and sets its own variables; otherwise every other variable is empty.
    by_kbuild: bool,
}

impl Given {
    /// Variables as Kbuild sets them when it reads a module's files.
    pub fn kbuild(mut self) -> Given {
        self.environment.insert("KERNELRELEASE".into());
        self.by_kbuild = true;
        self
    }

    /// Whether a variable that the file has not assigned is empty, if known.
    fn is_empty(&self, name: &str) -> Option<bool> {
        if self.words.contains(name) || self.environment.contains(name) {
            return Some(false);
        }
        (!self.by_kbuild && !OF_MAKE.contains(&name)).then_some(true)
    }
}

/// A parsed makefile.
#[derive(Clone, Debug, Default)]
pub struct Makefile {
    /// Its lines in order; continued lines are joined.
    pub lines: Vec<Line>,
}

/// A line with an effect.
#[derive(Clone, Debug)]
pub struct Line {
    /// Number of its first line in the file, from 1.
    pub number: usize,
    /// Whether it has an effect whatever the kernel's configuration or the machine is.
    pub sure: bool,
    /// The parsed line.
    pub what: What,
}

/// Kinds of lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// `NAME = VALUE`, with any of make's operators, or a `define`.
    Assignment {
        /// Name of the variable; may contain a reference, as in `obj-$(CONFIG_X)`.
        name: String,
        /// The text after the operator.
        value: String,
        /// Whether the operator is `+=`.
        adds: bool,
    },
    /// `TARGETS: PREREQUISITES`.
    Rule {
        /// The targets.
        targets: Vec<String>,
        /// The prerequisites.
        needs: Vec<String>,
    },
    /// A line of shell below a rule.
    Command {
        /// The rule's targets.
        targets: Vec<String>,
        /// The text without the tab.
        text: String,
    },
    /// A condition, `include`, `export`, or anything else.
    Other(String),
}

/// What is known about variables at a line.
struct Known<'a> {
    given: &'a Given,
    assigned: BTreeSet<String>,
}

impl Known<'_> {
    fn is_empty(&self, name: &str) -> Option<bool> {
        self.given.is_empty(name).filter(|empty| !(*empty && self.assigned.contains(name)))
    }
}

/// An open condition: whether an earlier branch was taken, and whether this one is.
struct Branch {
    taken: Option<bool>,
    now: Option<bool>,
}

/// Parses a makefile.
pub fn read(text: &str, given: &Given) -> Makefile {
    let mut lines = Vec::new();
    let mut branches: Vec<Branch> = Vec::new();
    let mut targets: Vec<String> = Vec::new();
    let mut define: Option<Define> = None;
    let mut known = Known { given, assigned: BTreeSet::new() };
    for (number, text) in joined(text) {
        let word = text.split_whitespace().next().unwrap_or_default();
        if let Some(open) = &mut define {
            if word != "endef" {
                open.body.push(text);
                continue;
            }
            lines.extend(define.take().and_then(|ended| ended.line(given)));
            continue;
        }
        if word == "define" {
            let here = match () {
                () if branches.iter().any(|branch| branch.now == Some(false)) => Some(false),
                () if branches.iter().all(|branch| branch.now == Some(true)) => Some(true),
                () => None,
            };
            define = Some(Define { number, name: defined(&text), body: Vec::new(), here });
            continue;
        }
        let is_command = text.starts_with('\t') && !targets.is_empty();
        if !is_command && condition(text.trim(), &known, &mut branches) {
            lines.push(Line { number, sure: false, what: What::Other(text.trim().to_owned()) });
            continue;
        }
        if branches.iter().any(|branch| branch.now == Some(false)) {
            continue;
        }
        let sure = branches.iter().all(|branch| branch.now == Some(true));
        let what = if is_command {
            What::Command { targets: targets.clone(), text: text.trim().to_owned() }
        } else {
            match statement(&text, given) {
                Some(what) => what,
                None => continue,
            }
        };
        if let What::Rule { targets: these, .. } = &what {
            targets.clone_from(these);
        } else if let What::Assignment { name, .. } = &what {
            known.assigned.insert(name.clone());
            targets.clear();
        }
        lines.push(Line { number, sure, what });
    }
    Makefile { lines }
}

/// A `define` whose `endef` was not read yet.
struct Define {
    number: usize,
    name: String,
    body: Vec<String>,
    /// Whether it has an effect, if known.
    here: Option<bool>,
}

impl Define {
    /// The assignment that it is; `None` if it has no effect.
    fn line(self, given: &Given) -> Option<Line> {
        let has_effect = self.here != Some(false) && !given.words.contains(&self.name);
        let what = What::Assignment { name: self.name, value: self.body.join("\n"), adds: false };
        has_effect.then(|| Line { number: self.number, sure: self.here == Some(true), what })
    }
}

/// The variable of `define NAME` or `define NAME :=`.
fn defined(text: &str) -> String {
    text.split_whitespace().nth(1).unwrap_or_default().trim_end_matches(['=', ':', '+', '?']).to_owned()
}

/// Whether a file of this name is a makefile, as far as names show it.
pub fn is_name(name: &str) -> bool {
    let begins = ["Makefile", "makefile", "GNUmakefile", "Kbuild"];
    let begins = begins.iter().filter_map(|begin| name.strip_prefix(begin));
    begins.into_iter().any(|rest| rest.is_empty() || rest.starts_with(['.', '-', '_']))
        || name.ends_with(".mk")
        || name.ends_with(".mak")
}

/// Lines of a makefile or shell script with their numbers; lines continued by a backslash are joined.
pub fn joined(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (at, line) in text.lines().enumerate() {
        let (body, continued) = match line.trim_end_matches('\r').strip_suffix('\\') {
            Some(body) => (body, true),
            None => (line.trim_end_matches('\r'), false),
        };
        match lines.last_mut().filter(|_| open) {
            Some((_, whole)) => {
                whole.truncate(whole.trim_end().len());
                whole.push(' ');
                whole.push_str(body.trim_start());
            }
            None => lines.push((at + 1, body.to_owned())),
        }
        open = continued;
    }
    lines
}

/// Opens, switches or closes a branch; false if the line is not a condition.
fn condition(line: &str, known: &Known, branches: &mut Vec<Branch>) -> bool {
    let line = without_comment(line);
    let (word, rest) = line
        .split_once([' ', '\t', '('])
        .map_or((line, ""), |(word, _)| (word, line[word.len()..].trim_start()));
    match word {
        "ifeq" | "ifneq" | "ifdef" | "ifndef" => {
            let now = holds(word, rest, known);
            branches.push(Branch { taken: now, now });
        }
        "else" => {
            let Some(branch) = branches.last_mut() else { return true };
            let (word, rest) = rest
                .split_once([' ', '\t', '('])
                .map_or((rest, ""), |(word, _)| (word, rest[word.len()..].trim_start()));
            let here = if word.is_empty() { Some(true) } else { holds(word, rest, known) };
            branch.now = match (branch.taken, here) {
                (Some(true), _) | (_, Some(false)) => Some(false),
                (Some(false), here) => here,
                (None, _) => None,
            };
            branch.taken = match (branch.taken, here) {
                (Some(false), here) => here,
                (taken, _) => taken,
            };
        }
        "endif" => drop(branches.pop()),
        _ => return false,
    }
    true
}

/// Whether a condition holds, if known.
fn holds(word: &str, rest: &str, known: &Known) -> Option<bool> {
    match word {
        "ifdef" => known.is_empty(rest.trim()).map(|empty| !empty),
        "ifndef" => known.is_empty(rest.trim()),
        "ifeq" => known.is_empty(compared_with_nothing(rest)?),
        "ifneq" => known.is_empty(compared_with_nothing(rest)?).map(|empty| !empty),
        _ => None,
    }
}

/// The variable that a condition compares with the empty string: `($(X),)`, `(,$(X))` or `"$(X)" ""`.
fn compared_with_nothing(rest: &str) -> Option<&str> {
    let rest = rest.trim();
    let (left, right) = match rest.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        Some(both) => both.split_once(',')?,
        None => rest.split_once(['"', '\'']).and_then(|(_, rest)| rest.split_once(['"', '\'']))?,
    };
    let reference = match (left.trim(), right.trim().trim_matches(['"', '\''])) {
        (reference, "") | ("", reference) => reference,
        _ => return None,
    };
    let inner = reference.strip_prefix("$(").or_else(|| reference.strip_prefix("${"))?;
    let name = inner.strip_suffix([')', '}'])?.trim();
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_').then_some(name)
}

/// Parses a line that is neither condition nor command; `None` if it has no effect.
fn statement(text: &str, given: &Given) -> Option<What> {
    let text = without_comment(text).trim();
    if text.is_empty() {
        return None;
    }
    let (text, is_override) = match text.strip_prefix("override ") {
        Some(rest) => (rest.trim_start(), true),
        None => (text.strip_prefix("export ").unwrap_or(text).trim_start(), false),
    };
    if let Some((name, operator, value)) = assignment(text) {
        let set = given.words.contains(name) && !is_override;
        let kept = operator == "?=" && given.environment.contains(name);
        let (name, value) = (name.to_owned(), value.trim().to_owned());
        return (!set && !kept).then_some(What::Assignment { name, value, adds: operator == "+=" });
    }
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    match outside_references(text, ':') {
        Some(at) => {
            let needs = text[at + 1..].trim_start_matches(':');
            let needs = needs.split_once(';').map_or(needs, |(needs, _)| needs);
            // A target-specific variable: `target: VARIABLE = value`.
            let needs = if needs.contains('=') { Vec::new() } else { words(needs) };
            Some(What::Rule { targets: words(&text[..at]), needs })
        }
        None => Some(What::Other(text.to_owned())),
    }
}

/// Name, operator and value of an assignment.
fn assignment(text: &str) -> Option<(&str, &str, &str)> {
    let at = outside_references(text, '=')?;
    let before = &text[..at];
    let width =
        ["::", ":", "+", "?", "!"].iter().find(|mark| before.ends_with(*mark)).map_or(0, |mark| mark.len());
    let (name, mark) = before.split_at(at - width);
    let name = name.trim();
    if name.is_empty() || name.contains([' ', '\t']) || outside_references(name, ':').is_some() {
        return None;
    }
    Some((name, &text[at - mark.len()..=at], &text[at + 1..]))
}

/// Position of the first occurrence of a character outside `$(...)`.
fn outside_references(text: &str, wanted: char) -> Option<usize> {
    let mut depth = 0usize;
    text.char_indices()
        .find(|(_, c)| {
            match c {
                '(' | '{' => depth += 1,
                ')' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && *c == wanted
        })
        .map(|(at, _)| at)
}

/// A line without its comment.
fn without_comment(line: &str) -> &str {
    let comment = |(at, _): &(usize, &str)| !line[..*at].ends_with('\\');
    line.match_indices('#').find(comment).map_or(line, |(at, _)| &line[..at])
}

impl Makefile {
    /// The goal that `make` builds without arguments.
    pub fn default_goal(&self) -> Option<&str> {
        let targets = self.lines.iter().filter_map(|line| match &line.what {
            What::Rule { targets, .. } => Some(targets),
            _ => None,
        });
        let is_goal = |target: &&String| {
            (!target.starts_with('.') || target.contains('/')) && !target.contains(['%', '$'])
        };
        targets.flatten().find(is_goal).map(String::as_str)
    }

    /// All targets that are built for these goals, including them.
    pub fn reached(&self, goals: &[String]) -> BTreeSet<String> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<String> = goals.to_vec();
        while let Some(goal) = open.pop() {
            if reached.contains(&goal) {
                continue;
            }
            for line in &self.lines {
                if let What::Rule { targets, needs } = &line.what
                    && targets
                        .iter()
                        .any(|target| self.expanded(target).split_whitespace().any(|t| t == goal))
                {
                    open.extend(needs.iter().flat_map(|need| {
                        self.expanded(need).split_whitespace().map(str::to_owned).collect::<Vec<_>>()
                    }));
                }
            }
            reached.insert(goal);
        }
        reached
    }

    /// All values assigned to a variable, joined.
    pub fn value(&self, wanted: &str) -> Option<String> {
        let mut values: Vec<&str> = Vec::new();
        for line in &self.lines {
            if let What::Assignment { name, value, adds } = &line.what
                && name == wanted
            {
                if line.sure && !adds {
                    values.clear();
                }
                values.push(value);
            }
        }
        (!values.is_empty()).then(|| values.join(" "))
    }

    /// Expands the variables that this file assigns. Others are kept.
    pub fn expanded(&self, text: &str) -> String {
        let mut left = MOST_VALUES;
        self.expanded_to(text, DEEPEST, &mut left)
    }

    fn expanded_to(&self, text: &str, depth: usize, left: &mut usize) -> String {
        let mut rest = text;
        let mut whole = String::new();
        while let Some((before, name, after)) = next_reference(rest) {
            whole.push_str(before);
            let may = depth > 0 && *left > 0 && whole.len() < 1 << 16;
            *left = left.saturating_sub(1);
            match may.then(|| self.value(name)).flatten() {
                Some(value) => whole.push_str(&self.expanded_to(&value, depth - 1, left)),
                None => whole.push_str(&rest[before.len()..rest.len() - after.len()]),
            }
            rest = after;
        }
        whole.push_str(rest);
        whole
    }

    /// Names of the variables that a text refers to.
    pub fn references(text: &str) -> impl Iterator<Item = &str> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        text.match_indices('$').filter_map(move |(at, _)| {
            let inner = text[at + 1..].strip_prefix(['(', '{'])?;
            let end = inner.find(|c| !is_name(c)).unwrap_or(inner.len());
            (end > 0).then(|| &inner[..end])
        })
    }
}

/// Splits a text at the first `$(NAME)` or `${NAME}`: text before, name, text after.
fn next_reference(text: &str) -> Option<(&str, &str, &str)> {
    text.match_indices('$').find_map(|(at, _)| {
        let inner = text[at + 1..].strip_prefix(['(', '{'])?;
        let end = inner.find([')', '}'])?;
        let name = &inner[..end];
        let is_name =
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        (is_name && !text[..at].ends_with('$')).then(|| (&text[..at], name, &inner[end + 1..]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endlessly_continued_lines_are_joined() {
        let many = 1 << 18;
        let [(number, line)] = &joined(&"a \\\n".repeat(many))[..] else { panic!("it is one line") };
        assert_eq!((*number, line.len()), (1, 2 * many));
    }

    fn given(words: &[&str]) -> Given {
        Given { words: words.iter().map(|word| (*word).to_owned()).collect(), ..Given::default() }
    }

    /// Checks the assignments with an effect, as `NAME=VALUE`, with `?` if that is not certain.
    fn check(text: &str, words: &[&str], expect: &[&str]) {
        let makefile = read(text, &given(words));
        let found: Vec<String> = makefile
            .lines
            .iter()
            .filter_map(|line| match &line.what {
                What::Assignment { name, value, .. } => {
                    Some(format!("{name}={value}{}", if line.sure { "" } else { "?" }))
                }
                _ => None,
            })
            .collect();
        assert_eq!(found, expect, "{text}");
    }

    #[test]
    fn all_forms_of_assignments_are_found() {
        check(
            "a=1\nb := 2 # two\nexport c ?= 3\noverride d += 4\ne != date\n",
            &[],
            &["a=1", "b=2", "c=3", "d=4", "e=date"],
        );
        check("obj-$(CONFIG_A:y=m) += x.o \\\n  y.o\n", &[], &["obj-$(CONFIG_A:y=m)=x.o y.o"]);
        check("# a=1\nall: b\n\t@c=2\n", &[], &[]);
        check("define x\na=1\nc\nendef\nb=2\n", &[], &["x=a=1\nc", "b=2"]);
        check("ifdef X\ndefine x\na\nendef\nendif\ndefine b =\n2\nendef\n", &[], &["b=2"]);
        check("define x\na\nendef\n", &["x"], &[]);
    }

    #[test]
    fn the_command_line_overrides_the_file() {
        check("a=1\nb?=2\noverride a=3\n", &["a", "b"], &["a=3"]);
    }

    #[test]
    fn a_branch_is_decided_if_its_variable_is_known() {
        let text = "ifneq ($(KERNELRELEASE),)\nobj-m=a.o\nelse\nKDIR=x\nendif\n";
        check(text, &[], &["KDIR=x"]);
        check(text, &["KERNELRELEASE"], &["obj-m=a.o"]);
        check(
            "ifeq (,${KERNELRELEASE})\na=1\nelse ifdef X\na=2\nelse\na=3\nendif\n",
            &["KERNELRELEASE"],
            &["a=3"],
        );
        check("ifdef X\na=1\nelse\na=2\nendif\nb=3\n", &[], &["a=2", "b=3"]);
        check("X=$(Y)\nifdef X\na=1\nelse\na=2\nendif\n", &[], &["X=$(Y)", "a=1?", "a=2?"]);
        check("ifeq \"$(KERNELRELEASE)\" \"\"\na=1\nendif\n", &[], &["a=1"]);
    }

    #[test]
    fn a_goal_reaches_what_it_needs() {
        let makefile =
            read(".PHONY: all\nNEEDS = lib\nall: $(NEEDS) x.o\nlib: y\ninstall:\n\tcp\n", &Given::default());
        assert_eq!(makefile.default_goal(), Some("all"));
        let reached: Vec<String> = makefile.reached(&["all".into()]).into_iter().collect();
        assert_eq!(reached, ["all", "lib", "x.o", "y"]);
    }

    #[test]
    fn expansion_is_limited() {
        let line = |n: usize| format!("A{n} = {}\n", format!("$(A{})", n + 1).repeat(100));
        let last = DEEPEST - 1;
        let text = (0..last).map(line).collect::<String>() + &format!("A{last} =\n");
        assert!(read(&text, &Given::default()).expanded("$(A0)").len() < 1 << 20);
    }

    #[test]
    fn known_variables_are_expanded() {
        let makefile = read("A = 1 $(B)\nB = 2\nC = $(C)\n", &Given::default());
        assert_eq!(makefile.expanded("$(A) ${D} $(shell x) $$(A)"), "1 2 ${D} $(shell x) $$(A)");
        assert!(makefile.expanded("$(C)").len() < 100);
        assert_eq!(
            Makefile::references("$(A) $(shell $(B)) ${C:x=y}").collect::<Vec<_>>(),
            ["A", "shell", "B", "C"]
        );
    }
}
