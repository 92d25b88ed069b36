use super::*;

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

#[test]
fn packages_are_found_in_both_places_despite_a_broken_one() {
    let dir = tree(&[
        ("usr/src/b-2.0/dkms.conf", "PACKAGE_NAME=b\nPACKAGE_VERSION=2.0\n"),
        ("usr/src/linux-headers/Makefile", "obj-m := no.o\n"),
        ("etc/kcache/packages.d/a.toml", "name='a'\nversion='1'\nsource='/opt/a'\n"),
        ("etc/kcache/packages.d/c.toml", "name='c'\nversion='1'\n"),
        ("opt/a/Makefile", "obj-m := a.o\n"),
    ]);
    let (found, broken) = installed(&Root::new(dir.path())).unwrap();
    let names: Vec<_> = found.iter().map(|package| package.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(broken[0].to_string().contains("c.toml: missing field `source`"));
}

#[test]
fn the_directory_name_replaces_a_computed_name() {
    let dir = tree(&[("my-mod-1.5/dkms.conf", "PACKAGE_NAME=$X\nPACKAGE_VERSION=$(cat V)\n")]);
    let package = at_path(&dir.path().join("my-mod-1.5")).unwrap();
    assert_eq!((package.name.as_str(), package.version.as_str()), ("my-mod", "1.5"));
}

#[test]
fn a_computed_version_is_read_where_that_needs_no_bash() {
    let version = |conf: &str| {
        let dir = tree(&[("acme/dkms.conf", conf), ("acme/VERSION", "1.2.2\n")]);
        at_path(&dir.path().join("acme")).unwrap().version
    };
    assert_eq!(version("PACKAGE_NAME=acme\nPACKAGE_VERSION=\"$(cat VERSION)\"\n"), "1.2.2");
    assert_eq!(version("PACKAGE_NAME=acme\nPACKAGE_VERSION=`./version.sh`\n"), "0");
}

#[test]
fn a_device_in_a_directorys_name_is_no_version() {
    let check = |directory: &str, name: &str, version: Option<&str>| {
        let expect = (Some(name.to_owned()), version.map(str::to_owned));
        assert_eq!(name_of_directory(Path::new(directory)), expect, "{directory}");
    };
    check("realtek-r8152-linux", "realtek-r8152-linux", None);
    check("realtek-r8168", "realtek-r8168", None);
    check("tool-r128.9f3c", "tool", Some("r128.9f3c"));
    check("a-1.0-rc1", "a", Some("1.0-rc1"));
    check("8821au-20210708", "8821au", Some("20210708"));
}

#[test]
fn a_part_of_a_project_has_the_name_of_the_project() {
    let name = |files: &[(&str, &str)], at: &str| {
        let dir = tree(files);
        let package = at_path(&dir.path().join(at)).unwrap();
        format!("{}/{}", package.name, package.version)
    };
    let part = ("igb-5.19/src/Makefile", "obj-m := a.o\n");
    assert_eq!(name(&[part, ("igb-5.19/README", "")], "igb-5.19/src"), "igb/5.19");
    assert_eq!(name(&[part, ("igb-5.19/README", "")], "igb-5.19"), "igb/5.19");
    // Somebody's directory of several.
    assert_eq!(name(&[part], "igb-5.19/src"), "src/0");
    let nested =
        [("nic/linux/src/Kbuild", "obj-m := a.o\n"), ("nic/LICENSE", ""), ("nic/linux/Makefile", "")];
    assert_eq!(name(&nested, "nic/linux/src"), "nic/0");
    let named = ("x/src/dkms.conf", "PACKAGE_NAME=own\nPACKAGE_VERSION=1\n");
    assert_eq!(name(&[named, ("x/README", "")], "x/src"), "own/1");
}

#[test]
fn dkms_knows_a_package_by_its_directory_and_both_find_it() {
    let check = |directory: &str, name: &str, version: &str, expect: (&str, &str)| {
        let conf = format!("PACKAGE_NAME=\"{name}\"\nPACKAGE_VERSION=\"{version}\"\n");
        let dir = tree(&[(&format!("usr/src/{directory}/dkms.conf"), &conf)]);
        let (found, broken) = installed(&Root::new(dir.path())).unwrap();
        assert!(broken.is_empty(), "{broken:?}");
        let package = &found[0];
        assert_eq!((package.name.as_str(), package.version.as_str()), expect, "{directory}");
        assert!(package.is_called(expect.0, Some(expect.1)) && package.is_called(expect.0, None));
        assert!(!package.is_called("other", None) && !package.is_called(expect.0, Some("9.9")));
        if !name.contains('#') && !version.contains(['#', '@', '$']) {
            assert!(package.is_called(name, Some(version)), "{directory}");
        }
    };
    check("m-0.3", "m", "0.2", ("m", "0.3"));
    check("8812au-5.6.4.2", "realtek-rtl88xxau", "5.6.4.2~20230501", ("8812au", "5.6.4.2"));
    check("msi_ec-0.11", "msi-ec", "0.11", ("msi_ec", "0.11"));
    check(
        "rtl8821ce-v5.5.2_34066.20200325",
        "rtl8821ce",
        "#MODULE_VERSION#",
        ("rtl8821ce", "v5.5.2_34066.20200325"),
    );
    check("evdi-1.14-rc1", "evdi", "@PKGVER@", ("evdi", "1.14-rc1"));
    check("nvidia-current-550.1-2", "nvidia-current", "550.1-2", ("nvidia-current", "550.1-2"));
    check("hid-2-in-1-1.0", "$X", "$Y", ("hid-2-in-1", "1.0"));
    check("xone-a1b2c3d", "xone", "git", ("xone", "a1b2c3d"));
    check("foo-dkms-1.0", "foo", "1.0", ("foo-dkms", "1.0"));
    check("foo-master", "foo", "1.0", ("foo", "1.0"));
    check("foo", "foo", "1.0", ("foo", "1.0"));
}

#[test]
fn a_placeholder_is_named_with_its_line_and_what_replaces_it() {
    let conf = "PACKAGE_NAME=\"bb\"\nPACKAGE_VERSION=\"#MODULE_VERSION#\"\n";
    let check = |file: (&str, &str), expect: &str| {
        let dir = tree(&[("bb/dkms.conf", conf), (&format!("bb/{}", file.0), file.1)]);
        let error = at_path(&dir.path().join("bb")).unwrap_err().to_string();
        assert!(
            error.contains("dkms.conf:2: PACKAGE_VERSION is still the placeholder '#MODULE_VERSION#'"),
            "{error}"
        );
        assert!(error.ends_with(expect), "{error}");
    };
    check(("dkms-install.sh", ""), "the package's ./dkms-install.sh replaces it");
    check(("Makefile", "all:\ndkms_install: all\n"), "the package's `make dkms_install` replaces it");
    check(("README", ""), "sed -i 's/#MODULE_VERSION#/VERSION/' dkms.conf");
    let is_alone = |conf: &str| {
        let dir = tree(&[("bb/dkms.conf", conf)]);
        let error = at_path(&dir.path().join("bb")).unwrap_err();
        matches!(error, Error::Placeholder { is_alone: true, .. })
    };
    assert!(is_alone(conf));
    assert!(!is_alone(&format!("MAKE=\"make CFLAGS=@CFLAGS@\"\n{conf}")));
    assert!(!is_alone("PACKAGE_NAME=@NAME@\nPACKAGE_VERSION=1\n"));
}

#[test]
fn a_recipe_that_is_a_link_out_of_its_source_is_named_and_no_other_is_taken_in_its_place() {
    let makefile = "obj-m := a.o\n";
    let dir =
        tree(&[("usr/src/a-1/Makefile", makefile), ("usr/src/a-1/pkg/dkms.conf", ""), ("opt/dkms.conf", "")]);
    let source = dir.path().join("usr/src/a-1");
    let check = |name: &str, target: &str, expect: &str| {
        let link = source.join(name);
        fs::os::unix::fs::symlink(target, &link).unwrap();
        let (found, broken) = installed(&Root::new(dir.path())).unwrap();
        let errors = [at_path(&source).unwrap_err().to_string()].into_iter();
        for error in
            errors.chain(broken.iter().take(if name == "dkms.conf" { 1 } else { 0 }).map(ToString::to_string))
        {
            assert!(error.ends_with(expect) && error.contains(name), "{error}");
        }
        assert!(found.is_empty());
        fs::remove_file(link).unwrap();
    };
    let outside = "outside of the package's source; put a copy of that file in its place";
    check("dkms.conf", "/opt/dkms.conf", outside);
    check("dkms.conf", "../../../opt/dkms.conf", outside);
    check("dkms.conf", "gone", "it is a link to gone, which does not exist");
    check("kcache.toml", "/opt/dkms.conf", outside);
    fs::os::unix::fs::symlink("pkg/dkms.conf", source.join("dkms.conf")).unwrap();
    assert_eq!(at_path(&source).unwrap().name, "a");
}

#[test]
fn a_directory_without_recipe_is_not_a_package() {
    let message = |files: &[(&str, &str)]| {
        let dir = tree(files);
        let at = dir.path().join("x");
        at_path(&at).unwrap_err().to_string().replace(&at.display().to_string(), "X")
    };
    assert!(message(&[("x/README", "")]).starts_with("X is not a package: it has no dkms.conf"));
    assert_eq!(message(&[("x/src/dkms.conf", "")]), "X is not a package, but src in it is");
    assert_eq!(
        message(&[("x/b/Makefile", "obj-m := b.o\n"), ("x/a/Kbuild", "obj-m := a.o\n")]),
        "X is not a package: several directories in it have modules: a, b"
    );
}
