//! Tests of signing modules at installation.

use super::*;

impl Host {
    /// Installs this set with its signer.
    fn install_set(&self, set: Set) -> Result<InstallPlan, Error> {
        let mut source = |module: &ModuleSpec| {
            self.fetched.set(self.fetched.get() + 1);
            Ok(self.cache.borrow().get(&module.digest).ok_or("not in the cache")?.clone())
        };
        self.site_does(|site| {
            let transaction = Transaction::begin(site)?;
            let plan = plan(&self.tree(), set)?;
            transaction.apply(&plan, &mut source).map(|_| plan)
        })
    }

    /// A module as the kernel sees it: decompressed.
    fn loaded(&self, module: &str) -> Vec<u8> {
        let file = fs_err::read(self.tree().join(self.found(module).unwrap())).unwrap();
        Compression::Xz.decompress(&file, 1 << 20).unwrap()
    }
}

#[test]
fn modules_are_signed_before_they_are_compressed() {
    let host = Host::indexed();
    let package = host.package("p", "1", &["one"]);
    let spec = package.modules[0].clone();
    host.install_set(Set { signer: signer("a"), ..set(&[package]) }).unwrap();
    let built = host.cache.borrow()[&spec.digest].clone();
    assert_eq!(host.loaded("one"), sign(&signer("a").unwrap(), &spec, &built).unwrap());
    assert!(host.is_whole());
}

#[test]
fn installed_modules_are_re_signed_without_a_cache() {
    let host = Host::indexed();
    let packages = [host.package("p", "1", &["one"])];
    let signed = |name: Option<&str>| Set { signer: name.and_then(signer), ..set(&packages) };
    host.install_set(signed(None)).unwrap();
    let built = host.loaded("one");
    host.cache.borrow_mut().clear();
    for (name, act) in
        [(Some("a"), Act::Sign), (Some("b"), Act::Sign), (Some("b"), Act::Keep), (None, Act::Sign)]
    {
        let plan = host.install_set(signed(name)).unwrap();
        assert_eq!((acts(&plan), plan.is_nothing()), (vec![("p", act)], act == Act::Keep), "{name:?}");
        let loaded = host.loaded("one");
        assert!(loaded.starts_with(&built) && (loaded.len() > built.len()) == name.is_some());
        assert!(host.is_whole());
    }
    assert_eq!(host.fetched.get(), 1);
}

#[test]
fn modules_that_cannot_be_signed_are_not_installed() {
    let host = Host::indexed();
    let packages = [host.package("p", "1", &["one"])];
    let before = host.picture();
    let check = |sign: Option<&SignModule<'_>>, expect: &str| {
        let told = host.site_does(|site| {
            let transaction = Transaction::begin(Site { sign, ..site }).unwrap();
            let plan = plan(&host.tree(), Set { signer: signer("a"), ..set(&packages) }).unwrap();
            let mut source = |module: &ModuleSpec| Ok(host.cache.borrow()[&module.digest].clone());
            let error = transaction.apply(&plan, &mut source).unwrap_err();
            format!("{error}: {}", std::error::Error::source(&error).unwrap())
        });
        assert_eq!(told, format!("module one cannot be signed: {expect}"));
        assert_eq!(host.picture(), before);
    };
    check(None, "no key of a");
    check(Some(&|_, _, _| Err("the token is gone".into())), "the token is gone");
    let no_signature = "the signer did not return the module with a signature";
    check(Some(&|_, _, module| Ok(module.to_vec())), no_signature);
    check(Some(&|by, spec, module| sign(by, spec, &module[1..])), no_signature);
}
