//! The terminal on which progress is drawn, and whether there is one that somebody looks at.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::TermLike;

/// Columns at the right that stay empty: `^C`, which the terminal echoes there, stays in the line and is cleared with it.
const MARGIN: u16 = 4;
/// Rows and columns of a terminal that does not know its size.
const SIZE: (u16, u16) = (24, 80);

/// Whether stderr is a terminal that can be drawn on. apt runs maintainer scripts on a terminal of its own, of which it keeps
/// everything in a log.
pub fn is_drawn_on(variable: &dyn Fn(&str) -> Option<String>) -> bool {
    std::io::stderr().is_terminal() && !is_log(variable)
}

/// Whether the environment says that output goes to a log, or to a terminal without cursor movement.
pub fn is_log(variable: &dyn Fn(&str) -> Option<String>) -> bool {
    let is = |name: &str, value: &str| variable(name).is_some_and(|found| found == value);
    variable("TERM").is_none_or(|term| term == "dumb")
        || is("DEBIAN_FRONTEND", "noninteractive")
        || variable("DPKG_MAINTSCRIPT_PACKAGE").is_some()
}

/// stderr, written a frame at a time.
#[derive(Debug, Default)]
pub struct Screen(Mutex<Vec<u8>>);

impl Screen {
    fn frame(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a control sequence (ECMA-48) that moves the cursor.
    fn go(&self, steps: usize, direction: char) -> io::Result<()> {
        if steps > 0 { write!(self.frame(), "\x1b[{steps}{direction}") } else { Ok(()) }
    }

    fn size() -> (u16, u16) {
        let size = rustix::termios::tcgetwinsize(io::stderr()).map(|size| (size.ws_row, size.ws_col));
        size.ok().filter(|(rows, columns)| *rows > 0 && *columns > 0).unwrap_or(SIZE)
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        let (_, columns) = Screen::size();
        columns.saturating_sub(MARGIN).max(1)
    }

    fn height(&self) -> u16 {
        Screen::size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.go(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.go(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.go(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.go(n, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        writeln!(self.frame(), "{text}")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.frame().write_all(text.as_bytes())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.frame().write_all(b"\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let frame = std::mem::take(&mut *self.frame());
        io::stderr().lock().write_all(&frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_drawn_where_a_log_is_kept() {
        let check = |variables: &[(&str, &str)], expect: bool| {
            let variable = |name: &str| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(is_log(&variable), expect, "{variables:?}");
        };
        let term = ("TERM", "xterm");
        check(&[term], false);
        check(&[term, ("DEBIAN_FRONTEND", "dialog")], false);
        check(&[], true);
        check(&[("TERM", "dumb")], true);
        check(&[term, ("DEBIAN_FRONTEND", "noninteractive")], true);
        check(&[term, ("DPKG_MAINTSCRIPT_PACKAGE", "linux-image-6.1")], true);
    }

    #[test]
    fn a_frame_is_written_as_the_terminal_reads_it() {
        let screen = Screen::default();
        screen.write_line("one").unwrap();
        screen.write_str("two").unwrap();
        screen.move_cursor_up(1).unwrap();
        screen.move_cursor_down(0).unwrap();
        screen.clear_line().unwrap();
        assert_eq!(screen.frame().as_slice(), b"one\ntwo\x1b[1A\r\x1b[2K");
    }
}
