//! Tests of the tar format: headers, paths, types of members, the end.

use super::*;

/// The bundle of a full host with the header of entry A changed, and its checksum corrected.
fn with_header(change: impl FnOnce(&mut tar::Header)) -> Vec<u8> {
    let mut bundle = full().export(&[A, B], &["a"]);
    let mut header = tar::Header::new_old();
    let at = 2 * BLOCK..3 * BLOCK;
    header.as_mut_bytes().copy_from_slice(&bundle[at.clone()]);
    change(&mut header);
    header.set_cksum();
    bundle[at].copy_from_slice(header.as_bytes());
    bundle
}

#[test]
fn paths_of_every_length_are_read_by_kcache_and_tar() {
    let lengths = [1, 60, 80, 81, 95, 96, 128];
    let mut files = Vec::new();
    for (release, package) in lengths.iter().flat_map(|r| lengths.iter().map(move |p| (*r, *p))) {
        let name = Pointer::name(&"r".repeat(release), Digest::of(b"kernel"), &"p".repeat(package)).unwrap();
        files.push((name.path(), b"content".to_vec()));
        let next = members::parse(&head(&name.path(), 7).unwrap()).ok().unwrap();
        assert_eq!((next.path, next.member, next.size), (name.path(), Member::Pointer(name), 7));
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("b.tar");
    fs_err::write(&file, tar(&files)).unwrap();
    let done = Command::new("tar").arg("-tf").arg(&file).output().unwrap();
    let listed = String::from_utf8(done.stdout).unwrap();
    assert!(listed.lines().eq(files.iter().map(|(path, _)| path.as_str())), "{listed}");
}

#[test]
fn paths_outside_the_layout_are_refused_and_escaped() {
    let hex = "0".repeat(64);
    let check = |path: &str, shown: &str| {
        let bundle = with_header(|header| {
            let name = &mut header.as_old_mut().name;
            name.fill(0);
            name[..path.len()].copy_from_slice(path.as_bytes());
        });
        check_error(&bundle, &format!("expected a path of a store, found `{shown}`"));
    };
    let same = |path: &str| check(path, path);
    same("");
    same("/etc/passwd");
    same("../../etc/passwd");
    same("index.sqlite");
    same("entries");
    same(&format!("entries/00/{hex}"));
    same(&format!("entries/00/{hex}.json/"));
    same(&format!("./entries/00/{hex}.json"));
    same(&format!("/entries/00/{hex}.json"));
    same(&format!("entries/01/{hex}.json"));
    same(&format!("entries/{hex}.json"));
    same(&format!("entries/00/0{hex}.json"));
    same(&format!("entries/aa/{}.json", "A".repeat(64)));
    same(&format!("entries/AA/{}.json", "A".repeat(64)));
    same(&format!("objects/00/{hex}.json"));
    same(&format!("objects/00/../00/{hex}.zst"));
    same(&format!("by-kernel/../{hex}/a.json"));
    same(&format!("by-kernel/6.1/{hex}/.json"));
    same(&format!("by-kernel/6.1/{hex}/a"));
    same(&format!("by-kernel/6.1/{hex}/a b.json"));
    same("by-kernel/6.1/0/a.json");
    check("\u{1b}[2J\r", "\\u{1b}[2J\\r");
    check("é/\u{202e}", "é/\\u{202e}");
}

#[test]
fn members_that_are_not_regular_files_are_refused() {
    let check = |change: &dyn Fn(&mut tar::Header), expect: &str| check_error(&with_header(change), expect);
    for kind in *b"\x0012345679DKMNSVXgx" {
        check(&|header| header.as_old_mut().linkflag = [kind], "expected the header of a plain file");
    }
    let another = "expected the header of a plain file at entries/01";
    check(&|header| header.as_old_mut().linkname[0] = b'x', another);
    check(&|header| header.set_mode(0o4755), another);
    check(&|header| header.set_uid(1000), another);
    check(&|header| header.set_mtime(1), another);
    check(&|header| header.as_old_mut().size[..12].fill(0xff), another);
    check(&|header| header.as_old_mut().size[..12].fill(b' '), another);
    check(&|header| header.as_old_mut().size[0] = b'9', another);
    check(&|header| header.as_ustar_mut().unwrap().uname[0] = b'x', another);
    check(&|header| header.as_ustar_mut().unwrap().pad[0] = 1, another);
    check(&|header| header.as_ustar_mut().unwrap().magic = *b"ustar ", another);
    check(&|header| header.as_ustar_mut().unwrap().prefix[0] = b'/', "found `//entries/01");
    check(
        &|header| header.set_entry_type(tar::EntryType::GNULongName),
        "expected a path of a store, found `{",
    );
    let mut bad = with_header(|_| ());
    bad[2 * BLOCK + 148] ^= 1;
    check_error(&bad, another);
}

#[test]
fn headers_that_change_the_next_file_are_refused() {
    let check = |add: &dyn Fn(&mut tar::Builder<Vec<u8>>), expect: &str| {
        let mut builder = tar::Builder::new(Vec::new());
        let start = tar(&[(FORMAT_PATH.to_owned(), b"1\n".to_vec())]);
        builder.get_mut().extend(&start[..2 * BLOCK]);
        add(&mut builder);
        check_error(&builder.into_inner().unwrap(), expect);
    };
    check(
        &|builder| builder.append_pax_extensions([("path", &b"/etc/passwd"[..])]).unwrap(),
        "expected a path of a store, found ``",
    );
    let path = Name::Entry(A).path();
    let long = |path: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..13].copy_from_slice(b"././@LongLink");
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(path.len() as u64);
        header.set_cksum();
        let mut block = path.to_vec();
        block.resize(BLOCK, 0);
        [&header.as_bytes()[..], &block, &head(FORMAT_PATH, 2).unwrap()].concat()
    };
    check(&|builder| builder.get_mut().extend(long(path.as_bytes())), "expected the header of a plain file");
    check(&|builder| builder.get_mut().extend(long(b"/etc/passwd")), "found `/etc/passwd`");
    check(&|builder| builder.append_dir("entries", "/").unwrap(), "found `entries`");
}

#[test]
fn data_after_the_end_is_refused() {
    let bundle = full().export(&[A], &[]);
    let end = bundle.len() - 2 * BLOCK;
    check_error(
        &[&bundle[..], b"x"].concat(),
        "expected the end of the file, found more bytes (imported so far: 1 entries, 2 objects)",
    );
    check_error(&[&bundle[..], &[0; BLOCK]].concat(), "found more bytes");
    check_error(&[&bundle[..], &bundle[..]].concat(), "found more bytes");
    check_error(&[&bundle[..end + BLOCK], &bundle[..]].concat(), "expected two blocks of zeros");
    let mut dirty = bundle.clone();
    dirty[2 * BLOCK - 1] = 1;
    check_error(&dirty, "expected zeros after format, found other bytes");
    check_error(b"", "found the end of the file");
    check_error(&[b'x'; 5000], "expected a path of a store");
}

#[test]
fn a_failing_reader_is_not_corruption() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the stick was pulled out"))
        }
    }
    let believed = Believed { trust: &trust(&[1], &[], 1), fits: &|_| Ok(()), roll_back: false };
    let error = import(&host().store, Path::new("/b.tar"), &mut Broken, believed, NOW, &|_| ()).unwrap_err();
    assert!(error.to_string().contains("cannot read /b.tar"), "{error}");
}

#[test]
fn tar_lists_it_and_unpacks_a_store() {
    let one = full();
    let long = Pointer::name(&"r".repeat(128), Digest::of(b"kernel"), &"p".repeat(128)).unwrap();
    one.store.point(&long, &Pointer::new(&long, A, 1, &builder(1)).unwrap()).unwrap();
    let file = one.dir.path().join("b.tar");
    let mut bytes = Vec::new();
    export(&one.store, of(&[A, B], &[pointer_name("a"), long.clone()]), false, &mut bytes).unwrap();
    fs_err::write(&file, &bytes).unwrap();
    let tar = |arguments: &[&str]| {
        let done =
            Command::new("tar").args(arguments).arg(&file).current_dir(one.dir.path()).output().unwrap();
        assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    let paths: Vec<String> = files(&bytes).into_iter().map(|(path, _)| path).collect();
    assert_eq!(tar(&["-tf"]).lines().collect::<Vec<_>>(), paths);
    assert!(tar(&["-tvf"]).lines().all(|line| line.starts_with("-rw-r--r-- 0/0")));
    tar(&["-xf"]);
    for (path, content) in files(&bytes) {
        assert_eq!(fs_err::read(one.dir.path().join(&path)).unwrap(), content, "{path}");
        assert_eq!(fs_err::read(one.store.dir().join(&path)).unwrap(), content, "{path}");
    }
    let other = host();
    assert_eq!(other.import(&bytes).unwrap().pointers, 2);
    assert!(other.store.pointer(&long).unwrap().is_some());
}
