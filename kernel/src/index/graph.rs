//! Who needs whom, in the order of depmod.
//!
//! A line of `modules.dep` lists all that a module needs, directly or not, ordered by one sort of all modules in which users
//! stand before what they use. depmod makes it with a stack: modules that nobody uses go on it, in the order of
//! `modules.dep`; the topmost is taken off and numbered; what it needs loses a user, and goes on the stack with the last one
//! (tools/depmod.c, `depmod_calculate_dependencies`). A module is *freed* by the user that was its last.
//!
//! What a module needs directly is not in the indexes, only what it needs in all. That is enough:
//!
//! - Taking from all that a module needs what those need in turn leaves direct needs ([`reduce`]). What is left out, a direct
//!   need that is an indirect one as well, never frees anything: there is a module between, that is numbered later and still
//!   is a user. So the sort is the same without.
//! - Modules that were freed together went on the stack in the order in which their user names them, and came off, and are
//!   in its line, in reverse. So the line tells that order. Of others it tells nothing: [`Sorted::freed`] is how it is noticed
//!   that one would have to be known.

/// For each module what it needs, by its number.
pub(super) type Needs = Vec<Vec<u32>>;

/// The needs that are surely direct, the last of a line first. `whole` has all needs, in the order of the lines.
pub(super) fn reduce(whole: &Needs) -> Needs {
    // The module for which another was last seen to be needed by one that it needs.
    let mut seen = vec![u32::MAX; whole.len()];
    let direct = |(module, needs): (usize, &Vec<u32>)| {
        if needs.len() < 2 {
            return needs.clone();
        }
        let module = module as u32;
        for &needed in needs {
            for &indirect in &whole[needed as usize] {
                seen[indirect as usize] = module;
            }
        }
        needs.iter().rev().copied().filter(|&needed| seen[needed as usize] != module).collect()
    };
    whole.iter().enumerate().map(direct).collect()
}

/// depmod's sort.
pub(super) struct Sorted {
    /// The place of each module.
    pub(super) rank: Vec<u32>,
    /// The modules in that order.
    order: Vec<u32>,
    /// By which module each was freed; none for those that nobody uses.
    by: Vec<Option<u32>>,
}

impl Sorted {
    /// Sorts; `None` where modules need each other in a circle.
    pub(super) fn of(direct: &Needs) -> Option<Self> {
        let mut users = vec![0_u32; direct.len()];
        for &needed in direct.iter().flatten() {
            users[needed as usize] += 1;
        }
        let mut stack: Vec<u32> =
            (0..direct.len() as u32).filter(|&module| users[module as usize] == 0).collect();
        let mut sorted = Self {
            rank: vec![0; direct.len()],
            order: Vec::with_capacity(direct.len()),
            by: vec![None; direct.len()],
        };
        while let Some(module) = stack.pop() {
            sorted.rank[module as usize] = sorted.order.len() as u32;
            sorted.order.push(module);
            for &needed in &direct[module as usize] {
                users[needed as usize] -= 1;
                if users[needed as usize] == 0 {
                    sorted.by[needed as usize] = Some(module);
                    stack.push(needed);
                }
            }
        }
        (sorted.order.len() == direct.len()).then_some(sorted)
    }

    /// Which of a module's needs it has freed.
    pub(super) fn freed(&self, module: u32, needs: &[u32]) -> impl Iterator<Item = u32> {
        needs.iter().copied().filter(move |&needed| self.by[needed as usize] == Some(module))
    }

    /// All that each module needs, in the order of the lines.
    pub(super) fn whole(&self, direct: &Needs) -> Needs {
        let mut whole: Needs = vec![Vec::new(); direct.len()];
        let mut seen = vec![u32::MAX; direct.len()];
        for &module in self.order.iter().rev() {
            let mut line = Vec::new();
            let mut add = |needed: u32| {
                if std::mem::replace(&mut seen[needed as usize], module) != module {
                    line.push(needed);
                }
            };
            for &needed in &direct[module as usize] {
                add(needed);
                whole[needed as usize].iter().for_each(|&indirect| add(indirect));
            }
            line.sort_unstable_by_key(|&needed| self.rank[needed as usize]);
            whole[module as usize] = line;
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_by_the_needed_is_no_direct_need() {
        // 0 needs 1 and 2, 1 needs 2.
        assert_eq!(reduce(&vec![vec![1, 2], vec![2], vec![]]), [vec![1], vec![2], vec![]]);
        assert_eq!(reduce(&vec![vec![2, 1], vec![], vec![]]), [vec![1, 2], vec![], vec![]]);
    }

    #[test]
    fn users_come_before_what_they_use() {
        let direct = vec![vec![], vec![0, 2], vec![0], vec![2]];
        let sorted = Sorted::of(&direct).unwrap();
        assert_eq!(sorted.order, [3, 1, 2, 0]);
        assert_eq!(sorted.whole(&direct), [vec![], vec![2, 0], vec![0], vec![2, 0]]);
        assert_eq!(sorted.freed(1, &direct[1]).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_circle_has_no_order() {
        assert!(Sorted::of(&vec![vec![1], vec![2], vec![1]]).is_none());
        assert!(Sorted::of(&vec![vec![0]]).is_none());
    }
}
