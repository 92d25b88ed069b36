//! Checking whether a kernel will load a module, before it is installed.
//!
//! The rules are those of the kernel's loader and of modpost. With `CONFIG_MODVERSIONS`, the loader skips the release
//! in vermagic and relies on the CRCs; here it must be equal nevertheless, because a module with another release was
//! built against other headers than its key says.

use std::collections::BTreeMap;

use object::elf;

use super::defect::{Defect, ModuleFault};
use super::flags::{Flags, WORDS};
use super::{ElfMachine, Ko, ModuleExport, ThisModule, Undefined, parse};
use crate::module_name::ModuleName;
use crate::symvers::Symvers;

/// The kernel that a module is checked against.
#[derive(Debug, Clone)]
pub struct Expect<'a> {
    /// The kernel's release.
    pub release: &'a str,
    /// The kernel's ELF class, byte order and machine.
    pub machine: ElfMachine,
    /// Flags from the kernel's configuration.
    pub flags: Flags,
    /// The kernel's exported symbols; `None` if they are not known, and then symbols are not checked.
    pub symvers: Option<&'a Symvers>,
    /// Symbols exported by the package's other modules and its dependencies. They take precedence over the kernel's: a
    /// package may replace an in-tree module and everything that uses it.
    pub siblings: &'a BTreeMap<String, ModuleExport>,
    /// The `struct module` of in-tree modules, if there are some to compare with. Kernels before Linux 6.4 do not even check
    /// its size, and would use memory beyond it; without symbol versions nothing else shows another configuration.
    pub this_module: Option<ThisModule>,
    /// Check like the loader, not more strictly: a foreign module, perhaps for another release, is judged by its CRCs
    /// if it has any.
    pub any_release: bool,
}

/// Parses a module and checks it.
///
/// # Errors
///
/// Every reason why the kernel would refuse it.
pub fn inspect(file_name: &str, bytes: &[u8], expect: &Expect<'_>) -> Result<Ko, Vec<ModuleFault>> {
    let ko = parse(bytes).map_err(|defect| vec![ModuleFault { file: file_name.to_owned(), defect }])?;
    let faults = check(file_name, &ko, expect);
    if faults.is_empty() { Ok(ko) } else { Err(faults) }
}

/// Every reason why the kernel would refuse a module; empty if it will load, as far as the file shows.
pub fn check(file_name: &str, ko: &Ko, expect: &Expect<'_>) -> Vec<ModuleFault> {
    let fault = |defect| ModuleFault { file: file_name.to_owned(), defect };
    if ko.machine != expect.machine {
        // All other defects would only repeat this one.
        return vec![fault(Defect::WrongMachine { expected: expect.machine, found: ko.machine })];
    }
    let mut defects: Vec<Defect> = check_vermagic(ko, expect).into_iter().collect();
    defects.extend(check_struct(ko, expect));
    for symbol in ko.undefined.iter().filter(|symbol| !is_resolved_elsewhere(ko.machine, &symbol.name)) {
        defects.extend(check_symbol(ko, symbol, expect));
    }
    defects.extend(check_exports(ko, expect));
    if expect.flags.modversions {
        defects.extend(check_crcs(ko, expect));
        defects.extend(check_versions(ko, expect));
    }
    defects.into_iter().map(fault).collect()
}

fn check_vermagic(ko: &Ko, expect: &Expect<'_>) -> Option<Defect> {
    let found = ko.modinfo.get("vermagic").unwrap_or_default();
    let mut words = found.split_ascii_whitespace();
    let release = words.next() == Some(expect.release)
        || (expect.any_release && expect.flags.modversions && !ko.versions.is_empty());
    let flags: Vec<&str> = words.filter(|word| WORDS.contains(word)).collect();
    let expected_flags: Vec<&str> = expect.flags.words().collect();
    let others = other_words(found);
    let expected_others =
        expect.this_module.as_ref().and_then(|kernels| kernels.words.as_ref()).unwrap_or(&others);
    if release && flags == expected_flags && others == *expected_others {
        return None;
    }
    let expected = [&[expect.release], &expected_flags[..], &[expected_others]].concat().join(" ");
    let expected = expected.trim_end().to_owned();
    Some(Defect::Vermagic { expected, found: found.trim_end().to_owned() })
}

/// The words of [`ThisModule::words`].
pub(super) fn other_words(vermagic: &str) -> String {
    let words = vermagic.split_ascii_whitespace().skip(1).filter(|word| !WORDS.contains(word));
    words.collect::<Vec<_>>().join(" ")
}

/// CRC, if any, and namespace of an exported symbol.
fn exporter<'a>(name: &str, expect: &Expect<'a>) -> Option<(Option<u32>, Option<&'a str>)> {
    if let Some(export) = expect.siblings.get(name) {
        return Some((export.crc, export.namespace.as_deref()));
    }
    let export = expect.symvers?.get(name)?;
    // A symbol of assembly code without a prototype has no CRC even with MODVERSIONS; modpost writes zero.
    Some(((export.crc != 0).then_some(export.crc), export.namespace))
}

fn check_symbol(ko: &Ko, symbol: &Undefined, expect: &Expect<'_>) -> Option<Defect> {
    let Some((_, namespace)) = exporter(&symbol.name, expect) else {
        let known_missing = expect.symvers.is_some() && !symbol.weak;
        return known_missing.then(|| Defect::UnknownSymbol { symbol: symbol.name.clone() });
    };
    let namespace = namespace?;
    if let Some(modules) = namespace.strip_prefix("module:") {
        let allowed = ko.modinfo.get("name").is_some_and(|name| is_listed(modules, name));
        let defect = || Defect::NotForThisModule { symbol: symbol.name.clone(), modules: modules.to_owned() };
        return (!allowed).then(defect);
    }
    let imported = ko.modinfo.all("import_ns").any(|import| import == namespace);
    let defect = || Defect::MissingNamespace { symbol: symbol.name.clone(), namespace: namespace.to_owned() };
    (!imported && !expect.flags.missing_imports_allowed).then(defect)
}

/// Symbols that the kernel itself exports. One of another module may be exported as well, if that is not loaded.
fn check_exports<'a>(ko: &'a Ko, expect: &Expect<'a>) -> impl Iterator<Item = Defect> {
    let of_kernel = |name: &&String| {
        expect.symvers.and_then(|symvers| symvers.get(name)).is_some_and(|export| export.module == "vmlinux")
    };
    ko.exports.keys().filter(of_kernel).map(|symbol| Defect::ExportOfKernel { symbol: symbol.clone() })
}

/// `verify_module_namespace` (kernel/module/main.c): names separated by commas; a trailing `*` matches any rest; `-`
/// and `_` are equal.
fn is_listed(modules: &str, name: &str) -> bool {
    let name = ModuleName::new(name);
    modules.split(',').any(|listed| {
        let listed = ModuleName::new(listed);
        match listed.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == listed,
        }
    })
}

fn check_struct(ko: &Ko, expect: &Expect<'_>) -> Option<Defect> {
    let (found, expected) = (ko.this_module.as_ref()?, expect.this_module.as_ref()?);
    if found.size != expected.size {
        return Some(Defect::StructSize { found: found.size, expected: expected.size });
    }
    if let Some((field, found, expected)) = found.moved(expected) {
        return Some(Defect::StructLayout { field, found, expected });
    }
    let (of, kernel) = (found.types_of?, expected.types_of?);
    (of != kernel && expect.flags.types_must_fit).then_some(Defect::OtherTypes)
}

/// A module that uses symbols, and has a version of none. The kernel loads it only if `CONFIG_MODULE_FORCE_LOAD` allows
/// that (`check_version`, `try_to_force_load` in kernel/module). With a `Module.symvers`, [`check_crcs`] tells more.
fn check_versions(ko: &Ko, expect: &Expect<'_>) -> Option<Defect> {
    let needs_some = ko.undefined.iter().any(|symbol| {
        !is_resolved_elsewhere(ko.machine, &symbol.name) && !expect.siblings.contains_key(&symbol.name)
    });
    let has_none = ko.versions.is_empty() && expect.symvers.is_none() && !expect.flags.force_load;
    (has_none && needs_some).then_some(Defect::Unversioned)
}

/// Checks every symbol for which the module has a CRC, and every symbol for which it needs one. `module_layout` is
/// only among the former. For symbols of other packages a CRC may be missing: the kernel warns and loads the module
/// ("no symbol version for", `check_version` in kernel/module/version.c), and modules that DKMS builds against
/// NVIDIA's driver have none either ([`unversioned`]).
fn check_crcs(ko: &Ko, expect: &Expect<'_>) -> Vec<Defect> {
    let needed =
        ko.undefined.iter().map(|symbol| &symbol.name).filter(|name| !ko.versions.contains_key(*name));
    let wrong = |name: &String| {
        let (Some(expected), _) = exporter(name, expect)? else { return None };
        let found = ko.versions.get(name).copied();
        if found.is_none() && expect.siblings.contains_key(name) {
            return None;
        }
        (found != Some(expected)).then(|| Defect::WrongCrc { symbol: name.clone(), expected, found })
    };
    ko.versions.keys().chain(needed).filter_map(wrong).collect()
}

/// Symbols of other packages that a module uses without a CRC, so that changes are not detected.
pub fn unversioned<'k>(ko: &'k Ko, others: &BTreeMap<String, ModuleExport>) -> Vec<&'k str> {
    let has_crc = |name: &&str| others.get(*name).is_some_and(|export| export.crc.is_some());
    let names = ko.undefined.iter().map(|symbol| symbol.name.as_str()).filter(has_crc);
    names.filter(|name| !ko.versions.contains_key(*name)).collect()
}

/// Symbols that the loader provides or that the last link of a module resolves (`ignore_undef_symbol` in modpost.c).
fn is_resolved_elsewhere(machine: ElfMachine, name: &str) -> bool {
    let any_prefix = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    matches!(name, "__this_module" | "_GLOBAL_OFFSET_TABLE_")
        || match elf::Machine(machine.number) {
            elf::EM_PPC => {
                any_prefix(&["_restgpr_", "_savegpr_", "_rest32gpr_", "_save32gpr_", "_restvr_", "_savevr_"])
            }
            elf::EM_PPC64 => {
                name == ".TOC." || any_prefix(&["_restgpr0_", "_savegpr0_", "_restvr_", "_savevr_"])
            }
            elf::EM_S390 => any_prefix(&["__s390_indirect_jump_r"]),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Built, Class};
    use super::super::flags::Preempt;
    use super::*;
    use crate::kconfig::Kconfig;

    const SYMVERS: &str = "0x12345678\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n\
        0x00000000\tfrom_assembly\tvmlinux\tEXPORT_SYMBOL\t\n\
        0x00000009\tmodule_layout\tvmlinux\tEXPORT_SYMBOL\t\n\
        0x00000005\tin_ns\tvmlinux\tEXPORT_SYMBOL_GPL\tNS\n\
        0x00000006\tfor_some\tvmlinux\tEXPORT_SYMBOL_GPL\tmodule:kvm-*,other\n";

    const FLAGS: Flags = Flags {
        smp: true,
        preempt: Preempt::On,
        mod_unload: true,
        modversions: true,
        force_load: false,
        missing_imports_allowed: false,
        types_must_fit: true,
    };

    /// Checks `built` against a kernel with [`SYMVERS`] and [`FLAGS`].
    fn faults(built: &Built, change: impl FnOnce(&mut Expect<'_>)) -> Vec<String> {
        let symvers = Symvers::parse(SYMVERS.as_bytes()).unwrap();
        let siblings = BTreeMap::new();
        let machine = ElfMachine::of_arch("x86_64").unwrap();
        let mut expect = Expect {
            release: "6.1.0-56-amd64",
            machine,
            flags: FLAGS,
            symvers: Some(&symvers),
            siblings: &siblings,
            this_module: None,
            any_release: false,
        };
        change(&mut expect);
        match inspect("example.ko", &built.bytes(), &expect) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.iter().map(ModuleFault::to_string).collect(),
        }
    }

    #[test]
    fn structures_must_be_randomized_by_the_kernels_seed() {
        let with = |words: &str| {
            let vermagic = format!("6.1.0-56-amd64 SMP preempt mod_unload modversions {words}");
            Built::example().vermagic(&vermagic)
        };
        let check = |module: &str, kernel: Option<&str>, expect: usize| {
            let kernel = kernel.map(|words| ThisModule {
                size: 1280,
                init: None,
                exit: None,
                types_of: None,
                words: Some(words.to_owned()),
            });
            let found = faults(&with(module).struct_size(1280), |of| of.this_module = kernel.clone());
            assert_eq!(found.len(), expect, "{module:?}, {kernel:?}: {found:?}");
        };
        check("RANDSTRUCT_1f", Some("RANDSTRUCT_1f"), 0);
        check("RANDSTRUCT_1f", Some("RANDSTRUCT_2e"), 1);
        check("RANDSTRUCT_1f", Some(""), 1);
        check("", Some("RANDSTRUCT_1f"), 1);
        check("RANDSTRUCT_1f", None, 0);
    }

    fn check(built: &Built, expect: &[&str]) {
        assert_eq!(faults(built, |_| ()), expect);
    }

    #[test]
    fn foreign_modules_are_judged_by_crcs_not_by_release() {
        let check = |vermagic: &str, any_release: bool, expect: usize| {
            let found =
                faults(&Built::example().vermagic(vermagic), |expect| expect.any_release = any_release);
            assert_eq!(found.len(), expect, "{vermagic}: {found:?}");
        };
        check("6.1.0-55-amd64 SMP preempt mod_unload modversions", false, 1);
        check("6.1.0-55-amd64 SMP preempt mod_unload modversions", true, 0);
        check("6.1.0-55-amd64 SMP mod_unload modversions", true, 1);
    }

    fn needing(symbol: &str, crc: u32) -> Built {
        let mut built = Built::example();
        built.undefined.push((symbol.into(), false));
        built.versions.push((symbol.into(), crc));
        built
    }

    #[test]
    fn a_module_exports_nothing_that_the_kernel_exports() {
        let mut built = Built::example();
        built.exports.push(("its_own".to_owned(), 1, String::new()));
        check(&built, &[]);
        built.exports.push(("printk".to_owned(), 1, String::new()));
        check(&built, &["example.ko exports printk, which the kernel exports itself"]);
    }

    #[test]
    fn a_module_of_this_kernel_has_no_defects() {
        check(&Built::example(), &[]);
    }

    #[test]
    fn a_module_built_with_another_configuration_is_refused_by_the_size_of_its_struct_module() {
        let sized = |size| Built::example().struct_size(size);
        let plain = |size| ThisModule { size, init: None, exit: None, types_of: None, words: None };
        let check = |built: usize, kernel: Option<u64>, expect: usize| {
            assert_eq!(
                faults(&sized(built), |expect| expect.this_module = kernel.map(plain)).len(),
                expect,
                "{built} {kernel:?}"
            );
        };
        check(1280, Some(1280), 0);
        check(1280, None, 0);
        check(0, Some(1280), 0);
        check(1216, Some(1280), 1);
        let said = faults(&sized(1216), |expect| expect.this_module = Some(plain(1280)));
        assert!(
            said[0].contains("a struct module of 1216 bytes, and the kernel's own modules have 1280"),
            "{said:?}"
        );
    }

    #[test]
    fn a_module_built_with_another_configuration_is_refused_by_the_fields_of_its_struct_module() {
        let at =
            |init, exit| ThisModule { size: 1280, init, exit, types_of: None, words: Some(String::new()) };
        let built = |init: Option<usize>, exit: Option<usize>| {
            let functions = [(init, "init_module"), (exit, "cleanup_module")];
            let functions: Vec<_> =
                functions.into_iter().filter_map(|(at, name)| Some((at?, name))).collect();
            Built::named("m").struct_size(1280).functions(&functions)
        };
        let said =
            |module: &Built, kernel: ThisModule| faults(module, |expect| expect.this_module = Some(kernel));
        for class in Class::ALL {
            let read = parse(&built(Some(0x130), Some(0x4b8)).class(class).bytes()).unwrap();
            assert_eq!(read.this_module, Some(at(Some(0x130), Some(0x4b8))), "{class:?}");
        }
        let own = at(Some(0x130), Some(0x4b8));
        assert_eq!(said(&built(Some(0x130), Some(0x4b8)), own.clone()), [""; 0]);
        assert_eq!(said(&built(Some(0x130), None), own.clone()), [""; 0]); // cannot be unloaded
        assert_eq!(said(&built(None, None), own.clone()), [""; 0]); // a library
        assert_eq!(said(&built(Some(0x138), Some(0x4b0)), at(None, None)), [""; 0]);
        assert_eq!(
            said(&built(Some(0x130), Some(0x4b0)), own.clone()),
            [
                "example.ko has the field `exit` of its struct module at 0x4b0, and the kernel's own modules at 0x4b8: it was built with another configuration"
            ]
        );
        assert_eq!(said(&built(Some(0x138), Some(0x4b0)), own.clone()).len(), 1);
    }

    #[test]
    fn a_module_with_types_of_another_kernel_is_refused_where_the_kernel_does_so() {
        let built = |types_of| Built::named("m").struct_size(1280).types_of(types_of);
        let kernel = ThisModule {
            size: 1280,
            init: None,
            exit: None,
            types_of: Some(2_317_542),
            words: Some(String::new()),
        };
        let said = |module: &Built, must_fit| {
            faults(module, |expect| {
                expect.this_module = Some(kernel.clone());
                expect.flags.types_must_fit = must_fit;
            })
        };
        for class in Class::ALL {
            let read = parse(&built(2_317_542).class(class).bytes()).unwrap();
            assert_eq!(read.this_module.as_ref(), Some(&kernel), "{class:?}");
        }
        assert_eq!(said(&built(2_317_542), true), [""; 0]);
        assert_eq!(said(&built(2_317_500), false), [""; 0]);
        assert_eq!(
            said(&built(2_317_500), true),
            [
                "example.ko has types (BTF) that were made for another build of the kernel, which therefore does not load it (CONFIG_DEBUG_INFO_BTF_MODULES)"
            ]
        );
    }

    #[test]
    fn files_that_are_not_modules_are_refused() {
        let error = |bytes: &[u8]| {
            let siblings = BTreeMap::new();
            let machine = ElfMachine::of_arch("x86_64").unwrap();
            let expect = Expect {
                release: "6.1",
                machine,
                flags: FLAGS,
                symvers: None,
                siblings: &siblings,
                this_module: None,
                any_release: false,
            };
            inspect("m.ko", bytes, &expect).unwrap_err()[0].to_string()
        };
        assert_eq!(error(b""), "m.ko is empty");
        assert_eq!(error(b"MZ"), "m.ko is not an ELF file");
        assert_eq!(
            error(&Built::example().elf_type(2).bytes()),
            "m.ko has the ELF type 2, expected a relocatable object (1)"
        );
        assert_eq!(error(&Built::example().without_modinfo().bytes()), "m.ko has no .modinfo section");
    }

    #[test]
    fn another_architecture_hides_other_defects() {
        let found =
            faults(&Built::example().vermagic("5.10"), |e| e.machine = ElfMachine::of_arch("s390x").unwrap());
        assert_eq!(found, ["example.ko is for 64-bit little-endian x86-64, expected 64-bit big-endian s390"]);
    }

    #[test]
    fn vermagic_is_compared_by_release_and_flags() {
        let fault = |found: &str| {
            format!(
                "example.ko has the vermagic {found:?}, expected \"6.1.0-56-amd64 SMP preempt mod_unload modversions\""
            )
        };
        for wrong in [
            "6.1.0-55-amd64 SMP preempt mod_unload modversions",
            "6.1.0-56 SMP preempt mod_unload modversions",
            "6.1.0-56-amd64 preempt mod_unload modversions",
            "6.1.0-56-amd64 SMP preempt_rt mod_unload modversions",
            "6.1.0-56-amd64 SMP preempt mod_unload",
            "",
        ] {
            check(&Built::example().vermagic(wrong), &[&fault(wrong)]);
        }
        for right in [
            "6.1.0-56-amd64 SMP preempt mod_unload modversions ",
            "6.1.0-56-amd64 SMP preempt mod_unload modversions aarch64",
        ] {
            check(&Built::example().vermagic(right), &[]);
        }
    }

    #[test]
    fn flags_come_from_the_configuration() {
        let of = |text: &str| Flags::of_config(&Kconfig::new(text.to_owned()));
        let debian = "CONFIG_PREEMPT_BUILD=y\nCONFIG_SMP=y\nCONFIG_MODULE_UNLOAD=y\nCONFIG_MODVERSIONS=y\nCONFIG_DEBUG_INFO_BTF_MODULES=y\n";
        assert_eq!(of(debian), FLAGS);
        let lenient = format!("{debian}CONFIG_MODULE_ALLOW_BTF_MISMATCH=y\n");
        assert_eq!(of(&lenient), Flags { types_must_fit: false, ..FLAGS });
        assert_eq!(of("CONFIG_PREEMPT=y\n").preempt, Preempt::On);
        assert_eq!(of("CONFIG_PREEMPT_RT=y\n").preempt, Preempt::Rt);
        assert_eq!(of("# CONFIG_SMP is not set\n"), Flags::default());
    }

    #[test]
    fn unknown_symbols_are_reported_unless_weak() {
        // The example's own `maybe` is weak, and nothing exports it.
        check(
            &needing("gone", 1),
            &["example.ko needs the symbol gone, which neither the kernel nor a dependency exports"],
        );
        check(&needing("_GLOBAL_OFFSET_TABLE_", 0), &[]);
        check(&needing("__this_module", 0), &[]);
    }

    #[test]
    fn without_symvers_symbols_are_not_checked() {
        assert!(faults(&needing("gone", 1), |expect| expect.symvers = None).is_empty());
    }

    #[test]
    fn crcs_must_be_equal_and_present() {
        let mut built = Built::example();
        built.versions[0].1 = 0x99;
        check(&built, &["example.ko was built against printk with the CRC 0x00000099, expected 0x12345678"]);
        built.versions.clear();
        check(&built, &["example.ko was built against printk with no CRC, expected 0x12345678"]);
        built = Built::example();
        built.versions.push(("module_layout".into(), 8));
        check(
            &built,
            &["example.ko was built against module_layout with the CRC 0x00000008, expected 0x00000009"],
        );
        let mut built = needing("from_assembly", 0);
        built.versions.pop();
        check(&built, &[]);
    }

    #[test]
    fn crcs_of_other_packages_may_be_missing_but_not_wrong() {
        let siblings = BTreeMap::from([("p2p".to_owned(), ModuleExport { crc: Some(7), namespace: None })]);
        let of = |crc: Option<u32>| {
            let mut built = needing("p2p", crc.unwrap_or_default());
            built.versions.truncate(built.versions.len() - usize::from(crc.is_none()));
            let faults = faults_beside(&built, &siblings);
            (faults.len(), unversioned(&super::super::parse(&built.bytes()).unwrap(), &siblings).len())
        };
        assert_eq!((of(None), of(Some(7)), of(Some(8))), ((0, 1), (0, 0), (1, 0)));
    }

    fn faults_beside(built: &Built, siblings: &BTreeMap<String, ModuleExport>) -> Vec<String> {
        let symvers = Symvers::parse(SYMVERS.as_bytes()).unwrap();
        let expect = Expect {
            release: "6.1.0-56-amd64",
            machine: ElfMachine::of_arch("x86_64").unwrap(),
            flags: FLAGS,
            symvers: Some(&symvers),
            siblings,
            this_module: None,
            any_release: false,
        };
        let found = inspect("example.ko", &built.bytes(), &expect).err().unwrap_or_default();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_modversions_crcs_are_not_checked() {
        let mut built = Built::example().vermagic("6.1.0-56-amd64 SMP preempt mod_unload");
        built.versions.clear();
        assert!(faults(&built, |expect| expect.flags.modversions = false).is_empty());
    }

    #[test]
    fn namespaces_must_be_imported() {
        let built = needing("in_ns", 5);
        let fault = "example.ko uses in_ns without importing its namespace NS";
        check(&built, &[fault]);
        assert!(faults(&built, |expect| expect.flags.missing_imports_allowed = true).is_empty());
        let mut importing = built;
        importing.modinfo.push("import_ns=NS".into());
        check(&importing, &[]);
    }

    #[test]
    fn exports_for_certain_modules_are_refused_to_others() {
        let mut built = needing("for_some", 6);
        check(&built, &["example.ko uses for_some, which is for the modules kvm-*,other only"]);
        for name in ["kvm_intel", "other"] {
            built.modinfo[0] = format!("name={name}");
            check(&built, &[]);
        }
    }

    #[test]
    fn exports_of_siblings_take_precedence() {
        let export = |crc| ModuleExport { crc: Some(crc), namespace: None };
        let siblings = BTreeMap::from([("gone".to_owned(), export(1)), ("printk".to_owned(), export(2))]);
        let symvers = Symvers::parse(SYMVERS.as_bytes()).unwrap();
        let machine = ElfMachine::of_arch("x86_64").unwrap();
        let expect = Expect {
            release: "6.1.0-56-amd64",
            machine,
            flags: FLAGS,
            symvers: Some(&symvers),
            siblings: &siblings,
            this_module: None,
            any_release: false,
        };
        let faults = inspect("example.ko", &needing("gone", 1).bytes(), &expect).unwrap_err();
        let wrong = Defect::WrongCrc { symbol: "printk".into(), expected: 2, found: Some(0x1234_5678) };
        assert_eq!(faults.iter().map(|f| &f.defect).collect::<Vec<_>>(), [&wrong]);
    }
}
