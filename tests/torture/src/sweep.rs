//! The same command again and again, each time with something else going wrong; and what is looked at after each.
//!
//! A sweep goes through the calls of a run by their numbers, one run for each, until a run ends before its call is
//! reached. After each the checker must find the old or the new state; then the same command is run again and left alone,
//! and must end with the new state and leave nothing behind.

use std::io;

use nix::errno::Errno;

use crate::calls::{Call, Kind};
use crate::check::{Findings, State, litter, look};
use crate::room::Room;
use crate::scenario::Scenario;
use crate::tally::{Tally, Wrong};
use crate::tracer::{Act, Ended, run};

/// Which calls of a run are taken: every so many, from one on, at most so many.
#[derive(Clone, Copy, Debug)]
pub struct Pick {
    pub first: usize,
    pub every: usize,
    pub most: usize,
}

impl Pick {
    pub fn numbers(self) -> impl Iterator<Item = usize> {
        (self.first..).step_by(self.every).take(self.most)
    }
}

/// Kills everything before each call.
pub fn kills(room: &Room, scenario: &Scenario, pick: Pick, act: Act, tally: &mut Tally) -> io::Result<()> {
    for number in pick.numbers() {
        scenario.prepare(room)?;
        let (ended, hit) = one(room, scenario, number, |_| act)?;
        let Some(call) = hit else { return Ok(()) };
        tally.ran();
        let at = format!("{act:?} at {number}, {call}");
        if ended.code.is_some() {
            tally.wrong(Wrong::Code, &at, "it was to be killed and ended by itself");
        }
        let found = look(&room.places);
        judge_state(scenario, &found, &at, tally);
        retry(room, scenario, &found.state, &at, tally)?;
    }
    Ok(())
}

/// Lets each call fail, with each of the errors that it may give; or with one of them, another from call to call.
pub fn errors(room: &Room, scenario: &Scenario, pick: Pick, each: bool, tally: &mut Tally) -> io::Result<()> {
    for number in pick.numbers() {
        let mut which = if each { 0 } else { number };
        loop {
            scenario.prepare(room)?;
            let errno = |call: &Call| choice(call.kind, which);
            let (ended, hit) = one(room, scenario, number, |call| Act::Fail(errno(call)))?;
            let Some(call) = hit else { return Ok(()) };
            tally.ran();
            let errno = errno(&call);
            let at = format!("{errno:?} at {number}, {call}");
            let found = look(&room.places);
            judge_state(scenario, &found, &at, tally);
            judge_ending(scenario, &ended, &found.state, errno, &at, tally);
            retry(room, scenario, &found.state, &at, tally)?;
            which += 1;
            if !each || which == may_give(call.kind).len() {
                break;
            }
        }
    }
    Ok(())
}

/// One run with something done at one call; gives that call, if it was reached.
pub fn one(
    room: &Room,
    scenario: &Scenario,
    number: usize,
    mut act: impl FnMut(&Call) -> Act,
) -> io::Result<(Ended, Option<Call>)> {
    let mut hit = None;
    let ended = run(&scenario.command(room, &scenario.words), &room.watched(), |n, call| {
        if n != number {
            return Act::Go;
        }
        hit = Some(call.clone());
        act(call)
    })?;
    Ok((ended, hit))
}

/// The errors that a call of this kind may give on a local or network file system (errors(3) of each call's page).
fn may_give(kind: Kind) -> &'static [Errno] {
    use Errno::*;
    match kind {
        Kind::Open => &[ENOSPC, EIO, EDQUOT, EROFS, EMFILE, ENOMEM, EINTR],
        Kind::Write => &[ENOSPC, EIO, EDQUOT, ENOMEM, EINTR],
        Kind::Name => &[ENOSPC, EIO, EDQUOT, EROFS, ENOMEM],
        Kind::Remove | Kind::Attribute => &[EIO, EROFS, ENOMEM],
        Kind::Sync => &[EIO, ENOSPC, EDQUOT, EINTR],
    }
}

fn choice(kind: Kind, which: usize) -> Errno {
    let errors = may_give(kind);
    errors[which % errors.len()]
}

pub fn judge_state(scenario: &Scenario, found: &Findings, at: &str, tally: &mut Tally) {
    let mut wrong = scenario.new_faults(found);
    if !found.state.is_between(&scenario.old, &scenario.new) {
        wrong.push(format!("neither old nor new: {:?}", found.state));
    }
    if !wrong.is_empty() {
        tally.wrong(Wrong::Inconsistent, at, &wrong.join("; "));
    }
}

/// How a run that was not killed has to end.
pub fn judge_ending(
    scenario: &Scenario,
    ended: &Ended,
    state: &State,
    errno: Errno,
    at: &str,
    tally: &mut Tally,
) {
    if ended.stderr.contains("panicked at") {
        tally.wrong(Wrong::Panic, at, &ended.stderr);
    }
    match ended.code {
        Some(0) if *state != scenario.new => tally.wrong(Wrong::Untrue, at, &format!("{state:?}")),
        Some(0) => {}
        Some(1..=8) => judge_words(ended, errno, at, tally),
        code => tally.wrong(Wrong::Code, at, &format!("exit {code:?}: {}", ended.stderr)),
    }
}

/// SQLite tells no errno, and depmod the wrong one.
const OTHER_WORDS: [&str; 2] = ["cannot use the index /", "depmod failed"];

/// One error, with a path and the system's reason; of a `verify`, for which a kernel that cannot be repaired is a finding, one warning.
fn judge_words(ended: &Ended, errno: Errno, at: &str, tally: &mut Tally) {
    let is_error =
        |line: &&str| line.starts_with("error") || ended.code == Some(6) && line.starts_with("warning");
    let errors = ended.stderr.lines().filter(is_error).count();
    let reason = io::Error::from(errno).to_string();
    let reason = reason.split(" (").next().unwrap_or_default();
    let is_said = |words: &str| ended.stderr.contains(words);
    let said = is_said(reason) && is_said("/") || OTHER_WORDS.iter().any(|words| is_said(words));
    if errors != 1 || !said {
        tally.wrong(Wrong::Unclear, at, &format!("exit {:?}: {}", ended.code, ended.stderr));
    }
}

/// The same command, left alone; where it is done already, the one that puts right what a crash has left.
pub fn retry(room: &Room, scenario: &Scenario, found: &State, at: &str, tally: &mut Tally) -> io::Result<()> {
    let done = *found == scenario.new;
    let output = scenario.command(room, if done { &scenario.again } else { &scenario.words }).output()?;
    let after = look(&room.places);
    let ends_well = |code| code == 0 || done && code == scenario.again_code;
    if !output.status.code().is_some_and(ends_well) || after.state != scenario.new || !after.faults.is_empty()
    {
        let said = String::from_utf8_lossy(&output.stderr);
        let what = format!("{}: {said}{:?}", output.status, after.faults);
        tally.wrong(Wrong::Retry, at, &what);
    }
    let left = litter(&room.places);
    if !left.is_empty() {
        tally.wrong(Wrong::Litter, at, &format!("{left:?}"));
    }
    Ok(())
}
