//! `Module.symvers`: the symbols that a kernel and its modules export.
//!
//! modpost writes one line per symbol, with fields separated by tabs (`Documentation/kbuild/modules.rst`):
//!
//! ```text
//! 0x4c9d28b0<TAB>phys_base<TAB>vmlinux<TAB>EXPORT_SYMBOL<TAB>
//! 0x815f2897<TAB>cxl_probe<TAB>drivers/cxl/core/cxl_core<TAB>EXPORT_SYMBOL_GPL<TAB>CXL
//! ```
//!
//! The last field, the namespace, does not exist before 5.4, and was the third one from 5.4 to 5.6; all three formats
//! are supported. Without `CONFIG_MODVERSIONS` the CRC is zero, so [`Export::crc`] alone means nothing.
//!
//! A kernel exports some 25,000 symbols. The text is kept unchanged, with a hash table of the offsets of lines by
//! symbol: about 2 MB. Every line is checked when it is parsed, none when it is looked up.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use memchr::{memchr, memchr_iter};

/// A corrupt `Module.symvers`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The file is not text, or is larger than any kernel's.
    #[error("not a Module.symvers: {0}")]
    NotText(&'static str),
    /// A line does not have the documented format.
    #[error("line {line} of Module.symvers: {what}")]
    Line {
        /// Line number, from 1.
        line: usize,
        /// What is wrong with the line.
        what: &'static str,
    },
}

/// The exported symbols of a kernel, or of a package that others build against.
#[derive(Debug, Clone, Default)]
pub struct Symvers {
    text: String,
    /// Offset of each symbol's line. If a symbol occurs twice, the first line counts, as in modpost.
    lines: HashTable<u32>,
    hasher: RandomState,
}

/// An exported symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Export<'a> {
    /// Name of the symbol.
    pub symbol: &'a str,
    /// CRC of the symbol's type with `CONFIG_MODVERSIONS`, else zero.
    pub crc: u32,
    /// The exporting module as a path without suffix (`drivers/cxl/core/cxl_core`), or `vmlinux`.
    pub module: &'a str,
    /// Which modules may use it.
    pub kind: ExportKind,
    /// The namespace that an importer must name (`MODULE_IMPORT_NS`).
    pub namespace: Option<&'a str>,
}

/// Which modules may use an exported symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportKind {
    /// `EXPORT_SYMBOL`: any module.
    Any,
    /// `EXPORT_SYMBOL_GPL`: modules with a license compatible with the GPL.
    Gpl,
}

impl Symvers {
    /// Parses a whole file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if u32::try_from(bytes.len()).is_err() {
            return Err(Error::NotText("larger than 4 GiB"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Error::NotText("not UTF-8"))?.to_owned();
        let hasher = RandomState::new();
        let hash = |symbol: &str| hasher.hash_one(symbol);
        let mut lines = HashTable::with_capacity(bytes.len() / 64);
        let mut start = 0;
        for (number, end) in memchr_iter(b'\n', bytes).chain([bytes.len()]).enumerate() {
            let line = &text[start..end];
            if !line.is_empty() {
                let symbol = parse_line(line).map_err(|what| Error::Line { line: number + 1, what })?.symbol;
                let is_it = |&at: &u32| symbol_at(&text, at) == symbol;
                lines.entry(hash(symbol), is_it, |&at| hash(symbol_at(&text, at))).or_insert(start as u32);
            }
            start = end + 1;
        }
        Ok(Self { text, lines, hasher })
    }

    /// Looks up one symbol.
    pub fn get(&self, symbol: &str) -> Option<Export<'_>> {
        let is_it = |&at: &u32| symbol_at(&self.text, at) == symbol;
        self.export(*self.lines.find(self.hasher.hash_one(symbol), is_it)?)
    }

    /// All exported symbols, unordered.
    pub fn iter(&self) -> impl Iterator<Item = Export<'_>> {
        self.lines.iter().filter_map(|&at| self.export(at))
    }

    /// Number of symbols.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are no symbols.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn export(&self, at: u32) -> Option<Export<'_>> {
        let line = self.text.get(at as usize..)?;
        parse_line(line.split('\n').next()?).ok()
    }
}

/// The second field of the line at `at`, which was checked to exist.
fn symbol_at(text: &str, at: u32) -> &str {
    fields(&text[at as usize..]).nth(1).unwrap_or_default()
}

/// The fields of a line.
fn fields(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let Some(tab) = memchr(b'\t', line.as_bytes()) else { return rest.take() };
        rest = Some(&line[tab + 1..]);
        Some(&line[..tab])
    })
}

fn parse_line(line: &str) -> Result<Export<'_>, &'static str> {
    let mut fields = fields(line);
    let mut next = || fields.next();
    let (Some(crc), Some(symbol), Some(third), Some(fourth)) = (next(), next(), next(), next()) else {
        return Err("fewer than four fields");
    };
    let (fifth, None) = (next(), next()) else {
        return Err("more than five fields");
    };
    let (module, kind, namespace) = match fifth {
        // A namespace may have any name, but no module's looks like a kind of export.
        Some(kind) if kind.starts_with("EXPORT_") && parse_kind(fourth).is_none() => (fourth, kind, third),
        namespace => (third, fourth, namespace.unwrap_or_default()),
    };
    if symbol.is_empty() || module.is_empty() {
        return Err("an empty field");
    }
    Ok(Export {
        symbol,
        crc: parse_crc(crc).ok_or("no CRC of the form 0x1234abcd")?,
        module,
        kind: parse_kind(kind).ok_or("an unknown kind of export")?,
        namespace: (!namespace.is_empty()).then_some(namespace),
    })
}

fn parse_crc(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0x")?;
    // from_str_radix alone would accept a sign.
    digits.bytes().all(|c| c.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

/// The `UNUSED` and `GPL_FUTURE` kinds were removed in 5.12.
fn parse_kind(text: &str) -> Option<ExportKind> {
    match text {
        "EXPORT_SYMBOL" | "EXPORT_UNUSED_SYMBOL" | "EXPORT_SYMBOL_GPL_FUTURE" => Some(ExportKind::Any),
        "EXPORT_SYMBOL_GPL" | "EXPORT_UNUSED_SYMBOL_GPL" => Some(ExportKind::Gpl),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const THREE: &str = "0x4c9d28b0\tphys_base\tvmlinux\tEXPORT_SYMBOL\t\n\
        0x815f2897\tcxl_probe\tdrivers/cxl/core/cxl_core\tEXPORT_SYMBOL_GPL\tCXL\n\
        0x00000000\tabs\tvmlinux\tEXPORT_SYMBOL\t\n";

    fn check(line: &str, expect: Result<(u32, &str, ExportKind, Option<&str>), &'static str>) {
        let found = parse_line(line).map(|e| (e.crc, e.module, e.kind, e.namespace));
        assert_eq!(found, expect, "{line:?}");
    }

    #[test]
    fn symbols_are_found_whatever_the_order_of_lines() {
        let symvers = Symvers::parse(THREE.as_bytes()).unwrap();
        assert_eq!(symvers.len(), 3);
        let cxl = symvers.get("cxl_probe").unwrap();
        assert_eq!(
            (cxl.crc, cxl.module, cxl.namespace),
            (0x815f_2897, "drivers/cxl/core/cxl_core", Some("CXL"))
        );
        assert_eq!(symvers.get("phys_base").unwrap().namespace, None);
        assert_eq!(symvers.get("cxl_prob"), None);
        assert_eq!(symvers.get("zzz"), None);
        let mut all: Vec<&str> = symvers.iter().map(|e| e.symbol).collect();
        all.sort_unstable();
        assert_eq!(all, ["abs", "cxl_probe", "phys_base"]);
    }

    #[test]
    fn every_format_is_read() {
        check("0x1\ts\tm\tEXPORT_SYMBOL", Ok((1, "m", ExportKind::Any, None)));
        check("0x1\ts\tNS\tm\tEXPORT_SYMBOL_GPL", Ok((1, "m", ExportKind::Gpl, Some("NS"))));
        check("0x1\ts\tm\tEXPORT_SYMBOL_GPL\tNS", Ok((1, "m", ExportKind::Gpl, Some("NS"))));
        check("0x1\ts\tm\tEXPORT_UNUSED_SYMBOL_GPL", Ok((1, "m", ExportKind::Gpl, None)));
    }

    #[test]
    fn corruption_is_reported() {
        check("0x1\ts\tm", Err("fewer than four fields"));
        check("0x1\ts\tm\tEXPORT_SYMBOL\t\t", Err("more than five fields"));
        check("1\ts\tm\tEXPORT_SYMBOL\t", Err("no CRC of the form 0x1234abcd"));
        check("0x+1\ts\tm\tEXPORT_SYMBOL\t", Err("no CRC of the form 0x1234abcd"));
        check("0x1\t\tm\tEXPORT_SYMBOL\t", Err("an empty field"));
        check("0x1\ts\tm\tIMPORT\t", Err("an unknown kind of export"));
        let error = Symvers::parse(b"0x1\ts\tm\tEXPORT_SYMBOL\t\nnonsense\n").unwrap_err();
        assert_eq!(error.to_string(), "line 2 of Module.symvers: fewer than four fields");
    }

    #[test]
    fn the_first_line_of_a_symbol_counts() {
        let twice = format!("0x00000007\tabs\tvmlinux\tEXPORT_SYMBOL\t\n{THREE}");
        let symvers = Symvers::parse(twice.as_bytes()).unwrap();
        assert_eq!((symvers.len(), symvers.get("abs").unwrap().crc), (3, 7));
    }

    #[test]
    fn an_empty_file_exports_nothing() {
        assert!(Symvers::parse(b"").unwrap().is_empty());
    }

    #[test]
    fn a_namespace_may_look_like_a_kind_of_export() {
        let symvers = Symvers::parse(b"0x1\ta\tvmlinux\tEXPORT_SYMBOL\tEXPORT_ME\n").unwrap();
        assert_eq!(symvers.get("a").unwrap().namespace, Some("EXPORT_ME"));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_result(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Symvers::parse(&bytes);
        }

        #[test]
        fn every_truncated_or_changed_input_gives_a_result(cut in 0..THREE.len(), at in 0..THREE.len(), to in 0u8..128) {
            let _ = Symvers::parse(&THREE.as_bytes()[..cut]);
            let mut bytes = THREE.as_bytes().to_vec();
            bytes[at] = to;
            if let Ok(symvers) = Symvers::parse(&bytes) {
                prop_assert!(symvers.iter().all(|e| symvers.get(e.symbol).is_some()));
            }
        }
    }
}
