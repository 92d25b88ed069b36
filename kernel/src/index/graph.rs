//! The dependency graph of modules, sorted as depmod does.
//!
//! A line of `modules.dep` lists everything that a module needs, directly or not, ordered by one topological sort of
//! all modules in which users precede what they use. depmod computes it with a stack: modules that nobody uses are
//! pushed in the order of `modules.dep`; the topmost is popped and numbered; each module that it needs loses a user,
//! and is pushed when it has none left (tools/depmod.c, `depmod_calculate_dependencies`). A module is *freed* by its
//! last user.
//!
//! The indexes contain only all needs of a module, not which ones are direct. That is sufficient:
//!
//! - Removing from a module's needs what those need in turn leaves direct needs ([`reduce`]). What this omits, a
//!   direct need that is also an indirect one, never frees anything: a module between them is numbered later and still
//!   is a user. So the sort is the same without it.
//! - Modules that were freed together were pushed in the order in which their user names them, and popped, and are in
//!   its line, in reverse order. So the line contains that order. It says nothing about others: [`Sorted::freed`]
//!   detects when the order of one of those would be needed.

/// The modules that each module needs, by number.
pub(super) type Needs = Vec<Vec<u32>>;

/// The needs that are certainly direct, in reverse order of the line. `whole` contains all needs, in the order of the
/// lines.
pub(super) fn reduce(whole: &Needs) -> Needs {
    // For each module, the last module for which it was found to be an indirect need.
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

/// The result of depmod's sort.
pub(super) struct Sorted {
    /// Position of each module.
    pub(super) rank: Vec<u32>,
    /// The modules in sorted order.
    order: Vec<u32>,
    /// The module that freed each one; `None` for modules that nobody uses.
    by: Vec<Option<u32>>,
}

impl Sorted {
    /// Sorts; `None` if modules depend on each other in a cycle.
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

    /// The needs that a module has freed.
    pub(super) fn freed(&self, module: u32, needs: &[u32]) -> impl Iterator<Item = u32> {
        needs.iter().copied().filter(move |&needed| self.by[needed as usize] == Some(module))
    }

    /// All needs of each module, in the order of the lines.
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
    fn indirect_needs_are_not_direct() {
        // 0 needs 1 and 2; 1 needs 2.
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
    fn a_cycle_has_no_order() {
        assert!(Sorted::of(&vec![vec![1], vec![2], vec![1]]).is_none());
        assert!(Sorted::of(&vec![vec![0]]).is_none());
    }
}
