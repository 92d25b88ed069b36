//! Writing the text and binary indexes.

use std::fmt::Write as _;

use super::{Attempt, From, Listed, Module};
use crate::index::graph::Needs;
use crate::index::present::{ALIAS_HEAD, SOFTDEP_HEAD, SYMBOLS_HEAD, WEAKDEP_HEAD, name_of, normalize};
use crate::index::trie::{self, Layout, Pair};
use crate::index::{DepmodReason, Facts, hash};
use crate::parallel::both;

const DEVNAME_HEAD: &str = "# Device nodes to trigger on-demand module loading.\n";

impl<'a> Attempt<'a> {
    /// All indexes, given all needs of each module.
    pub(super) fn files(&self, whole: &Needs) -> Result<Vec<(&'static str, Vec<u8>)>, DepmodReason> {
        let dep: Vec<String> =
            self.modules.iter().zip(whole).map(|(module, needs)| self.line(module, needs)).collect();
        let (aliases, symbols) = both(|| self.aliases(), || self.symbols());
        let ((alias, alias_bin), (symbols, symbols_bin)) = (aliases?, symbols?);
        let dep_pairs = self.modules.iter().zip(&dep).zip(0..);
        let dep_pairs = dep_pairs.map(|((module, line), priority)| Pair {
            key: module.name.as_bytes(),
            priority,
            value: line.as_bytes(),
        });
        let dep_bin = self.bin(dep_pairs.collect())?;
        let mut dep_text = String::with_capacity(dep.iter().map(|line| line.len() + 1).sum());
        for line in &dep {
            dep_text.push_str(line);
            dep_text.push('\n');
        }
        let mut files = vec![
            ("modules.dep", dep_text.into_bytes()),
            ("modules.dep.bin", dep_bin),
            ("modules.alias", alias),
            ("modules.alias.bin", alias_bin),
            ("modules.softdep", self.softdeps().into_bytes()),
            ("modules.symbols", symbols),
            ("modules.symbols.bin", symbols_bin),
            ("modules.devname", self.devnames().into_bytes()),
        ];
        if self.present.kmod.writes_weakdep() {
            files.push(("modules.weakdep", self.weakdeps().into_bytes()));
        }
        Ok(files)
    }

    fn line(&self, module: &Module<'a>, needs: &[u32]) -> String {
        let mut line = format!("{}:", module.path);
        for &needed in needs {
            line.push(' ');
            line.push_str(self.modules[needed as usize].path);
        }
        line
    }

    fn aliases(&self) -> Result<(Vec<u8>, Vec<u8>), DepmodReason> {
        let mut text = ALIAS_HEAD.to_owned();
        // Offsets at which the lines of each module end.
        let mut ends = Vec::with_capacity(self.modules.len());
        for module in &self.modules {
            match module.from {
                From::Index(old) => text.push_str(self.old(old).alias),
                From::File(facts) => {
                    for alias in &facts.aliases {
                        let _ = writeln!(text, "alias {alias} {}", module.name);
                    }
                }
            }
            ends.push(text.len());
        }
        // A line contains its key, so keys have fewer bytes than lines.
        let mut keys = Vec::with_capacity(text.len());
        let mut found = Vec::with_capacity(text.len() / 40);
        let mut start = ALIAS_HEAD.len();
        for (number, (module, end)) in self.modules.iter().zip(ends).enumerate() {
            for line in text[start..end].split_terminator('\n') {
                let alias = line.get("alias ".len()..line.len() - module.name.len() - 1).unwrap_or_default();
                let from = keys.len();
                if normalize(alias.as_bytes(), &mut keys) {
                    found.push((from, keys.len(), number as u32));
                } else {
                    keys.truncate(from);
                }
            }
            start = end;
        }
        let pair = |&(from, to, number): &(usize, usize, u32)| Pair {
            key: &keys[from..to],
            priority: number,
            value: self.modules[number as usize].name.as_bytes(),
        };
        let bin = self.bin(found.iter().map(pair).collect())?;
        Ok((text.into_bytes(), bin))
    }

    fn softdeps(&self) -> String {
        self.lines(SOFTDEP_HEAD, "softdep", |old| old.softdep, |facts| &facts.softdeps)
    }

    fn weakdeps(&self) -> String {
        self.lines(WEAKDEP_HEAD, "weakdep", |old| old.weakdep, |facts| &facts.weakdeps)
    }

    /// The text of an index of `WORD MODULE VALUE`.
    fn lines(
        &self,
        head: &str,
        word: &str,
        old: impl Fn(&Listed<'a>) -> &'a str,
        new: impl Fn(&'a Facts) -> &'a [String],
    ) -> String {
        let mut text = head.to_owned();
        for module in &self.modules {
            match module.from {
                From::Index(number) => text.push_str(old(self.old(number))),
                From::File(facts) => {
                    for value in new(facts) {
                        let _ = writeln!(text, "{word} {} {value}", module.name);
                    }
                }
            }
        }
        text
    }

    /// The text of `modules.devname`, which is derived from aliases.
    fn devnames(&self) -> String {
        let mut text = DEVNAME_HEAD.to_owned();
        for module in &self.modules {
            let node = match module.from {
                From::Index(old) => devname(
                    self.old(old)
                        .alias
                        .lines()
                        .filter_map(|line| Some(line.strip_prefix("alias ")?.rsplit_once(' ')?.0)),
                ),
                From::File(facts) => devname(facts.aliases.iter().map(String::as_str)),
            };
            if let Some(node) = node {
                let _ = writeln!(text, "{} {node}", module.name);
            }
        }
        if text == DEVNAME_HEAD { String::new() } else { text }
    }

    fn symbols(&self) -> Result<(Vec<u8>, Vec<u8>), DepmodReason> {
        let place = |name: &'a str| (hash::bucket(name, hash::SYMBOLS), name);
        let mut new: Vec<_> =
            self.owners.iter().filter_map(|(name, owner)| Some((place(name), (*owner)?))).collect();
        new.sort_unstable();
        let keys: Vec<String> = new.iter().map(|((_, name), _)| format!("symbol:{name}")).collect();
        let mut added =
            new.iter().zip(&keys).map(|((place, owner), key)| (*place, key.as_str(), *owner)).peekable();
        let mut all: Vec<(&str, u32)> = Vec::with_capacity(self.present.symbols.len() + new.len());
        for &(symbol, old) in &self.present.symbols {
            let name = name_of(symbol);
            if !new.is_empty() {
                let here = place(name);
                while let Some((_, key, owner)) = added.next_if(|(place, ..)| *place < here) {
                    all.push((key, owner));
                }
            }
            if let Some(kept) = self.kept[old as usize].filter(|_| !self.owners.contains_key(name)) {
                all.push((symbol, kept));
            }
        }
        all.extend(added.map(|(_, key, owner)| (key, owner)));
        let mut text = String::with_capacity(SYMBOLS_HEAD.len() + all.len() * 48);
        text.push_str(SYMBOLS_HEAD);
        for (key, owner) in &all {
            for part in ["alias ", key, " ", self.modules[*owner as usize].name, "\n"] {
                text.push_str(part);
            }
        }
        let pairs = all.iter().map(|(key, owner)| Pair {
            key: key.as_bytes(),
            priority: *owner,
            value: self.modules[*owner as usize].name.as_bytes(),
        });
        let bin = self.bin(pairs.collect())?;
        Ok((text.into_bytes(), bin))
    }

    fn bin(&self, pairs: Vec<Pair<'_>>) -> Result<Vec<u8>, DepmodReason> {
        let layout = match self.present.kmod.writes_parents_first() {
            true => Layout::ParentsFirst,
            false => Layout::ChildrenFirst,
        };
        trie::write(pairs, layout).ok_or(DepmodReason::Odd { name: "modules.alias", line: 1 })
    }
}

/// A device node in /dev from a module's aliases, with its numbers (tools/depmod.c, `output_devname`).
fn devname<'a>(aliases: impl Iterator<Item = &'a str>) -> Option<String> {
    let (mut name, mut numbers) = (None, None);
    for alias in aliases {
        if let Some(node) = alias.strip_prefix("devname:") {
            name = Some(node);
        } else if let Some(found) = device(alias, "char-major-") {
            numbers = Some(('c', found));
        } else if let Some(found) = device(alias, "block-major-") {
            numbers = Some(('b', found));
        }
        if let (Some(name), Some((kind, (major, minor)))) = (name, numbers) {
            return Some(format!("{name} {kind}{major}:{minor}"));
        }
    }
    None
}

/// Like scanf with `%u-%u`: digits, and anything after the second number.
fn device(alias: &str, prefix: &str) -> Option<(u32, u32)> {
    let (major, rest) = alias.strip_prefix(prefix)?.split_once('-')?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    Some((major.parse().ok()?, rest[..digits].parse().ok()?))
}
