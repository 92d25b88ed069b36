//! Parsing C sources for macros such as `MODULE_LICENSE("GPL");`, textually.

use std::collections::BTreeMap;

/// Limit in characters on an argument; a licence or version has some tens.
const LONGEST: usize = 1024;

/// A use of a macro.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Line number, from 1.
    pub line: usize,
    /// The string literal of its first argument; `None` if that is not a literal.
    pub text: Option<String>,
}

/// Every use of a macro outside comments, with its argument: a literal, or a name that the same text defines as one.
pub fn uses(code: &str, wanted: &str) -> Vec<Use> {
    let definitions = definitions(code);
    let mut found = Vec::new();
    let mut start = 0;
    for (number, line) in code.split_inclusive('\n').enumerate() {
        let is_directive = line.trim_start().starts_with('#');
        for (at, _) in line.match_indices(wanted).filter(|_| !is_directive) {
            let before = line[..at].chars().next_back();
            let after = code[start + at + wanted.len()..].trim_start();
            let Some(argument) = after.strip_prefix('(').map(argument) else { continue };
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let text =
                literal(argument).or_else(|| definitions.get(argument).and_then(|value| literal(value)));
            found.push(Use { line: number + 1, text });
        }
        start += line.len();
    }
    found
}

/// The argument at the beginning of a text; empty if it is longer than the limit.
fn argument(text: &str) -> &str {
    let end = text.char_indices().take(LONGEST).find(|(_, c)| matches!(c, ')' | ';'));
    end.map_or("", |(at, _)| text[..at].trim())
}

fn literal(text: &str) -> Option<String> {
    let inner = text.trim().strip_prefix('"')?.strip_suffix('"')?;
    (!inner.contains('"')).then(|| inner.to_owned())
}

/// The files that a text includes, with either kind of brackets.
pub fn included(code: &str) -> impl Iterator<Item = &str> {
    code.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?.trim_start();
        rest.strip_prefix(['"', '<'])?.split(['"', '>']).next()
    })
}

/// `#define NAME VALUE`
fn definitions(code: &str) -> BTreeMap<&str, &str> {
    code.lines().filter_map(definition).collect()
}

fn definition(line: &str) -> Option<(&str, &str)> {
    let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("define")?.trim_start();
    rest.split_once(char::is_whitespace).map(|(name, value)| (name, value.trim()))
}

/// Blanks out comments, and strings if `strings` is set. Line numbers do not change.
pub fn code(text: &str, strings: bool) -> String {
    let mut blank = Blank::Nothing;
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (blank, c) {
            (Blank::Nothing, '/') if chars.peek() == Some(&'*') => blank = Blank::Block,
            (Blank::Nothing, '/') if chars.peek() == Some(&'/') => blank = Blank::Line,
            (Blank::Nothing, '"' | '\'') => {
                blank = Blank::Quoted(c);
                out.push(c);
                continue;
            }
            (Blank::Block, '*') if chars.peek() == Some(&'/') => {
                chars.next();
                blank = Blank::Nothing;
                out.push(' ');
                continue;
            }
            (Blank::Line, '\n') => blank = Blank::Nothing,
            (Blank::Quoted(quote), c) if c == quote || c == '\n' => blank = Blank::Nothing,
            (Blank::Quoted(_), '\\') => {
                let escaped = chars.next();
                if !strings {
                    out.push(c);
                    out.extend(escaped);
                } else if escaped == Some('\n') {
                    out.push('\n');
                }
                continue;
            }
            _ => {}
        }
        match blank {
            Blank::Quoted(_) if strings => {}
            Blank::Nothing | Blank::Quoted(_) => out.push(c),
            Blank::Block | Blank::Line if c == '\n' => out.push(c),
            Blank::Block | Blank::Line => {}
        }
    }
    out
}

/// The kind of text that is being blanked out.
#[derive(Clone, Copy)]
enum Blank {
    Nothing,
    Block,
    Line,
    Quoted(char),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[(usize, Option<&str>)]) {
        let found: Vec<_> =
            uses(&code(text, false), "MODULE_LICENSE").into_iter().map(|u| (u.line, u.text)).collect();
        let expect: Vec<_> = expect.iter().map(|(line, text)| (*line, text.map(str::to_owned))).collect();
        assert_eq!(found, expect, "{text}");
    }

    #[test]
    fn declarations_in_comments_are_ignored() {
        check("/* MODULE_LICENSE(\"no\");\n */\nMODULE_LICENSE (\"GPL v2\");\n", &[(3, Some("GPL v2"))]);
        check(
            "// MODULE_LICENSE(\"no\")\nchar *s = \"// \\\" /*\";\nMODULE_LICENSE(\"GPL\");",
            &[(3, Some("GPL"))],
        );
        check("#define L \"MIT\"\nMODULE_LICENSE(L);", &[(2, Some("MIT"))]);
        check("MODULE_LICENSE(LATER);\n#define MODULE_LICENSE(x)\nMY_MODULE_LICENSE(\"x\");", &[(1, None)]);
    }

    #[test]
    fn repeated_beginnings_are_parsed_in_linear_time() {
        let many = 1 << 16;
        assert_eq!(uses(&"MODULE_LICENSE(".repeat(many), "MODULE_LICENSE").len(), many);
        let lines = uses(&"MODULE_LICENSE(\n".repeat(many), "MODULE_LICENSE");
        assert_eq!(lines.last(), Some(&Use { line: many, text: None }));
    }

    #[test]
    fn blanked_strings_keep_their_lines() {
        assert_eq!(code("char *s = \"a\\\nb\\\"\";\n__DATE__", true), "char *s = \"\n\";\n__DATE__");
    }

    #[test]
    fn strings_can_be_blanked() {
        assert_eq!(code("a(\"__DATE__\", __TIME__) /* b */ c", true), "a(\"\", __TIME__)   c");
    }
}
