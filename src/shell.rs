//! Commands that people are told to type.

use std::borrow::Cow;

/// A text as one word of a command that people are told to type. Hints are copied into shells, of root's mostly, and name what
/// trees and settings under `--root` say.
pub fn word(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_alphanumeric() || "/._+~:@,=%-".contains(c);
    match !text.is_empty() && !text.starts_with('~') && text.chars().all(is_plain) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(format!("'{}'", text.replace('\'', r"'\''"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_one_to_a_shell_and_runs_nothing() {
        for text in ["/srv/a b", "$(id)", "`id`", "a'; id; '", "x\ny", "", "*", "~"] {
            let command = format!("printf %s {}", word(text));
            let output = std::process::Command::new("/bin/sh").args(["-c", &command]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text, "{command}");
        }
        assert_eq!(word("/boot/initrd.img-6.1+x"), "/boot/initrd.img-6.1+x");
    }
}
