//! `kcache hooks install`, `remove` and `status`: manage the hooks' files, under the root only.
//!
//! Files that were changed, or that are not kcache's, are left alone and reported. Each file is written under a temporary name
//! and renamed. A crash can leave some hooks installed and others not; the next call completes the work.

use std::path::Path;

use clap::ValueEnum;
use fs_err as fs;
use kcache::kernel::rootfs::Root;

use super::files::{Found, HOOKS, Hook, State};
use crate::args::Family;
use crate::exit::{Exit, Failure};
use crate::json::{self, Action};
use crate::out::{BAD, GOOD, ODD, Out, PLAIN, columns};

/// Directories that stay although the last hook left them empty: every system has them.
const STAY: [&str; 4] = ["/", "/etc", "/usr/lib", "/usr/share"];

/// Where kcache is looked for under another root.
const PROGRAMS: [&str; 3] = ["/usr/bin/kcache", "/usr/local/bin/kcache", "/usr/sbin/kcache"];

pub struct Placing<'a> {
    pub root: Root,
    pub out: &'a Out,
    pub dry: bool,
}

impl Placing<'_> {
    pub fn install(
        &self,
        families: &[Family],
        program: Option<&str>,
        vendor: bool,
        force: bool,
    ) -> Result<Exit, Failure> {
        let program = self.program(program)?;
        let mut left = false;
        let hooks = self.found(&self.families(families)?, vendor)?;
        let width = width(&hooks);
        for found in hooks {
            let same = found.program.as_deref().is_none_or(|present| present == program);
            match found.state {
                State::Installed if same => {}
                State::Changed | State::Foreign if !force => left |= self.leave(&found, width),
                _ => self.write(&found, &program, width)?,
            }
        }
        let exit = self.end(left, "replace");
        if self.root.find(&program).is_none() {
            let place = self.root.dir().display();
            self.out.warn(&format!("{program} does not exist under {place}; hooks do nothing until it does"));
        }
        Ok(exit)
    }

    pub fn remove(&self, families: &[Family], force: bool) -> Result<Exit, Failure> {
        let families = if families.is_empty() { Family::value_variants() } else { families };
        let mut left = false;
        let hooks = self.found(families, false)?;
        let width = width(&hooks);
        for found in hooks {
            match found.state {
                State::Absent => {}
                State::Changed | State::Foreign if !force => left |= self.leave(&found, width),
                _ => self.delete(&found, width)?,
            }
        }
        Ok(self.end(left, "remove"))
    }

    pub fn status(&self, families: &[Family]) -> Result<Exit, Failure> {
        let families = if families.is_empty() { Family::value_variants() } else { families };
        let rows: Vec<json::Hook> =
            self.found(families, false)?.iter().map(|found| self.row(found)).collect();
        if self.out.json {
            self.out.document(&rows);
        } else {
            self.out.data(&table(&rows));
        }
        Ok(Exit::Done)
    }

    fn found(&self, families: &[Family], vendor: bool) -> Result<Vec<Found>, Failure> {
        let wanted = HOOKS.iter().filter(|hook| families.contains(&hook.family));
        Ok(wanted.map(|hook| hook.find(&self.root, vendor)).collect::<Result<_, _>>()?)
    }

    /// The families that were named, else those that are called on this system.
    fn families(&self, named: &[Family]) -> Result<Vec<Family>, Failure> {
        if !named.is_empty() {
            return Ok(named.to_vec());
        }
        let all = Family::value_variants().iter().copied();
        let called: Vec<Family> = all.filter(|family| Hook::is_called(*family, &self.root)).collect();
        if called.is_empty() {
            let root = self.root.dir().display();
            let message = format!("no program under {root} calls hooks that kcache knows");
            let hint = "name a family: debian, kernel-install, pacman, boot".to_owned();
            return Err(Failure::usage(message, Some(hint)));
        }
        Ok(called)
    }

    /// The path that hooks call: of this program, where it lies under the root.
    fn program(&self, named: Option<&str>) -> Result<String, Failure> {
        let own = || {
            let own = std::env::current_exe().ok()?;
            self.root.inside(&own)?.to_str().map(str::to_owned)
        };
        let there = || PROGRAMS.into_iter().find(|path| self.root.find(path).is_some()).map(str::to_owned);
        let program =
            named.map(str::to_owned).or_else(own).or_else(there).unwrap_or_else(|| PROGRAMS[0].to_owned());
        // It stands in shell scripts and units as it is.
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
        if program.starts_with('/') && program.chars().all(plain) {
            return Ok(program);
        }
        let hint = "use an absolute path of letters, digits and / . _ + -".to_owned();
        Err(Failure::usage(format!("invalid --program '{}'", program.escape_debug()), Some(hint)))
    }

    fn write(&self, found: &Found, program: &str, width: usize) -> Result<(), Failure> {
        if !self.dry {
            found.hook.write(&found.path, program)?;
        }
        self.print(found, Action::Write, width);
        Ok(())
    }

    fn delete(&self, found: &Found, width: usize) -> Result<(), Failure> {
        if !self.dry {
            fs::remove_file(&found.path)?;
            self.remove_empty(&found.inside);
        }
        self.print(found, Action::Remove, width);
        Ok(())
    }

    /// Directories that hold nothing any more.
    fn remove_empty(&self, inside: &Path) {
        for dir in
            inside.ancestors().skip(1).take_while(|dir| !STAY.iter().any(|stay| *dir == Path::new(stay)))
        {
            match self.root.find(dir) {
                Some(path) if fs::remove_dir(&path).is_ok() => {}
                _ => return,
            }
        }
    }

    fn leave(&self, found: &Found, width: usize) -> bool {
        let path = found.inside.display();
        self.out.warn(&match found.state {
            State::Changed => format!("{path} was changed, so it was left alone"),
            _ => format!("{path} is not kcache's, so it was left alone"),
        });
        self.print(found, Action::Keep, width);
        true
    }

    /// The exit code, and what to do about hooks that were left alone.
    fn end(&self, left: bool, what: &str) -> Exit {
        if !left {
            return Exit::Done;
        }
        self.out.hint(&format!("use --force to {what} them too"));
        Exit::Refused
    }

    fn print(&self, found: &Found, action: Action, width: usize) {
        let dry_run = self.dry;
        let path = found.inside.display().to_string();
        if self.out.json {
            let family = name(found.hook.family);
            let act = action.act(dry_run);
            self.out.record(&json::HookChange { r#type: "hook", family, path, act, action, dry_run });
        } else {
            self.out.data(&format!("{path:width$}  {}", action.words(dry_run)));
        }
    }

    fn row(&self, found: &Found) -> json::Hook {
        json::Hook {
            family: name(found.hook.family),
            path: found.inside.display().to_string(),
            state: found.state.word(),
            program_exists: found.program.as_ref().map(|program| self.root.find(program).is_some()),
            program: found.program.clone(),
        }
    }
}

/// Columns of the longest path.
fn width(hooks: &[Found]) -> usize {
    hooks.iter().map(|found| found.inside.display().to_string().len()).max().unwrap_or(0)
}

fn name(family: Family) -> String {
    family.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
}

fn table(rows: &[json::Hook]) -> String {
    let cells = |row: &json::Hook| {
        let style = match row.state {
            "installed" => GOOD,
            "absent" | "outdated" => ODD,
            _ => BAD,
        };
        let calls = match (&row.program, row.program_exists) {
            (Some(program), Some(false)) => format!("calls {program}, which does not exist"),
            (Some(program), _) => format!("calls {program}"),
            (None, _) => String::new(),
        };
        let plain = |text: &str| (text.to_owned(), PLAIN);
        vec![plain(&row.family), plain(&row.path), (row.state.to_owned(), style), plain(&calls)]
    };
    columns(&rows.iter().map(cells).collect::<Vec<_>>())
}
