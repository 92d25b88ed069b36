//! The text indexes of a tree, parsed and split by module.
//!
//! Every line must be one that depmod would have written there: modules in the order of `modules.order`, lines of a
//! module together and in the order of the modules, symbols in the order of the hash table. This detects indexes
//! written by another program, another version, or a patched depmod.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::graph::{Needs, Sorted, reduce};
use super::{DepmodReason, Kmod, hash, module_name, trie};

pub(super) const ALIAS_HEAD: &str = "# Aliases extracted from modules themselves.\n";
pub(super) const SOFTDEP_HEAD: &str = "# Soft dependencies extracted from modules themselves.\n";
pub(super) const WEAKDEP_HEAD: &str = "# Weak dependencies extracted from modules themselves.\n";
pub(super) const SYMBOLS_HEAD: &str = "# Aliases for symbols, used by symbol_request().\n";
const BINS: [&str; 3] = ["modules.dep.bin", "modules.alias.bin", "modules.symbols.bin"];
/// `PATH_MAX`, the size of depmod's line buffer.
const LINE_MAX: usize = 4096;
/// depmod counts modules with 16 bits.
pub(super) const MODULES_MAX: usize = u16::MAX as usize - 1;

/// The parsed `modules.order`, which lists in-tree modules.
pub(super) struct Order<'a>(HashMap<&'a str, u32>);

/// depmod's sort key of modules: those of `modules.order` first and in its order, all others in the order of the hash
/// table.
pub(super) type Place<'a> = (bool, u32, u32, &'a str);

impl<'a> Order<'a> {
    pub(super) fn parse(text: &'a str, kmod: &Kmod) -> Result<Self, DepmodReason> {
        if !text.is_empty() && !text.ends_with('\n')
            || text.split('\n').any(|line| line.len() >= LINE_MAX - 1)
        {
            return Err(DepmodReason::Odd { name: "modules.order", line: text.split('\n').count() });
        }
        // If a path occurs twice, the last position counts, or the first.
        let mut lines: Vec<(&str, u32)> = text.split_terminator('\n').zip(0..).collect();
        if kmod.takes_first_of_order() {
            lines.reverse();
        }
        Ok(Self(lines.into_iter().collect()))
    }

    pub(super) fn place<'b>(&self, path: &str, name: &'b str) -> Place<'b> {
        match self.line(path) {
            Some(line) => (false, line, 0, ""),
            None => (true, 0, hash::bucket(name, hash::MODULES), name),
        }
    }

    /// Number of in-tree modules.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a file is an in-tree module.
    pub(super) fn lists(&self, path: &str) -> bool {
        self.line(path).is_some()
    }

    fn line(&self, path: &str) -> Option<u32> {
        let stem = path.rfind('/').map_or(0, |slash| slash + 1) + path.rsplit('/').next()?.find('.')?;
        self.0.get(path.get(..stem + ".ko".len())?).copied()
    }
}

/// A module in the indexes.
#[derive(Debug)]
pub(super) struct Listed<'a> {
    pub(super) path: &'a str,
    pub(super) name: String,
    /// Its lines in `modules.alias`, `modules.softdep` and `modules.weakdep`.
    pub(super) alias: &'a str,
    pub(super) softdep: &'a str,
    pub(super) weakdep: &'a str,
}

/// The parsed text indexes of a tree.
pub struct Present<'a> {
    pub(super) kmod: &'a Kmod,
    pub(super) order: Order<'a>,
    pub(super) modules: Vec<Listed<'a>>,
    pub(super) by_path: HashMap<&'a str, u32>,
    /// All needs of each module, in the order of its line.
    pub(super) whole: Needs,
    /// Its certain direct needs, in the order in which it names those that it freed.
    pub(super) direct: Needs,
    pub(super) sorted: Sorted,
    /// `symbol:NAME` with the module that exports it, in the order of the file.
    pub(super) symbols: Vec<(&'a str, u32)>,
}

/// Contents of the indexes and of `modules.order`.
#[derive(Debug, Clone, Copy)]
pub struct Texts<'a> {
    /// `modules.order`; empty if it does not exist.
    pub order: &'a str,
    /// `modules.dep`
    pub dep: &'a str,
    /// `modules.alias`
    pub alias: &'a str,
    /// `modules.softdep`
    pub softdep: &'a str,
    /// `modules.weakdep`; not read if depmod does not write it.
    pub weakdep: &'a str,
    /// `modules.symbols`
    pub symbols: &'a str,
    /// `modules.dep.bin`, `modules.alias.bin`, `modules.symbols.bin`, which contain the same data: a comparison
    /// detects corrupt or truncated ones.
    pub bins: [&'a [u8]; 3],
}

impl<'a> Present<'a> {
    /// Parses the indexes.
    ///
    /// # Errors
    ///
    /// [`DepmodReason::Odd`] with the line that this depmod would not have written.
    pub fn parse(texts: Texts<'a>, kmod: &'a Kmod) -> Result<Self, DepmodReason> {
        let order = Order::parse(texts.order, kmod)?;
        let (modules, by_path, whole) = dependencies(texts.dep)?;
        let odd = |line| DepmodReason::Odd { name: "modules.dep", line };
        let places: Vec<_> = modules.iter().map(|module| order.place(module.path, &module.name)).collect();
        if let Some(at) = places.windows(2).position(|pair| pair[0] >= pair[1]) {
            return Err(odd(at + 2));
        }
        let direct = reduce(&whole);
        let sorted =
            Sorted::of(&direct).filter(|sorted| sorted.whole(&direct) == whole).ok_or_else(|| odd(1))?;
        let mut present = Self { kmod, order, modules, by_path, whole, direct, sorted, symbols: Vec::new() };
        let numbers: HashMap<String, u32> =
            present.modules.iter().map(|module| module.name.clone()).zip(0..).collect();
        if numbers.len() != present.modules.len() {
            return Err(odd(1));
        }
        let last = |rest: &'a str| Some(rest.strip_prefix("alias ")?.rsplit_once(' ')?.1);
        let alias = Lines { name: "modules.alias", head: ALIAS_HEAD, text: texts.alias, module: last };
        alias.divide(&mut present.modules, &numbers, |module, lines| module.alias = lines)?;
        let second = |line: &'a str| Some(line.strip_prefix("softdep ")?.split_once(' ')?.0);
        let softdep =
            Lines { name: "modules.softdep", head: SOFTDEP_HEAD, text: texts.softdep, module: second };
        softdep.divide(&mut present.modules, &numbers, |module, lines| module.softdep = lines)?;
        if kmod.writes_weakdep() {
            let second = |line: &'a str| Some(line.strip_prefix("weakdep ")?.split_once(' ')?.0);
            let weakdep =
                Lines { name: "modules.weakdep", head: WEAKDEP_HEAD, text: texts.weakdep, module: second };
            weakdep.divide(&mut present.modules, &numbers, |module, lines| module.weakdep = lines)?;
        }
        present.symbols = symbols(texts.symbols, &numbers)?;
        let sums = [
            dep_sum(&present.modules, texts.dep),
            alias_sum(texts.alias),
            symbols_sum(&present.modules, &present.symbols),
        ];
        for ((bin, sum), name) in texts.bins.into_iter().zip(sums).zip(BINS) {
            let mut found = Sum::default();
            let walked = trie::walk(bin, &mut |key, value| {
                found.add(key, value.bytes);
                Ok(())
            });
            if walked.is_err() || found != sum {
                return Err(DepmodReason::Odd { name, line: 1 });
            }
        }
        Ok(present)
    }

    /// Whether the indexes list a file.
    pub fn has(&self, path: &str) -> bool {
        self.by_path.contains_key(path)
    }

    /// Whether a file is an in-tree module.
    pub fn is_own(&self, path: &str) -> bool {
        self.order.lists(path)
    }

    /// Number of the module that exports a symbol.
    pub(super) fn owner(&self, symbol: &str) -> Option<u32> {
        let place = |name| (hash::bucket(name, hash::SYMBOLS), name);
        let found = self.symbols.binary_search_by_key(&place(symbol), |(key, _)| place(name_of(key))).ok()?;
        Some(self.symbols[found].1)
    }
}

/// The `NAME` of `symbol:NAME`.
pub(super) fn name_of(symbol: &str) -> &str {
    &symbol["symbol:".len()..]
}

/// An order-independent checksum: equal sets of keys and values have equal sums.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    count: usize,
    hashes: u64,
}

impl Sum {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let mut hasher = DefaultHasher::new();
        (key, value).hash(&mut hasher);
        self.count += 1;
        self.hashes = self.hashes.wrapping_add(hasher.finish());
    }
}

fn dep_sum(modules: &[Listed<'_>], text: &str) -> Sum {
    let mut sum = Sum::default();
    modules
        .iter()
        .zip(text.lines())
        .for_each(|(module, line)| sum.add(module.name.as_bytes(), line.as_bytes()));
    sum
}

fn alias_sum(text: &str) -> Sum {
    let (mut sum, mut key) = (Sum::default(), Vec::new());
    let lines = text.lines().filter_map(|line| line.strip_prefix("alias ")?.rsplit_once(' '));
    for (alias, module) in lines {
        key.clear();
        if normalize(alias.as_bytes(), &mut key) {
            sum.add(&key, module.as_bytes());
        }
    }
    sum
}

fn symbols_sum(modules: &[Listed<'_>], symbols: &[(&str, u32)]) -> Sum {
    let mut sum = Sum::default();
    symbols.iter().for_each(|(key, owner)| sum.add(key.as_bytes(), modules[*owner as usize].name.as_bytes()));
    sum
}

/// Normalizes an alias as modprobe does: `-` becomes `_` except in brackets. False if brackets do not match
/// (shared/util.c, `alias_normalize`): such an alias is in the text index only, and `out` is meaningless.
pub(super) fn normalize(alias: &[u8], out: &mut Vec<u8>) -> bool {
    let mut inside = false;
    for &c in alias {
        match c {
            b']' if !inside => return false,
            b']' => inside = false,
            b'[' => inside = true,
            _ => {}
        }
        out.push(if c == b'-' && !inside { b'_' } else { c });
    }
    !inside
}

type Dependencies<'a> = (Vec<Listed<'a>>, HashMap<&'a str, u32>, Needs);

fn dependencies(text: &str) -> Result<Dependencies<'_>, DepmodReason> {
    let odd = |line| DepmodReason::Odd { name: "modules.dep", line };
    check(text).ok_or_else(|| odd(1))?;
    let lines = text.split_terminator('\n').enumerate();
    let lines = lines.map(|(at, line)| line.split_once(':').ok_or_else(|| odd(at + 1)));
    let lines = lines.collect::<Result<Vec<(&str, &str)>, _>>()?;
    if lines.len() > MODULES_MAX {
        return Err(odd(MODULES_MAX));
    }
    let by_path: HashMap<&str, u32> = lines.iter().map(|(path, _)| *path).zip(0..).collect();
    if by_path.len() != lines.len() {
        return Err(odd(1));
    }
    let needs = |(at, (_, needs)): (usize, &(&str, &str))| {
        let number = |path: &str| by_path.get(path).copied().ok_or_else(|| odd(at + 1));
        let paths = needs.strip_prefix(' ').map(|needs| needs.split(' '));
        match paths {
            Some(paths) => paths.map(number).collect(),
            None if needs.is_empty() => Ok(Vec::new()),
            None => Err(odd(at + 1)),
        }
    };
    let whole = lines.iter().enumerate().map(needs).collect::<Result<_, _>>()?;
    let listed = |(path, _)| Listed { path, name: module_name(path), alias: "", softdep: "", weakdep: "" };
    Ok((lines.into_iter().map(listed).collect(), by_path, whole))
}

/// Checks that a text is ASCII and ends with a line feed.
fn check(text: &str) -> Option<()> {
    let whole = text.is_empty() || text.ends_with('\n');
    (whole && text.is_ascii() && !text.contains('\0')).then_some(())
}

/// An index in which the lines of each module are together.
struct Lines<'a, F> {
    name: &'static str,
    head: &'static str,
    text: &'a str,
    /// Extracts the module from a line.
    module: F,
}

impl<'a, F: Fn(&'a str) -> Option<&'a str>> Lines<'a, F> {
    fn divide(
        &self,
        modules: &mut [Listed<'a>],
        numbers: &HashMap<String, u32>,
        put: impl Fn(&mut Listed<'a>, &'a str),
    ) -> Result<(), DepmodReason> {
        let odd = |line| DepmodReason::Odd { name: self.name, line };
        check(self.text).ok_or_else(|| odd(1))?;
        let lines = self.text.strip_prefix(self.head).ok_or_else(|| odd(1))?;
        let mut current: Option<u32> = None;
        let (mut start, mut at) = (0, 0);
        for (number, line) in lines.split_terminator('\n').enumerate() {
            let module =
                (self.module)(line).filter(|_| line.len() < trie::KEY_MAX).ok_or_else(|| odd(number + 2))?;
            if current.is_none_or(|current| modules[current as usize].name != module) {
                let next = numbers.get(module).copied().filter(|next| current.is_none_or(|now| now < *next));
                let next = next.ok_or_else(|| odd(number + 2))?;
                if let Some(current) = current.replace(next) {
                    put(&mut modules[current as usize], &lines[start..at]);
                }
                start = at;
            }
            at += line.len() + 1;
        }
        if let Some(current) = current {
            put(&mut modules[current as usize], &lines[start..]);
        }
        Ok(())
    }
}

fn symbols<'a>(text: &'a str, numbers: &HashMap<String, u32>) -> Result<Vec<(&'a str, u32)>, DepmodReason> {
    let odd = |line| DepmodReason::Odd { name: "modules.symbols", line };
    check(text).ok_or_else(|| odd(1))?;
    let lines = text.strip_prefix(SYMBOLS_HEAD).ok_or_else(|| odd(1))?;
    let mut found = Vec::with_capacity(text.len() / 40);
    let mut before = None;
    for (number, line) in lines.split_terminator('\n').enumerate() {
        let odd = || odd(number + 2);
        let (symbol, module) =
            line.strip_prefix("alias ").and_then(|rest| rest.rsplit_once(' ')).ok_or_else(odd)?;
        let name =
            symbol.strip_prefix("symbol:").filter(|name| name.len() < trie::KEY_MAX / 2).ok_or_else(odd)?;
        let place = Some((hash::bucket(name, hash::SYMBOLS), name));
        if before >= place {
            return Err(odd());
        }
        before = place;
        found.push((symbol, *numbers.get(module).ok_or_else(odd)?));
    }
    Ok(found)
}
