//! A kernel's tree: its indexes, the modules they name, and what `generation.json` says of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Findings, Places, name};

/// In-tree modules that modprobe must resolve in any state. More would tell no more.
const IN_TREE: usize = 20;
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

pub fn look(places: &Places, found: &mut Findings) {
    let tree = places.tree();
    found.state.indexed = tree.join("modules.dep.bin").exists();
    let listed = listed(&tree, &mut found.faults);
    if !found.state.indexed {
        return;
    }
    let mut ours: BTreeSet<String> = generations(&tree, &mut found.faults).into_keys().collect();
    ours.extend(
        listed.iter().filter(|path| path.starts_with("updates/")).map(|path| module(Path::new(path))),
    );
    let in_tree = listed.iter().filter(|path| path.starts_with("kernel/")).take(IN_TREE);
    let in_tree: Vec<String> = in_tree.map(|path| module(Path::new(path))).collect();
    if let Err(fault) = show_depends(places, &in_tree) {
        found.faults.push(fault);
    }
    for name in ours {
        // Not found is not a fault: a generation that is on its way in or out lies in the tree without being listed.
        let Ok(paths) = show_depends(places, std::slice::from_ref(&name)) else { continue };
        let Some(path) = paths.last() else { continue };
        match fs_err::read(path) {
            Ok(bytes) if bytes.is_empty() => found.faults.push(format!("{} is empty", path.display())),
            Ok(bytes) => drop(found.state.modules.insert(name, blake3::hash(&bytes).to_string())),
            Err(error) => found.faults.push(format!("modprobe is led to what is not there: {error}")),
        }
    }
    check_digests(&tree, found);
}

/// The modules in `modules.dep`, each of which has to be there and to have bytes.
fn listed(tree: &Path, faults: &mut Vec<String>) -> Vec<String> {
    let Ok(text) = fs_err::read_to_string(tree.join("modules.dep")) else { return Vec::new() };
    if text.is_empty() {
        faults.push("modules.dep is empty".into());
    }
    let paths: Vec<String> =
        text.lines().filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect();
    for path in &paths {
        match fs_err::metadata(tree.join(path)) {
            Ok(metadata) if metadata.len() > 0 => {}
            Ok(_) => faults.push(format!("modules.dep lists {path}, which is empty")),
            Err(error) => faults.push(format!("modules.dep lists what is not there: {error}")),
        }
    }
    paths
}

/// The modules of all generations in the tree: name, and where its file is said to be with which digest.
fn generations(tree: &Path, faults: &mut Vec<String>) -> BTreeMap<String, Vec<(PathBuf, String)>> {
    let mut modules = BTreeMap::<String, Vec<_>>::new();
    let dirs = super::entries::under(&tree.join("updates"), 1);
    for dir in dirs.iter().filter(|dir| name(dir).starts_with("kcache-")) {
        let path = dir.join("generation.json");
        let document = fs_err::read(&path).map_err(|error| error.to_string());
        let document = document.and_then(|bytes| {
            serde_json::from_slice::<Value>(&bytes).map_err(|error| format!("{}: {error}", path.display()))
        });
        let document = document.unwrap_or_else(|fault| {
            faults.push(fault);
            Value::Null
        });
        for package in document["packages"].as_array().into_iter().flatten() {
            for module in package["modules"].as_array().into_iter().flatten() {
                let text = |field: &str| module[field].as_str().unwrap_or_default().to_owned();
                let file = (dir.join(text("path")), text("installed_digest"));
                modules.entry(text("name")).or_default().push(file);
            }
        }
    }
    modules
}

/// Each file that a generation speaks of has the bytes it says.
fn check_digests(tree: &Path, found: &mut Findings) {
    for (path, expected) in generations(tree, &mut Vec::new()).into_values().flatten() {
        match fs_err::read(&path) {
            Ok(bytes) if blake3::hash(&bytes).to_string() == expected => {}
            Ok(_) => found.faults.push(format!("{} has another digest than was installed", path.display())),
            Err(error) => found.faults.push(error.to_string()),
        }
    }
}

/// The files that modprobe would load for these modules, those they depend on before them.
fn show_depends(places: &Places, names: &[String]) -> Result<Vec<PathBuf>, String> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut modprobe = Command::new("modprobe");
    modprobe.env("PATH", PATH).arg("-d").arg(&places.root).args([
        "-S",
        &places.release,
        "-a",
        "--show-depends",
    ]);
    let output = modprobe.args(names).output().map_err(|error| format!("modprobe: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("modprobe ended with {}: {}", output.status, said.trim_end()));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let files = text.lines().filter_map(|line| line.strip_prefix("insmod "));
    Ok(files.map(|path| PathBuf::from(path.trim())).collect())
}

/// The name of the module in a file.
fn module(path: &Path) -> String {
    name(path).split(".ko").next().unwrap_or_default().to_owned()
}
