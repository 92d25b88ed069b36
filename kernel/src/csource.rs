//! C sources, as far as their text tells what they declare: `MODULE_LICENSE("GPL");` and its kin.

use std::collections::BTreeMap;

/// A use of a macro.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Line number, from 1.
    pub line: usize,
    /// The text between the quotes of its first argument; `None` where that is no literal.
    pub text: Option<String>,
}

/// Every use of a macro outside comments, with what it is given: a literal, or a name that the same text defines as one.
pub fn uses(code: &str, wanted: &str) -> Vec<Use> {
    let definitions = definitions(code);
    let mut found = Vec::new();
    for (at, _) in code.match_indices(wanted) {
        let before = code[..at].chars().next_back();
        let after = code[at + wanted.len()..].trim_start();
        let Some(argument) = after.strip_prefix('(') else { continue };
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') || is_definition(code, at) {
            continue;
        }
        let argument = argument[..argument.find([')', ';']).unwrap_or(argument.len())].trim();
        let text = literal(argument).or_else(|| definitions.get(argument).and_then(|value| literal(value)));
        found.push(Use { line: code[..at].matches('\n').count() + 1, text });
    }
    found
}

fn is_definition(code: &str, at: usize) -> bool {
    let line = code[..at].rsplit('\n').next().unwrap_or_default();
    line.trim_start().starts_with("#")
}

fn literal(text: &str) -> Option<String> {
    let inner = text.trim().strip_prefix('"')?.strip_suffix('"')?;
    (!inner.contains('"')).then(|| inner.to_owned())
}

/// The files that a text includes, by whichever brackets.
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

/// A text with its comments blanked out, and, where `strings` is set, what stands between quotes. Lines stay where they are.
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

/// What is being blanked out.
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
    fn a_declaration_is_read_where_it_is_no_comment() {
        check("/* MODULE_LICENSE(\"no\");\n */\nMODULE_LICENSE (\"GPL v2\");\n", &[(3, Some("GPL v2"))]);
        check(
            "// MODULE_LICENSE(\"no\")\nchar *s = \"// \\\" /*\";\nMODULE_LICENSE(\"GPL\");",
            &[(3, Some("GPL"))],
        );
        check("#define L \"MIT\"\nMODULE_LICENSE(L);", &[(2, Some("MIT"))]);
        check("MODULE_LICENSE(LATER);\n#define MODULE_LICENSE(x)\nMY_MODULE_LICENSE(\"x\");", &[(1, None)]);
    }

    #[test]
    fn strings_can_be_left_out_too() {
        assert_eq!(code("a(\"__DATE__\", __TIME__) /* b */ c", true), "a(\"\", __TIME__)   c");
    }
}
