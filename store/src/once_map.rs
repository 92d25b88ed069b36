//! A map whose values are computed once per key, however many threads ask.

use std::sync::{Arc, Mutex, PoisonError};

/// A bounded map of lazily computed values. The first thread that asks computes a value; others wait for it. When the
/// map is full, the oldest value is dropped. It is searched linearly, so keep it small.
pub struct OnceMap<K, T> {
    known: Mutex<Vec<(K, Slot<T>)>>,
    most: usize,
}

type Slot<T> = Arc<Mutex<Option<T>>>;

impl<K: Clone + PartialEq, T: Clone> OnceMap<K, T> {
    /// Makes a map of at most this many values.
    pub fn of_at_most(most: usize) -> Self {
        OnceMap { known: Mutex::default(), most }
    }

    /// The value for a name, computed by `find_out` if it is not known yet. After an error, the next call computes it
    /// again.
    pub fn get<E>(&self, name: &K, find_out: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let slot = self.slot(name);
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*slot {
            return Ok(known.clone());
        }
        Ok(slot.insert(find_out()?).clone())
    }

    fn slot(&self, name: &K) -> Slot<T> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, slot)) = known.iter().find(|(known, _)| known == name) {
            return slot.clone();
        }
        if known.len() == self.most {
            known.remove(0);
        }
        let slot = Slot::default();
        known.push((name.clone(), slot.clone()));
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_computed_once_and_the_oldest_is_dropped() {
        let once = OnceMap::of_at_most(2);
        let ask = |name: u8, answer| once.get(&name, || answer);
        assert_eq!(ask(1, Err("not yet")), Err("not yet"));
        assert_eq!((ask(1, Ok(10)), ask(1, Ok(11)), ask(2, Ok(20))), (Ok(10), Ok(10), Ok(20)));
        assert_eq!((ask(3, Ok(30)), ask(2, Ok(21))), (Ok(30), Ok(20)));
        assert_eq!(ask(1, Ok(12)), Ok(12), "forgotten");
    }
}
