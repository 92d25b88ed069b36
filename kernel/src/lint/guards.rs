//! Whether the answer of `uname -r` is used, where a variable that is known to have a value may be used instead.
//!
//! Scripts ask the running kernel only if they were not told one: `${kernelver:-$(uname -r)}`, `[ -z "$KVER" ] &&
//! KVER=$(uname -r)`, or the same as an `if` of several lines.

/// Reads a script line by line.
pub struct Guards<'a> {
    /// Variables that have a value, without `$`.
    given: &'a [String],
    /// For each open `if`, whether this branch runs only if one of them has none.
    open: Vec<Option<bool>>,
}

impl<'a> Guards<'a> {
    pub fn new(given: &'a [String]) -> Guards<'a> {
        Guards { given, open: Vec::new() }
    }

    /// Takes the next line; whether what it asks the running kernel for is not used.
    pub fn unused(&mut self, line: &str) -> bool {
        let line = line.trim();
        let word = line.split([' ', '\t', ';']).next().unwrap_or_default();
        let is_closed = line.split([' ', '\t', ';']).skip(1).any(|word| word == "fi");
        let here = self.if_none(line);
        match word {
            "if" if !is_closed => self.open.push(here),
            "elif" => self.open.iter_mut().last().into_iter().for_each(|last| *last = here),
            "else" => self.open.iter_mut().last().into_iter().for_each(|last| *last = last.map(|none| !none)),
            "fi" => drop(self.open.pop()),
            _ => {}
        }
        let on_line = here == Some(true) && line.contains("&&")
            || here == Some(false) && line.contains("||")
            || here == Some(true) && is_closed;
        on_line || self.open.contains(&Some(true)) || !self.without_defaults(line).contains("uname ")
    }

    /// Whether a test holds only if a given variable has no value, or only if it has one; `None` for other lines.
    fn if_none(&self, line: &str) -> Option<bool> {
        let plain: String = line.chars().filter(|c| !"\"'{}".contains(*c)).collect();
        self.given.iter().find_map(|name| {
            let tests = |operator: &str| {
                let wanted = format!("{operator} ${name}");
                plain
                    .match_indices(&wanted)
                    .any(|(at, _)| !plain[at + wanted.len()..].starts_with(is_of_name))
            };
            match () {
                () if tests("-z") || tests("[ !") || tests("[[ !") => Some(true),
                () if tests("-n") || tests("[") || tests("[[") => Some(false),
                () => None,
            }
        })
    }

    /// A line without the defaults of variables that have a value.
    fn without_defaults(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for name in self.given {
            for operator in [":-", "-", ":=", "="] {
                let begin = format!("${{{name}{operator}");
                while let Some(at) = line.find(&begin) {
                    let Some(end) = closing(&line[at + 1..]) else { break };
                    line.replace_range(at..at + 1 + end + 1, "");
                }
            }
        }
        line
    }
}

/// Position of the brace that closes the one with which a text begins.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    text.char_indices()
        .find(|(_, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0
        })
        .map(|(at, _)| at)
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks whether the answer to `uname -r` in a text is used, if `kernelver` has a value.
    #[track_caller]
    fn check(text: &str, used: bool) {
        let given = ["kernelver".to_owned(), "1".to_owned()];
        let mut guards = Guards::new(&given);
        let asks = text.lines().filter(|line| !guards.unused(line) && line.contains("uname -r")).count();
        assert_eq!(asks > 0, used, "{text}");
    }

    #[test]
    fn an_answer_for_a_variable_with_a_value_is_not_used() {
        check("a=$(uname -r)", true);
        check("a=${kernelver:-$(uname -r)}", false);
        check("a=\"${kernelver:=${KVER:-`uname -r`}}\"; b", false);
        check("a=${1:-$(uname -r)}", false);
        check("a=${KVER:-$(uname -r)}", true);
        check("a=${kernelver:-x} b=$(uname -r)", true);
        check("[ -z \"$kernelver\" ] && kernelver=$(uname -r)", false);
        check("[[ -n ${kernelver} ]] || kernelver=$(uname -r)", false);
        check("[ -z \"$kernelversion\" ] && kernelver=$(uname -r)", true);
        check("if [ -z \"$kernelver\" ]; then\n  kernelver=$(uname -r)\nfi", false);
        check("if [ -z \"$kernelver\" ]; then kernelver=$(uname -r); fi\nb=$(uname -r)", true);
        check("if [ -n \"$kernelver\" ]; then\n  a=1\nelse\n  kernelver=$(uname -r)\nfi", false);
        check("if [ -z \"$kernelver\" ]; then\n  a=1\nelse\n  b=$(uname -r)\nfi", true);
        check("if [ -z \"$kernelver\" ]; then\n  a=1\nfi\nb=$(uname -r)", true);
    }
}
