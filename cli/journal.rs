//! The systemd journal, for messages of hooks: at boot, or under a package manager whose output is not kept.
//!
//! Each line is one datagram of journald's native protocol (systemd's docs/JOURNAL_NATIVE_PROTOCOL.md): one field per line, and
//! for values that may contain a line break the name, the length as a little-endian 64-bit number, and the bytes. If no journald
//! listens, or it does not accept the datagram, nothing is lost: the lines went to stderr already.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Longest message, in bytes: far below the smallest limit that datagrams have (net.core.wmem_default is 212,992).
const LONGEST: usize = 32 * 1024;

/// How grave a message is, by syslog's numbers (syslog(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    Error = 3,
    Warning = 4,
    Notice = 5,
    Info = 6,
    Debug = 7,
}

/// A socket, and the path of the one at which the journal listens.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// This machine's journal, if it has one.
    pub fn open() -> Option<Journal> {
        Journal::at(Path::new(SOCKET))
    }

    /// A journal that listens at this path.
    pub fn at(path: &Path) -> Option<Journal> {
        if !path.exists() {
            return None;
        }
        let socket = UnixDatagram::unbound().ok()?;
        // A journald that is stuck must not hold up a boot.
        socket.set_nonblocking(true).ok()?;
        Some(Journal { socket, path: path.to_owned() })
    }

    /// Sends one message.
    pub fn send(&self, priority: Priority, message: &str) {
        let _ = self.socket.send_to(&datagram(priority, message), &self.path);
    }
}

fn datagram(priority: Priority, message: &str) -> Vec<u8> {
    let end = (0..=message.len().min(LONGEST)).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    let message = &message[..end];
    let mut bytes = format!("SYSLOG_IDENTIFIER=kcache\nPRIORITY={}\nMESSAGE\n", priority as u8).into_bytes();
    bytes.extend((message.len() as u64).to_le_bytes());
    bytes.extend(message.as_bytes());
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_as_one_datagram_with_its_line_breaks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        Journal::at(&path).unwrap().send(Priority::Warning, "two\nlines");
        let mut received = [0; 256];
        let length = journald.recv(&mut received).unwrap();
        let expected = b"SYSLOG_IDENTIFIER=kcache\nPRIORITY=4\nMESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\n";
        assert_eq!(&received[..length], expected);
    }

    #[test]
    fn without_a_journal_there_is_no_way_to_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Journal::at(&dir.path().join("socket")).is_none());
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        let long = "é".repeat(LONGEST);
        assert!(std::str::from_utf8(&datagram(Priority::Info, &long)[60..]).is_ok());
    }
}
