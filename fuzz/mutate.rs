//! Fuzzing without a fuzzer: files of a corpus, each changed a little, the same ones at every run.
//!
//! What a fuzzer finds in an hour this does not, but it needs no nightly compiler and no instrumentation, so it is run with
//! the other tests, and finds what a change has broken at once.

/// How often one file is changed.
const MOST_CHANGES: u64 = 4;
/// Bytes that lengths, offsets and texts break at.
const ODD: [&[u8]; 12] = [
    b"\0",
    b"\xff\xff\xff\xff",
    b"\0\0\0\x80",
    b"\x7f\xff\xff\xff",
    b"\x80",
    b"\n",
    b"\t",
    b"\"",
    b"../",
    b"\x1b[2J",
    b"99999999999999999999",
    "\u{e9}".as_bytes(),
];

/// SplitMix64 (Steele, Lea, Flood 2014): any seed gives numbers that look random, the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut n = self.0;
        n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((n ^ (n >> 31)) % below.max(1) as u64) as usize
    }
}

/// Calls `check` with each file, and with `count` changed ones of each.
pub fn each(files: &[Vec<u8>], count: u64, mut check: impl FnMut(&[u8])) {
    for (number, file) in files.iter().enumerate() {
        check(file);
        let mut dice = Dice(number as u64);
        for _ in 0..count {
            let mut changed = file.clone();
            for _ in 0..1 + dice.roll(MOST_CHANGES as usize) {
                change(&mut changed, files, &mut dice);
            }
            check(&changed);
        }
    }
}

fn change(bytes: &mut Vec<u8>, files: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.roll(bytes.len());
    let end = (at + 1 + dice.roll(32)).min(bytes.len());
    match dice.roll(7) {
        _ if bytes.is_empty() => bytes.extend(ODD[dice.roll(ODD.len())]),
        0 => bytes[at] ^= 1 << dice.roll(8),
        1 => bytes[at] = dice.roll(256) as u8,
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let piece = bytes[at..end].to_vec();
            let to = dice.roll(bytes.len());
            bytes.splice(to..to, piece);
        }
        5 => {
            let odd = ODD[dice.roll(ODD.len())];
            let end = if dice.roll(2) == 0 { at } else { (at + odd.len()).min(bytes.len()) };
            bytes.splice(at..end, odd.iter().copied());
        }
        _ => {
            let other = &files[dice.roll(files.len())];
            let from = dice.roll(other.len());
            let piece = &other[from..(from + 1 + dice.roll(200)).min(other.len())];
            bytes.splice(at..end, piece.iter().copied());
        }
    }
}
