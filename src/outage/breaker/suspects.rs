//! Those whose own requests may be what fails. They probe only where nobody else comes: who has opened the breaker after one
//! more cooldown, and who was the last to probe in vain after two, so that one who asks always does not take every probe.

use std::collections::VecDeque;

use super::MOST_ADDRESSES;

#[derive(Default)]
pub(super) struct Suspects {
    /// At the back, in their order, those who have probed in vain.
    addresses: VecDeque<u64>,
    in_vain: usize,
}

impl Suspects {
    /// The most cooldowns that anyone waits for others.
    pub(super) const LONGEST: u32 = 2;

    /// Those who opened it.
    pub(super) fn of(addresses: impl Iterator<Item = u64>) -> Self {
        Self { addresses: addresses.collect(), in_vain: 0 }
    }

    pub(super) fn probed_in_vain(&mut self, address: u64) {
        if let Some(index) = self.position(address) {
            self.in_vain -= usize::from(index >= self.addresses.len() - self.in_vain);
            self.addresses.remove(index);
        } else if self.addresses.len() >= MOST_ADDRESSES {
            self.addresses.pop_front();
            self.in_vain = self.in_vain.min(self.addresses.len());
        }
        self.addresses.push_back(address);
        self.in_vain += 1;
    }

    /// For so many cooldowns more than anyone else.
    pub(super) fn waits(&self, address: u64) -> u32 {
        let Some(index) = self.position(address) else { return 0 };
        // Half of those who come: who is not among them may have gone. And never all.
        let last = self.in_vain.div_ceil(2).min(self.addresses.len() - 1);
        if index < self.addresses.len() - last { 1 } else { Self::LONGEST }
    }

    fn position(&self, address: u64) -> Option<usize> {
        self.addresses.iter().position(|&suspect| suspect == address)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.addresses.len()
    }
}
