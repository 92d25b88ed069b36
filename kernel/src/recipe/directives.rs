//! The text of a `dkms.conf`, line by line, without running it: for messages about the file, not for builds.
//!
//! Only bash can determine the final values ([`super::dkms`]). Here each assignment is found with its line, so that
//! messages can refer to it, and it is known which values are literal.

use crate::makefile::joined;

/// An assignment to a directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// Name of the directive, such as `MAKE`.
    pub name: String,
    /// Array index: 0 if there is none; `None` if it is computed.
    pub index: Option<usize>,
    /// The value as written, without enclosing quotes.
    pub value: String,
    /// Line number, from 1.
    pub line: usize,
    /// Whether it is in a branch, a loop or a function.
    pub conditional: bool,
}

impl Directive {
    /// The value, if it does not depend on anything.
    pub fn literal(&self) -> Option<&str> {
        let expands = |(at, _): (usize, &str)| {
            // At the end, `$` is an anchor of a regular expression.
            self.value[at + 1..].starts_with(|c: char| c.is_ascii_alphanumeric() || "_({@*#".contains(c))
        };
        let computed = self.value.contains(['`', '\\']) || self.value.match_indices('$').any(expands);
        (!self.conditional && !computed).then_some(self.value.as_str())
    }
}

/// The assignments of a file, in order. Names begin with a capital and contain no lower-case letters.
pub fn read(text: &str) -> Vec<Directive> {
    let mut depth = 0usize;
    let mut found = Vec::new();
    for (number, line) in joined(text) {
        let line = line.trim();
        let word = line.split([' ', '\t', ';']).next().unwrap_or_default();
        if ["fi", "done", "esac", "}"].contains(&word) {
            depth = depth.saturating_sub(1);
        }
        let guarded = line.starts_with("[") || line.contains("&& ") && !line.contains('=');
        found.extend(directive(line, number, depth > 0 || guarded));
        let opens = ["if", "for", "while", "until", "case"].contains(&word) || line.ends_with('{');
        let closes = line.split([' ', ';', '\t']).skip(1).any(|word| ["fi", "done", "esac"].contains(&word));
        if opens && !closes {
            depth += 1;
        }
    }
    found
}

fn directive(line: &str, number: usize, conditional: bool) -> Option<Directive> {
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (left, value) = line.split_once('=')?;
    let left = left.strip_suffix('+').unwrap_or(left);
    let (name, index) = match left.strip_suffix(']').and_then(|left| left.split_once('[')) {
        Some((name, index)) => (name, index.trim_matches('"').parse().ok()),
        None => (left, Some(0)),
    };
    let is_name = name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    is_name.then(|| Directive {
        name: name.to_owned(),
        index,
        value: unquoted(value.trim()).to_owned(),
        line: number,
        conditional,
    })
}

/// A value without enclosing quotes and trailing comment.
fn unquoted(value: &str) -> &str {
    let quote = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => quote,
        _ => return value.split(" #").next().unwrap_or(value).trim_end(),
    };
    let inner = &value[1..];
    let end = inner.char_indices().find(|(at, c)| *c == quote && !inner[..*at].ends_with('\\'));
    &inner[..end.map_or(inner.len(), |(at, _)| at)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_found_with_their_lines() {
        let text = "# MAKE=no\nMAKE[1]=\"make \\\n  -C x\" # why\nlocal=1\nif [ -f x ]; then\n  STRIP[0]='no'\nfi\nAUTOINSTALL=yes\n";
        let found: Vec<_> = read(text)
            .into_iter()
            .map(|d| (d.name.clone(), d.index, d.literal().map(str::to_owned), d.line))
            .collect();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            found,
            [
                ("MAKE".to_owned(), Some(1), text("make -C x"), 2),
                ("STRIP".to_owned(), Some(0), None, 6),
                ("AUTOINSTALL".to_owned(), Some(0), text("yes"), 8),
            ]
        );
    }

    #[test]
    fn computed_values_are_not_literal() {
        for line in ["MAKE=\"make $x\"", "MAKE=`x`", "[ x ] && MAKE=1", "for i in 1; do\nMAKE=2\ndone"] {
            assert!(read(line).iter().all(|directive| directive.literal().is_none()), "{line}");
        }
    }
}
