//! Property tests: what is written is read back equal, no two sets have the same name, and any order of installations,
//! crashes, rollbacks and foreign depmod runs leaves what a simple model predicts.

use super::journal::{Hash, IndexChange, Journal};
use super::*;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

fn hash() -> impl Strategy<Value = blake3::Hash> {
    any::<[u8; 32]>().prop_map(blake3::Hash::from_bytes)
}

/// Sets with similar names, so that parts of them could be mistaken for each other.
fn packages() -> impl Strategy<Value = Vec<InstalledPackage>> {
    let module = (hash(), 0..9u64);
    let package = ("[ab]{0,2}", "[ab]{0,2}", btree_map("[a-c]{1,2}", module, 0..3));
    btree_map("[ab]{1,2}", package, 0..4).prop_map(|packages| {
        let module = |(name, (digest, size))| ModuleSpec { name, digest, size };
        let package = |(name, (version, key, modules)): (String, (String, String, BTreeMap<_, _>))| {
            InstalledPackage { name, version, key, modules: modules.into_iter().map(module).collect() }
        };
        packages.into_iter().map(package).collect()
    })
}

fn compression() -> impl Strategy<Value = Compression> {
    proptest::sample::select(vec![Compression::None, Compression::Gz, Compression::Xz, Compression::Zst])
}

prop_compose! {
    fn any_set()(
        kernel_version: String,
        compression in compression(),
        signer in option::of(("[ab]{0,2}", "[ab:]{0,2}")),
        packages in packages(),
    ) -> Set {
        let signer =
            signer.map(|(subject, certificate)| Identity { subject, certificate, hash: None });
        Set { kernel_version, compression, signer, packages }
    }
}

prop_compose! {
    fn generation()(set in any_set(), previous in option::of(any_set()), index in hash(), made in hash(), updates_dir: bool)
        -> Generation
    {
        Generation {
            format: checked_json::FORMAT,
            generation: set.generation_name(),
            kernel: RELEASE.into(),
            set: set.map(|spec| Installed {
                spec: spec.clone(),
                path: format!("p/{}.ko", spec.name),
                installed_digest: made,
            }),
            created: Created { updates_dir, indexes: vec!["modules.dep".into(), DEP_BIN.into()] },
            index,
            previous,
        }
    }
}

fn others() -> impl Strategy<Value = ForeignFiles> {
    let file = ("[ab]{1,2}", "updates/dkms/[ab]{1,2}\\.ko")
        .prop_map(|(package, path)| ForeignFile { package, path: path.into() });
    (0..4usize, vec(file, 0..3)).prop_map(|(which, files)| match which {
        0 => ForeignFiles::Untouched,
        1 => ForeignFiles::Take(files),
        2 => ForeignFiles::Drop(files),
        _ => ForeignFiles::GiveBack(files),
    })
}

prop_compose! {
    fn a_journal()(
        new in option::of("[0-9a-f]{16}"), old in option::of("[0-9a-f]{16}"),
        hashes in vec(option::of(hash()), 3), flags: [bool; 4],
        retire in vec("kcache-[0-9a-f]{16}", 0..3), others in others(),
    ) -> Journal {
        let [makes_updates, drops_updates, before, after] = flags;
        let hash = |at: usize| hashes[at].map(Hash);
        Journal {
            format: checked_json::FORMAT, kernel: Some(RELEASE.into()), new, new_manifest: hash(0), old, retire, makes_updates, drops_updates,
            indexes: vec![IndexChange { name: DEP_BIN.into(), before, after }],
            others, old_index: hash(1), new_index: hash(2),
        }
    }
}

/// The parts of a set that determine its name: all but texts for people and what the digest covers already.
fn identity(set: &Set) -> Set {
    let mut set = set.clone();
    set.kernel_version.clear();
    set.signer.iter_mut().for_each(|signer| signer.subject.clear());
    set.packages.iter_mut().flat_map(|package| &mut package.modules).for_each(|module| module.size = 0);
    set
}

proptest! {
    #[test]
    fn a_generation_is_read_back_equal(generation in generation()) {
        let text = checked_json::encode(&generation).unwrap();
        prop_assert_eq!(Generation::parse(&text).unwrap(), generation);
    }

    #[test]
    fn a_journal_is_read_back_equal(journal in a_journal()) {
        let host = Host::new();
        let tree = Tree::open(&host.tree()).unwrap();
        disk::make_private_dir(&tree.staging).unwrap();
        journal.open(&tree).unwrap();
        prop_assert_eq!(Journal::read(&tree).unwrap(), Some(journal));
    }

    #[test]
    fn only_equal_sets_have_equal_names(one in any_set(), other in any_set(), moved in 0..2usize) {
        prop_assert_eq!(one.generation_name() == other.generation_name(), identity(&one) == identity(&other));
        // A letter moves from a package's name or version to the next field.
        let mut shifted = one.clone();
        for package in &mut shifted.packages {
            let InstalledPackage { name, version, key, .. } = package;
            let (from, to) = if moved == 0 { (name, version) } else { (version, key) };
            if let Some(letter) = from.pop() {
                to.insert(0, letter);
            }
        }
        prop_assert_eq!(one.generation_name() == shifted.generation_name(), identity(&one) == identity(&shifted));
    }
}

/// An event on a kernel; a number stands for one of the sets.
#[derive(Debug, Clone)]
enum Event {
    Install(usize),
    /// An installation that crashes at a step, and the recovery.
    Crash(usize, usize),
    Rollback,
    ForeignDepmod,
    Damage,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..4usize).prop_map(Event::Install),
        3 => (0..4usize, 0..16usize).prop_map(|(set, step)| Event::Crash(set, step)),
        1 => Just(Event::Rollback),
        1 => Just(Event::ForeignDepmod),
        1 => Just(Event::Damage),
    ]
}

/// The installed set, and the one that a rollback restores.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    now: Vec<InstalledPackage>,
    before: Option<Vec<InstalledPackage>>,
}

impl Model {
    /// The model after an installation. Without packages, nothing is left that could record the previous set.
    fn after(&self, packages: &[InstalledPackage]) -> Model {
        let before = match packages {
            [] => None,
            same if same == self.now => self.before.clone(),
            _ if self.now.is_empty() => None,
            _ => Some(self.now.clone()),
        };
        Model { now: packages.to_vec(), before }
    }

    fn of(host: &Host) -> Model {
        let Some(generation) = host.current() else { return Model::default() };
        let before = generation.previous.clone().map(|set| set.packages);
        Model { now: generation.wanted().packages, before }
    }

    fn happens(&mut self, host: &Host, sets: &[Vec<InstalledPackage>], event: &Event) {
        match event {
            Event::Install(set) => {
                host.install(&sets[*set]).unwrap();
                *self = self.after(&sets[*set]);
            }
            Event::Crash(set, step) => {
                let died = host.crash_at(&sets[*set], *step).is_some();
                host.recover();
                let (old, new, found) = (self.clone(), self.after(&sets[*set]), Model::of(host));
                assert!(found == new || died && found == old, "neither old nor new: {found:?}");
                *self = found;
            }
            Event::Rollback => {
                let Some(before) = self.before.clone() else { return };
                host.install(&before).unwrap();
                *self = self.after(&before);
            }
            Event::ForeignDepmod => host.depmod(),
            Event::Damage => {
                let Some(generation) = host.current() else { return };
                let Some((_, module)) = generation.modules().next() else { return };
                let dir = host.tree().join("updates").join(generation.dir_name());
                fs_err::write(dir.join(&module.path), b"rot").unwrap();
                assert!(!host.is_whole());
                host.install(&self.now).unwrap();
            }
        }
    }

    fn compare(&self, host: &Host) {
        assert_eq!(&Model::of(host), self);
        assert!(host.is_whole());
        let modules: Vec<&str> =
            self.now.iter().flat_map(|package| &package.modules).map(|module| module.name.as_str()).collect();
        for name in ["one", "two", "three"] {
            let found = host.found(name).is_some_and(|path| path.starts_with("updates/kcache-"));
            assert_eq!(found, modules.contains(&name), "{name}");
        }
        assert_eq!(host.found("intree"), Some("kernel/fs/intree.ko".into()));
        let staging = host.tree().with_file_name(format!(".kcache-{RELEASE}"));
        assert!(!staging.exists());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_order_of_events_agrees_with_a_simple_model(events in vec(event(), 1..8)) {
        let host = Host::indexed();
        let sets = [
            vec![],
            vec![host.package("p", "1", &["one"])],
            vec![host.package("p", "2", &["one", "two"])],
            vec![host.package("p", "1", &["one"]), host.package("q", "1", &["three"])],
        ];
        let mut model = Model::default();
        for event in &events {
            model.happens(&host, &sets, event);
            model.compare(&host);
        }
    }
}
