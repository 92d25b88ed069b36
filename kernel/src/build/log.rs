//! A build's log while it is written: limited, passed on line by line, and searched for the first error.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use fs_err as fs;

use super::MOST_LOG;
use super::cause::Logged;

/// The log file, and the findings so far.
pub(super) struct Log<'a> {
    file: BufWriter<fs::File>,
    written: u64,
    error: Option<io::Error>,
    partial: Vec<u8>,
    line: &'a mut dyn FnMut(&str),
    logged: Logged,
}

impl<'a> Log<'a> {
    pub(super) fn create(path: &Path, line: &'a mut dyn FnMut(&str)) -> io::Result<Log<'a>> {
        let file = BufWriter::new(fs::File::create(path)?);
        Ok(Log { file, written: 0, error: None, partial: Vec::new(), line, logged: Logged::default() })
    }

    pub(super) fn take(&mut self, piece: &[u8]) {
        let room = MOST_LOG.saturating_sub(self.written).min(piece.len() as u64) as usize;
        if room > 0 {
            self.written += room as u64;
            if let Err(e) = self.file.write_all(&piece[..room]) {
                self.error.get_or_insert(e);
            }
        }
        for part in piece.split_inclusive(|&b| b == b'\n') {
            // Lines are for people, so longer ones are split.
            let room = 4096usize.saturating_sub(self.partial.len()).min(part.len());
            self.partial.extend_from_slice(&part[..room]);
            if part.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let bytes = std::mem::take(&mut self.partial);
        let text = printable(&String::from_utf8_lossy(&bytes));
        let text = text.trim_end();
        self.logged.notice(text);
        (self.line)(text);
    }

    pub(super) fn finish(mut self) -> io::Result<Logged> {
        if !self.partial.is_empty() {
            self.end_line();
        }
        if self.written >= MOST_LOG {
            self.file.write_all(b"\nkcache: the rest of the output was not kept\n")?;
        }
        if let Some(e) = self.error {
            return Err(e);
        }
        self.file.flush()?;
        Ok(self.logged)
    }
}

/// Escapes everything that would control a terminal: a build's output is untrusted.
pub fn printable(text: &str) -> String {
    let plain = |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c };
    text.trim_end_matches(['\r', '\n']).chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\x1b]0;title\x07\tb\r\n"), "a\u{fffd}]0;title\u{fffd}\tb");
    }
}
