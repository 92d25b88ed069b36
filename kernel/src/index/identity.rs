//! Property tests: generated trees that change, compared with indexes of the real depmod.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::ko::fixture::Built;
use crate::symvers::Symvers;

const RELEASE: &str = "6.1.0-56-amd64";
const SEARCH: &str = "search updates extra built-in\n";
/// Number of symbols, of which the kernel itself exports the first ones.
const SYMBOLS: u8 = 12;
const OF_VMLINUX: u8 = 2;

/// A generated module. Its name and directory are in the key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Made {
    exports: Vec<u8>,
    needs: Vec<u8>,
    words: Vec<u8>,
}

/// Number of a module, and its directory.
type Spot = (u8, Dir);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Dir {
    Kernel,
    Extra,
    Updates,
}

fn path((module, dir): Spot) -> String {
    let name = if module % 3 == 0 { format!("m-{module}") } else { format!("m{module}") };
    match dir {
        Dir::Kernel => format!("kernel/d{}/{name}.ko", module % 2),
        Dir::Extra => format!("extra/{name}.ko"),
        Dir::Updates => format!("updates/kcache-1/{name}.ko"),
    }
}

const WORDS: [&str; 11] = [
    "alias=pci:v00001AF4d0000[0-9a-f]*",
    "alias=pci:v00001AF4d00001000*",
    "alias=char-major-10-99",
    "alias=block-major-7-*",
    "alias=devname:some/node",
    "alias=of:N*T*]",
    "alias=",
    "alias=symbol",
    "softdep=pre: m1 post: m2",
    "weakdep=m1 m3",
    "author=J\u{f6}rg",
];

fn module(name: &str, made: &Made) -> Vec<u8> {
    let mut built = Built::named(name);
    built.modinfo.extend(made.words.iter().map(|&word| WORDS[usize::from(word)].to_owned()));
    built.exports.extend(made.exports.iter().map(|s| (format!("s{s}"), 1, String::new())));
    built.undefined.extend(made.needs.iter().map(|s| (format!("s{s}"), s % 5 == 0)));
    built.bytes()
}

/// The modules of a tree at one time.
type Files = BTreeMap<Spot, Made>;

struct Tree {
    dir: tempfile::TempDir,
    files: Files,
}

impl Tree {
    /// Writes the tree to disk and runs depmod.
    fn new(files: &Files, order: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tree = Self { dir, files: files.clone() };
        for (spot, made) in files {
            let file = tree.path().join(path(*spot));
            fs_err::create_dir_all(file.parent().unwrap()).unwrap();
            fs_err::write(file, module(&module_name(&path(*spot)), made)).unwrap();
        }
        fs_err::create_dir_all(tree.path().join("kernel")).unwrap();
        fs_err::write(tree.path().join("modules.order"), order).unwrap();
        fs_err::write(tree.path().join("modules.builtin"), "kernel/built.ko\n").unwrap();
        fs_err::write(tree.path().join("modules.builtin.modinfo"), "built.alias=b\0").unwrap();
        fs_err::write(tree.dir.path().join("a.conf"), SEARCH).unwrap();
        let mut depmod = Command::new(depmod_of_tests());
        depmod.arg("-C").arg(tree.dir.path().join("a.conf")).arg("-b").arg(tree.dir.path()).arg(RELEASE);
        assert!(depmod.output().unwrap().status.success());
        tree
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("lib/modules").join(RELEASE)
    }

    fn text(&self, name: &str) -> String {
        fs_err::read_to_string(self.path().join(name)).unwrap()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs_err::read(self.path().join(name)).unwrap()
    }
}

struct Disc<'a> {
    tree: &'a Tree,
    symvers: Option<&'a Symvers>,
}

impl Disk for Disc<'_> {
    fn facts(&mut self, path: &str) -> Result<Facts, DepmodReason> {
        Ok(Facts::parse(&self.tree.bytes(path)).unwrap())
    }

    fn symvers(&mut self) -> Option<&Symvers> {
        self.symvers
    }

    fn is_checked(&self, file: &str) -> bool {
        let is_file = |(spot, _): &(&Spot, &Made)| path(**spot) == file;
        let found = self.tree.files.iter().find(is_file);
        found.is_some_and(|((_, dir), made)| {
            *dir == Dir::Updates && made.exports.iter().all(|&symbol| symbol >= OF_VMLINUX)
        })
    }
}

/// The second tree's indexes by `update`, from those of the first.
fn updated(from: &Tree, to: &Tree, symvers: Option<&Symvers>) -> Result<WrittenIndexes, DepmodReason> {
    let names = ["modules.order", "modules.dep", "modules.alias", "modules.softdep", "modules.symbols"];
    let [order, dep, alias, softdep, symbols] = names.map(|name| from.text(name));
    let kmod = Kmod::of_tests();
    let weakdep = if kmod.writes_weakdep() { from.text("modules.weakdep") } else { String::new() };
    let bins = ["modules.dep.bin", "modules.alias.bin", "modules.symbols.bin"].map(|name| from.bytes(name));
    let [dep_bin, alias_bin, symbols_bin] = &bins;
    let texts = Texts {
        order: &order,
        dep: &dep,
        alias: &alias,
        softdep: &softdep,
        weakdep: &weakdep,
        symbols: &symbols,
        bins: [dep_bin, alias_bin, symbols_bin],
    };
    let present = Present::parse(texts, &kmod).unwrap();
    let rules = SearchRules::parse(&[("a.conf".to_owned(), SEARCH.to_owned())], RELEASE, &kmod).unwrap();
    let paths: BTreeMap<String, Spot> = to.files.keys().map(|spot| (path(*spot), *spot)).collect();
    let file = |(name, chosen): (String, String)| {
        let unchanged = from.files.get(&paths[&chosen]) == to.files.get(&paths[&chosen]);
        (name, IndexedFile { path: chosen, unchanged })
    };
    let modules = choose(&rules, &kmod, paths.keys().cloned())?.into_iter().map(file).collect();
    update(&present, &modules, &mut Disc { tree: to, symvers })
}

fn made(exports: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Made> {
    let needs = vec(0..SYMBOLS, 0..5);
    let words = vec(0..WORDS.len() as u8, 0..4);
    (exports, needs, words).prop_map(|(exports, needs, words)| Made { exports, needs, words })
}

/// Foreign modules, or kcache's: any number with any names, some equal to in-tree ones.
fn others() -> impl Strategy<Value = Files> {
    let spot = (0..14_u8, prop_oneof![Just(Dir::Extra), Just(Dir::Updates)]);
    let exports = prop_oneof![
        9 => vec(OF_VMLINUX..SYMBOLS, 0..3),
        9 => vec(9..SYMBOLS, 0..3),
        1 => vec(0..SYMBOLS, 0..3),
    ];
    btree_map(spot, made(exports), 0..4)
}

/// In-tree modules: every symbol has one exporter, and modules mostly need symbols of earlier ones.
fn own() -> impl Strategy<Value = Files> {
    vec(made(Just(Vec::new())), 3..10).prop_map(|made| {
        let count = made.len() as u8;
        let owner = |symbol: u8| (OF_VMLINUX..9).contains(&symbol).then_some(symbol % count);
        let module = |(module, mut made): (u8, Made)| {
            made.exports = (0..SYMBOLS).filter(|&symbol| owner(symbol) == Some(module)).collect();
            made.needs
                .retain(|&symbol| symbol < OF_VMLINUX || owner(symbol).is_some_and(|owner| owner < module));
            made.needs.dedup();
            ((module, Dir::Kernel), made)
        };
        (0..).zip(made).map(module).collect()
    })
}

#[derive(Debug, Clone)]
struct Story {
    own: Files,
    /// The order in `modules.order`, which omits the first ones.
    order: Vec<u8>,
    before: Files,
    after: Files,
    /// In-tree modules that are removed, before or after.
    gone: Vec<(u8, bool)>,
    symvers: bool,
}

fn story() -> impl Strategy<Value = Story> {
    let order = Just((0..10).collect::<Vec<u8>>()).prop_shuffle();
    let changes =
        (others(), others(), prop_oneof![4 => Just(vec![]), 1 => vec((0..10_u8, any::<bool>()), 1..2)]);
    // Much of the first tree stays.
    let shared = (others(), any::<bool>());
    (own(), order, changes, shared, prop::bool::weighted(0.7)).prop_map(
        |(own, order, (mut before, mut after, gone), (shared, both), symvers)| {
            if both {
                after.extend(shared.clone());
            }
            before.extend(shared);
            Story { own, order, before, after, gone, symvers }
        },
    )
}

fn trees(story: &Story) -> (Tree, Tree, Option<Symvers>) {
    let with = |others: &Files, after: bool| {
        let mut files: Files = story.own.clone();
        files.retain(|(module, _), _| !story.gone.contains(&(*module, after)));
        files.extend(others.clone());
        // A replacement of an in-tree module mostly has its symbols.
        for ((module, _), made) in files.iter_mut().filter(|(_, made)| !made.words.contains(&9)) {
            if let Some(own) = story.own.get(&(*module, Dir::Kernel)) {
                made.exports.extend(own.exports.clone());
            }
        }
        // No cycles: with these, depmod exhausts memory before it reports them.
        let all = [&story.own, &story.before, &story.after];
        let lowest = |symbol: u8, below: u8| {
            let exporters = all.iter().flat_map(|files| files.iter());
            exporters
                .filter(|(_, made)| made.exports.contains(&symbol))
                .all(|((module, _), _)| *module < below)
        };
        for ((module, _), made) in &mut files {
            made.needs.retain(|&symbol| lowest(symbol, *module));
        }
        files
    };
    // Without a Module.symvers, it matters whether all that it lists is there.
    let is_listed = |module: &&u8| story.symvers || story.own.contains_key(&(**module, Dir::Kernel));
    let order = story.order.iter().skip(1).filter(is_listed);
    let order: Vec<String> = order.map(|&module| format!("{}\n", path((module, Dir::Kernel)))).collect();
    let of_own = story.own.iter().flat_map(|(spot, made)| {
        let module = path(*spot).trim_end_matches(".ko").to_owned();
        made.exports.iter().map(move |s| format!("0x00000001\ts{s}\t{module}\tEXPORT_SYMBOL\t\n"))
    });
    let of_vmlinux = (0..OF_VMLINUX).map(|s| format!("0x00000001\ts{s}\tvmlinux\tEXPORT_SYMBOL\t\n"));
    let symvers: String = of_own.chain(of_vmlinux).collect();
    let symvers = story.symvers.then(|| Symvers::parse(symvers.as_bytes()).unwrap());
    let order = order.concat();
    (Tree::new(&with(&story.before, false), &order), Tree::new(&with(&story.after, true), &order), symvers)
}

#[test]
#[expect(clippy::print_stdout, reason = "how many were compared, for --nocapture")]
fn indexes_equal_depmods_after_any_change() {
    let mut same = Cell::new(0);
    let left = RefCell::new(BTreeMap::new());
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let run = runner.run(&story(), |story| {
        let (from, to, symvers) = trees(&story);
        let written = match updated(&from, &to, symvers.as_ref()) {
            Ok(written) => written,
            Err(reason) => {
                let kind = format!("{reason:?}").split([' ', '{']).next().unwrap_or_default().to_owned();
                *left.borrow_mut().entry(kind).or_insert(0) += 1;
                return Ok(());
            }
        };
        same.set(same.get() + 1);
        for (name, bytes) in &written.files {
            let expected = to.bytes(name);
            let [found, expected] =
                [bytes, &expected].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            prop_assert_eq!(found, expected, "{}", name);
        }
        Ok(())
    });
    run.unwrap();
    let (same, left) = (*same.get_mut(), left.into_inner());
    println!("{same} without depmod, left to it: {left:?}");
    assert!(same > left.values().sum::<usize>() / 2, "only {same} without depmod: {left:?}");
}

#[test]
fn without_symvers_new_symbols_are_certain_if_all_in_tree_modules_are_chosen() {
    let made = |exports: &[u8], needs: &[u8]| Made {
        exports: exports.to_vec(),
        needs: needs.to_vec(),
        words: Vec::new(),
    };
    let order = format!("{}\n{}\n", path((0, Dir::Kernel)), path((1, Dir::Kernel)));
    let own = [((0, Dir::Kernel), made(&[5], &[])), ((1, Dir::Kernel), made(&[], &[5]))];
    let with =
        |others: &[(Spot, Made)]| Tree::new(&own.iter().chain(others).cloned().collect::<Files>(), &order);
    let new = ((9, Dir::Updates), made(&[9], &[]));
    let to = with(&[new]);
    let written = updated(&with(&[]), &to, None).unwrap();
    assert!(written.files.iter().all(|(name, bytes)| to.bytes(name) == *bytes));
    // What the kernel exports itself is needed by anybody, and so is what a hidden in-tree module exports.
    let of_kernel = ((9, Dir::Updates), made(&[0], &[]));
    assert!(matches!(updated(&with(&[]), &with(&[of_kernel]), None), Err(DepmodReason::NoSymvers { .. })));
    let hiding = ((0, Dir::Updates), made(&[], &[]));
    let heir = ((9, Dir::Updates), made(&[5], &[]));
    let hidden = updated(&with(std::slice::from_ref(&hiding)), &with(&[hiding.clone(), heir]), None);
    assert!(matches!(hidden, Err(DepmodReason::NoSymvers { .. })), "{hidden:?}");
}

#[test]
fn a_text_index_with_a_flipped_bit_is_not_used() {
    let made = |words: &[u8], exports: &[u8], needs: &[u8]| Made {
        words: words.to_vec(),
        exports: exports.to_vec(),
        needs: needs.to_vec(),
    };
    let files = BTreeMap::from([
        ((1, Dir::Kernel), made(&[0, 1], &[1], &[])),
        ((2, Dir::Updates), made(&[3], &[2], &[1])),
    ]);
    let tree = Tree::new(&files, "kernel/d1/m1.ko\n");
    let bins = ["modules.dep.bin", "modules.alias.bin", "modules.symbols.bin"].map(|name| tree.bytes(name));
    let [dep_bin, alias_bin, symbols_bin] = &bins;
    let texts = ["modules.dep", "modules.alias", "modules.symbols"].map(|name| tree.text(name));
    let softdep = tree.text("modules.softdep");
    let kmod = Kmod::of_tests();
    let weakdep = if kmod.writes_weakdep() { tree.text("modules.weakdep") } else { String::new() };
    let parse = |[dep, alias, symbols]: [&str; 3]| {
        let bins = [&dep_bin[..], alias_bin, symbols_bin];
        let (order, softdep, weakdep) = ("kernel/d1/m1.ko\n", &softdep[..], &weakdep[..]);
        Present::parse(Texts { order, dep, alias, softdep, weakdep, symbols, bins }, &kmod).is_ok()
    };
    assert!(parse([&texts[0], &texts[1], &texts[2]]));
    for (which, text) in texts.iter().enumerate() {
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Ok(rotten) = String::from_utf8(bytes) else { continue };
            let mut rotted = texts.each_ref().map(String::as_str);
            rotted[which] = &rotten;
            assert!(!parse(rotted), "bit {bit} of {which}: {rotten}");
        }
    }
}
