//! Asking for weights before they are read.

use std::ops::{Range, RangeInclusive};

use crate::cpu::simd::Simd;

/// How far what a thread has asked for is ahead of what it has read, in bytes: the rows of a
/// product, which are read side by side, within these.
const LEAD: RangeInclusive<usize> = 32 << 10..=256 << 10;

/// Asks for weights some time before they are read: for the thread's own share of each step, step
/// after step.
pub(crate) struct Ahead {
    /// Addresses.
    parts: Vec<Range<usize>>,
    /// Bytes of the parts before each one.
    starts: Vec<usize>,
    /// The part that is asked for.
    part: usize,
    /// Where it reads, and up to where it has asked, in bytes of all parts.
    read: usize,
    asked: usize,
    lead: usize,
    /// Whether what it reads now is of the parts.
    is_own: bool,
    /// Else what lies behind what it reads is asked for: an address.
    behind: usize,
}

impl Ahead {
    /// What will be read, in order.
    pub(crate) fn new(parts: Vec<Range<usize>>) -> Ahead {
        let starts = parts.iter().scan(0, |sum, part| {
            let start = *sum;
            *sum += part.len();
            Some(start)
        });
        Ahead {
            starts: starts.collect(),
            parts,
            part: 0,
            read: 0,
            asked: 0,
            lead: *LEAD.start(),
            is_own: false,
            behind: 0,
        }
    }

    /// A step begins, whose first part is `part`.
    pub(crate) fn begin_step(&mut self, part: usize) {
        let Some(&start) = self.starts.get(part) else {
            return;
        };
        self.read = start;
        if !(start..=start + LEAD.end()).contains(&self.asked) {
            (self.part, self.asked) = (part, start);
        }
    }

    /// Whether what is read next is of the parts.
    pub(crate) fn set_own(&mut self, is_own: bool) {
        self.is_own = is_own;
    }

    /// The rows of a product are read, behind which `behind` lies, `n_bytes` of them side by side.
    pub(super) fn begin_rows(&mut self, behind: usize, n_bytes: usize) {
        self.behind = behind;
        self.lead = n_bytes.clamp(*LEAD.start(), *LEAD.end());
    }

    /// What to ask for while `n_bytes` are read, and how many times as much.
    pub(super) fn begin(&mut self, n_bytes: usize) -> Asking {
        let (at, left) = match self.is_own {
            true => self.rest(),
            false => (self.behind, usize::MAX),
        };
        self.read += n_bytes;
        let factor = match self.asked {
            _ if !self.is_own => 1,
            asked if asked < self.read + self.lead - n_bytes => 2,
            asked if asked < self.read + self.lead => 1,
            _ => 0,
        };
        Asking {
            at,
            left,
            factor,
            owed: 0,
        }
    }

    /// The rest of the part that is asked for: address and bytes. Behind all parts, nothing is.
    fn rest(&self) -> (usize, usize) {
        match self.parts.get(self.part) {
            Some(part) => (part.start + self.asked - self.starts[self.part], {
                self.starts[self.part] + part.len() - self.asked
            }),
            None => (0, usize::MAX),
        }
    }

    /// The next part.
    #[cold]
    fn next(&mut self) -> (usize, usize) {
        self.part += 1;
        if let Some(start) = self.starts.get(self.part) {
            self.asked = *start;
        }
        self.rest()
    }

    /// Notes up to where was asked.
    pub(super) fn end(&mut self, asking: &Asking) {
        if !self.is_own {
            self.behind = asking.at;
        } else if let Some(part) = self.parts.get(self.part) {
            self.asked = self.starts[self.part] + asking.at - part.start;
        }
    }
}

/// What is asked for while some rows are read; kept in registers.
pub(super) struct Asking {
    at: usize,
    left: usize,
    factor: usize,
    owed: usize,
}

impl Asking {
    /// Asks for as much as is read now.
    #[inline(always)]
    pub(super) fn read<S: Simd>(&mut self, s: S, n_bytes: usize, ahead: &mut Ahead) {
        self.owed += n_bytes * self.factor;
        while self.owed >= 64 {
            s.prefetch(std::ptr::without_provenance(self.at));
            self.owed -= 64;
            if self.left > 64 {
                self.at += 64;
                self.left -= 64;
            } else {
                (self.at, self.left) = ahead.next();
            }
        }
    }
}
