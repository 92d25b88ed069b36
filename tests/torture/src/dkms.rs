//! Debian's `dkms` in the same room, for comparison: its own script, under the same checker.
//!
//! In this process's mount namespace the package's files and the room's headers are laid over `/usr`, which nobody can
//! write then; `/usr/lib/modules` and `/var/lib/dkms` are the room's. Nothing of this machine's is changed, and no other
//! process sees any of it. After this kcache is not run any more.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};

use crate::room::{PACKAGE, Room, succeed};
use crate::scenario::Scenario;

const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Lays out the room for dkms; gives what is run there.
pub fn scenarios(room: &mut Room) -> io::Result<Vec<Scenario>> {
    lay_out(room)?;
    let k = room.places.release.clone();
    room.restore("bare")?;
    room.write("first")?;
    succeed(Command::new("depmod").env("PATH", PATH).arg(&k))?;
    let name = format!("{PACKAGE}/1.0");
    dkms(&["add", &name])?;
    dkms(&["build", &name, "-k", &k])?;
    room.save("dkms built")?;
    dkms(&["install", &name, "-k", &k])?;
    room.save("dkms installed")?;
    let words = |verb: &'static str| vec![verb, &name, "-k", &k];
    let install = Scenario::of_dkms(room, "dkms install", "dkms built", &words("install"))?;
    Ok(vec![install, Scenario::of_dkms(room, "dkms uninstall", "dkms installed", &words("uninstall"))?])
}

fn lay_out(room: &mut Room) -> io::Result<()> {
    let package = room.dir().join("dkms");
    fs_err::create_dir_all(package.join("usr/lib/modules"))?;
    let deb = room.fixtures().join("debs");
    let debs = fs_err::read_dir(&deb)?.flatten().map(|entry| entry.path());
    let is_dkms =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("dkms_"));
    let deb = debs.into_iter().find(is_dkms).ok_or(io::ErrorKind::NotFound)?;
    succeed(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&package))?;
    let layers = [package.join("usr"), room.places.root.join("usr"), "/usr".into()];
    let layers = layers.map(|layer| layer.display().to_string()).join(":");
    let options = format!("lowerdir={layers}");
    mount(Some("tortured"), "/usr", Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str()))?;
    // dkms makes its signing key where it pleases.
    mount(Some("tortured"), "/var/lib", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    fs_err::create_dir("/var/lib/dkms")?;
    room.show_modules(Path::new("/usr/lib/modules"))?;
    room.show(room.live().join("dkms"), "/var/lib/dkms".into())
}

/// dkms with a bare environment.
pub fn command(words: &[String]) -> Command {
    let mut command = Command::new("/usr/sbin/dkms");
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C").env("HOME", "/var/lib").current_dir("/");
    command.args(words);
    command
}

fn dkms(words: &[&str]) -> io::Result<()> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    succeed(&mut command(&words)).map(drop)
}
