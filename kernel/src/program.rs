//! A program of this machine that is copied elsewhere: its file, its dynamic loader, and its libraries.
//!
//! It is copied into a boot test's guest, or mounted into a sandbox ([`crate::sandbox::enter`]).
//!
//! In a guest, the loader is at the path in the program (`PT_INTERP`). Libraries are in `/lib` and beside the loader,
//! each under its `DT_SONAME`, whatever its file is called here: every distribution's loader searches one of these two
//! directories by default. A static program is one file.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, ReadCache, ReadRef, StringTable};

/// Directory of libraries in the guest, in addition to the loader's.
pub(crate) const LIBRARIES: &str = "/lib";

type Header = FileHeader64<Endianness>;

/// A program, with the files that its process has mapped as code.
#[derive(Clone, Debug)]
pub struct OwnProgram {
    /// Path of the program.
    pub path: PathBuf,
    /// Paths of its libraries, including the loader.
    pub libraries: Vec<PathBuf>,
}

impl OwnProgram {
    /// A program from the view of its own process: `path`, and its `/proc/PID/maps`; `called` is the program's name
    /// there.
    pub fn of_maps(path: &Path, called: &Path, maps: &str) -> OwnProgram {
        let mut libraries: Vec<PathBuf> = maps.lines().filter_map(mapped_code).map(PathBuf::from).collect();
        libraries.sort();
        libraries.dedup();
        libraries.retain(|library| library != called);
        OwnProgram { path: path.to_owned(), libraries }
    }

    /// The files for the guest with their paths, the program at `inside` first.
    pub(crate) fn files(&self, inside: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
        let program = fs::read(&self.path)?;
        let loader = interpreter(&program[..]).map_err(|e| unreadable(&self.path, e))?;
        let mut files = Vec::new();
        for path in &self.libraries {
            let bytes = fs::read(path)?;
            let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = soname(&bytes[..]).map_err(|e| unreadable(path, e))?.unwrap_or(file_name);
            let is_loader = loader.as_ref().is_some_and(|loader| loader.ends_with(&format!("/{name}")));
            match &loader {
                Some(loader) if is_loader => files.push((loader.clone(), bytes)),
                loader => {
                    let beside = loader.as_ref().and_then(|loader| loader.rsplit_once('/'));
                    if let Some((directory, _)) = beside.filter(|(directory, _)| *directory != LIBRARIES) {
                        files.push((format!("{directory}/{name}"), bytes.clone()));
                    }
                    files.push((format!("{LIBRARIES}/{name}"), bytes));
                }
            }
        }
        files.insert(0, (inside.to_owned(), program));
        Ok(files)
    }

    /// Its loader, if it has one, and its other libraries with their `DT_SONAME`. Reads only the parts of the files
    /// that contain these.
    pub(crate) fn parts(&self) -> io::Result<Parts> {
        let program = ReadCache::new(fs::File::open(&self.path)?);
        let loader = interpreter(&program).map_err(|e| unreadable(&self.path, e))?;
        let loader = loader.as_deref().and_then(|path| Some(Path::new(path).file_name()?.to_owned()));
        let mut parts = Parts { loader: None, libraries: Vec::new() };
        for mapped in &self.libraries {
            // A file that was replaced since is mapped under its old name; the new one is used.
            let text = mapped.to_string_lossy();
            let path = text.strip_suffix(DELETED).map_or(mapped.clone(), PathBuf::from);
            let library = ReadCache::new(fs::File::open(&path)?);
            let file_name = path.file_name().unwrap_or_default().to_owned();
            let name = soname(&library).map_err(|e| unreadable(&path, e))?.map_or(file_name, OsString::from);
            match loader.as_ref() == Some(&name) {
                true => parts.loader = Some(path),
                false => parts.libraries.push((name, path)),
            }
        }
        match (&loader, &parts.loader) {
            (Some(name), None) => Err(io::Error::other(format!("{} is not mapped", name.display()))),
            _ => Ok(parts),
        }
    }
}

/// The parts of a program besides its own file.
#[derive(Debug)]
pub(crate) struct Parts {
    /// Path of the dynamic loader; `None` for a static program.
    pub loader: Option<PathBuf>,
    /// Names and paths of the libraries.
    pub libraries: Vec<(OsString, PathBuf)>,
}

/// What `/proc` appends to the name of a deleted file (proc_pid_maps(5)).
pub(crate) const DELETED: &str = " (deleted)";

/// The file in a line of `/proc/PID/maps` (proc(5)), if it is mapped as code.
fn mapped_code(line: &str) -> Option<&str> {
    let permissions = line.split_ascii_whitespace().nth(1)?;
    let path = &line[line.find('/')?..];
    permissions.contains('x').then_some(path)
}

fn unreadable(path: &Path, error: object::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
}

/// The path of the dynamic loader in a program (`PT_INTERP`).
fn interpreter<'data, R: ReadRef<'data>>(program: R) -> object::Result<Option<String>> {
    let header = Header::parse(program)?;
    let endian = header.endian()?;
    for segment in header.program_headers(endian, program)? {
        if let Some(path) = segment.interpreter(endian, program)? {
            return Ok(Some(String::from_utf8_lossy(path).into_owned()));
        }
    }
    Ok(None)
}

/// The name under which a library is requested (`DT_SONAME`).
fn soname<'data, R: ReadRef<'data>>(library: R) -> object::Result<Option<String>> {
    let header = Header::parse(library)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, library)?;
    let Some((entries, strings)) = sections.dynamic(endian, library)? else { return Ok(None) };
    let strings: StringTable<'_, R> = sections.strings(endian, library, strings)?;
    let name = entries.iter().find(|entry| entry.tag(endian) == elf::DT_SONAME);
    let offset = name.map(|entry| entry.val(endian) as u32);
    Ok(offset
        .and_then(|offset| strings.get(offset).ok())
        .map(|name| String::from_utf8_lossy(name).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d0-55d1 r--p 00000000 fe:00 12 /usr/bin/kcache
55d1-55d2 r-xp 00001000 fe:00 12 /usr/bin/kcache
7f00-7f01 r-xp 00001000 fe:00 13 /usr/lib/x86_64-linux-gnu/libc.so.6
7f01-7f02 r--p 00002000 fe:00 13 /usr/lib/x86_64-linux-gnu/libc.so.6
7f03-7f04 r--p 00000000 fe:00 14 /usr/lib/locale/C.utf8/LC_CTYPE
7f05-7f06 r-xp 00000000 fe:00 15 /opt/my libs/libm.so.6
7f06-7f07 r-xp 00000000 00:00 0  [vdso]
7f08-7f09 rw-p 00000000 00:00 0
";

    #[test]
    fn libraries_are_the_files_mapped_as_code() {
        let program = OwnProgram::of_maps(Path::new("/proc/self/exe"), Path::new("/usr/bin/kcache"), MAPS);
        let expect = ["/opt/my libs/libm.so.6", "/usr/lib/x86_64-linux-gnu/libc.so.6"].map(PathBuf::from);
        assert_eq!(program.libraries, expect);
    }

    #[test]
    fn the_parts_of_a_program_have_their_sonames() {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let own = fs::read_link("/proc/self/exe").unwrap();
        let mut program = OwnProgram::of_maps(&own, &own, &maps);
        let parts = program.parts().unwrap();
        let libc = parts.libraries.iter().find(|(name, _)| name == "libc.so.6");
        assert!(libc.is_some_and(|(_, path)| path.is_absolute()), "{parts:?}");
        let loader = parts.loader.unwrap();
        // An upgrade replaced it while it was running.
        program.libraries.retain(|library| *library != loader);
        assert!(program.parts().is_err());
        program.libraries.push(format!("{}{DELETED}", loader.display()).into());
        assert_eq!(program.parts().unwrap().loader, Some(loader));
    }

    #[test]
    fn the_running_test_has_all_its_parts() {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let own = fs::read_link("/proc/self/exe").unwrap();
        let files = OwnProgram::of_maps(&own, &own, &maps).files("/init").unwrap();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[0], "/init");
        let loader = interpreter(&files[0].1[..]).unwrap();
        if let Some(loader) = loader {
            assert!(names.contains(&loader.as_str()), "{loader} in {names:?}");
            assert!(names.contains(&"/lib/libc.so.6"), "{names:?}");
        }
    }
}
