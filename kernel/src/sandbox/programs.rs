//! The sandbox's own small files: replacements of programs, the user database, and what `/proc` shows of the kernel.

use std::io::{self, Write};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;

use super::{CCACHE, COMPILER, LAUNCHED, Launcher, MachineNames, OWN, REAL_COMPILER, Sandbox};

/// Writes the files in [`OWN`], and the generated ones of `/etc` and `/proc`.
pub(super) fn write(sandbox: &Sandbox, script: &str) -> io::Result<()> {
    let MachineNames { release, version, arch, .. } = &sandbox.machine;
    let uid = sandbox.identity.uid().unwrap_or(1000);
    let files = [
        (NOTHING, String::new(), 0o644),
        ("script", format!("{PREAMBLE}{script}"), 0o644),
        (
            "passwd",
            format!("root:x:0:0:root:/root:/bin/sh\nkcache:x:{uid}:{uid}:kcache:/tmp:/bin/sh\n"),
            0o644,
        ),
        ("group", format!("root:x:0:\nkcache:x:{uid}:\n"), 0o644),
        ("osrelease", format!("{release}\n"), 0o644),
        ("version", format!("Linux version {release} (kcache@localhost) {version}\n"), 0o644),
        ("uname", uname_script(release, version, arch), 0o755),
        ("nproc", format!("#!/bin/bash\necho {}\n", sandbox.cpus), 0o755),
        ("make", format!("{WITHOUT_JOBS}exec -a make {OWN}/make \"${{args[@]}}\"\n"), 0o755),
        ("pahole", format!("{PAHOLE}exec {OWN}/pahole \"${{args[@]}}\"\n"), 0o755),
    ];
    let launcher = sandbox
        .launcher
        .iter()
        .flat_map(|launcher| [(LAUNCHED, launched(launcher), 0o755), (COMPILER, compiler(launcher), 0o755)]);
    fs::create_dir_all(sandbox.own.join("empty"))?;
    for (name, text, mode) in files.into_iter().chain(launcher) {
        let path = sandbox.own.join(name);
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(mode).open(&path)?.write_all(text.as_bytes())?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))?; // whatever the umask
    }
    Ok(())
}

/// Name of the empty file.
pub(super) const NOTHING: &str = "nothing";

/// Beginning of every script: closes inherited descriptors, except make's jobserver.
const PREAMBLE: &str = r#"keep=
[[ ${MAKEFLAGS-} =~ --jobserver-auth=([0-9]+),([0-9]+) ]] && keep=" ${BASH_REMATCH[1]} ${BASH_REMATCH[2]} "
for fd in /proc/self/fd/*; do
    fd=${fd##*/}
    [[ $fd -le 2 || $fd -eq 255 || $keep == *" $fd "* ]] || eval "exec $fd>&-" 2>/dev/null
done
unset keep fd
"#;

/// `pahole`'s parallel BTF encoder numbers types in the order in which its threads finish.
const PAHOLE: &str = r#"#!/bin/bash
args=()
for arg in "$@"; do
    case $arg in
        -j*|--jobs*) ;;
        *) args+=("$arg") ;;
    esac
done
"#;

/// A recipe's own `make -jN` would leave the jobserver that limits the whole run (GNU make manual, "Options Summary").
/// Makefiles use `$(PWD)` for the directory in which make was called, even below `make -C`; bash would set it to the
/// current one.
const WITHOUT_JOBS: &str = r#"#!/bin/bash
mapfile -d '' -t inherited </proc/$$/environ
for variable in "${inherited[@]}"; do
    [[ $variable == PWD=* ]] && PWD=${variable#PWD=}
done
args=()
while (($#)); do
    case $MAKEFLAGS in *--jobserver*) ;; *) break ;; esac
    case $1 in
        -j|--jobs) [[ ${2-} =~ ^[0-9]+$ ]] && shift ;;
        -j[0-9]*|--jobs=*) ;;
        *) args+=("$1") ;;
    esac
    shift
done
args+=("$@")
"#;

/// Runs the compiler through ccache (ccache(1), "CONFIGURATION OPTIONS"), with its settings in the environment of
/// ccache only.
fn launched(launcher: &Launcher) -> String {
    let Launcher { program, compiler, identity, .. } = launcher;
    let kind = if compiler.to_string_lossy().contains("clang") { "clang" } else { "gcc" };
    let program = program.display();
    format!(
        r#"#!/bin/bash
export CCACHE_DIR={OWN}/{CCACHE} CCACHE_CONFIGPATH=/dev/null CCACHE_TEMPDIR=/tmp CCACHE_MAXSIZE=1G
export CCACHE_COMPILERCHECK=string:{identity} CCACHE_COMPILERTYPE={kind}
exec {program} {OWN}/{COMPILER} "$@"
"#
    )
}

/// Runs the compiler itself, which finds its parts relative to the path under which it is called.
fn compiler(launcher: &Launcher) -> String {
    format!("#!/bin/bash\nexec -a {} {OWN}/{REAL_COMPILER} \"$@\"\n", launcher.compiler.display())
}

/// uname(1) for another kernel; option letters as in GNU coreutils.
fn uname_script(release: &str, version: &str, arch: &str) -> String {
    let quote = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    format!(
        r#"#!/bin/bash
release={} version={} arch={}
want=
for arg in "${{@:--s}}"; do
    case $arg in
        --all) want+=a ;;
        --kernel-name) want+=s ;;
        --nodename) want+=n ;;
        --kernel-release) want+=r ;;
        --kernel-version) want+=v ;;
        --machine) want+=m ;;
        --processor) want+=p ;;
        --hardware-platform) want+=i ;;
        --operating-system) want+=o ;;
        -*) want+=${{arg#-}} ;;
        *) echo "uname: extra operand '$arg'" >&2; exit 1 ;;
    esac
done
[[ $want == *a* ]] && want=snrvmo
out=()
[[ $want == *s* ]] && out+=(Linux)
[[ $want == *n* ]] && out+=(localhost)
[[ $want == *r* ]] && out+=("$release")
[[ $want == *v* ]] && out+=("$version")
[[ $want == *m* ]] && out+=("$arch")
[[ $want == *p* || $want == *i* ]] && out+=("$arch")
[[ $want == *o* ]] && out+=(GNU/Linux)
echo "${{out[*]}}"
"#,
        quote(release),
        quote(version),
        quote(arch)
    )
}
