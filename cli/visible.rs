//! Makes untrusted text safe to print on a terminal.
//!
//! Names, versions, logs, fields of entries, and errors that quote them come from packages, caches and trees. A terminal obeys
//! what they contain: escape sequences change its title, its colours and earlier output, a carriage return overwrites the line,
//! and Unicode's bidirectional controls reorder it. So everything that is printed passes through here, in the only writer
//! ([`crate::out`]): each such character is shown as Rust writes it, `\u{1b}`; in JSON as `\u001b`, which a parser reads as the
//! same text. Line feeds and tabs stay.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a terminal would do something else with a character than show it where it stands.
fn steers(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // C0, DEL and C1.
        c if c.is_control() => true,
        // Bidirectional marks, embeddings, overrides and isolates (UAX #9); what ends a line or a paragraph.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        // Without any width: two names that look alike.
        '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2064}' | '\u{feff}' => true,
        // Deprecated format characters, interlinear annotations, tags.
        '\u{206a}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => true,
        _ => false,
    }
}

/// The text for people.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    // What ends a line on other systems is no more than that.
    let text = text.replace("\r\n", "\n");
    Cow::Owned(escaped(&text, |c, shown| shown.extend(c.escape_unicode())))
}

/// JSON in which what steers is escaped: it can stand nowhere but in strings.
pub fn json(text: &str) -> String {
    escaped(text, |c, shown| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(shown, "\\u{unit:04x}"); // to a String: cannot fail
        }
    })
}

fn escaped(text: &str, escape: impl Fn(char, &mut String)) -> String {
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if steers(c) { escape(c, &mut shown) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_shown_and_all_else_stays() {
        let check = |text: &str, expect: &str| assert_eq!(visible(text), expect);
        check("plain ä 漢\ttext\n", "plain ä 漢\ttext\n");
        check("a\x1b]0;title\x07b", "a\\u{1b}]0;title\\u{7}b");
        check("\u{9b}31m\x7f", "\\u{9b}31m\\u{7f}");
        check("error\rfine", "error\\u{d}fine");
        check("one\r\ntwo", "one\ntwo");
        check("\u{202e}gpj.exe\u{2066}\u{200b}\u{e0041}", "\\u{202e}gpj.exe\\u{2066}\\u{200b}\\u{e0041}");
    }

    #[test]
    fn json_has_the_same_text() {
        let text = "a\x1b\u{9b}\u{202e}\u{e0041}\r\nb";
        let shown = json(&serde_json::to_string(text).unwrap());
        assert!(shown.is_ascii(), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
    }
}
